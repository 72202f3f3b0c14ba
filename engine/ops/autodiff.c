#include "engine/ops/autodiff.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/ops/rules.h"

/* The state of one differentiation. Arrays indexed by Value.id cover the values that existed when
 * it began; ops appended since are not walked. */
typedef struct Walk {
  Graph *graph;
  const Differentiation *request;
  Value *gradients; /* results, one for each wrt */
  int op_count;     /* ops up to the producer of the last output */
  bool *depends;    /* by value: it is one of wrt or depends on one */
  bool *reaches;    /* by value: it is one of the outputs or one depends on it */
  Value *sums;      /* by value: sum of the gradients so far */
  int *first_use;   /* by wrt: first op on a path that reads it; op_count if none does */
  Text scope;       /* prefix of the names of appended ops */
} Walk;

static bool any(const bool *flags, const Value *values, int count) {
  for (int i = 0; i < count; i++) {
    if (values[i].id >= 0 && flags[values[i].id]) return true;
  }
  return false;
}

static void set_flags(bool *flags, const Value *values, int count) {
  for (int i = 0; i < count; i++) {
    if (values[i].id >= 0) flags[values[i].id] = true;
  }
}

static void find_path(Walk *walk) {
  const Graph *graph = walk->graph;
  const Differentiation *request = walk->request;
  set_flags(walk->depends, request->wrt, request->wrt_count);
  set_flags(walk->reaches, request->outputs, request->output_count);
  for (int k = 0; k < walk->op_count; k++) {
    const Op *op = &graph->ops[k];
    if (op->kind != OP_DETACH && any(walk->depends, op->inputs, op->input_count))
      set_flags(walk->depends, op->outputs, op->output_count);
  }
  for (int i = 0; i < request->wrt_count; i++) walk->first_use[i] = walk->op_count;
  for (int k = walk->op_count - 1; k >= 0; k--) {
    const Op *op = &graph->ops[k];
    if (op->kind == OP_DETACH || !any(walk->reaches, op->outputs, op->output_count)) continue;
    set_flags(walk->reaches, op->inputs, op->input_count);
    for (int i = 0; i < request->wrt_count; i++) {
      for (int j = 0; j < op->input_count; j++) {
        if (op->inputs[j].id == request->wrt[i].id) walk->first_use[i] = k;
      }
    }
  }
}

/* f32 for views and their reshapes, else the dtype of the value. */
static DType gradient_dtype(const Graph *graph, Value value) {
  const Op *producer = graph_producer(graph, value);
  while (producer->kind == OP_RESHAPE) producer = graph_producer(graph, producer->inputs[0]);
  return producer->kind == OP_VIEW ? DTYPE_F32 : graph_dtype(graph, value);
}

/* The single axis along which both ops zero-pad, so that their inputs are segments of that axis;
 * RANK if there is none. */
static int segment_axis(const Op *a, const Op *b) {
  const Op *both[] = {a, b};
  int found = RANK;
  for (int i = 0; i < 2; i++) {
    const PadAttributes *pad = &both[i]->attributes.pad;
    if (both[i]->kind != OP_PAD || pad->mode != PAD_ZERO) return RANK;
    for (int axis = 0; axis < RANK; axis++) {
      if (pad->before.dim[axis] == 0 && pad->after.dim[axis] == 0) continue;
      if (found != RANK && found != axis) return RANK;
      found = axis;
    }
  }
  return found;
}

/* Appends x to the list of concat operands, or the operands of x if it is a concatenation along the
 * same axis and the total does not exceed `most`. Returns the new count. */
static int add_concat_operands(const Graph *graph, Value x, int axis, int most, Value *parts,
                               int count) {
  const Op *op = graph_producer(graph, x);
  bool is_concat = op->kind == OP_CONCAT && op->attributes.concat.axis == axis;
  if (!is_concat || count + op->input_count > most) {
    parts[count++] = x;
    return count;
  }
  for (int i = 0; i < op->input_count; i++) parts[count++] = op->inputs[i];
  return count;
}

