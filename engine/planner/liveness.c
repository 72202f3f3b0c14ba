/* Dead ops, read and write hazards, and the lifetimes of values. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/planner/plan.h"

bool op_runs(const Op *op) {
  return op->kind != OP_VIEW && op->kind != OP_RESHAPE;
}

/* True if the op writes a buffer. */
static bool writes_buffer(const Plan *plan, const Op *op) {
  if (!op_runs(op)) return false;
  if (op_written_inputs(op) != 0) return true;
  for (int i = 0; i < op->output_count; i++) {
    if (op->outputs[i].id >= 0 && plan_value(plan, op->outputs[i])->buffer) return true;
  }
  return false;
}

static bool is_needed(const Plan *plan, const Op *op) {
  if (writes_buffer(plan, op)) return true;
  for (int i = 0; i < op->output_count; i++) {
    if (op->outputs[i].id >= 0 && plan_value(plan, op->outputs[i])->use_count > 0) return true;
  }
  return false;
}

/* Users follow their producers, so a single backward sweep finds all chains of dead ops. */
int plan_remove_dead(Plan *plan) {
  int running = 0;
  for (int i = plan->op_count - 1; i >= 0; i--) {
    if (!plan->live[i]) continue;
    if (!is_needed(plan, &plan->ops[i])) {
      plan_remove(plan, i);
    } else if (op_runs(&plan->ops[i])) {
      running++;
    }
  }
  return running;
}

/* --- Hazards ---------------------------------------------------------------------------------- */

BufferRange plan_buffer_range(const Plan *plan, Value value) {
  if (value.id < 0) return (BufferRange){0};
  const PlanValue *info = plan_value(plan, value);
  if (!info->buffer) return (BufferRange){0};
  return (BufferRange){info->buffer, info->offset, info->offset + shape_count(info->shape)};
}

static bool overlap(BufferRange a, BufferRange b) {
  return a.buffer && a.buffer == b.buffer && a.begin < b.end && b.begin < a.end;
}

static bool outputs_overlap(const Plan *plan, const Op *op, BufferRange range) {
  for (int i = 0; i < op->output_count; i++) {
    if (overlap(plan_buffer_range(plan, op->outputs[i]), range)) return true;
  }
  return false;
}

static bool inputs_overlap(const Plan *plan, const Op *op, unsigned places, BufferRange range) {
  for (int i = 0; i < op->input_count; i++) {
    if ((places >> i & 1) && overlap(plan_buffer_range(plan, op->inputs[i]), range)) return true;
  }
  return false;
}

static bool writes(const Plan *plan, int op, BufferRange range) {
  const Op *at = &plan->ops[op];
  if (!plan->live[op] || !op_runs(at)) return false;
  return inputs_overlap(plan, at, op_written_inputs(at), range) || outputs_overlap(plan, at, range);
}

bool plan_accesses(const Plan *plan, int op, BufferRange range) {
  const Op *at = &plan->ops[op];
  if (!plan->live[op] || !op_runs(at)) return false;
  return inputs_overlap(plan, at, ~0u, range) || outputs_overlap(plan, at, range);
}

bool plan_unchanged_between(const Plan *plan, Value value, int slot_a, int slot_b) {
  BufferRange range = plan_buffer_range(plan, value);
  if (!range.buffer) return true;
  int first = slot_a < slot_b ? slot_a : slot_b, last = slot_a < slot_b ? slot_b : slot_a;
  for (int i = first + 1; i < last; i++) {
    if (writes(plan, i, range)) return false;
  }
  return true;
}

bool plan_inputs_unchanged_between(const Plan *plan, int op, int to) {
  const Op *at = &plan->ops[op];
  for (int i = 0; i < at->input_count; i++) {
    if (!plan_unchanged_between(plan, at->inputs[i], op, to)) return false;
  }
  return true;
}

/* --- Lifetimes -------------------------------------------------------------------------------- */

