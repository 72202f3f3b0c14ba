#include "engine/backend/broadcast.h"

bool broadcast_join(Shape shape, Shape full, Broadcast *out) {
  int64_t stride = 1;
  int64_t length[RANK], strides[RANK];
  int groups = 0; /* innermost first */
  for (int axis = RANK - 1; axis >= 0; axis--) {
    const int64_t n = full.dim[axis];
    if (shape.dim[axis] != n && shape.dim[axis] != 1) return false;
    if (n == 1) continue;
    const int64_t step = shape.dim[axis] == 1 ? 0 : stride;
    if (groups > 0 && (strides[groups - 1] == 0) == (step == 0)) {
      length[groups - 1] *= n;
    } else {
      length[groups] = n;
      strides[groups++] = step;
    }
    stride *= shape.dim[axis];
  }
  *out = (Broadcast){.groups = groups};
  for (int i = 0; i < groups; i++) {
    out->length[i] = length[groups - 1 - i];
    out->stride[i] = strides[groups - 1 - i];
  }
  return true;
}

Reduction reduction_of(Shape full, unsigned axes) {
  Reduction r = {.outputs = 1};
  int64_t length[RANK];
  bool is_reduced[RANK];
  int groups = 0;
  for (int axis = 0; axis < RANK; axis++) {
    const bool reduce = axes >> axis & 1u;
    if (!reduce) r.outputs *= full.dim[axis];
    if (full.dim[axis] == 1) continue;
    if (groups > 0 && is_reduced[groups - 1] == reduce) {
      length[groups - 1] *= full.dim[axis];
    } else {
      length[groups] = full.dim[axis];
      is_reduced[groups++] = reduce;
    }
  }
  const int first = groups > 0 && !is_reduced[0] ? 1 : 0; /* the first group is a kept one */
  const int rest = groups - first;                        /* groups from the first reduced one on */
  r.kept = first ? length[0] : 1;
  r.reduced = rest > 0 ? length[first] : 1;
  r.lanes = rest > 1 ? length[first + 1] : 1;
  r.form = rest > 2 ? REDUCTION_SCATTER : rest == 2 ? REDUCTION_COLUMNS : REDUCTION_ROWS;
  return r;
}
