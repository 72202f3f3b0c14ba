/* RMS, instance and group norm: y = gain * xhat + bias with xhat = (x - mean) * r and
 * r = 1 / sqrt(var + eps). The kind determines the axes of the statistics; for RMS norm the mean is
 * 0. */
#include <math.h>

#include "engine/ops/append.h"
#include "engine/ops/autodiff.h"
#include "engine/ops/rules.h"

static bool parameters_valid(Graph *graph, Value x, Value gain, Value bias) {
  if ((gain.id < 0) != (bias.id < 0)) {
    graph_fail(graph, "norm: gain and bias must be given together or not at all");
    return false;
  }
  if (gain.id < 0) return true;
  Shape vector = shape_vector(graph_shape(graph, x).dim[AXIS_C]);
  Value pair[] = {gain, bias};
  for (int i = 0; i < 2; i++) {
    Shape shape = graph_shape(graph, pair[i]);
    char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
    if (shape_equal(shape, vector) && graph_dtype(graph, pair[i]) == DTYPE_F32) continue;
    graph_fail(graph, "norm: %s is %s %s; it must be f32 %s", i == 0 ? "gain" : "bias",
               dtype_name(graph_dtype(graph, pair[i])), shape_text(shape, left),
               shape_text(vector, right));
    return false;
  }
  return true;
}

Value graph_norm(Graph *graph, Value x, Value gain, Value bias, NormKind kind, int groups,
                 float epsilon) {
  Value operands[] = {x, gain, bias};
  if (!operands_usable(graph, "norm", operands, 1)) return NO_VALUE;
  if (!parameters_valid(graph, x, gain, bias)) return NO_VALUE;
  int64_t channels = graph_shape(graph, x).dim[AXIS_C];
  if (kind == NORM_GROUP && (groups < 1 || channels % groups != 0)) {
    graph_fail(graph, "norm: %d groups do not divide %lld channels", groups, (long long)channels);
    return NO_VALUE;
  }
  if (!(epsilon > 0) || !isfinite(epsilon)) {
    graph_fail(graph, "norm: epsilon %g; it must be finite and above 0", (double)epsilon);
    return NO_VALUE;
  }
  Op op = {.kind = OP_NORM, .input_count = gain.id >= 0 ? 3 : 1, .inputs = {x, gain, bias}};
  op.attributes.norm.kind = kind;
  op.attributes.norm.groups = kind == NORM_GROUP ? groups : 1;
  op.attributes.norm.epsilon = epsilon;
  return append_one(graph, &op, NULL, graph_shape(graph, x), graph_dtype(graph, x));
}

static bool differentiable(Graph *graph, const Op *op) {
  bool residual = op->kind == OP_NORM && op->input_count > 3;
  bool plain = op->attributes.norm.activation == ACTIVATION_NONE && !residual && !op_fused_pad(op);
  if (!plain)
    graph_fail(graph, "%s: a fused norm cannot be differentiated; differentiate before fusion",
               op_kind_name(op->kind));
  return plain;
}

static void norm_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                          const bool *wanted, Value *gradients) {
  (void)wanted;
  if (!differentiable(graph, op)) return;
  bool affine = op->input_count > 1;
  Value x = op->inputs[0];
  Op backward = {.kind = OP_NORM_BACKWARD,
                 .input_count = affine ? 4 : 2,
                 .output_count = affine ? 3 : 1,
                 .inputs = {output_gradients[0], x, op->inputs[1], op->inputs[2]},
                 .attributes.norm = op->attributes.norm};
  Shape vector = shape_vector(graph_shape(graph, x).dim[AXIS_C]);
  Shape shapes[] = {graph_shape(graph, x), vector, vector};
  DType dtypes[] = {graph_dtype(graph, x), DTYPE_F32, DTYPE_F32};
  const Op *appended = graph_append(graph, &backward, NULL, shapes, dtypes);
  if (appended == NULL) return;
  for (int i = 0; i < op->input_count; i++) gradients[i] = appended->outputs[i];
}

/* --- The gradient of the gradient ------------------------------------------------------------- */

/* OP_NORM_BACKWARD is decomposed into elementary f32 ops, which are then differentiated. For group
 * norm the channels are reshaped to [N*T,H,W,groups,C/groups]. */
typedef struct Layout {
  Shape x, vector; /* shapes of x and of gain and bias */
  unsigned axes;   /* of the statistics */
  float inverse;   /* 1 / number of elements along these axes */
  bool centred;    /* the mean is subtracted */
} Layout;

