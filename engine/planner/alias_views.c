/* Slices and concats without a kernel: a part that is contiguous in the whole is a view of its
 * memory. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/backend.h"
#include "engine/planner/plan.h"

static int64_t elements_of(Shape shape, int first, int end) {
  int64_t count = 1;
  for (int axis = first; axis < end; axis++) count *= shape.dim[axis];
  return count;
}

/* Kernels require aligned addresses. */
static bool is_aligned(const PlanValue *value, int64_t offset) {
  return (size_t)offset * dtype_size(value->dtype) % MEMORY_ALIGNMENT == 0;
}

/* Moves all values in the memory of `value` into that of `root`, `offset` elements further. */
static void rebase(Plan *plan, Value value, int root, int64_t offset) {
  for (int i = 0; i < plan->value_count; i++) {
    PlanValue *part = &plan->values[i];
    if (part->root != value.id) continue;
    part->root = root;
    part->offset += offset;
  }
}

/* --- Slices ----------------------------------------------------------------------------------- */

/* The first axis along which the slice is shorter than the whole; RANK: none. */
static int first_cut(Shape whole, Shape part) {
  int axis = 0;
  while (axis < RANK && whole.dim[axis] == part.dim[axis]) axis++;
  return axis;
}

static void alias_slice(Plan *plan, int slot) {
  const Op *op = &plan->ops[slot];
  const PlanValue *whole = plan_value(plan, op->inputs[0]);
  const PlanValue *part = plan_value(plan, op->outputs[0]);
  const int axis = first_cut(whole->shape, part->shape);
  if (axis == RANK || whole->buffer || part->buffer) return;
  if (elements_of(whole->shape, 0, axis) != 1) return;
  for (int i = axis + 1; i < RANK; i++) {
    if (whole->shape.dim[i] != part->shape.dim[i]) return;
  }
  const int64_t begin = op->attributes.slice.begin.dim[axis];
  const int64_t offset = whole->offset + begin * elements_of(whole->shape, axis + 1, RANK);
  if (!is_aligned(whole, offset)) return;
  rebase(plan, op->outputs[0], whole->root, offset);
  plan_remove(plan, slot);
}

/* --- Concatenations --------------------------------------------------------------------------- */

static bool produces_input(const Plan *plan, int op_slot, const Op *op) {
  for (int i = 0; i < op->input_count; i++) {
    if (plan_value(plan, op->inputs[i])->producer == op_slot) return true;
  }
  return false;
}

/* True if operand `i` can be computed directly in the memory of the whole, at `offset`: it has its
 * own memory, occurs once among the operands, and between its producer and the concat only
 * producers of operands run, so that the whole does not live longer than needed. */
static bool can_be_part(const Plan *plan, int slot, int i, int64_t offset) {
  const Op *op = &plan->ops[slot];
  const PlanValue *part = plan_value(plan, op->inputs[i]);
  if (part->root != op->inputs[i].id || part->buffer || part->producer < 0) return false;
  for (int other = 0; other < i; other++) {
    if (op->inputs[other].id == op->inputs[i].id) return false;
  }
  for (int between = part->producer; between < slot; between++) {
    if (plan->live[between] && !produces_input(plan, between, op)) return false;
  }
  return is_aligned(part, offset);
}

static void alias_concat(Plan *plan, int slot) {
  const Op *op = &plan->ops[slot];
  const Value whole = op->outputs[0];
  const int axis = op->attributes.concat.axis;
  int64_t offsets[OP_MAX_INPUTS], offset = 0;
  if (plan_value(plan, whole)->buffer) return;
  if (elements_of(plan_value(plan, whole)->shape, 0, axis) != 1) return;
  for (int i = 0; i < op->input_count; i++) {
    if (!can_be_part(plan, slot, i, offset)) return;
    offsets[i] = offset;
    offset += shape_count(plan_value(plan, op->inputs[i])->shape);
  }
  for (int i = 0; i < op->input_count; i++) rebase(plan, op->inputs[i], whole.id, offsets[i]);
  plan_remove(plan, slot);
}

void plan_alias_views(Plan *plan) {
  int *order = mem_new((size_t)plan->op_count, sizeof *order);
  int count = 0;
  for (int i = 0; i < plan->op_count; i++) {
    if (plan->ops[i].kind == OP_SLICE) alias_slice(plan, i);
    if (plan->ops[i].kind == OP_CONCAT) alias_concat(plan, i);
    if (plan->live[i]) order[count++] = i;
  }
  plan_reorder(plan, order, count);
  free(order);
}
