/* Rematerialisation: outputs of cheap forward ops (norms, activations, padding, resizing) that the
 * backward pass reads are not kept but computed a second time, directly before their first reader
 * there (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", keeping the outputs of
 * convolutions). The second run reads the same bytes and therefore writes the same bytes. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/planner/plan.h"

/* Longest chain of ops recomputed for one value. */
enum { MAX_DEPTH = 6 };

typedef struct Rematerializer {
  Plan *plan;
  int *last;     /* by root: last op that reads the value */
  bool *dropped; /* by op: its outputs are recomputed for the backward pass */
  int *current;  /* by root: the value that holds it, itself or its recomputed copy */
  int op_count, op_capacity;
  Op *ops; /* the new program */
} Rematerializer;

static bool is_cheap(const Op *op) {
  switch (op->kind) {
  case OP_NORM:
  case OP_POINTWISE:
  case OP_PAD:
  case OP_RESIZE:
  case OP_CONCAT:
  case OP_SLICE:
  case OP_AVERAGE_POOL:
  case OP_MAX_POOL:
  case OP_WARP:
  case OP_TRANSLATE:
    return true;
  default:
    return false;
  }
}

static int root_of(const Plan *plan, Value value) {
  return plan_value(plan, value)->root;
}

/* --- Choosing ops ----------------------------------------------------------------------------- */

static void find_last_readers(Rematerializer *r) {
  const Plan *plan = r->plan;
  for (int i = 0; i < plan->value_count; i++) r->last[i] = -1;
  for (int i = 0; i < plan->value_count; i++) {
    const PlanValue *value = &plan->values[i];
    for (int j = 0; j < value->use_count; j++)
      if (value->uses[j] > r->last[value->root]) r->last[value->root] = value->uses[j];
  }
}

static bool lives(const Rematerializer *r, int root, int at) {
  const int producer = r->plan->values[root].producer;
  return r->last[root] >= at && !r->dropped[producer];
}

static bool can_recompute(const Rematerializer *r, int op, int at, int depth);

/* True if op `at` can read the value that op `reader` read much earlier: it is alive, is in a
 * buffer that has not changed, or can itself be recomputed. */
static bool is_available(const Rematerializer *r, Value value, int reader, int at, int depth) {
  const Plan *plan = r->plan;
  if (value.id < 0) return true;
  if (plan_value(plan, value)->buffer) return plan_unchanged_between(plan, value, reader, at);
  const int root = root_of(plan, value);
  return lives(r, root, at) || can_recompute(r, plan->values[root].producer, at, depth);
}

static bool can_recompute(const Rematerializer *r, int op, int at, int depth) {
  const Op *made = &r->plan->ops[op];
  if (depth == MAX_DEPTH || !is_cheap(made)) return false;
  for (int i = 0; i < made->input_count; i++)
    if (!is_available(r, made->inputs[i], op, at, depth + 1)) return false;
  return true;
}

/* The first reader of the op's outputs in the backward pass; -1 if there is none, if an output is
 * in a buffer, or if the forward pass reads an output later. */
static int first_backward_reader(const Plan *plan, const Op *op) {
  int first = -1, last_forward = -1;
  for (int i = 0; i < plan->value_count; i++) {
    const PlanValue *value = &plan->values[i];
    bool is_output = false;
    for (int j = 0; j < op->output_count; j++)
      is_output |= op->outputs[j].id >= 0 && value->root == op->outputs[j].id;
    if (!is_output) continue;
    if (value->buffer) return -1;
    for (int j = 0; j < value->use_count; j++) {
      int use = value->uses[j];
      if (!plan->ops[use].is_gradient) {
        if (use > last_forward) last_forward = use;
      } else if (first < 0 || use < first) {
        first = use;
      }
    }
  }
  return first > last_forward ? first : -1;
}

static void choose(Rematerializer *r) {
  const Plan *plan = r->plan;
  for (int k = 0; k < plan->op_count; k++) {
    const Op *op = &plan->ops[k];
    if (op->is_gradient) continue;
    int at = first_backward_reader(plan, op);
    r->dropped[k] = at >= 0 && can_recompute(r, k, at, 0);
  }
}

/* --- The new program -------------------------------------------------------------------------- */

/* Adds a value with the shape and dtype of `like`, as a reshape of `root` unless that is negative.
 */
static Value add_value(Plan *plan, Value like, int root) {
  const int id = plan->value_count++;
  const PlanValue *model = plan_value(plan, like);
  const PlanValue added = {
      .shape = model->shape, .dtype = model->dtype, .producer = -1, .root = root < 0 ? id : root};
  plan->values = mem_resize(plan->values, (size_t)plan->value_count, sizeof *plan->values);
  plan->values[id] = added;
  return (Value){id};
}

static void emit(Rematerializer *r, const Op *op) {
  MEM_PUSH_SLOT(r->ops, r->op_count, r->op_capacity);
  r->ops[r->op_count++] = *op;
}

static void recompute(Rematerializer *r, int producer, int at);

/* The value that op `at`, or an op recomputed for it, reads instead of `value`. */
static Value map_input(Rematerializer *r, Value value, int at) {
  Plan *plan = r->plan;
  if (value.id < 0 || plan_value(plan, value)->buffer) return value;
  const int root = root_of(plan, value);
  if (r->current[root] == root && !lives(r, root, at))
    recompute(r, plan->values[root].producer, at);
  if (r->current[root] == root) return value;
  const Value now = {r->current[root]};
  return value.id == root ? now : add_value(plan, value, now.id);
}

static void recompute(Rematerializer *r, int producer, int at) {
  Plan *plan = r->plan;
  Op copy = plan->ops[producer];
  copy.name = mem_string(r->plan->ops[producer].name);
  copy.is_gradient = true;
  for (int i = 0; i < copy.input_count; i++) copy.inputs[i] = map_input(r, copy.inputs[i], at);
  for (int i = 0; i < copy.output_count; i++) {
    const Value before = copy.outputs[i];
    if (before.id < 0) continue;
    copy.outputs[i] = add_value(plan, before, -1);
    r->current[before.id] = copy.outputs[i].id;
  }
  emit(r, &copy);
}

static void rewrite(Rematerializer *r) {
  Plan *plan = r->plan;
  for (int k = 0; k < plan->op_count; k++) {
    Op op = plan->ops[k];
    for (int i = 0; op.is_gradient && i < op.input_count; i++)
      op.inputs[i] = map_input(r, op.inputs[i], k);
    emit(r, &op);
  }
}

/* Replaces the ops of the plan and recomputes uses and producers. */
static void replace_ops(Rematerializer *r) {
  Plan *plan = r->plan;
  int *order = mem_new((size_t)r->op_count, sizeof *order);
  for (int i = 0; i < r->op_count; i++) order[i] = i;
  free(plan->ops);
  plan->ops = r->ops;
  plan->op_count = r->op_count;
  plan->live = mem_resize(plan->live, (size_t)r->op_count, sizeof *plan->live);
  plan_reorder(plan, order, r->op_count);
  free(order);
}

void plan_rematerialize(Plan *plan) {
  const size_t values = (size_t)plan->value_count, ops = (size_t)plan->op_count;
  Rematerializer r = {.plan = plan};
  r.last = mem_new(values, sizeof *r.last);
  r.current = mem_new(values, sizeof *r.current);
  r.dropped = mem_new(ops, sizeof *r.dropped);
  for (int i = 0; i < plan->value_count; i++) r.current[i] = i;
  find_last_readers(&r);
  choose(&r);
  rewrite(&r);
  replace_ops(&r);
  free(r.last);
  free(r.current);
  free(r.dropped);
}
