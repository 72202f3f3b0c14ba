/* The second stage of a reduction: sums of partial sums, in a fixed order. Its time is small beside
 * the first stage (generate.h): there are a few thousand partial sums. */
#ifndef CELFORGE_ENGINE_CUDA_CODEGEN_REDUCE_H
#define CELFORGE_ENGINE_CUDA_CODEGEN_REDUCE_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

/* out[o] = scale * sum over k below `chunks` of partials[o * output_stride + k * chunk_stride] */
typedef struct ReduceFinishLaunch {
  const double *partials;
  float *out;
  long long outputs, chunks, output_stride, chunk_stride;
  float scale;
  int group; /* threads per output: a power of 2, at most 256 */
} ReduceFinishLaunch;

Status launch_reduce_finish(const ReduceFinishLaunch *launch, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif
#endif
