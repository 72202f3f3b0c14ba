/* Helpers for the tests of cuDNN plans: the convolutions of all configs, described GPUs, and the
 * plan cache on disk. Any error fails the test. */
#ifndef CELFORGE_TESTS_GPU_SUPPORT_PLANS_H
#define CELFORGE_TESTS_GPU_SUPPORT_PLANS_H

#include "engine/cuda/autotune/autotune.h"
#include "engine/cuda/autotune/plan_cache.h"

/* A backend for planning that records each convolution once and runs nothing. */
typedef struct Recorder {
  Backend base;
  int count, capacity;
  Convolution *convolutions;
} Recorder;
/* Set up and tear down of a test group: records the convolutions of the training steps of all
 * configs.
 */
extern Recorder recorder;
int record_all(void **state);
int forget_all(void **state);

/* Device properties that cuDNN needs, serialised as JSON for CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR.
 */
typedef struct DescribedDevice {
  const char *name;
  int version; /* 900: sm_90 */
  int processors, shared_opt_in, l2_bytes;
} DescribedDevice;
enum { DEVICES = 2 };
extern const DescribedDevice devices[DEVICES];
/* Skips the test where this cuDNN does not support described devices. The caller destroys the
 * properties. */
CudnnTarget described_or_skip(const DescribedDevice *device);
/* Returns the step between convolutions to test: `with_driver` where there is a driver, since cuDNN
 * then compiles engines, each for up to a minute, and tests on the GPU cover the plans of every
 * config; else `without`. */
int test_every(int without, int with_driver);
extern const double LOCK_TIMEOUT; /* seconds */
Autotuner *open_described(const DescribedDevice *device, const CudnnConstraints *constraints,
                          const char *folder, cudnnBackendDescriptor_t *properties);
void close_described(Autotuner *autotuner, cudnnBackendDescriptor_t properties);

Convolution plain_convolution(void);

/* Lists the plan files in `folder`, sorted by name; returns how many. The caller frees each path.
 */
enum { MAX_CACHED = 1000 };
int list_cached(const char *folder, char *paths[MAX_CACHED]);
char *only_cached(const char *folder);
void read_text(const char *path, char **text);
/* Chooses a plan for plain_convolution, with the cache in `folder`. */
void choose_once(const char *folder, const CudnnConstraints *constraints, ConvChoice *choice);

#endif
