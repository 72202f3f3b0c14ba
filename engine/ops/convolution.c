/* Convolution and its two gradients. All three are derivatives of one trilinear form
 *   F(x, w, dy) = sum dy[n,o,p] * w[o,k,c] * x[n, p * stride + k - before, c]:
 * y = dF/d(dy), dx = dF/dx, dw = dF/dw. The gradients of each are therefore the other two. */
#include "engine/ops/append.h"
#include "engine/ops/rules.h"

ConvSpec conv_spec_same(int kernel_time, int kernel_space, int stride_space, PadMode mode) {
  int half = (kernel_space - 1) / 2;
  return (ConvSpec){.stride = {1, stride_space, stride_space},
                    .before = {kernel_time - 1, half, half},
                    .after = {0, half, half},
                    .mode = mode};
}

/* --- Appending the three ops; attributes and shapes are already checked ----------------------- */

static Value append_forward(Graph *graph, const ConvAttributes *conv, Value x, Value w, Value bias,
                            Shape shape) {
  Op op = {.kind = OP_CONV3D, .input_count = bias.id >= 0 ? 3 : 2, .inputs = {x, w, bias}};
  op.attributes.conv = *conv;
  return append_one(graph, &op, NULL, shape, graph_dtype(graph, x));
}

/* `label` names the op, as in graph_append. */
static Value append_backward_data(Graph *graph, const ConvAttributes *conv, Value dy, Value w,
                                  Shape shape, const char *label) {
  Op op = {.kind = OP_CONV3D_BACKWARD_DATA, .input_count = 2, .inputs = {dy, w}};
  op.attributes.conv = *conv;
  return append_one(graph, &op, label, shape, graph_dtype(graph, dy));
}

static Value append_backward_weights(Graph *graph, const ConvAttributes *conv, Value x, Value dy,
                                     Shape shape) {
  Op op = {.kind = OP_CONV3D_BACKWARD_WEIGHTS, .input_count = 2, .inputs = {x, dy}};
  op.attributes.conv = *conv;
  return append_one(graph, &op, NULL, shape, DTYPE_F32);
}

/* --- Builder ---------------------------------------------------------------------------------- */

/* The length of the weight's axis `in_axis` must be x's channel count, that of `out_axis` the
 * bias's. */
static bool operands_match(Graph *graph, const char *builder, Value x, Value weight, Value bias,
                           int in_axis, int out_axis) {
  Shape xs = graph_shape(graph, x), ws = graph_shape(graph, weight);
  char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
  shape_text(xs, left);
  shape_text(ws, right);
  if (xs.dim[AXIS_C] != ws.dim[in_axis]) {
    graph_fail(graph, "%s: input %s and weight %s have different numbers of input channels",
               builder, left, right);
    return false;
  }
  if (graph_dtype(graph, x) != graph_dtype(graph, weight)) {
    graph_fail(graph, "%s: input is %s and weight is %s; they must have the same dtype", builder,
               dtype_name(graph_dtype(graph, x)), dtype_name(graph_dtype(graph, weight)));
    return false;
  }
  if (bias.id < 0) return true;
  if (!shape_equal(graph_shape(graph, bias), shape_vector(ws.dim[out_axis])) ||
      graph_dtype(graph, bias) != DTYPE_F32) {
    graph_fail(graph, "%s: bias is %s %s; weight %s needs f32 [1,1,1,1,%lld]", builder,
               dtype_name(graph_dtype(graph, bias)), shape_text(graph_shape(graph, bias), left),
               right, (long long)ws.dim[out_axis]);
    return false;
  }
  return true;
}

static const char *const LENGTH_NAMES[] = {"time", "height", "width"};

static bool spec_valid(Graph *graph, const char *builder, const ConvSpec *spec, int i) {
  if (spec->stride[i] >= 1 && spec->before[i] >= 0 && spec->after[i] >= 0) return true;
  graph_fail(graph,
             "%s: stride %d, padding %d and %d in %s; stride must be at least 1, padding at least "
             "0",
             builder, spec->stride[i], spec->before[i], spec->after[i], LENGTH_NAMES[i]);
  return false;
}

