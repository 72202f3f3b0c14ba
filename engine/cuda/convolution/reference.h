/* The convolution and its gradients by loops anyone can check: what the engines of cuDNN are held
 * against. Whole results of small shapes, a thread for each element, f32 sums in a fixed order; and
 * some elements of results of any size. */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_REFERENCE_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_REFERENCE_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/host_device.h"
#include "engine/graph/op.h"

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

/* Element i of `samples` is the one at reference_sample_place(i, samples, elements of the result):
 * the first, the last, and others evenly between them. f64 sums, long ones in slices by a block
 * each, which are left to be added up. `out` of `convolution` is not looked at. */
enum { REFERENCE_MOST_SLICES = 16 };
typedef struct ReferenceSamplesLaunch {
  ReferenceConvolutionLaunch convolution;
  int64_t samples, slices; /* slices: 1 to REFERENCE_MOST_SLICES */
  double *out;             /* [samples, slices] */
} ReferenceSamplesLaunch;
/* How many slices suit a convolution. */
int64_t reference_sample_slices(const ReferenceConvolutionLaunch *convolution);
Status launch_reference_samples(const ReferenceSamplesLaunch *p, cudaStream_t stream, Error *error);
HOST_DEVICE int64_t reference_sample_place(int64_t sample, int64_t samples, int64_t elements) {
  return samples > 1 ? sample * (elements - 1) / (samples - 1) : 0;
}

/* out[i] = a number from [-scale, scale) that depends on i and the seed, as random ones do. */
typedef struct ReferenceNumbersLaunch {
  void *out;
  DType dtype; /* f32 or bf16 */
  int64_t count;
  uint64_t seed;
  float scale;
} ReferenceNumbersLaunch;
Status launch_reference_numbers(const ReferenceNumbersLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
