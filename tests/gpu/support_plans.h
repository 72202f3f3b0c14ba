/* For the tests of cuDNN's plans: the convolutions of all configs, GPUs that are only described,
 * and choices on disk. Whatever fails fails the test. */
#ifndef CELFORGE_TESTS_GPU_SUPPORT_PLANS_H
#define CELFORGE_TESTS_GPU_SUPPORT_PLANS_H

#include "engine/cuda/autotune/autotune.h"
#include "engine/cuda/autotune/plan_cache.h"

/* A backend that remembers what convolutions it is asked for, each once, and runs nothing. */
typedef struct Recorder {
  Backend base;
  int count, capacity;
  Convolution *convolutions;
} Recorder;
extern Recorder recorder; /* between the two: what the configs' training steps hold */
int record_all(void **state);
int forget_all(void **state);

/* What cuDNN asks of a device, as its own serialisation of CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR. */
typedef struct DescribedDevice {
  const char *name;
  int version; /* 900: sm_90 */
  int processors, shared_opt_in, l2_bytes;
} DescribedDevice;
enum { DEVICES = 2 };
extern const DescribedDevice devices[DEVICES];
/* Skips the test where this cuDNN takes no description. The properties are the caller's. */
CudnnTarget described_or_skip(const DescribedDevice *device);
/* One in how many convolutions is tried: `few` with a driver, where cuDNN compiles engines, each
 * for up to a minute, and the GPU's own tests make the plans of every config; else `many`. */
int one_in(int many, int few);
extern const double LONG_PATIENCE; /* seconds */
Cudnn *open_described(const DescribedDevice *device, const CudnnRules *rules, const char *folder,
                      cudnnBackendDescriptor_t *properties);
void close_described(Cudnn *cudnn, cudnnBackendDescriptor_t properties);

Convolution plain_convolution(void);

/* The paths of the choices in `folder`, in the order of their names; returns how many. Beside them
 * lies the file of the locks. The caller frees each. */
enum { MOST_KEPT = 1000 };
int kept_in(const char *folder, char *paths[MOST_KEPT]);
char *only_path(const char *folder);
void read_text(const char *path, char **text);
/* The choice for plain_convolution, left in `folder`. */
void choose_once(const char *folder, const CudnnRules *rules, CudnnChoice *choice);

#endif