static Layout layout_of(const NormAttributes *norm, Shape x) {
  const int64_t *dim = x.dim;
  Layout layout = {.x = x, .vector = shape_vector(dim[AXIS_C]), .centred = norm->kind != NORM_RMS};
  if (norm->kind == NORM_RMS) {
    layout.axes = 1u << AXIS_C;
  } else if (norm->kind == NORM_INSTANCE) {
    layout.axes = 1u << AXIS_H | 1u << AXIS_W;
  } else {
    int64_t size = dim[AXIS_C] / norm->groups;
    layout.x = shape_make(dim[AXIS_N] * dim[AXIS_T], dim[AXIS_H], dim[AXIS_W], norm->groups, size);
    layout.vector = shape_make(1, 1, 1, norm->groups, size);
    layout.axes = 1u << 1 | 1u << 2 | 1u << 4; /* H, W, C/groups */
  }
  double elements = 1;
  for (int axis = 0; axis < RANK; axis++) {
    if (layout.axes & 1u << axis) elements *= (double)layout.x.dim[axis];
  }
  layout.inverse = (float)(1 / elements);
  return layout;
}

static Value in_layout(Graph *graph, Value x, Shape shape) {
  return graph_reshape(graph, graph_cast(graph, x, DTYPE_F32), shape);
}

static Value mean_over(Graph *graph, const Layout *layout, Value x) {
  return graph_reduce_sum(graph, x, layout->axes, layout->inverse);
}

/* Appends dx, dgain, dbias of the norm, in the layout:
 *   h = dy * gain;  dx = r * (h - mean(h) - xhat * mean(h * xhat)), without mean(h) for RMS. */
static void append_decomposed(Graph *graph, const NormAttributes *norm, const Layout *layout,
                              Value dy, Value x, Value gain, Value *outputs) {
  Value centred = layout->centred ? graph_sub(graph, x, mean_over(graph, layout, x)) : x;
  Value variance = mean_over(graph, layout, graph_square(graph, centred));
  Value r = append_safe_reciprocal(
      graph, graph_sqrt(graph, graph_affine(graph, variance, 1, norm->epsilon)));
  Value xhat = graph_mul(graph, centred, r);
  Value h = gain.id >= 0 ? graph_mul(graph, dy, gain) : dy;
  Value along = graph_mul(graph, xhat, mean_over(graph, layout, graph_mul(graph, h, xhat)));
  Value across = layout->centred ? graph_sub(graph, h, mean_over(graph, layout, h)) : h;
  outputs[0] = graph_mul(graph, graph_sub(graph, across, along), r);
  outputs[1] = reduce_to_shape(graph, graph_mul(graph, dy, xhat), layout->vector);
  outputs[2] = reduce_to_shape(graph, dy, layout->vector);
}

static void norm_backward_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                                   const bool *wanted, Value *gradients) {
  (void)wanted;
  if (!differentiable(graph, op)) return;
  const NormAttributes *norm = &op->attributes.norm;
  Layout layout = layout_of(norm, graph_shape(graph, op->inputs[1]));
  int wrt_count = op->input_count > 2 ? 3 : 2; /* dy, x, gain; nothing depends on the bias */
  Value wrt[3], decomposed[3], cotangents[3], outputs[3];
  /* Aliases, since dy may itself depend on x and gain: that path is not part of this op. */
  for (int i = 0; i < wrt_count; i++) wrt[i] = append_alias(graph, op->inputs[i]);
  Value gain = wrt_count > 2 ? in_layout(graph, wrt[2], layout.vector) : NO_VALUE;
  append_decomposed(graph, norm, &layout, in_layout(graph, wrt[0], layout.x),
                    in_layout(graph, wrt[1], layout.x), gain, decomposed);
  int output_count = 0;
  for (int i = 0; i < op->output_count; i++) {
    if (output_gradients[i].id < 0) continue;
    outputs[output_count] = decomposed[i];
    cotangents[output_count++] =
        in_layout(graph, output_gradients[i], i == 0 ? layout.x : layout.vector);
  }
  Differentiation request = {.outputs = outputs,
                             .cotangents = cotangents,
                             .output_count = output_count,
                             .wrt = wrt,
                             .wrt_count = wrt_count};
  graph->differentiate(graph, &request, gradients);
}

/* Per element, forward: two passes of statistics (subtract, multiply, add) and the affine map;
 * backward: the statistics again, two sums and dx. */
static double norm_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op;
  (void)inputs;
  return 7.0 * (double)shape_count(outputs[0]);
}

static double norm_backward_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op;
  (void)inputs;
  return 16.0 * (double)shape_count(outputs[0]);
}

const OpRule rule_norm = {norm_gradient, norm_flops};
const OpRule rule_norm_backward = {norm_backward_gradient, norm_backward_flops};
