/* Fuses chains of pointwise ops and the reductions after them, to minimise memory traffic.
 *
 * A producer is fused into a consumer if no other op reads it (its output then needs no memory), if
 * recomputing it in every consumer moves fewer bytes than storing it, or if the consumer is the
 * first of several readers (its output becomes an additional output). */
#include <stdlib.h>
#include <string.h>

#include "engine/planner/plan.h"

static bool is_consumer(const Op *op) {
  return op->kind == OP_POINTWISE || op->kind == OP_REDUCE;
}

static Shape full_shape(const Plan *plan, const Op *op) {
  return op->kind == OP_REDUCE ? op->attributes.reduce.full
                               : plan_value(plan, op->outputs[0])->shape;
}

/* True if recomputing costs little compared to reading the operands. */
static bool is_cheap(const Op *op) {
  const PointwiseProgram *program = &op->attributes.pointwise;
  for (int i = 0; i < program->instruction_count; i++) {
    switch (program->instructions[i].code) {
    case PW_TANH:
    case PW_SIGMOID:
    case PW_SOFTPLUS:
    case PW_EXP:
    case PW_LOG:
      return false;
    default:
      break;
    }
  }
  return true;
}

/* True if the op may be recomputed for each element of a larger shape: at most scaling one input.
 */
static bool is_trivial(const Op *op) {
  const PointwiseProgram *program = &op->attributes.pointwise;
  for (int i = 0; i < program->instruction_count; i++) {
    PointwiseCode code = program->instructions[i].code;
    if (code != PW_CONSTANT && code != PW_COPY && code != PW_AFFINE) return false;
  }
  return op->input_count <= 1 && program->instruction_count <= 2;
}

static bool reads(const Op *op, Value value) {
  for (int i = 0; i < op->input_count; i++) {
    if (op->inputs[i].id == value.id) return true;
  }
  return false;
}

/* Bytes that the consumer would read in addition, and bytes that it would no longer read. */
static int64_t bytes_added(const Plan *plan, const Op *producer, const Op *consumer) {
  int64_t bytes = 0;
  for (int i = 0; i < producer->input_count; i++) {
    if (!reads(consumer, producer->inputs[i])) bytes += plan_bytes(plan, producer->inputs[i]);
  }
  return bytes;
}

static int64_t bytes_saved(const Plan *plan, const Op *producer, const Op *consumer) {
  int64_t bytes = 0;
  for (int i = 0; i < producer->output_count; i++) {
    if (reads(consumer, producer->outputs[i])) bytes += plan_bytes(plan, producer->outputs[i]);
  }
  return bytes;
}

static bool used_by_alone(const Plan *plan, Value value, int user) {
  const PlanValue *info = plan_value(plan, value);
  return info->use_count == 0 || plan_sole_user(plan, value) == user;
}

/* The outputs (a bit each) that ops other than `consumer` read. */
static unsigned outputs_of_others(const Plan *plan, const Op *producer, int consumer) {
  unsigned mask = 0;
  for (int i = 0; i < producer->output_count; i++) {
    if (!used_by_alone(plan, producer->outputs[i], consumer)) mask |= 1u << i;
  }
  return mask;
}

/* --- Memory: distant producers ---------------------------------------------------------------- */

static bool used_from(const Plan *plan, Value value, int op) {
  const PlanValue *info = plan_value(plan, value);
  for (int i = 0; i < info->use_count; i++) {
    if (info->uses[i] >= op) return true;
  }
  return false;
}

static bool is_distant(const Plan *plan, int producer, int consumer) {
  for (int i = producer + 1; i < consumer; i++) {
    const Op *op = &plan->ops[i];
    if (plan->live[i] && op_runs(op) && !is_consumer(op)) return true;
  }
  return false;
}

/* Fusing extends the lifetimes of the producer's inputs to the consumer. If that is distant
 * (forward and backward pass), they may not take more memory than is freed: outputs without other
 * readers or, if the producer is fused into all of its readers, all outputs. */
static bool keeps_memory_low(const Plan *plan, int producer, int consumer, bool joins_all) {
  if (!is_distant(plan, producer, consumer)) return true;
  const Op *op = &plan->ops[producer];
  int64_t longer = 0, gone = 0;
  for (int i = 0; i < op->input_count; i++) {
    const PlanValue *in = plan_value(plan, op->inputs[i]);
    if (!in->buffer && !used_from(plan, op->inputs[i], consumer)) {
      longer += plan_bytes(plan, op->inputs[i]);
    }
  }
  for (int i = 0; i < op->output_count; i++) {
    if (joins_all || used_by_alone(plan, op->outputs[i], consumer))
      gone += plan_bytes(plan, op->outputs[i]);
  }
  return longer <= gone;
}

/* --- Fusing two ops --------------------------------------------------------------------------- */