/* Checks the spec and infers the shape of y. */
static bool infer_lengths(Graph *graph, const ConvSpec *spec, Shape x, Shape weight, Shape *y) {
  *y = shape_make(x.dim[AXIS_N], 0, 0, 0, weight.dim[0]);
  for (int i = 0; i < 3; i++) {
    int64_t length = x.dim[1 + i], kernel = weight.dim[1 + i];
    int64_t before = spec->before[i], after = spec->after[i];
    if (!spec_valid(graph, "conv3d", spec, i)) return false;
    if (i > 0 && spec->mode == PAD_REFLECT && (before >= length || after >= length)) {
      graph_fail(graph, "conv3d: reflect padding %d and %d in %s must be less than the length %lld",
                 spec->before[i], spec->after[i], LENGTH_NAMES[i], (long long)length);
      return false;
    }
    if (length + before + after < kernel) {
      graph_fail(graph, "conv3d: kernel size %lld in %s exceeds the padded input, %lld",
                 (long long)kernel, LENGTH_NAMES[i], (long long)(length + before + after));
      return false;
    }
    y->dim[1 + i] = (length + before + after - kernel) / spec->stride[i] + 1;
  }
  return true;
}

static ConvAttributes attributes_of(const ConvSpec *spec) {
  ConvAttributes conv = {.activation = ACTIVATION_NONE};
  for (int i = 0; i < 3; i++) {
    conv.stride[i] = spec->stride[i];
    conv.before[i] = spec->before[i];
    conv.after[i] = spec->after[i];
  }
  return conv;
}

Value graph_conv3d(Graph *graph, Value x, Value weight, Value bias, ConvSpec spec) {
  Value operands[] = {x, weight, bias};
  if (!operands_usable(graph, "conv3d", operands, bias.id >= 0 ? 3 : 2)) return NO_VALUE;
  Shape shape;
  if (!operands_match(graph, "conv3d", x, weight, bias, AXIS_C, 0) ||
      !infer_lengths(graph, &spec, graph_shape(graph, x), graph_shape(graph, weight), &shape))
    return NO_VALUE;
  ConvAttributes conv = attributes_of(&spec);
  if (spec.mode != PAD_ZERO) {
    Shape before = shape_make(0, 0, spec.before[1], spec.before[2], 0);
    Shape after = shape_make(0, 0, spec.after[1], spec.after[2], 0);
    x = graph_pad(graph, x, before, after, spec.mode);
    for (int i = 1; i < 3; i++) conv.before[i] = conv.after[i] = 0;
  }
  return append_forward(graph, &conv, x, weight, bias, shape);
}

/* Checks the spec and infers the shape of the result. */
static bool infer_transposed(Graph *graph, const ConvSpec *spec, const int output_padding[3],
                             Shape x, Shape weight, Shape *y) {
  *y = shape_make(x.dim[AXIS_N], 0, 0, 0, weight.dim[AXIS_C]);
  for (int i = 0; i < 3; i++) {
    int64_t before = spec->before[i], after = spec->after[i], stride = spec->stride[i];
    if (!spec_valid(graph, "conv3d_transpose", spec, i)) return false;
    if (output_padding[i] < 0 || output_padding[i] >= stride) {
      graph_fail(graph,
                 "conv3d_transpose: output padding %d in %s; it must be at least 0 and less than "
                 "the stride %lld",
                 output_padding[i], LENGTH_NAMES[i], (long long)stride);
      return false;
    }
    y->dim[1 + i] =
        (x.dim[1 + i] - 1) * stride + weight.dim[1 + i] + output_padding[i] - before - after;
    if (y->dim[1 + i] < 1) {
      graph_fail(graph, "conv3d_transpose: padding %lld and %lld leaves no output in %s",
                 (long long)before, (long long)after, LENGTH_NAMES[i]);
      return false;
    }
  }
  return true;
}

