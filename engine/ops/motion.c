/* Ops that move the pixels of a frame: warping along a flow, translation by whole pixels. */
#include "engine/ops/append.h"
#include "engine/ops/rules.h"

/* --- Warp ------------------------------------------------------------------------------------- */

static bool flow_fits(Shape x, Shape flow) {
  for (int axis = AXIS_N; axis <= AXIS_W; axis++) {
    const bool shared = axis == AXIS_T && flow.dim[axis] == 1;
    if (flow.dim[axis] != x.dim[axis] && !shared) return false;
  }
  return flow.dim[AXIS_C] == 2;
}

Value graph_warp(Graph *graph, Value x, Value flow) {
  const Value operands[] = {x, flow};
  if (!operands_usable(graph, "warp", operands, 2)) return NO_VALUE;
  const Shape shape = graph_shape(graph, x), of_flow = graph_shape(graph, flow);
  if (graph_dtype(graph, flow) != DTYPE_F32 || !flow_fits(shape, of_flow)) {
    char a[SHAPE_TEXT_SIZE], b[SHAPE_TEXT_SIZE];
    graph_fail(graph,
               "warp: %s by flow %s %s; the flow must be f32 [N, T or 1, H, W, 2] of the frames",
               shape_text(shape, a), dtype_name(graph_dtype(graph, flow)), shape_text(of_flow, b));
    return NO_VALUE;
  }
  Op op = {.kind = OP_WARP, .input_count = 2, .inputs = {x, flow}};
  return append_one(graph, &op, NULL, shape, graph_dtype(graph, x));
}

static void warp_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                          const bool *wanted, Value *gradients) {
  (void)output_gradients, (void)gradients;
  (void)op;
  graph_fail(graph, "warp: there is no derivative with respect to %s; detach it first",
             wanted[0] ? "x" : "flow");
}

/* Per element: three interpolations of a subtraction, a product and an addition. */
static double warp_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op, (void)inputs;
  return 9.0 * (double)shape_count(outputs[0]);
}

const OpRule rule_warp = {warp_gradient, warp_flops};

/* --- Translate -------------------------------------------------------------------------------- */

static Value append_translate(Graph *graph, Value x, Value offsets, bool negated) {
  Op op = {.kind = OP_TRANSLATE, .input_count = 2, .inputs = {x, offsets}};
  op.attributes.translate.negated = negated;
  return append_one(graph, &op, NULL, graph_shape(graph, x), graph_dtype(graph, x));
}

Value graph_translate(Graph *graph, Value x, Value offsets) {
  const Value operands[] = {x, offsets};
  if (!operands_usable(graph, "translate", operands, 2)) return NO_VALUE;
  const Shape shape = graph_shape(graph, x), found = graph_shape(graph, offsets);
  const Shape expected = shape_make(shape.dim[AXIS_N], 1, 1, 1, 2);
  if (graph_dtype(graph, offsets) != DTYPE_F32 || !shape_equal(found, expected)) {
    char a[SHAPE_TEXT_SIZE], b[SHAPE_TEXT_SIZE], c[SHAPE_TEXT_SIZE];
    graph_fail(graph, "translate: %s by offsets %s %s; the offsets must be f32 %s",
               shape_text(shape, a), dtype_name(graph_dtype(graph, offsets)), shape_text(found, b),
               shape_text(expected, c));
    return NO_VALUE;
  }
  return append_translate(graph, x, offsets, false);
}

static void translate_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                               const bool *wanted, Value *gradients) {
  if (!wanted[0]) return;
  gradients[0] = append_translate(graph, output_gradients[0], op->inputs[1],
                                  !op->attributes.translate.negated);
}

const OpRule rule_translate = {translate_gradient, NULL};