/* By root: the last op that reads the value, a reshape or a part of it, or computes one of these;
 * an unused output is written all the same. */
static void find_last_uses(const Plan *plan, int *last) {
  for (int i = 0; i < plan->value_count; i++) last[i] = -1;
  for (int i = 0; i < plan->value_count; i++) {
    const PlanValue *value = &plan->values[i];
    if (value->producer > last[value->root]) last[value->root] = value->producer;
    for (int j = 0; j < value->use_count; j++) {
      if (value->uses[j] > last[value->root]) last[value->root] = value->uses[j];
    }
  }
}

static bool taken_by_output(const Op *op, const int *lifetime_of, int lifetime) {
  for (int i = 0; i < op->output_count; i++) {
    if (op->outputs[i].id >= 0 && lifetime_of[op->outputs[i].id] == lifetime) return true;
  }
  return false;
}

/* True if input `i` covers the memory of its root and no other input reads that memory with another
 * shape. */
static bool is_whole(const Plan *plan, const Op *op, int i) {
  const PlanValue *in = plan_value(plan, op->inputs[i]);
  if (in->offset != 0 || plan_bytes(plan, op->inputs[i]) != plan_bytes(plan, (Value){in->root}))
    return false;
  for (int k = 0; k < op->input_count; k++) {
    const PlanValue *other = plan_value(plan, op->inputs[k]);
    if (other->root == in->root && !shape_equal(other->shape, in->shape)) return false;
  }
  return true;
}

/* The lifetime of an input of a pointwise op that ends at this op and whose memory `output` can
 * reuse: it has the shape of the output, each element of which is read before it is written. -1:
 * none. */
static int reusable_lifetime(const Plan *plan, int at, Value output, const Lifetime *items,
                             const int *lifetime_of) {
  const Op *op = &plan->ops[at];
  const PlanValue *out = plan_value(plan, output);
  if (op->kind != OP_POINTWISE || out->root != output.id) return -1;
  for (int i = 0; i < op->input_count; i++) {
    const PlanValue *in = plan_value(plan, op->inputs[i]);
    int lifetime = lifetime_of[in->root];
    if (lifetime < 0 || items[lifetime].last != at) continue;
    if (shape_equal(in->shape, out->shape) && dtype_size(in->dtype) == dtype_size(out->dtype) &&
        is_whole(plan, op, i) && !taken_by_output(op, lifetime_of, lifetime)) {
      return lifetime;
    }
  }
  return -1;
}

int plan_lifetimes(const Plan *plan, Lifetime **out, int *lifetime_of) {
  Lifetime *items = mem_new((size_t)plan->value_count, sizeof *items);
  int count = 0;
  int *last = mem_new((size_t)plan->value_count, sizeof *last);
  find_last_uses(plan, last);
  for (int i = 0; i < plan->value_count; i++) lifetime_of[i] = -1;
  for (int i = 0; i < plan->op_count; i++) {
    const Op *op = &plan->ops[i];
    for (int j = 0; j < op->output_count; j++) {
      Value value = op->outputs[j];
      if (value.id < 0 || plan_value(plan, value)->buffer) continue;
      const Value root = {plan_value(plan, value)->root};
      int lifetime = reusable_lifetime(plan, i, value, items, lifetime_of);
      if (lifetime < 0) lifetime = lifetime_of[root.id]; /* of an earlier part */
      if (lifetime < 0) {
        lifetime = count++;
        items[lifetime] = (Lifetime){.first = i, .bytes = (size_t)plan_bytes(plan, root)};
      }
      items[lifetime].last = last[root.id];
      lifetime_of[root.id] = lifetime;
      lifetime_of[value.id] = lifetime;
    }
  }
  for (int i = 0; i < plan->value_count; i++) {
    lifetime_of[i] = lifetime_of[plan->values[i].root];
  }
  free(last);
  *out = items;
  return count;
}
