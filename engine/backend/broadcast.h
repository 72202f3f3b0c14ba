/* Shapes as the pointwise and reducing kernels of every backend see them: axes that memory does not
 * tell apart are joined, so that few index computations are left. */
#ifndef CELFORGE_ENGINE_BACKEND_BROADCAST_H
#define CELFORGE_ENGINE_BACKEND_BROADCAST_H

#include "engine/graph/tensor.h"

/* How an input is read under a larger shape: groups of joined axes, outermost first. Stride 0: the
 * input repeats along the group. */
typedef struct Broadcast {
  int groups; /* 0: a single element under a single element */
  int64_t length[RANK], stride[RANK];
} Broadcast;

/* False when `shape` does not broadcast to `full`. */
bool broadcast_join(Shape shape, Shape full, Broadcast *out);

/* With neighbouring axes joined a reduction is one of
 *   rows     [kept, reduced]        every output is the sum of one contiguous row;
 *   columns  [kept, reduced, lanes] every output row of lanes is the sum of many rows;
 *   scatter  anything else, rare: kept and reduced axes in turn. */
typedef enum ReductionForm { REDUCTION_ROWS, REDUCTION_COLUMNS, REDUCTION_SCATTER } ReductionForm;

typedef struct Reduction {
  ReductionForm form;
  int64_t kept, reduced, lanes; /* of rows and columns; lanes is 1 for rows */
  int64_t outputs;
} Reduction;

/* `axes`: a bit for each axis of `full` that is summed over. */
Reduction reduction_of(Shape full, unsigned axes);

#endif
