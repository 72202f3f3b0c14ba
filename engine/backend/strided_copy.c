#include "engine/backend/strided_copy.h"

StridedCopy strided_copy(Shape box, Shape to, Shape to_begin, Shape from, Shape from_begin,
                         size_t size) {
  StridedCopy copy = {.row = size, .rows = 1};
  size_t to_step = size, from_step = size;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    const int64_t n = box.dim[axis];
    copy.to_begin += (size_t)to_begin.dim[axis] * to_step;
    copy.from_begin += (size_t)from_begin.dim[axis] * from_step;
    if (n != 1) {
      const int top = copy.levels - 1; /* innermost first */
      if (copy.levels == 0 && to_step == copy.row && from_step == copy.row) {
        copy.row *= (size_t)n;
      } else if (copy.levels > 0 && to_step == copy.to_step[top] * (size_t)copy.length[top] &&
                 from_step == copy.from_step[top] * (size_t)copy.length[top]) {
        copy.length[top] *= n;
      } else {
        copy.length[copy.levels] = n;
        copy.to_step[copy.levels] = to_step;
        copy.from_step[copy.levels++] = from_step;
      }
    }
    to_step *= (size_t)to.dim[axis];
    from_step *= (size_t)from.dim[axis];
  }
  for (int level = 0; level < copy.levels; level++) copy.rows *= copy.length[level];
  return copy;
}
