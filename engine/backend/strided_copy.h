/* A copy of a box from one tensor into another (concat, slice) as few, long rows. */
#ifndef CELFORGE_ENGINE_BACKEND_STRIDED_COPY_H
#define CELFORGE_ENGINE_BACKEND_STRIDED_COPY_H

#include "engine/graph/tensor.h"

/* Nested loops over rows that are contiguous in both tensors. */
typedef struct StridedCopy {
  size_t to_begin, from_begin; /* bytes */
  size_t row;                  /* bytes */
  int64_t rows;
  int levels; /* loops over rows, innermost first */
  int64_t length[RANK];
  size_t to_step[RANK], from_step[RANK];
} StridedCopy;

/* The copy of a box of shape `box` at `from_begin` in a tensor of shape `from` to `to_begin` in a
 * tensor of shape `to`; elements have `size` bytes. */
StridedCopy strided_copy(Shape box, Shape to, Shape to_begin, Shape from, Shape from_begin,
                         size_t size);

#endif