/* The sum of the gradients of two adjacent slices, as one padded concatenation instead of a sum of
 * two paddings; gradients of slices that cover a value thus become a concatenation. NO_VALUE if the
 * operands do not have this form. */
static Value join_slices(Graph *graph, Value sum, Value gradient) {
  Op first = *graph_producer(graph, sum), second = *graph_producer(graph, gradient);
  int axis = segment_axis(&first, &second);
  if (axis == RANK) return NO_VALUE;
  if (second.attributes.pad.before.dim[axis] < first.attributes.pad.before.dim[axis]) {
    Op later = first;
    first = second;
    second = later;
  }
  Shape before = first.attributes.pad.before, after = second.attributes.pad.after;
  int64_t end = before.dim[axis] + graph_shape(graph, first.inputs[0]).dim[axis];
  if (end != second.attributes.pad.before.dim[axis]) return NO_VALUE;
  Value parts[CONCAT_MAX_INPUTS];
  int count = add_concat_operands(graph, first.inputs[0], axis, CONCAT_MAX_INPUTS - 1, parts, 0);
  count = add_concat_operands(graph, second.inputs[0], axis, CONCAT_MAX_INPUTS, parts, count);
  return graph_pad(graph, graph_concat(graph, parts, count, axis), before, after, PAD_ZERO);
}

static void add_gradient(Walk *walk, Value value, Value gradient) {
  Graph *graph = walk->graph;
  Value *sum = &walk->sums[value.id];
  gradient = graph_cast(graph, gradient, gradient_dtype(graph, value));
  if (!graph_usable(graph, &gradient, 1)) return;
  Value joined = sum->id < 0 ? gradient : join_slices(graph, *sum, gradient);
  *sum = joined.id < 0 ? graph_add(graph, *sum, gradient) : joined;
}

/* Sets the scope of ops appended for "net.block.conv3d" to "net.block.gradient". */
static void enter_scope(Walk *walk, const Op *op) {
  const char *label = strrchr(op->name, '.');
  text_clear(&walk->scope);
  if (label != NULL) text_append(&walk->scope, "%.*s.", (int)(label - op->name), op->name);
  text_append(&walk->scope, "gradient");
}

static void swap_scopes(Walk *walk) {
  Text scope = walk->graph->scope;
  walk->graph->scope = walk->scope;
  walk->scope = scope;
  walk->graph->differentiating = !walk->graph->differentiating;
}

static void walk_op(Walk *walk, int k) {
  Graph *graph = walk->graph;
  Op op = graph->ops[k];
  bool wanted[OP_MAX_INPUTS] = {false}, has_gradient = false;
  Value output_gradients[OP_MAX_OUTPUTS], gradients[OP_MAX_INPUTS];
  if (op.kind == OP_DETACH || !any(walk->depends, op.inputs, op.input_count)) return;
  for (int i = 0; i < op.output_count; i++) {
    output_gradients[i] = op.outputs[i].id < 0 ? NO_VALUE : walk->sums[op.outputs[i].id];
    has_gradient |= output_gradients[i].id >= 0;
  }
  if (!has_gradient) return;
  for (int i = 0; i < op.input_count; i++) {
    wanted[i] = op.inputs[i].id >= 0 && walk->depends[op.inputs[i].id];
    gradients[i] = NO_VALUE;
  }
  const OpRule *rule = op_rule(op.kind);
  if (rule->gradient == NULL) {
    graph_fail(graph, "gradients: %s: %s cannot be differentiated", op.name, op_kind_name(op.kind));
    return;
  }
  enter_scope(walk, &op);
  swap_scopes(walk);
  rule->gradient(graph, &op, output_gradients, wanted, gradients);
  for (int i = 0; i < op.input_count; i++) {
    if (wanted[i] && gradients[i].id >= 0) add_gradient(walk, op.inputs[i], gradients[i]);
  }
  swap_scopes(walk);
}

/* Completes the gradients of those wrt that no op before `k` reads. */
static void finish_gradients(Walk *walk, int k) {
  const Differentiation *request = walk->request;
  for (int i = 0; i < request->wrt_count; i++) {
    if (walk->first_use[i] != k) continue;
    walk->gradients[i] = walk->sums[request->wrt[i].id];
    if (request->ready != NULL && graph_usable(walk->graph, &walk->gradients[i], 1))
      request->ready(request->context, i, walk->gradients[i]);
  }
}

