/* The networks of the gradient tests: each op alone, and a residual block. */
#include "support_gradients.h"

static Value usual(Net *net) {
  return net_variable(net, shape_make(2, 2, 4, 5, 3));
}

static Value build_add(Net *n) {
  Value vector = net_variable(n, shape_vector(3));
  return graph_add(n->graph, usual(n), vector);
}
static Value build_sub(Net *n) {
  Value frame = net_variable(n, shape_make(1, 1, 4, 5, 1));
  return graph_sub(n->graph, frame, usual(n));
}
static Value build_mul(Net *n) {
  Value scale = net_variable(n, shape_make(2, 1, 1, 1, 3));
  return graph_mul(n->graph, usual(n), scale);
}
static Value build_div(Net *n) {
  Value positive = graph_affine(n->graph, graph_square(n->graph, usual(n)), 1, 0.5f);
  return graph_div(n->graph, net_variable(n, shape_make(1, 2, 1, 5, 1)), positive);
}
static Value build_affine(Net *n) {
  return graph_affine(n->graph, usual(n), -1.5f, 0.25f);
}
static Value build_leaky_relu(Net *n) {
  return graph_leaky_relu(n->graph, usual(n), 0.2f);
}
static Value build_relu(Net *n) {
  return graph_relu(n->graph, usual(n));
}
static Value build_leaky_step(Net *n) {
  Value x = usual(n);
  return graph_mul(n->graph, x, graph_leaky_step(n->graph, x, 0.3f));
}
static Value build_tanh(Net *n) {
  return graph_tanh(n->graph, usual(n));
}
static Value build_sigmoid(Net *n) {
  return graph_sigmoid(n->graph, usual(n));
}
static Value build_softplus(Net *n) {
  return graph_softplus(n->graph, usual(n));
}
static Value build_abs(Net *n) {
  return graph_abs(n->graph, usual(n));
}
static Value build_sign(Net *n) {
  Value x = usual(n);
  return graph_mul(n->graph, x, graph_sign(n->graph, x));
}
static Value build_square(Net *n) {
  return graph_square(n->graph, usual(n));
}
static Value build_sqrt(Net *n) {
  return graph_sqrt(n->graph, graph_affine(n->graph, graph_square(n->graph, usual(n)), 1, 0.5f));
}
static Value build_exp(Net *n) {
  return graph_exp(n->graph, usual(n));
}
static Value build_log(Net *n) {
  return graph_log(n->graph, graph_affine(n->graph, graph_square(n->graph, usual(n)), 1, 0.5f));
}
/* log softmax over the channels */
static Value build_log_softmax(Net *n) {
  Value x = usual(n);
  Value sums = graph_reduce_sum(n->graph, graph_exp(n->graph, x), 1u << AXIS_C, 1);
  return graph_sub(n->graph, x, graph_log(n->graph, sums));
}
static Value build_clamp(Net *n) {
  return graph_clamp(n->graph, usual(n), -0.5f, 0.75f);
}
static Value build_broadcast(Net *n) {
  return graph_broadcast(n->graph, net_variable(n, shape_make(1, 2, 1, 5, 1)),
                         shape_make(2, 2, 4, 5, 3));
}
static Value build_reduce_channels(Net *n) {
  return graph_reduce_sum(n->graph, usual(n), 1u << AXIS_C, 0.5f);
}
static Value build_reduce_space(Net *n) {
  return graph_reduce_sum(n->graph, usual(n), 1u << AXIS_H | 1u << AXIS_W, 2);
}
static Value build_mean(Net *n) {
  return graph_mean(n->graph, usual(n));
}

static Value convolve(Net *n, ConvSpec spec, bool has_bias) {
  Value x = net_variable(n, shape_make(2, 3, 5, 6, 3));
  Value w = net_variable(n, shape_make(4, 2, 3, 3, 3));
  Value bias = has_bias ? net_variable(n, shape_vector(4)) : NO_VALUE;
  return graph_conv3d(n->graph, x, w, bias, spec);
}
static Value build_conv3d(Net *n) {
  return convolve(n, conv_spec_same(2, 3, 1, PAD_ZERO), true);
}
static Value build_conv3d_stride(Net *n) {
  return convolve(n, conv_spec_same(2, 3, 2, PAD_ZERO), false);
}
static Value build_conv3d_reflect(Net *n) {
  return convolve(n, conv_spec_same(2, 3, 1, PAD_REFLECT), true);
}
static Value build_conv3d_uneven(Net *n) {
  const ConvSpec spec = {
      .stride = {1, 2, 1}, .before = {1, 2, 0}, .after = {1, 0, 2}, .mode = PAD_REFLECT};
  return convolve(n, spec, true);
}

