/* Kernels that update buffers: store, accumulate and Adam. Memory traffic in bytes per element:
 *   store, f32 to bf16 or back   6
 *   accumulate                   the value once, the target twice
 *   Adam                         28 for parameters, gradients and moments, 8 more for the EMA, 2
 * more for the bf16 copy; all in one pass Accesses are of 16 bytes if all addresses are aligned
 * (`vectorized`). */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_UPDATE_H
#define CELFORGE_ENGINE_CUDA_KERNELS_UPDATE_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"
#ifdef __cplusplus
}
#endif
#include "engine/backend/shared/adam.h"

#ifdef __cplusplus
extern "C" {
#endif

/* target = value, or target += value with `accumulate`; each is f32 or bf16. */
typedef struct StoreLaunch {
  const void *value;
  void *target;
  long long count;
  int value_bf16, target_bf16, accumulate, vectorized;
} StoreLaunch;

/* Computed once per step on the device: whether the step is applied, and its factors. */
typedef struct AdamDecision {
  int applies;
  AdamStep step;
} AdamDecision;

typedef struct AdamLaunch {
  float *parameters, *moment1, *moment2;
  const float *gradients;
  float *ema;        /* or NULL */
  uint16_t *compute; /* or NULL */
  const float *norm;
  const AdamControls *controls;
  AdamCounters *counters;
  AdamDecision *decision; /* workspace */
  AdamConstants constants;
  long long count;
  int vectorized;
} AdamLaunch;

Status launch_store(const StoreLaunch *launch, cudaStream_t stream, Error *error);
/* Two kernels. The first, of one thread, reads norm, controls and counters, writes the decision and
 * updates the counters; the second updates the elements. So no block of the second kernel can read
 * the counters of another step. */
Status launch_adam(const AdamLaunch *launch, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif
#endif
