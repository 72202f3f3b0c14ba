/* Sums over axes. */
#include <math.h>

#include "engine/ops/append.h"
#include "engine/ops/rules.h"

/* The axes of the mask that are longer than 1. */
static unsigned effective_axes(Shape shape, unsigned axes) {
  for (int axis = 0; axis < RANK; axis++) {
    if (shape.dim[axis] == 1) axes &= ~(1u << axis);
  }
  return axes;
}

Value graph_reduce_sum(Graph *graph, Value x, unsigned axes, float scale) {
  if (!operands_usable(graph, "reduce", &x, 1)) return NO_VALUE;
  if (axes & ~(unsigned)ALL_AXES || !isfinite(scale)) {
    graph_fail(graph, "reduce: axes 0x%x, scale %g; expected axes in bits 0 to %d, a finite scale",
               axes, (double)scale, RANK - 1);
    return NO_VALUE;
  }
  Shape full = graph_shape(graph, x), shape = full;
  axes = effective_axes(full, axes);
  if (axes == 0) return graph_affine(graph, graph_cast(graph, x, DTYPE_F32), scale, 0);
  for (int axis = 0; axis < RANK; axis++) {
    if (axes & 1u << axis) shape.dim[axis] = 1;
  }
  Op op = {.kind = OP_REDUCE, .input_count = 1, .inputs = {x}};
  op.attributes.reduce.axes = axes;
  op.attributes.reduce.scale = scale;
  op.attributes.reduce.full = full;
  return append_one(graph, &op, NULL, shape, DTYPE_F32);
}

Value graph_mean(Graph *graph, Value x) {
  if (!operands_usable(graph, "mean", &x, 1)) return NO_VALUE;
  double count = (double)shape_count(graph_shape(graph, x));
  return graph_reduce_sum(graph, x, ALL_AXES, (float)(1 / count));
}

Value reduce_to_shape(Graph *graph, Value x, Shape shape) {
  if (!graph_usable(graph, &x, 1)) return NO_VALUE;
  unsigned axes = 0;
  for (int axis = 0; axis < RANK; axis++) {
    if (shape.dim[axis] == 1) axes |= 1u << axis;
  }
  if (effective_axes(graph_shape(graph, x), axes) == 0) return x;
  return graph_reduce_sum(graph, x, axes, 1);
}

static void reduce_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                            const bool *wanted, Value *gradients) {
  (void)wanted;
  if (op->attributes.reduce.program.instruction_count != 0 || op->input_count != 1) {
    graph_fail(graph, "reduce: a fused reduction cannot be differentiated; differentiate before "
                      "fusion");
    return;
  }
  if (op->attributes.reduce.scale == 0) return;
  Value small = graph_affine(graph, output_gradients[0], op->attributes.reduce.scale, 0);
  gradients[0] = graph_broadcast(graph, small, op->attributes.reduce.full);
}

/* Per element: the fused program and one addition. */
static double reduce_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)inputs;
  (void)outputs;
  int instructions = op->attributes.reduce.program.instruction_count;
  return (double)(instructions + 1) * (double)shape_count(op->attributes.reduce.full);
}

const OpRule rule_reduce = {reduce_gradient, reduce_flops};
