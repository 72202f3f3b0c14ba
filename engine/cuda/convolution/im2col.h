/* im2col and col2im along time and width: taps of the convolution's kernel become channels. cuDNN
 * has faster engines for the result where a tensor has few channels or the kernel has many taps.
 *
 * For an image tensor with C channels, A taps along time and B along width, the column tensor has
 * A B C channels in the order (a, b, c), and zeros behind them:
 *
 *   columns[n, t, h, w, (a, b, c)] = image[n, t stride_t + sign a + offset_t, h,
 *                                          w stride_w + sign b + offset_w, c]
 *
 * where image elements out of range are 0. col2im is the transposed map: each image element is the
 * sum, in f32 and in the order of the taps, of all column elements that refer to it. The batch and
 * height axes are unchanged.
 *
 * Bytes moved: both read or write the column tensor once; the image, which is smaller, is served by
 * the caches. */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_IM2COL_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_IM2COL_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "engine/graph/op.h"

typedef struct Im2colMap {
  Shape image, columns;
  int taps[2]; /* along time and width: A, B */
  int stride[2], offset[2];
  int sign;    /* 1 or -1 */
  DType dtype; /* of both tensors: f32 or bf16 */
} Im2colMap;

Status launch_im2col(const Im2colMap *p, const void *image, void *columns, cudaStream_t stream,
                     Error *error);

typedef struct Col2imLaunch {
  Im2colMap map;
  const void *columns;
  void *image;
  const float *bias;     /* [channels of the image]; NULL: none */
  Activation activation; /* applied to sum + bias */
  float slope;
} Col2imLaunch;
Status launch_col2im(const Col2imLaunch *p, cudaStream_t stream, Error *error);

/* Copies all elements [i0, i1, i2, i3, i4] of `shape` between two strided tensors, which permutes
 * the axes of weights. f32 or bf16 on either side. */
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
