/* Resize and average pool: linear maps in height and width, each with its transpose. The gradient
 * of each of the four ops is its transpose, with the same attributes. */
#include "engine/ops/append.h"
#include "engine/ops/rules.h"

/* Appends an op of any of the four kinds; `shape` is that of its output. */
static Value append_map(Graph *graph, OpKind kind, Value x, const OpAttributes *attributes,
                        Shape shape) {
  Op op = {.kind = kind, .input_count = 1, .inputs = {x}, .attributes = *attributes};
  return append_one(graph, &op, NULL, shape, graph_dtype(graph, x));
}

static void map_gradient(Graph *graph, const Op *op, OpKind transpose, Value dy, Value *gradients) {
  Shape shape = graph_shape(graph, op->inputs[0]);
  gradients[0] = append_map(graph, transpose, dy, &op->attributes, shape);
}

/* --- Resize ----------------------------------------------------------------------------------- */

Value graph_resize(Graph *graph, Value x, int64_t height, int64_t width, ResizeMode mode) {
  if (!operands_usable(graph, "resize", &x, 1)) return NO_VALUE;
  if (height < 1 || width < 1) {
    graph_fail(graph, "resize: to height %lld and width %lld; both must be at least 1",
               (long long)height, (long long)width);
    return NO_VALUE;
  }
  Shape shape = graph_shape(graph, x);
  if (shape.dim[AXIS_H] == height && shape.dim[AXIS_W] == width) return x;
  shape.dim[AXIS_H] = height;
  shape.dim[AXIS_W] = width;
  OpAttributes attributes = {.resize.mode = mode};
  return append_map(graph, OP_RESIZE, x, &attributes, shape);
}

static void resize_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                            const bool *wanted, Value *gradients) {
  (void)wanted;
  map_gradient(graph, op, OP_RESIZE_BACKWARD, output_gradients[0], gradients);
}

static void resize_backward_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                                     const bool *wanted, Value *gradients) {
  (void)wanted;
  map_gradient(graph, op, OP_RESIZE, output_gradients[0], gradients);
}

/* Per element of the resized frame: nearest copies one element (its transpose adds one), bilinear
 * multiplies and adds four. */
static double resize_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)inputs;
  return op->attributes.resize.mode == RESIZE_NEAREST ? 0 : 8.0 * (double)shape_count(outputs[0]);
}

static double resize_backward_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  double each = op->attributes.resize.mode == RESIZE_NEAREST ? 1 : 8;
  return each * (double)shape_count(inputs[0]) + addend_flops(op, outputs[0]);
}

const OpRule rule_resize = {resize_gradient, resize_flops};
const OpRule rule_resize_backward = {resize_backward_gradient, resize_backward_flops};

/* --- Average pool ----------------------------------------------------------------------------- */

Value graph_average_pool(Graph *graph, Value x, int size, int stride, int pad) {
  if (!operands_usable(graph, "average_pool", &x, 1)) return NO_VALUE;
  Shape from = graph_shape(graph, x), shape = from;
  /* With more padding than half a window, a window could contain padding only. */
  if (size < 1 || stride < 1 || pad < 0 || pad > size / 2 || from.dim[AXIS_H] + 2 * pad < size ||
      from.dim[AXIS_W] + 2 * pad < size) {
    char text[SHAPE_TEXT_SIZE];
    graph_fail(graph,
               "average_pool: size %d, stride %d, padding %d on %s; expected size and stride "
               "at least 1, padding 0 to size / 2, a padded frame at least as large as the window",
               size, stride, pad, shape_text(from, text));
    return NO_VALUE;
  }
  if (size == 1 && stride == 1) return x;
  for (int axis = AXIS_H; axis <= AXIS_W; axis++)
    shape.dim[axis] = (from.dim[axis] + 2 * pad - size) / stride + 1;
  OpAttributes attributes = {.pool = {.size = size, .stride = stride, .pad = pad}};
  return append_map(graph, OP_AVERAGE_POOL, x, &attributes, shape);
}

static void pool_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                          const bool *wanted, Value *gradients) {
  (void)wanted;
  map_gradient(graph, op, OP_AVERAGE_POOL_BACKWARD, output_gradients[0], gradients);
}

static void pool_backward_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                                   const bool *wanted, Value *gradients) {
  (void)wanted;
  map_gradient(graph, op, OP_AVERAGE_POOL, output_gradients[0], gradients);
}

/* Per pooled element: the additions of a window and a division. */
static double window_flops(const Op *op, Shape pooled) {
  double size = op->attributes.pool.size;
  return (size * size + 1) * (double)shape_count(pooled);
}

static double pool_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)inputs;
  return window_flops(op, outputs[0]);
}

static double pool_backward_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  return window_flops(op, inputs[0]) + addend_flops(op, outputs[0]);
}

const OpRule rule_average_pool = {pool_gradient, pool_flops};
const OpRule rule_average_pool_backward = {pool_backward_gradient, pool_backward_flops};
