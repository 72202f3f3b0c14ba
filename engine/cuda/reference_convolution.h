/* The convolution and its gradients by loops anyone can check: a thread for each element of the
 * result, f32 sums in a fixed order. Slow; what the engines of cuDNN are held against when a
 * backend starts. */
#ifndef CELFORGE_ENGINE_CUDA_REFERENCE_CONVOLUTION_H
#define CELFORGE_ENGINE_CUDA_REFERENCE_CONVOLUTION_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "engine/op.h"

/* The trilinear form of engine/ops/convolution.c:
 *   y[n,p,o] = sum over taps k, channels c of w[o,k,c] x[n, p * stride + k - before, c]
 * and its other two sides. Of x, w, y two are read (operands), one is written, as f32. */
typedef enum ReferenceResult { REFERENCE_Y, REFERENCE_DX, REFERENCE_DW } ReferenceResult;

typedef struct ReferenceConvolutionLaunch {
  ReferenceResult result;
  const void *x, *w, *y; /* the two operands; the third is not looked at */
  float *out;
  Shape x_shape, w_shape, y_shape;
  int stride[3], before[3];
  DType operands; /* f32 or bf16 */
} ReferenceConvolutionLaunch;
Status launch_reference_convolution(const ReferenceConvolutionLaunch *p, cudaStream_t stream,
                                    Error *error);

#ifdef __cplusplus
}
#endif

#endif
