/* Kernels that write buffers. The floors, in bytes of the bus per element:
 *   store, f32 to bf16 or back   6
 *   accumulate                   the value once, the target twice
 *   fill                         the target once
 *   Adam                         28 for parameters, gradients and moments, 8 more for the EMA, 2
 * for the bf16 copy: all in one pass Accesses are of 16 bytes where all addresses allow it
 * (`wide`). */
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

/* target = value, or += with `accumulate`; each f32 or bf16. */
typedef struct StoreLaunch {
  const void *value;
  void *target;
  long long count;
  int value_bf16, target_bf16, accumulate, wide;
} StoreLaunch;

/* `word` holds the value's bits: once for f32, twice for bf16. `count` elements of `size` bytes. */
typedef struct FillLaunch {
  void *target;
  long long count;
  uint32_t word;
  int size, wide;
} FillLaunch;

/* What a step does, found once, on the device. */
typedef struct AdamPlan {
  int applies;
  AdamStep step;
} AdamPlan;

typedef struct AdamLaunch {
  float *parameters, *moment1, *moment2;
  const float *gradients;
  float *ema;        /* or NULL */
  uint16_t *compute; /* or NULL */
  const float *norm;
  const AdamControls *controls;
  AdamCounters *counters;
  AdamPlan *plan; /* workspace */
  AdamConstants constants;
  long long count;
  int wide;
} AdamLaunch;

Status launch_store(const StoreLaunch *launch, cudaStream_t stream, Error *error);
Status launch_fill(const FillLaunch *launch, cudaStream_t stream, Error *error);
/* Two kernels: one thread reads norm, controls and counters, writes the plan and counts, so that
 * none of the other kernel's blocks, which write everything else, can see counters of another step.
 */
Status launch_adam(const AdamLaunch *launch, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif
#endif