static Value transpose(Net *n, ConvSpec spec, const int output_padding[3], bool has_bias) {
  Value x = net_variable(n, shape_make(2, 2, 3, 4, 4));
  Value w = net_variable(n, shape_make(4, 2, 3, 3, 3));
  Value bias = has_bias ? net_variable(n, shape_vector(3)) : NO_VALUE;
  return graph_conv3d_transpose(n->graph, x, w, bias, spec, output_padding);
}
static Value build_transpose(Net *n) {
  return transpose(n, conv_spec_same(2, 3, 2, PAD_ZERO), (int[]){0, 1, 1}, true);
}
static Value build_transpose_uneven(Net *n) {
  const ConvSpec spec = {.stride = {2, 1, 3}, .before = {0, 2, 0}, .after = {1, 0, 0}};
  return transpose(n, spec, (int[]){1, 0, 2}, false);
}

/* op(a) [4,3] times op(b) [3,5], four times. */
static Value multiply(Net *n, bool transpose_a, bool transpose_b) {
  Value a = net_variable(n, shape_make(2, 1, 2, transpose_a ? 3 : 4, transpose_a ? 4 : 3));
  Value b = net_variable(n, shape_make(2, 1, 2, transpose_b ? 5 : 3, transpose_b ? 3 : 5));
  return graph_matmul(n->graph, a, b, transpose_a, transpose_b);
}
static Value build_matmul(Net *n) {
  return multiply(n, false, false);
}
static Value build_matmul_tn(Net *n) {
  return multiply(n, true, false);
}
static Value build_matmul_nt(Net *n) {
  return multiply(n, false, true);
}
static Value build_matmul_tt(Net *n) {
  return multiply(n, true, true);
}
/* A Gram matrix: both operands are one value. */
static Value build_gram(Net *n) {
  Value x = graph_tanh(n->graph, net_variable(n, shape_make(2, 1, 1, 7, 4)));
  return graph_matmul(n->graph, x, x, true, false);
}
static Value build_matmul_bf16(Net *n) {
  Value a = graph_cast(n->graph, net_variable(n, shape_make(2, 1, 1, 4, 6)), DTYPE_BF16);
  Value b = graph_cast(n->graph, net_variable(n, shape_make(2, 1, 1, 5, 6)), DTYPE_BF16);
  return graph_tanh(n->graph, graph_matmul(n->graph, a, b, false, true));
}

static Value normalize(Net *n, NormKind kind, bool affine) {
  const int groups = kind == NORM_GROUP ? 2 : 1;
  Value x = net_variable(n, shape_make(2, 2, 3, 4, 6));
  Value gain = affine ? net_variable(n, shape_vector(6)) : NO_VALUE;
  Value bias = affine ? net_variable(n, shape_vector(6)) : NO_VALUE;
  return graph_norm(n->graph, x, gain, bias, kind, groups, 1e-3f);
}
static Value build_norm_rms(Net *n) {
  return normalize(n, NORM_RMS, true);
}
static Value build_norm_rms_plain(Net *n) {
  return normalize(n, NORM_RMS, false);
}
static Value build_norm_instance(Net *n) {
  return normalize(n, NORM_INSTANCE, true);
}
static Value build_norm_instance_plain(Net *n) {
  return normalize(n, NORM_INSTANCE, false);
}
static Value build_norm_group(Net *n) {
  return normalize(n, NORM_GROUP, true);
}
static Value build_norm_group_plain(Net *n) {
  return normalize(n, NORM_GROUP, false);
}

