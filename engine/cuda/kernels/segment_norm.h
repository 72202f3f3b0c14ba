/* Sums of squares of a vector's ranges, in two stages: a block for each piece, then one for each
 * range, which adds its pieces always in the same order. The floor: 4 bytes an element, read once,
 * in accesses of 16 where addresses and borders allow it (`wide`). */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_SEGMENT_NORM_H
#define CELFORGE_ENGINE_CUDA_KERNELS_SEGMENT_NORM_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

typedef struct SquareSumsLaunch {
  const float *x;
  const int64_t *begin, *first; /* of Pieces, on the device */
  double *partials;             /* workspace: one for each piece */
  float *out;                   /* one for each range */
  unsigned pieces, ranges;
  int wide;
} SquareSumsLaunch;

Status launch_square_sums(const SquareSumsLaunch *launch, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif
#endif
