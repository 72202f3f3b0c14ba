/* Max pool and its transpose. A thread takes one window of neighbouring channels and is alone in
 * reading and writing it, so nothing is added and no order varies.
 *
 * Bytes moved, forward: x (and other) once, y once. Backward: x and dy once, dx once. */
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
  int size;                                /* of a window, either way */
  int64_t frames, height, width, channels; /* of x */
  const void *x;
  const void *other; /* forward: of x's shape, what is read where x is largest; NULL: x itself */
  const void *dy;    /* backward */
  float slope; /* backward: dy is multiplied by this where the largest number is not above 0 */
  void *out;   /* y, or dx */
} MaxPoolLaunch;

Status launch_max_pool(const MaxPoolLaunch *p, cudaStream_t stream, Error *error);
Status launch_max_pool_backward(const MaxPoolLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
