#include "engine/broadcast.h"

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
  const int first = groups > 0 && !is_reduced[0] ? 1 : 0; /* a kept group in front */
  const int behind = groups - first;                      /* groups from the first reduced one on */
  r.kept = first ? length[0] : 1;
  r.reduced = behind > 0 ? length[first] : 1;
  r.lanes = behind > 1 ? length[first + 1] : 1;
  r.form = behind > 2 ? REDUCTION_SCATTER : behind == 2 ? REDUCTION_COLUMNS : REDUCTION_ROWS;
  return r;
}

bool pointwise_is_binary(PointwiseCode code) {
  return code == PW_ADD || code == PW_SUB || code == PW_MUL || code == PW_DIV;
}

bool pointwise_well_formed(const PointwiseProgram *program, int inputs, int outputs) {
  if (program->instruction_count < 0 || program->instruction_count > POINTWISE_MAX_INSTRUCTIONS ||
      inputs > POINTWISE_MAX_INPUTS || outputs > POINTWISE_MAX_OUTPUTS) {
    return false;
  }
  for (int k = 0; k < program->instruction_count; k++) {
    const PointwiseInstruction *i = &program->instructions[k];
    if (i->code >= PW_CODE_COUNT) return false;
    if (i->code != PW_CONSTANT && (i->a < 0 || i->a >= inputs + k)) return false;
    if (pointwise_is_binary(i->code) && (i->b < 0 || i->b >= inputs + k)) return false;
  }
  for (int k = 0; k < outputs; k++) {
    const int r = program->outputs[k];
    if (r < 0 || r >= inputs + program->instruction_count) return false;
  }
  return true;
}