static Value build_reshape(Net *n) {
  return graph_reshape(n->graph, usual(n), shape_make(4, 1, 5, 4, 3));
}
static Value build_concat(Net *n) {
  Value pieces[] = {usual(n), net_variable(n, shape_make(2, 2, 4, 5, 1)), usual(n)};
  return graph_concat(n->graph, pieces, 3, AXIS_C);
}
static Value build_slice(Net *n) {
  return graph_slice(n->graph, usual(n), shape_make(1, 0, 1, 2, 0), shape_make(1, 2, 3, 2, 3));
}
/* Adjacent parts, in and out of order, some of which cover a value; and one part across them. */
static Value build_slices(Net *n) {
  Graph *g = n->graph;
  Value x = usual(n);
  Value a = graph_slice(g, x, shape_make(0, 0, 0, 0, 0), shape_make(2, 2, 4, 5, 1));
  Value b = graph_slice(g, x, shape_make(0, 0, 0, 0, 1), shape_make(2, 2, 4, 5, 2));
  Value d = graph_slice(g, x, shape_make(0, 0, 3, 0, 0), shape_make(2, 2, 1, 5, 3));
  Value c = graph_slice(g, x, shape_make(0, 0, 1, 0, 0), shape_make(2, 2, 2, 5, 3));
  Value e = graph_slice(g, x, shape_make(0, 1, 0, 0, 0), shape_make(2, 1, 4, 5, 3));
  Value channels = graph_concat(g, (Value[]){graph_square(g, b), a}, 2, AXIS_C);
  Value rows = graph_concat(g, (Value[]){graph_square(g, d), c, d}, 3, AXIS_H);
  Value frames = graph_concat(g, (Value[]){e, graph_square(g, e)}, 2, AXIS_T);
  return graph_add(g, graph_mul(g, channels, rows), frames);
}
static Value pad(Net *n, PadMode mode) {
  const bool zero = mode == PAD_ZERO;
  return graph_pad(n->graph, usual(n), shape_make(0, zero, 3, 1, zero),
                   shape_make(zero, 0, 2, 4, 0), mode);
}
static Value build_pad_zero(Net *n) {
  return pad(n, PAD_ZERO);
}
static Value build_pad_reflect(Net *n) {
  return pad(n, PAD_REFLECT);
}
static Value build_nearest(Net *n) {
  return graph_resize(n->graph, usual(n), 8, 7, RESIZE_NEAREST);
}
static Value build_bilinear_up(Net *n) {
  return graph_resize(n->graph, usual(n), 8, 9, RESIZE_BILINEAR);
}
static Value build_bilinear_down(Net *n) {
  return graph_resize(n->graph, usual(n), 2, 3, RESIZE_BILINEAR);
}
static Value build_average_pool(Net *n) {
  return graph_average_pool(n->graph, usual(n), 3, 2, 1);
}
/* Windows of 2 x 2 in 6 x 5 drop a column. */
static Value build_max_pool(Net *n) {
  Value x = net_variable(n, shape_make(2, 2, 6, 5, 3));
  return graph_max_pool(n->graph, graph_tanh(n->graph, x), 2);
}
static Value build_max_pool_3(Net *n) {
  Value x = net_variable(n, shape_make(1, 2, 4, 7, 3));
  return graph_tanh(n->graph, graph_max_pool(n->graph, graph_square(n->graph, x), 3));
}

static Value build_translate(Net *n) {
  Value x = net_variable(n, shape_make(3, 2, 4, 5, 3));
  Value offsets = net_source(n, shape_make(3, 1, 1, 1, 2));
  return graph_tanh(n->graph, graph_translate(n->graph, x, offsets));
}
/* The warped value is a constant; the flow is a source of its own. */
static Value build_warp(Net *n) {
  Value other = net_source(n, shape_make(2, 2, 4, 5, 3));
  Value flow = net_source(n, shape_make(2, 1, 4, 5, 2));
  return graph_sub(n->graph, usual(n), graph_warp(n->graph, other, flow));
}

/* The ops that fusion merges: convolution, norm, activation, residual. */
static Value build_block(Net *n) {
  Graph *g = n->graph;
  Value x = net_variable(n, shape_make(1, 2, 5, 4, 4)),
        w = net_variable(n, shape_make(4, 2, 3, 3, 4));
  Value bias = net_variable(n, shape_vector(4)), gain = net_variable(n, shape_vector(4));
  Value shift = net_variable(n, shape_vector(4));
  Value y = graph_conv3d(g, x, w, bias, conv_spec_same(2, 3, 1, PAD_REFLECT));
  y = graph_leaky_relu(g, graph_norm(g, y, gain, shift, NORM_RMS, 1, 1e-3f), 0.2f);
  y = graph_conv3d(g, graph_add(g, y, x), w, NO_VALUE, conv_spec_same(2, 3, 1, PAD_ZERO));
  return graph_tanh(g, y);
}