void graph_differentiate(Graph *graph, const Differentiation *request, Value *gradients) {
  for (int i = 0; i < request->wrt_count; i++) gradients[i] = NO_VALUE;
  graph->differentiate = graph_differentiate;
  if (!graph_usable(graph, request->outputs, request->output_count) ||
      !graph_usable(graph, request->cotangents, request->output_count) ||
      !graph_usable(graph, request->wrt, request->wrt_count))
    return;
  size_t values = (size_t)graph->value_count;
  Walk walk = {.graph = graph, .request = request, .gradients = gradients};
  walk.depends = mem_new(values, sizeof *walk.depends);
  walk.reaches = mem_new(values, sizeof *walk.reaches);
  walk.sums = mem_new(values, sizeof *walk.sums);
  walk.first_use = mem_new((size_t)request->wrt_count + 1, sizeof *walk.first_use);
  for (size_t i = 0; i < values; i++) walk.sums[i] = NO_VALUE;
  for (int i = 0; i < request->output_count; i++) {
    int producer = graph->values[request->outputs[i].id].producer;
    if (producer >= walk.op_count) walk.op_count = producer + 1;
  }
  find_path(&walk);
  for (int i = 0; i < request->output_count; i++)
    add_gradient(&walk, request->outputs[i], request->cotangents[i]);
  finish_gradients(&walk, walk.op_count);
  for (int k = walk.op_count - 1; k >= 0 && graph_usable(graph, NULL, 0); k--) {
    walk_op(&walk, k);
    finish_gradients(&walk, k);
  }
  free(walk.depends);
  free(walk.reaches);
  free(walk.sums);
  free(walk.first_use);
  text_free(&walk.scope);
}

/* Fails the graph because the loss does not depend on a wrt, which the error names. */
static void fail_independent(Graph *graph, int index, Value wrt) {
  const Op *producer = graph_producer(graph, wrt);
  if (producer->kind == OP_VIEW)
    graph_fail(graph,
               "gradients: the loss does not depend on %s (entry %d, buffer %s at element %lld)",
               producer->name, index, producer->attributes.view.buffer->name,
               (long long)producer->attributes.view.offset);
  else
    graph_fail(graph, "gradients: the loss does not depend on %s (entry %d)", producer->name,
               index);
}

void graph_differentiate_loss(Graph *graph, Value loss, const Differentiation *request,
                              Value *gradients) {
  Differentiation of_loss = *request;
  for (int i = 0; i < of_loss.wrt_count; i++) gradients[i] = NO_VALUE;
  if (!graph_usable(graph, NULL, 0)) return;
  if (!graph_usable(graph, &loss, 1) || !graph_usable(graph, of_loss.wrt, of_loss.wrt_count)) {
    graph_fail(graph, "gradients: the loss or an entry is missing");
    return;
  }
  if (!shape_equal(graph_shape(graph, loss), shape_scalar()) ||
      graph_dtype(graph, loss) != DTYPE_F32) {
    char text[SHAPE_TEXT_SIZE];
    graph_fail(graph, "gradients: the loss is %s %s; it must be f32 [1,1,1,1,1]",
               dtype_name(graph_dtype(graph, loss)), shape_text(graph_shape(graph, loss), text));
    return;
  }
  Value one = graph_constant(graph, shape_scalar(), 1);
  of_loss.outputs = &loss;
  of_loss.cotangents = &one;
  of_loss.output_count = 1;
  graph_differentiate(graph, &of_loss, gradients);
  for (int i = 0; i < of_loss.wrt_count; i++) {
    if (graph_usable(graph, NULL, 0) && gradients[i].id < 0)
      fail_independent(graph, i, of_loss.wrt[i]);
  }
}

void graph_gradients(Graph *graph, Value loss, const Value *wrt, int count, Value *gradients) {
  Differentiation request = {.wrt = wrt, .wrt_count = count};
  graph_differentiate_loss(graph, loss, &request, gradients);
}
