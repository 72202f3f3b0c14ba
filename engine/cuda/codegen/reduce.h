/* The second stage of a reduction: sums of partial sums, always in the same order. The floor is
 * that of the first stage (source.h): each input once; partial sums are thousands at most. */
#ifndef CELFORGE_ENGINE_CUDA_CODEGEN_REDUCE_H
#define CELFORGE_ENGINE_CUDA_CODEGEN_REDUCE_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

/* out[o] = scale * sum over k below `pieces` of partials[o * output_stride + k * piece_stride] */
typedef struct FinishLaunch {
  const double *partials;
  float *out;
  long long outputs, pieces, output_stride, piece_stride;
  float scale;
  int group; /* threads for one output: a power of 2, at most 256 */
} FinishLaunch;

Status launch_reduce_finish(const FinishLaunch *launch, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif
#endif