/* The same network with bf16 activations. */
static Value build_block_bf16(Net *n) {
  Graph *g = n->graph;
  Value x = graph_cast(g, net_variable(n, shape_make(1, 2, 5, 4, 4)), DTYPE_BF16);
  Value w = graph_cast(g, net_variable(n, shape_make(4, 1, 3, 3, 4)), DTYPE_BF16);
  Value y =
      graph_conv3d(g, x, w, net_variable(n, shape_vector(4)), conv_spec_same(1, 3, 1, PAD_REFLECT));
  y = graph_resize(g, graph_norm(g, y, NO_VALUE, NO_VALUE, NORM_RMS, 1, 1e-2f), 10, 8,
                   RESIZE_BILINEAR);
  return graph_tanh(g, graph_average_pool(g, y, 2, 2, 0));
}

const GradientCase gradient_cases[GRADIENT_CASES] = {
    {"add", build_add, 5e-5, false},
    {"sub", build_sub, 5e-5, false},
    {"mul", build_mul, 5e-5, false},
    {"div", build_div, 5e-5, false},
    {"affine", build_affine, 5e-5, false},
    {"leaky_relu", build_leaky_relu, 5e-5, false},
    {"relu", build_relu, 5e-5, false},
    {"leaky_step", build_leaky_step, 5e-5, false},
    {"tanh", build_tanh, 5e-5, false},
    {"sigmoid", build_sigmoid, 5e-5, false},
    {"softplus", build_softplus, 5e-5, false},
    {"abs", build_abs, 5e-5, false},
    {"sign", build_sign, 5e-5, false},
    {"square", build_square, 5e-5, false},
    {"sqrt", build_sqrt, 5e-5, false},
    {"exp", build_exp, 5e-5, false},
    {"log", build_log, 5e-5, false},
    {"log_softmax", build_log_softmax, 5e-5, false},
    {"clamp", build_clamp, 5e-5, false},
    {"broadcast", build_broadcast, 5e-5, false},
    {"reduce_channels", build_reduce_channels, 5e-5, false},
    {"reduce_space", build_reduce_space, 5e-5, false},
    {"mean", build_mean, 5e-5, false},
    {"conv3d", build_conv3d, 5e-5, false},
    {"conv3d_stride", build_conv3d_stride, 5e-5, false},
    {"conv3d_reflect", build_conv3d_reflect, 5e-5, false},
    {"conv3d_uneven", build_conv3d_uneven, 5e-5, false},
    {"conv3d_transpose", build_transpose, 5e-5, false},
    {"conv3d_transpose_uneven", build_transpose_uneven, 5e-5, false},
    {"matmul", build_matmul, 5e-5, false},
    {"matmul_tn", build_matmul_tn, 5e-5, false},
    {"matmul_nt", build_matmul_nt, 5e-5, false},
    {"matmul_tt", build_matmul_tt, 5e-5, false},
    {"gram", build_gram, 5e-5, false},
    {"matmul_bf16", build_matmul_bf16, 5e-2, true},
    {"norm_rms", build_norm_rms, 5e-5, false},
    {"norm_rms_plain", build_norm_rms_plain, 5e-5, false},
    {"norm_instance", build_norm_instance, 5e-5, false},
    {"norm_instance_plain", build_norm_instance_plain, 5e-5, false},
    {"norm_group", build_norm_group, 5e-5, false},
    {"norm_group_plain", build_norm_group_plain, 5e-5, false},
    {"reshape", build_reshape, 5e-5, false},
    {"concat", build_concat, 5e-5, false},
    {"slice", build_slice, 5e-5, false},
    {"slices", build_slices, 5e-5, false},
    {"pad_zero", build_pad_zero, 5e-5, false},
    {"pad_reflect", build_pad_reflect, 5e-5, false},
    {"nearest", build_nearest, 5e-5, false},
    {"bilinear_up", build_bilinear_up, 5e-5, false},
    {"bilinear_down", build_bilinear_down, 5e-5, false},
    {"average_pool", build_average_pool, 5e-5, false},
    {"max_pool", build_max_pool, 5e-5, false},
    {"max_pool_3", build_max_pool_3, 5e-5, false},
    {"translate", build_translate, 5e-5, false},
    {"warp", build_warp, 5e-5, false},
    {"block", build_block, 5e-5, false},
    {"block_bf16", build_block_bf16, 5e-2, true},
};
