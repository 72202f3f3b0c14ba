/* A copy of a box from one tensor into another (concat, slice) as the fewest, longest rows. */
#ifndef CELFORGE_ENGINE_BACKEND_STRIDED_COPY_H
#define CELFORGE_ENGINE_BACKEND_STRIDED_COPY_H

#include "engine/graph/tensor.h"

/* A box inside two tensors, as rows of contiguous bytes. */
typedef struct BoxCopy {
  size_t to_begin, from_begin; /* bytes */
  size_t row;                  /* bytes that are contiguous in both */
  int64_t rows;
  int levels; /* loops over rows, innermost first */
  int64_t length[RANK];
  size_t to_step[RANK], from_step[RANK];
} BoxCopy;

/* A box of shape `box`, which begins at `to_begin` in a tensor of shape `to` and at `from_begin` in
 * one of shape `from`; elements of `size` bytes. */
BoxCopy box_copy(Shape box, Shape to, Shape to_begin, Shape from, Shape from_begin, size_t size);

#endif
