/* Kernels before and after a convolution of cuDNN: pad-and-crop copies of tensors (with other
 * channel counts or another dtype) that also apply bias and activation, and column sums for the
 * gradient of the bias.
 *
 * Bytes moved: a copy reads each source element that it shows and writes its destination, once;
 * sums read their input once. Accesses are 16 bytes wide where channels and dtypes allow. */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_EPILOGUE_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_EPILOGUE_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "engine/graph/op.h"

/* destination[i] = activation(source[i + offset] + bias[channel]), where source elements out of
 * range are 0. f32 or bf16 on either side. May run in place where shapes and dtypes are equal and
 * offsets are 0. ERROR_INTERNAL where the grid would be too large. */
typedef struct PadCropLaunch {
  const void *source;
  void *destination;
  Shape from, to; /* of source and destination */
  int64_t offset[RANK];
  DType source_dtype, destination_dtype;
  const float *bias; /* [channels of `to`]; NULL: none */
  Activation activation;
  float slope;
} PadCropLaunch;
Status launch_pad_crop(const PadCropLaunch *p, cudaStream_t stream, Error *error);

/* sums[c] = sum over rows of x[row, c], in f32, in an order that depends on the shape alone: a
 * block sums each of `parts` ranges of rows, then the parts are added in order. */
typedef struct ColumnSumsLaunch {
  const void *x; /* [rows, columns] */
  DType dtype;   /* f32 or bf16 */
  int64_t rows, columns;
  int64_t parts;   /* column_sums_parts */
  float *partials; /* [parts, columns], workspace */
  float *sums;     /* [columns] */
} ColumnSumsLaunch;
/* The number of parts for a shape; the workspace is parts * columns * 4 bytes. */
int64_t column_sums_parts(int64_t rows, int64_t columns);
Status launch_column_sums(const ColumnSumsLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
