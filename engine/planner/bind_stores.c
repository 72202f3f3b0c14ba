/* Stores without a kernel: values are computed directly in the buffer that they are stored to. */
#include "engine/backend/backend.h"
#include "engine/planner/plan.h"

/* The value whose only use is, through reshapes, `value`, which only `user` reads; NO_VALUE: none.
 */
static Value sole_source(const Plan *plan, Value value, int user) {
  for (;;) {
    const PlanValue *info = plan_value(plan, value);
    if (info->producer < 0 || info->use_count != 1 || info->uses[0] != user) return NO_VALUE;
    if (plan->ops[info->producer].kind != OP_RESHAPE) return info->buffer ? NO_VALUE : value;
    user = info->producer;
    value = plan->ops[user].inputs[0];
  }
}

static bool unaccessed_between(const Plan *plan, int first, int last, BufferRange range) {
  for (int i = first + 1; i < last; i++) {
    if (plan_accesses(plan, i, range)) return false;
  }
  return true;
}

/* Lets the producer of the stored value write to the target itself, if no op accesses the target in
 * between. */
static void bind_store(Plan *plan, int store) {
  const Op *op = &plan->ops[store];
  if (op->attributes.store.accumulate) return;
  const Value source = sole_source(plan, op->inputs[0], store);
  if (source.id < 0) return;
  const PlanValue *target = plan_value(plan, op->inputs[1]);
  PlanValue *value = plan_value(plan, source);
  BufferRange range = plan_buffer_range(plan, op->inputs[1]);
  size_t begin = (size_t)target->offset * dtype_size(target->dtype);
  if (!range.buffer || value->dtype != target->dtype || begin % MEMORY_ALIGNMENT != 0 ||
      shape_count(value->shape) != shape_count(target->shape) ||
      plan_accesses(plan, value->producer, range) ||
      !unaccessed_between(plan, value->producer, store, range)) {
    return;
  }
  value->buffer = target->buffer;
  value->offset = target->offset;
  plan_remove(plan, store);
}

void plan_bind_stores(Plan *plan) {
  for (int i = 0; i < plan->op_count; i++) {
    if (plan->live[i] && plan->ops[i].kind == OP_STORE) bind_store(plan, i);
  }
}
