/* A small GAN on a device, the batches of its steps, and its state, for tests of whole steps. */
#ifndef CELFORGE_TESTS_GPU_SUPPORT_TRAINING_H
#define CELFORGE_TESTS_GPU_SUPPORT_TRAINING_H

#include "trainer/gan/gan.h"

/* Deterministic, so that what a step leaves can be compared byte for byte. */
extern const CudaOptions TRAINING_CUDA;

typedef struct Training {
  Config config;
  Backend *backend;
  Model *model;
} Training;

/* `cuda` NULL: on the CPU. `assignments`, up to NULL, change the config. Whatever goes wrong, here
 * and below, fails the test. */
Training *training_new(const CudaOptions *cuda, const char *const *assignments);
void training_free(Training *training);

/* Starts step `step` of a run: its controls, and a batch that the number determines. */
void training_step(Training *training, int64_t step);
StepResult training_result(const Training *training, int ago);

/* The generator's, the discriminators'. */
enum { TRAINING_NETWORKS = 2 };
Parameters *training_network(const Training *training, int network);

/* What a step reads and leaves of a network; the generator alone has an average, the discriminators
 * spectral norm. */
enum { TRAINING_ARRAYS = 5 };
typedef struct TrainingArrays {
  int count;
  Buffer *of[TRAINING_ARRAYS]; /* master first, then counters, moments, the fifth */
} TrainingArrays;
TrainingArrays training_arrays(const Training *training, int network);

/* From now on `to` goes on as `from` would. */
void training_copy_state(Training *to, const Training *from);
/* Every weight is rounded another way: by up to one unit in its last place. */
void training_perturb(Training *training, uint64_t seed);

/* The elements of an f32 buffer; to be freed. */
float *training_download(const Buffer *buffer);

#endif
