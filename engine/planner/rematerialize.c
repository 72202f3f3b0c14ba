/* Less memory for more time: what the backward pass reads again and is cheap to make (norms,
 * activations, padding, resizing) is not kept from the forward pass but made a second time, right
 * before its first reader there (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost",
 * with the convolutions' outputs as what is kept). The second run of an op reads the same bytes and
 * so writes the same bytes. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/planner/plan.h"

/* How many ops in a row may be run again for one value. */
enum { MAX_DEPTH = 6 };

typedef struct Recompute {
  Plan *plan;
  int *last;     /* by root: the last op that reads the value */
  bool *dropped; /* by op: its outputs are made again for the backward pass */
  int *current;  /* by root: the value that holds it, itself or a copy made again */
  int op_count, op_capacity;
  Op *ops; /* the new program */
} Recompute;

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
    return true;
  default:
    return false;
  }
}

static int root_of(const Plan *plan, Value value) {
  return plan_value(plan, value)->root;
}

/* --- What is worth it ------------------------------------------------------------------------- */

static void find_last_readers(Recompute *r) {
  const Plan *plan = r->plan;
  for (int i = 0; i < plan->value_count; i++) r->last[i] = -1;
  for (int i = 0; i < plan->value_count; i++) {
    const PlanValue *value = &plan->values[i];
    for (int j = 0; j < value->use_count; j++)
      if (value->uses[j] > r->last[value->root]) r->last[value->root] = value->uses[j];
  }
}

static bool lives(const Recompute *r, int root, int at) {
  const int producer = r->plan->values[root].producer;
  return r->last[root] >= at && !r->dropped[producer];
}

static bool can_be_made_again(const Recompute *r, int op, int at, int depth);

/* Whether op `at` could read what op `reader` read long before: it still lives, lies in a buffer
 * that has not changed, or can be made again from such. */
static bool is_available(const Recompute *r, Value value, int reader, int at, int depth) {
  const Plan *plan = r->plan;
  if (value.id < 0) return true;
  if (plan_value(plan, value)->buffer) return plan_unchanged_between(plan, value, reader, at);
  const int root = root_of(plan, value);
  return lives(r, root, at) || can_be_made_again(r, plan->values[root].producer, at, depth);
}

static bool can_be_made_again(const Recompute *r, int op, int at, int depth) {
  const Op *made = &r->plan->ops[op];
  if (depth == MAX_DEPTH || !is_cheap(made)) return false;
  for (int i = 0; i < made->input_count; i++)
    if (!is_available(r, made->inputs[i], op, at, depth + 1)) return false;
  return true;
}

/* The first reader of the op's outputs in the backward pass, or -1 where they are not read there,
 * lie in a buffer, or are read by the forward pass behind it. */
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

static void choose(Recompute *r) {
  const Plan *plan = r->plan;
  for (int k = 0; k < plan->op_count; k++) {
    const Op *op = &plan->ops[k];
    if (op->is_gradient) continue;
    int at = first_backward_reader(plan, op);
    r->dropped[k] = at >= 0 && can_be_made_again(r, k, at, 0);
  }
}

/* --- The new program -------------------------------------------------------------------------- */

/* A value like another; a reshape of `root` unless that is negative. */
static Value add_value(Plan *plan, Value like, int root) {
  const int id = plan->value_count++;
  const PlanValue *model = plan_value(plan, like);
  const PlanValue made = {
      .shape = model->shape, .dtype = model->dtype, .producer = -1, .root = root < 0 ? id : root};
  plan->values = mem_resize(plan->values, (size_t)plan->value_count, sizeof *plan->values);
  plan->values[id] = made;
  return (Value){id};
}

static void emit(Recompute *r, const Op *op) {
  MEM_PUSH_SLOT(r->ops, r->op_count, r->op_capacity);
  r->ops[r->op_count++] = *op;
}

static void make_again(Recompute *r, int producer, int at);

/* What op `at`, or an op made again for it, reads in place of `value`. */
static Value map_input(Recompute *r, Value value, int at) {
  Plan *plan = r->plan;
  if (value.id < 0 || plan_value(plan, value)->buffer) return value;
  const int root = root_of(plan, value);
  if (r->current[root] == root && !lives(r, root, at))
    make_again(r, plan->values[root].producer, at);
  if (r->current[root] == root) return value;
  const Value now = {r->current[root]};
  return value.id == root ? now : add_value(plan, value, now.id);
}

static void make_again(Recompute *r, int producer, int at) {
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

static void rewrite(Recompute *r) {
  Plan *plan = r->plan;
  for (int k = 0; k < plan->op_count; k++) {
    Op op = plan->ops[k];
    for (int i = 0; op.is_gradient && i < op.input_count; i++)
      op.inputs[i] = map_input(r, op.inputs[i], k);
    emit(r, &op);
  }
}

/* The new ops take the old ones' place; uses and producers are found again. */
static void replace_ops(Recompute *r) {
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
  Recompute r = {.plan = plan};
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
