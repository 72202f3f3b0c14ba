/* Shapes as the pointwise and reducing kernels of every backend see them: neighbouring axes with
 * the same memory pattern are merged, which leaves few index computations. */
#ifndef CELFORGE_ENGINE_BACKEND_BROADCAST_H
#define CELFORGE_ENGINE_BACKEND_BROADCAST_H

#include "engine/graph/tensor.h"

/* The strides of an input under a larger shape: groups of merged axes, outermost first. Stride 0:
 * the input repeats along the group. */
typedef struct Broadcast {
  int groups; /* 0: both shapes have a single element */
  int64_t length[RANK], stride[RANK];
} Broadcast;

/* False if `shape` does not broadcast to `full`. */
bool broadcast_join(Shape shape, Shape full, Broadcast *out);

/* With neighbouring axes merged, a reduction has one of these forms:
 *   rows     [kept, reduced]        each output is the sum of a contiguous row;
 *   columns  [kept, reduced, lanes] each output row of `lanes` elements is the sum of many rows;
 *   scatter  any other, rare: kept and reduced axes alternate further. */
typedef enum ReductionForm { REDUCTION_ROWS, REDUCTION_COLUMNS, REDUCTION_SCATTER } ReductionForm;

typedef struct Reduction {
  ReductionForm form;
  int64_t kept, reduced, lanes; /* extents, for rows and columns; lanes is 1 for rows */
  int64_t outputs;
} Reduction;

/* `axes`: a bit for each axis of `full` that is summed. */
Reduction reduction_of(Shape full, unsigned axes);

#endif
