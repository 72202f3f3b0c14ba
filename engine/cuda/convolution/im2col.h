/* Taps of a convolution's kernel as channels: what cuDNN has fast engines for when a tensor has few
 * channels, or when there are many taps.
 *
 * Of a tensor with C channels, and A taps along time and B along width, the spread one has A B C
 * channels (and zeros behind them), (a, b, c) in this order:
 *
 *   spread[n, t, h, w, (a, b, c)] = plain[n, t stride_t + sign a + offset_t, h,
 *                                         w stride_w + sign b + offset_w, c]
 *
 * with 0 for elements that are not there. Collecting is the transposed map: each plain element is
 * the sum, in f32 and in the order of the taps, of all spread elements that show it. Along the
 * other axes nothing changes.
 *
 * Bytes moved: both read and write the spread tensor once; the plain one, smaller, comes from and
 * goes to caches. */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_IM2COL_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_IM2COL_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "engine/graph/op.h"

typedef struct Taps {
  Shape plain, spread;
  int count[2]; /* along time and width: A, B */
  int stride[2], offset[2];
  int sign;    /* 1 or -1 */
  DType dtype; /* of both: f32 or bf16 */
} Taps;

Status launch_spread(const Taps *p, const void *plain, void *spread, cudaStream_t stream,
                     Error *error);

typedef struct CollectLaunch {
  Taps taps;
  const void *spread;
  void *plain;
  const float *bias;     /* of plain's channels; NULL: none */
  Activation activation; /* of sum and bias */
  float slope;
} CollectLaunch;
Status launch_collect(const CollectLaunch *p, cudaStream_t stream, Error *error);

/* Copies elements [i0, i1, i2, i3, i4] of a shape between two tensors in which their places are
 * sums of i * stride: weights whose axes change places. f32 or bf16 on either side. */
typedef struct PermuteLaunch {
  const void *source;
  void *destination;
  Shape shape;
  int64_t from[RANK], to[RANK]; /* strides, in elements */
  DType source_dtype, destination_dtype;
} PermuteLaunch;
Status launch_permute(const PermuteLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
