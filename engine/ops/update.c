/* Updates of buffers: store, accumulate, all-reduce, Adam. They have no outputs, so no gradient
 * flows through them: a view of an updated buffer is a source of its own. */
#include <math.h>

#include "engine/ops/append.h"
#include "engine/ops/rules.h"

static bool is_view(const Graph *graph, Value value) {
  return graph_producer(graph, value)->kind == OP_VIEW;
}

static bool target_usable(Graph *graph, const char *builder, Value target) {
  if (!operands_usable(graph, builder, &target, 1)) return false;
  if (is_view(graph, target)) return true;
  graph_fail(graph, "%s: the target is %s; it must be a view of a buffer", builder,
             graph_producer(graph, target)->name);
  return false;
}

/* --- Store, all-reduce ------------------------------------------------------------------------ */

static void append_store(Graph *graph, const char *label, Value value, Value target,
                         bool accumulate) {
  if (!operands_usable(graph, label, &value, 1) || !target_usable(graph, label, target)) return;
  if (!shape_equal(graph_shape(graph, value), graph_shape(graph, target))) {
    char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
    graph_fail(graph, "%s: %s into %s; the shapes must be equal", label,
               shape_text(graph_shape(graph, value), left),
               shape_text(graph_shape(graph, target), right));
    return;
  }
  Op op = {.kind = OP_STORE, .input_count = 2, .inputs = {value, target}};
  op.attributes.store.accumulate = accumulate;
  graph_append(graph, &op, label, NULL, NULL);
}

void graph_store(Graph *graph, Value value, Value target) {
  append_store(graph, "store", value, target, false);
}

void graph_accumulate(Graph *graph, Value value, Value target) {
  append_store(graph, "accumulate", value, target, true);
}

static double store_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)outputs;
  return op->attributes.store.accumulate ? (double)shape_count(inputs[0]) : 0;
}

const OpRule rule_store = {NULL, store_flops};

void graph_all_reduce(Graph *graph, Value target) {
  if (!target_usable(graph, "all_reduce", target)) return;
  Op op = {.kind = OP_ALL_REDUCE, .input_count = 1, .inputs = {target}};
  graph_append(graph, &op, NULL, NULL, NULL);
}

const OpRule rule_all_reduce = {NULL, NULL};

/* --- Adam ------------------------------------------------------------------------------------- */

/* Adam's operands must be views (the norm: any value) of the dtype and element count of their spec.
 */
static bool adam_input_valid(Graph *graph, AdamInput input, Value value, int64_t count) {
  AdamInputSpec spec = adam_input_spec(input, count);
  if (spec.optional && value.id < 0) return true;
  if (!graph_usable(graph, &value, 1)) {
    graph_fail(graph, "adam: %s is missing", spec.name);
    return false;
  }
  bool view = input == ADAM_NORM || is_view(graph, value);
  Shape shape = graph_shape(graph, value);
  DType dtype = graph_dtype(graph, value);
  if (view && dtype == spec.dtype && shape_count(shape) == spec.count) return true;
  char text[SHAPE_TEXT_SIZE];
  graph_fail(graph, "adam: %s is %s %s%s; it must be %s of %s with %lld elements", spec.name,
             dtype_name(dtype), shape_text(shape, text), view ? "" : " and not a view",
             input == ADAM_NORM ? "a value" : "a view", dtype_name(spec.dtype),
             (long long)spec.count);
  return false;
}

void graph_adam(Graph *graph, const AdamViews *views, float beta1, float beta2, float epsilon,
                float weight_decay) {
  Op op = {.kind = OP_ADAM,
           .input_count = ADAM_INPUTS,
           .inputs = {views->parameters, views->gradients, views->moment1, views->moment2,
                      views->ema, views->compute, views->norm, views->controls, views->counters}};
  if (!graph_usable(graph, NULL, 0)) return;
  int64_t count = shape_count(graph_shape(graph, views->parameters));
  for (int i = 0; i < ADAM_INPUTS; i++) {
    if (!adam_input_valid(graph, (AdamInput)i, op.inputs[i], count)) return;
  }
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1 && epsilon > 0 && weight_decay >= 0)) {
    graph_fail(
        graph,
        "adam: betas %g and %g, epsilon %g, weight decay %g; expected betas in [0, 1), epsilon "
        "above 0, weight decay at least 0",
        (double)beta1, (double)beta2, (double)epsilon, (double)weight_decay);
    return;
  }
  op.attributes.adam = (AdamConstants){beta1, beta2, epsilon, weight_decay};
  graph_append(graph, &op, NULL, NULL, NULL);
}

/* Clip 1, moments 3 + 4, corrections 2, root, sum and division 3, step and decay 4, EMA 3. */
static double adam_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op;
  (void)outputs;
  return 20.0 * (double)shape_count(inputs[0]);
}

const OpRule rule_adam = {NULL, adam_flops};