/* True if fusing is possible, regardless of its benefit. Sets `fused`. */
static bool can_join(const Plan *plan, int producer, int consumer, unsigned kept, bool joins_all,
                     Op *fused) {
  const Op *from = &plan->ops[producer], *to = &plan->ops[consumer];
  if (from->kind != OP_POINTWISE || !is_consumer(to)) return false;
  bool same_shape = shape_equal(full_shape(plan, from), full_shape(plan, to));
  if (!same_shape && (kept || !is_trivial(from))) return false;
  return plan_inputs_unchanged_between(plan, producer, consumer) &&
         keeps_memory_low(plan, producer, consumer, joins_all) &&
         pointwise_compose(plan, from, to, kept, fused);
}

static void join(Plan *plan, int producer, int consumer, const Op *fused) {
  int outputs = plan->ops[consumer].output_count;
  plan_set_inputs(plan, consumer, fused->inputs, fused->input_count);
  plan->ops[consumer].attributes = fused->attributes;
  for (int i = outputs; i < fused->output_count; i++) {
    plan_set_output(plan, consumer, i, fused->outputs[i]);
  }
  const Op *from = &plan->ops[producer];
  for (int i = 0; i < from->output_count; i++) {
    const PlanValue *out = plan_value(plan, from->outputs[i]);
    if (out->producer == producer && out->use_count > 0) return;
  }
  plan_remove(plan, producer);
}

/* True if every reader can recompute the producer and that does not move more bytes. */
static bool pays_everywhere(const Plan *plan, int producer) {
  const Op *from = &plan->ops[producer];
  int64_t before = 0, after = 0;
  Op fused;
  for (int i = 0; i < from->input_count; i++) before += plan_bytes(plan, from->inputs[i]);
  for (int i = 0; i < from->output_count; i++) {
    const PlanValue *out = plan_value(plan, from->outputs[i]);
    before += plan_bytes(plan, from->outputs[i]);
    for (int j = 0; j < out->use_count; j++) {
      int user = out->uses[j];
      if (!can_join(plan, producer, user, 0, true, &fused)) return false;
      before += plan_bytes(plan, from->outputs[i]);
      after += bytes_added(plan, from, &plan->ops[user]);
    }
  }
  return after <= before;
}

/* True if fusing reduces traffic. `*joins_all`: only if the producer is fused into all its readers.
 */
static bool is_worth_it(const Plan *plan, int producer, int consumer, bool *joins_all) {
  const Op *from = &plan->ops[producer], *to = &plan->ops[consumer];
  *joins_all = false;
  if (outputs_of_others(plan, from, consumer) == 0) return true;
  if (!is_cheap(from)) return false;
  if (bytes_added(plan, from, to) < bytes_saved(plan, from, to)) return true;
  *joins_all = pays_everywhere(plan, producer);
  return *joins_all;
}

/* Fuses one producer of an input into `consumer`; false if there is none. */
static bool absorb_one(Plan *plan, int consumer) {
  Op fused;
  bool joins_all;
  for (int i = 0; i < plan->ops[consumer].input_count; i++) {
    int producer = plan_value(plan, plan->ops[consumer].inputs[i])->producer;
    if (producer < 0 || plan->ops[producer].kind != OP_POINTWISE) continue;
    if (!is_worth_it(plan, producer, consumer, &joins_all)) continue;
    if (!can_join(plan, producer, consumer, 0, joins_all, &fused)) continue;
    join(plan, producer, consumer, &fused);
    return true;
  }
  return false;
}

static int first_user(const Plan *plan, const Op *op) {
  int first = -1;
  for (int i = 0; i < op->output_count; i++) {
    const PlanValue *out = plan_value(plan, op->outputs[i]);
    for (int j = 0; j < out->use_count; j++) {
      if (first < 0 || out->uses[j] < first) first = out->uses[j];
    }
  }
  return first;
}

/* Fuses `producer` into its first reader, which then has its outputs for the other readers. */
static bool join_first_user(Plan *plan, int producer) {
  const Op *from = &plan->ops[producer];
  int consumer = first_user(plan, from);
  if (consumer < 0 || plan->ops[consumer].kind != OP_POINTWISE) return false;
  unsigned kept = outputs_of_others(plan, from, consumer);
  Op fused;
  if (!can_join(plan, producer, consumer, kept, false, &fused)) return false;
  join(plan, producer, consumer, &fused);
  return true;
}

/* First to last, so that a producer has absorbed its own producers before it is considered. */
static bool absorb_everywhere(Plan *plan) {
  bool changed = false;
  for (int i = 0; i < plan->op_count; i++) {
    if (!plan->live[i] || !is_consumer(&plan->ops[i])) continue;
    while (absorb_one(plan, i)) changed = true;
  }
  return changed;
}

void plan_fuse_pointwise(Plan *plan) {
  bool changed = true;
  while (changed) {
    changed = absorb_everywhere(plan);
    for (int i = 0; i < plan->op_count; i++) {
      if (plan->live[i] && plan->ops[i].kind == OP_POINTWISE && join_first_user(plan, i)) {
        changed = true;
      }
    }
  }
}
