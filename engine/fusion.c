#include "engine/plan.h"

/* --- Stores
 * ------------------------------------------------------------------------------------------- */

enum { BOUND_ALIGNMENT = 64 };

/* The value made by an op that ends, through reshapes alone, in `value` and nowhere else. */
static Value made_only_for(const Plan *plan, Value value, int user) {
  for (;;) {
    const PlanValue *info = plan_value(plan, value);
    if (info->producer < 0 || info->use_count != 1 || info->uses[0] != user) return NO_VALUE;
    if (plan->ops[info->producer].kind != OP_RESHAPE) return info->buffer ? NO_VALUE : value;
    user = info->producer;
    value = plan->ops[user].inputs[0];
  }
}

static bool untouched_between(const Plan *plan, int first, int last, Range range) {
  for (int i = first + 1; i < last; i++) {
    if (plan_touches(plan, i, range)) return false;
  }
  return true;
}

static void bind_store(Plan *plan, int store) {
  const Op *op = &plan->ops[store];
  if (op->attributes.store.accumulate) return;
  Value made = made_only_for(plan, op->inputs[0], store);
  if (made.id < 0) return;
  const PlanValue *target = plan_value(plan, op->inputs[1]);
  PlanValue *value = plan_value(plan, made);
  Range range = plan_range(plan, op->inputs[1]);
  size_t begin = (size_t)target->offset * dtype_size(target->dtype);
  if (!range.buffer || value->dtype != target->dtype || begin % BOUND_ALIGNMENT != 0 ||
      shape_count(value->shape) != shape_count(target->shape) ||
      plan_touches(plan, value->producer, range) ||
      !untouched_between(plan, value->producer, store, range)) {
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

void plan_fuse(Plan *plan) {
  plan_bind_stores(plan);
  plan_remove_dead(plan);
}
