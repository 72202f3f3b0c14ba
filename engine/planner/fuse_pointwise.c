/* Chains of pointwise ops, and reductions behind them, as few passes over memory.
 *
 * A producer joins a consumer when the consumer alone needs it (what it makes then vanishes), when
 * computing it again in every consumer moves fewer bytes than storing it, or when the consumer is
 * the first of several (what it makes becomes a further output). */
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

/* Computing it again costs next to nothing beside reading it. */
static bool is_cheap(const Op *op) {
  const PointwiseProgram *program = &op->attributes.pointwise;
  for (int i = 0; i < program->instruction_count; i++) {
    switch (program->instructions[i].code) {
    case PW_TANH:
    case PW_SIGMOID:
    case PW_SOFTPLUS:
      return false;
    default:
      break;
    }
  }
  return true;
}

/* So little that it may be computed for each element of a larger shape: no more than scaling what
 * is read. */
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

/* What the consumer would have to read beyond what it reads now, and what it need no longer read.
 */
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

/* The outputs (a bit each) that others than `consumer` read. */
static unsigned outputs_of_others(const Plan *plan, const Op *producer, int consumer) {
  unsigned mask = 0;
  for (int i = 0; i < producer->output_count; i++) {
    if (!used_by_alone(plan, producer->outputs[i], consumer)) mask |= 1u << i;
  }
  return mask;
}

/* --- Memory: far producers -------------------------------------------------------------------- */

static bool used_from(const Plan *plan, Value value, int op) {
  const PlanValue *info = plan_value(plan, value);
  for (int i = 0; i < info->use_count; i++) {
    if (info->uses[i] >= op) return true;
  }
  return false;
}

static bool is_far(const Plan *plan, int producer, int consumer) {
  for (int i = producer + 1; i < consumer; i++) {
    const Op *op = &plan->ops[i];
    if (plan->live[i] && op_runs(op) && !is_consumer(op)) return true;
  }
  return false;
}

/* Joining makes the producer's inputs live until the consumer runs. Where that is far away (the
 * forward pass and its backward pass), they may not take more memory than what vanishes: its
 * outputs that nobody else reads, or, where it joins all of its readers, every one. */
static bool keeps_memory_low(const Plan *plan, int producer, int consumer, bool joins_all) {
  if (!is_far(plan, producer, consumer)) return true;
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

/* --- Joining ---------------------------------------------------------------------------------- */

/* May the producer's work be done by the consumer, whatever the use of it? Fills `fused`. */
static bool can_join(const Plan *plan, int producer, int consumer, unsigned kept, bool joins_all,
                     Op *fused) {
  const Op *from = &plan->ops[producer], *to = &plan->ops[consumer];
  if (from->kind != OP_POINTWISE || !is_consumer(to)) return false;
  bool same_shape = shape_equal(full_shape(plan, from), full_shape(plan, to));
  if (!same_shape && (kept || !is_trivial(from))) return false;
  return plan_inputs_unchanged_between(plan, producer, consumer) &&
         keeps_memory_low(plan, producer, consumer, joins_all) &&
         pointwise_compose(from, to, kept, fused);
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

/* True when every reader can compute the producer's result itself, and that moves no more bytes. */
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

/* `*joins_all`: it is, where the producer joins all of its readers. */
static bool is_worth_it(const Plan *plan, int producer, int consumer, bool *joins_all) {
  const Op *from = &plan->ops[producer], *to = &plan->ops[consumer];
  *joins_all = false;
  if (outputs_of_others(plan, from, consumer) == 0) return true;
  if (!is_cheap(from)) return false;
  if (bytes_added(plan, from, to) < bytes_saved(plan, from, to)) return true;
  *joins_all = pays_everywhere(plan, producer);
  return *joins_all;
}

/* Lets one of the ops that `consumer` reads join it. */
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

/* Lets `producer` join its first reader, which then makes for the others what they read. */
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

/* First to last, so that a producer is as large as it gets when its consumers are asked. */
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
