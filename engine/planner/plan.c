#include "engine/planner/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void add_use(Plan *plan, Value value, int op) {
  if (value.id < 0) return;
  PlanValue *info = plan_value(plan, value);
  MEM_PUSH_SLOT(info->uses, info->use_count, info->use_capacity);
  info->uses[info->use_count++] = op;
}

static void remove_use(Plan *plan, Value value, int op) {
  if (value.id < 0) return;
  PlanValue *info = plan_value(plan, value);
  int at = 0;
  while (at < info->use_count && info->uses[at] != op) at++;
  if (at < info->use_count) info->uses[at] = info->uses[--info->use_count];
}

/* Sets the memory of views (their buffer) and of reshapes (that of their input). */
static void resolve_memory(Plan *plan, const Op *op) {
  if (op->kind != OP_VIEW && op->kind != OP_RESHAPE) return;
  PlanValue *out = plan_value(plan, op->outputs[0]);
  if (op->kind == OP_VIEW) {
    out->buffer = op->attributes.view.buffer;
    out->offset = op->attributes.view.offset;
    return;
  }
  const PlanValue *in = plan_value(plan, op->inputs[0]);
  out->root = in->root;
  out->buffer = in->buffer;
  out->offset = in->offset;
}

Plan *plan_new(const Graph *graph) {
  Plan *plan = mem_new(1, sizeof *plan);
  plan->value_count = graph->value_count;
  plan->values = mem_new((size_t)graph->value_count, sizeof *plan->values);
  for (int i = 0; i < graph->value_count; i++) {
    const ValueInfo *info = &graph->values[i];
    plan->values[i] = (PlanValue){
        .shape = info->shape, .dtype = info->dtype, .producer = info->producer, .root = i};
  }
  plan->op_count = graph->op_count;
  plan->ops = mem_new((size_t)graph->op_count, sizeof *plan->ops);
  plan->live = mem_new((size_t)graph->op_count, sizeof *plan->live);
  for (int i = 0; i < graph->op_count; i++) {
    Op *op = &plan->ops[i];
    *op = graph->ops[i];
    op->name = mem_string(op->name);
    if (op->kind == OP_DETACH) op->kind = OP_RESHAPE;
    plan->live[i] = true;
    for (int j = 0; j < op->input_count; j++) add_use(plan, op->inputs[j], i);
    resolve_memory(plan, op);
  }
  return plan;
}

void plan_free(Plan *plan) {
  if (!plan) return;
  for (int i = 0; i < plan->value_count; i++) free(plan->values[i].uses);
  for (int i = 0; i < plan->op_count; i++) free(plan->ops[i].name);
  free(plan->values);
  free(plan->ops);
  free(plan->live);
  free(plan);
}

int64_t plan_bytes(const Plan *plan, Value value) {
  if (value.id < 0) return 0;
  const PlanValue *info = plan_value(plan, value);
  return shape_count(info->shape) * (int64_t)dtype_size(info->dtype);
}

void plan_remove(Plan *plan, int op) {
  Op *removed = &plan->ops[op];
  for (int i = 0; i < removed->input_count; i++) remove_use(plan, removed->inputs[i], op);
  for (int i = 0; i < removed->output_count; i++) {
    if (removed->outputs[i].id < 0) continue;
    PlanValue *out = plan_value(plan, removed->outputs[i]);
    if (out->producer == op) out->producer = -1;
  }
  plan->live[op] = false;
}

void plan_move(Plan *plan, int from, int to) {
  if (from == to) return;
  Op op = plan->ops[from];
  plan_remove(plan, from);
  plan->ops[from].name = NULL;
  free(plan->ops[to].name);
  plan->ops[to] = op;
  plan->live[to] = true;
  for (int i = 0; i < op.input_count; i++) add_use(plan, op.inputs[i], to);
  for (int i = 0; i < op.output_count; i++) {
    if (op.outputs[i].id >= 0) plan_value(plan, op.outputs[i])->producer = to;
  }
}

void plan_set_input(Plan *plan, int op, int place, Value value) {
  Op *changed = &plan->ops[op];
  while (changed->input_count <= place) changed->inputs[changed->input_count++] = NO_VALUE;
  remove_use(plan, changed->inputs[place], op);
  changed->inputs[place] = value;
  add_use(plan, value, op);
}

void plan_set_inputs(Plan *plan, int op, const Value *inputs, int count) {
  Op *changed = &plan->ops[op];
  for (int i = 0; i < changed->input_count; i++) remove_use(plan, changed->inputs[i], op);
  changed->input_count = 0;
  for (int i = 0; i < count; i++) plan_set_input(plan, op, i, inputs[i]);
}

void plan_set_output(Plan *plan, int op, int place, Value value) {
  Op *changed = &plan->ops[op];
  while (changed->output_count <= place) changed->outputs[changed->output_count++] = NO_VALUE;
  Value before = changed->outputs[place];
  if (before.id >= 0 && plan_value(plan, before)->producer == op) {
    plan_value(plan, before)->producer = -1;
  }
  changed->outputs[place] = value;
  if (value.id >= 0) plan_value(plan, value)->producer = op;
}

int plan_sole_user(const Plan *plan, Value value) {
  const PlanValue *info = plan_value(plan, value);
  for (int i = 1; i < info->use_count; i++) {
    if (info->uses[i] != info->uses[0]) return -1;
  }
  return info->use_count > 0 ? info->uses[0] : -1;
}

void plan_reorder(Plan *plan, const int *order, int count) {
  Op *ops = mem_new((size_t)count, sizeof *ops);
  for (int i = 0; i < count; i++) {
    ops[i] = plan->ops[order[i]];
    plan->ops[order[i]].name = NULL;
  }
  for (int i = 0; i < plan->op_count; i++) free(plan->ops[i].name);
  free(plan->ops);
  plan->ops = ops;
  plan->op_count = count;
  for (int i = 0; i < plan->value_count; i++) {
    plan->values[i].producer = -1;
    plan->values[i].use_count = 0;
  }
  for (int i = 0; i < count; i++) {
    plan->live[i] = true;
    for (int j = 0; j < ops[i].input_count; j++) add_use(plan, ops[i].inputs[j], i);
    for (int j = 0; j < ops[i].output_count; j++) {
      if (ops[i].outputs[j].id >= 0) plan_value(plan, ops[i].outputs[j])->producer = i;
    }
  }
}
