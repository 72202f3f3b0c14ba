/* Reference convolutions by plain loops, used to validate cuDNN's engines: whole results of small
 * shapes (one thread for each element, f32 sums in a fixed order), and sampled elements of results
 * of any size. */
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
 * and its two gradients. Two of x, w and y are read (the operands), the third is computed in f32.
 */
typedef enum ReferenceResult { REFERENCE_Y, REFERENCE_DX, REFERENCE_DW } ReferenceResult;

typedef struct ReferenceConvolutionLaunch {
  ReferenceResult result;
  const void *x, *w, *y; /* the two operands; the third pointer is ignored */
  float *out;
  Shape x_shape, w_shape, y_shape;
  int stride[3], before[3];
  DType operands; /* f32 or bf16 */
} ReferenceConvolutionLaunch;
Status launch_reference_convolution(const ReferenceConvolutionLaunch *p, cudaStream_t stream,
                                    Error *error);

/* Computes element reference_sample_index(i, samples, elements of the result) for each sample i:
 * the first, the last, and others evenly spaced between them. Sums are f64; a long sum is split
 * into slices, one block each, which the caller adds. `convolution.out` is ignored. */
enum { REFERENCE_MAX_SLICES = 16 };
typedef struct ReferenceSamplesLaunch {
  ReferenceConvolutionLaunch convolution;
  int64_t samples, slices; /* slices: 1 to REFERENCE_MAX_SLICES */
  double *out;             /* [samples, slices] */
} ReferenceSamplesLaunch;
/* The number of slices for a convolution. */
int64_t reference_sample_slices(const ReferenceConvolutionLaunch *convolution);
Status launch_reference_samples(const ReferenceSamplesLaunch *p, cudaStream_t stream, Error *error);
HOST_DEVICE int64_t reference_sample_index(int64_t sample, int64_t samples, int64_t elements) {
  return samples > 1 ? sample * (elements - 1) / (samples - 1) : 0;
}

/* Fills a tensor with pseudo-random numbers, uniform in [-scale, scale): element i depends on i and
 * the seed alone. */
typedef struct ReferenceRandomLaunch {
  void *out;
  DType dtype; /* f32 or bf16 */
  int64_t count;
  uint64_t seed;
  float scale;
} ReferenceRandomLaunch;
Status launch_reference_random(const ReferenceRandomLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
