/* What stands before and behind a convolution that cuDNN does not take as it is: windows of
 * tensors (copies with zeros around, or cut out, with other channels or another dtype), bias and
 * activation in the same pass, and sums over pixels.
 *
 * Bytes moved: a window reads what of the source it shows and writes its destination, once; sums
 * read their input once. Accesses are of 16 bytes where channels and dtypes allow. */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_EPILOGUE_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_EPILOGUE_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "engine/graph/op.h"

/* destination[i] = activation(source[i + offset] + bias[channel]), with 0 for source elements that
 * are not there. f32 or bf16 on either side. In place where shapes, dtypes and pointers are equal.
 */
typedef struct WindowLaunch {
  const void *source;
  void *destination;
  Shape from, to;
  int64_t offset[RANK];
  DType source_dtype, destination_dtype;
  const float *bias; /* of `to`'s channels; NULL: none */
  Activation activation;
  float slope;
} WindowLaunch;
Status launch_window(const WindowLaunch *p, cudaStream_t stream, Error *error);

/* sums[c] = sum over rows of x[row, c], f32, in an order that depends on the shape alone: each of
 * `parts` runs of rows by a block, then the parts in their order. */
typedef struct ColumnSumsLaunch {
  const void *x; /* [rows, columns] */
  DType dtype;   /* f32 or bf16 */
  int64_t rows, columns;
  int64_t parts;
  float *partials; /* [parts, columns] */
  float *sums;     /* [columns] */
} ColumnSumsLaunch;
/* How many parts suit a shape; the workspace is parts * columns * 4 bytes. */
int64_t column_sums_parts(int64_t rows, int64_t columns);
Status launch_column_sums(const ColumnSumsLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
