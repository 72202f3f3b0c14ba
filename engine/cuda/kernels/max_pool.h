/* Max pooling and its gradient. One thread reads and writes one window of a few neighbouring
 * channels alone; nothing is summed, so results do not depend on the order of threads.
 *
 * Traffic, forward: x (and `other`) once, y once. Backward: x and dy once, dx once. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_MAX_POOL_H
#define CELFORGE_ENGINE_CUDA_KERNELS_MAX_POOL_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

typedef struct MaxPoolLaunch {
  bool bf16;
  int size;                                /* height and width of a window, and its stride */
  int64_t frames, height, width, channels; /* of x */
  const void *x;
  const void *other; /* forward: y has its elements at the positions of x's maxima; NULL: x */
  const void *dy;    /* backward */
  float slope;       /* backward: factor of dy if the maximum is not above 0 (leaky ReLU) */
  void *out;         /* y; backward: dx */
} MaxPoolLaunch;

Status launch_max_pool(const MaxPoolLaunch *p, cudaStream_t stream, Error *error);
Status launch_max_pool_backward(const MaxPoolLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
