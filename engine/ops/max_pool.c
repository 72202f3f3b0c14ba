/* Max pooling. The argmax of x is piecewise constant, so for a fixed x both ops below are linear:
 * one reads its other input at the argmax, the other one writes there. Each is the gradient of the
 * other. */
#include "engine/ops/append.h"
#include "engine/ops/rules.h"

static Shape pooled_shape(Shape shape, int size) {
  shape.dim[AXIS_H] /= size;
  shape.dim[AXIS_W] /= size;
  return shape;
}

static Value append_pool(Graph *graph, Value x, Value values, int size) {
  Op op = {.kind = OP_MAX_POOL,
           .input_count = values.id < 0 ? 1 : 2,
           .inputs = {x, values},
           .attributes.max_pool.size = size};
  return append_one(graph, &op, NULL, pooled_shape(graph_shape(graph, x), size),
                    graph_dtype(graph, x));
}

Value graph_max_pool(Graph *graph, Value x, int size) {
  if (!operands_usable(graph, "max_pool", &x, 1)) return NO_VALUE;
  Shape shape = graph_shape(graph, x);
  if (size < 1 || shape.dim[AXIS_H] < size || shape.dim[AXIS_W] < size) {
    char text[SHAPE_TEXT_SIZE];
    graph_fail(graph, "max_pool: size %d on %s; it must be at least 1 and at most height and width",
               size, shape_text(shape, text));
    return NO_VALUE;
  }
  return size == 1 ? x : append_pool(graph, x, NO_VALUE, size);
}

static void max_pool_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                              const bool *wanted, Value *gradients) {
  const int place = op->input_count - 1; /* the input whose elements are read */
  if (!wanted[place]) return;
  Value x = op->inputs[0];
  Op backward = {
      .kind = OP_MAX_POOL_BACKWARD,
      .input_count = 2,
      .inputs = {graph_cast(graph, output_gradients[0], graph_dtype(graph, x)), x},
      .attributes = op->attributes,
  };
  gradients[place] =
      append_one(graph, &backward, NULL, graph_shape(graph, x), graph_dtype(graph, x));
}

static void max_pool_backward_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                                       const bool *wanted, Value *gradients) {
  if (!wanted[0]) return;
  if (op->attributes.max_pool.activation != ACTIVATION_NONE) {
    graph_fail(graph, "max_pool_backward: a fused pool cannot be differentiated; differentiate "
                      "before fusion");
    return;
  }
  Value x = op->inputs[1];
  Value values = graph_cast(graph, output_gradients[0], graph_dtype(graph, x));
  gradients[0] = append_pool(graph, x, values, op->attributes.max_pool.size);
}

/* Per pooled element: the comparisons of a window; if fused, the activation's derivative and its
 * product. */
static double window_flops(const Op *op, Shape pooled) {
  double size = op->attributes.max_pool.size;
  double step = op->attributes.max_pool.activation != ACTIVATION_NONE ? 2 : 0;
  return (size * size - 1 + step) * (double)shape_count(pooled);
}

static double max_pool_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)inputs;
  return window_flops(op, outputs[0]);
}

static double max_pool_backward_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)outputs;
  return window_flops(op, inputs[0]);
}

const OpRule rule_max_pool = {max_pool_gradient, max_pool_flops};
const OpRule rule_max_pool_backward = {max_pool_backward_gradient, max_pool_backward_flops};
