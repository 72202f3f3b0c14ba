/* A small GAN on one device, with synthetic batches and access to its state, for tests of whole
 * training steps. All functions fail the test on an error. */
#ifndef CELFORGE_TESTS_GPU_SUPPORT_TRAINING_H
#define CELFORGE_TESTS_GPU_SUPPORT_TRAINING_H

#include "trainer/gan/gan.h"

/* Deterministic, so that states can be compared byte for byte. */
extern const CudaOptions TRAINING_CUDA;

typedef struct Training {
  Config config;
  Backend *backend;
  Gan *gan;
} Training;

/* `cuda` NULL: on the CPU. `assignments`: changes of the config, "key=value", up to NULL. The
 * caller frees it. */
Training *training_new(const CudaOptions *cuda, const char *const *assignments);
void training_free(Training *training);

/* Starts step `step`, with the schedule's controls and a batch that depends on the number alone. */
void training_step(Training *training, int64_t step);
/* The result of the last step (ago 0) or the one before (1). */
StepResult training_result(const Training *training, int ago);

/* The buffers of a network that a step reads and writes; none if it has no parameters. Only the
 * generator has an EMA; only the discriminators have spectral norm. */
enum { TRAINING_ARRAYS = 5 };
typedef struct TrainingArrays {
  int count;
  Buffer *items[TRAINING_ARRAYS]; /* master, counters, moment 1, moment 2, EMA or spectral norm */
} TrainingArrays;
TrainingArrays training_arrays(const Training *training, Network network);

/* Copies the whole state, so that `to` continues exactly as `from` would. */
void training_copy_state(Training *to, const Training *from);
/* Perturbs every weight by up to one unit in the last place. */
void training_perturb(Training *training, uint64_t seed);

/* The elements of a buffer, in its dtype. The caller frees them. */
void *training_download(const Buffer *buffer);

#endif