Value graph_conv3d_transpose(Graph *graph, Value x, Value weight, Value bias, ConvSpec spec,
                             const int output_padding[3]) {
  const char *builder = "conv3d_transpose";
  Value operands[] = {x, weight, bias};
  if (!operands_usable(graph, builder, operands, bias.id >= 0 ? 3 : 2)) return NO_VALUE;
  Shape shape;
  if (spec.mode != PAD_ZERO) {
    graph_fail(graph, "%s: padding must be zeros", builder);
    return NO_VALUE;
  }
  if (!operands_match(graph, builder, x, weight, bias, 0, AXIS_C) ||
      !infer_transposed(graph, &spec, output_padding, graph_shape(graph, x),
                        graph_shape(graph, weight), &shape))
    return NO_VALUE;
  ConvAttributes conv = attributes_of(&spec);
  Value y = append_backward_data(graph, &conv, x, weight, shape, builder);
  return bias.id >= 0 ? graph_add(graph, y, bias) : y;
}

/* --- Gradients -------------------------------------------------------------------------------- */

static bool differentiable(Graph *graph, const Op *op) {
  bool plain = op->attributes.conv.activation == ACTIVATION_NONE && op->output_count == 1;
  if (!plain)
    graph_fail(graph,
               "%s: a fused convolution cannot be differentiated; differentiate before "
               "fusion",
               op_kind_name(op->kind));
  return plain;
}

static void conv3d_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                            const bool *wanted, Value *gradients) {
  enum { PIXELS = 1u << AXIS_N | 1u << AXIS_T | 1u << AXIS_H | 1u << AXIS_W };
  if (!differentiable(graph, op)) return;
  const ConvAttributes *conv = &op->attributes.conv;
  Value x = op->inputs[0], w = op->inputs[1], dy = output_gradients[0];
  /* Weights first: their bucket can be all-reduced while the rest is computed. */
  if (wanted[1]) gradients[1] = append_backward_weights(graph, conv, x, dy, graph_shape(graph, w));
  if (op->input_count > 2 && wanted[2]) gradients[2] = graph_reduce_sum(graph, dy, PIXELS, 1);
  if (wanted[0])
    gradients[0] = append_backward_data(graph, conv, dy, w, graph_shape(graph, x), NULL);
}

static void backward_data_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                                   const bool *wanted, Value *gradients) {
  if (!differentiable(graph, op)) return;
  const ConvAttributes *conv = &op->attributes.conv;
  Value dy = op->inputs[0], w = op->inputs[1], u = output_gradients[0]; /* u has the shape of x */
  if (wanted[0]) gradients[0] = append_forward(graph, conv, u, w, NO_VALUE, graph_shape(graph, dy));
  if (wanted[1]) gradients[1] = append_backward_weights(graph, conv, u, dy, graph_shape(graph, w));
}

static void backward_weights_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                                      const bool *wanted, Value *gradients) {
  if (!differentiable(graph, op)) return;
  const ConvAttributes *conv = &op->attributes.conv;
  Value x = op->inputs[0], dy = op->inputs[1];
  /* v has the shape of w; it is f32, but both operands of a convolution must have one dtype. */
  Value v = graph_cast(graph, output_gradients[0], graph_dtype(graph, x));
  if (wanted[0])
    gradients[0] = append_backward_data(graph, conv, dy, v, graph_shape(graph, x), NULL);
  if (wanted[1]) gradients[1] = append_forward(graph, conv, x, v, NO_VALUE, graph_shape(graph, dy));
}

/* A multiplication and an addition for each element of y, kernel position and input channel;
 * positions that fall on padding are counted, as frameworks do. */
static double trilinear_flops(Shape y, Shape w) {
  double per_output = (double)shape_count(w) / (double)w.dim[0];
  return 2 * (double)shape_count(y) * per_output;
}

static double conv3d_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op;
  return trilinear_flops(outputs[0], inputs[1]);
}

static double backward_data_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op;
  (void)outputs;
  return trilinear_flops(inputs[0], inputs[1]);
}

static double backward_weights_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op;
  return trilinear_flops(inputs[1], outputs[0]);
}

const OpRule rule_conv3d = {conv3d_gradient, conv3d_flops};
const OpRule rule_conv3d_backward_data = {backward_data_gradient, backward_data_flops};
const OpRule rule_conv3d_backward_weights = {backward_weights_gradient, backward_weights_flops};
