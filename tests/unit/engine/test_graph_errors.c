/* The error of every invalid call of a builder. Each case builds on a fresh graph in the scope
 * "net.layer". */
#include "graph_checks.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>

typedef struct Case {
  void (*build)(Fixture *f);
  const char *message; /* after "net.layer: " */
} Case;

static Value floats(Fixture *f, int64_t n, int64_t t, int64_t h, int64_t w, int64_t c) {
  return source(f, DTYPE_F32, shape_make(n, t, h, w, c));
}

static Value image(Fixture *f) {
  return floats(f, 1, 1, 4, 5, 6);
}

#define BUILD(name, ...)                                                                           \
  static void name(Fixture *f) {                                                                   \
    Graph *g = f->graph;                                                                           \
    __VA_ARGS__;                                                                                   \
  }

BUILD(view_outside, graph_view(g, &f->buffers[0], (1 << 20) - 3, shape_vector(4)))
BUILD(view_empty, graph_view(g, &f->buffers[0], 0, shape_make(1, 1, 0, 1, 1)))
BUILD(view_too_large, graph_view(g, &f->buffers[0], 0, shape_make(1LL << 40, 1LL << 40, 1, 1, 1)))
BUILD(constant_huge, graph_constant(g, shape_make(1LL << 40, 1LL << 40, 1, 1, 1), 0))
BUILD(cast_to_bytes, graph_cast(g, image(f), DTYPE_U8))
BUILD(cast_nothing, graph_cast(g, NO_VALUE, DTYPE_F32))
BUILD(bytes_in_pointwise, graph_tanh(g, source(f, DTYPE_U8, shape_scalar())))
BUILD(broadcast_shrinks, graph_broadcast(g, image(f), shape_vector(6)))
BUILD(broadcast_other, graph_broadcast(g, image(f), shape_make(1, 1, 4, 5, 7)))
BUILD(clamp_reversed, graph_clamp(g, image(f), 1, -1))
BUILD(affine_nan, graph_affine(g, image(f), NAN, 0))
BUILD(reduce_axis, graph_reduce_sum(g, image(f), 1u << 5, 1))
BUILD(reduce_scale, graph_reduce_sum(g, image(f), 1, INFINITY))
static const int64_t ascending[] = {0, 2, 6}, standing[] = {0, 6, 6}, begun[] = {1, 2, 6};
BUILD(squares_of_an_image, graph_segment_squared_norms(g, image(f), ascending, 2))
BUILD(squares_of_bf16,
      graph_segment_squared_norms(g, source(f, DTYPE_BF16, shape_vector(6)), ascending, 2))
BUILD(squares_short, graph_segment_squared_norms(g, floats(f, 1, 1, 1, 1, 7), ascending, 2))
BUILD(squares_empty_range, graph_segment_squared_norms(g, floats(f, 1, 1, 1, 1, 6), standing, 2))
BUILD(squares_begin, graph_segment_squared_norms(g, floats(f, 1, 1, 1, 1, 6), begun, 2))
BUILD(squares_none, graph_segment_squared_norms(g, floats(f, 1, 1, 1, 1, 6), ascending, 0))
BUILD(squares_differentiated, Value x = floats(f, 1, 1, 1, 1, 6), y;
      Value sums = graph_segment_squared_norms(g, x, ascending, 2);
      graph_gradients(g, graph_mean(g, sums), &x, 1, &y))
BUILD(reshape_count, graph_reshape(g, image(f), shape_vector(119)))
BUILD(reshape_huge, graph_reshape(g, image(f), shape_make(1LL << 32, 1LL << 32, 1, 1, 1)))
BUILD(concat_none, graph_concat(g, NULL, 0, AXIS_C))
BUILD(concat_axis, Value x = image(f); graph_concat(g, &x, 1, 5))
BUILD(concat_shapes, Value x[] = {image(f), floats(f, 1, 1, 4, 6, 6)};
      graph_concat(g, x, 2, AXIS_C))
BUILD(concat_dtypes, Value x[] = {image(f), source(f, DTYPE_BF16, shape_make(1, 1, 4, 5, 6))};
      graph_concat(g, x, 2, AXIS_C))
BUILD(slice_outside, graph_slice(g, image(f), shape_make(0, 0, 2, 0, 0), shape_make(1, 1, 3, 5, 6)))
BUILD(slice_negative,
      graph_slice(g, image(f), shape_make(0, 0, -1, 0, 0), shape_make(1, 1, 3, 5, 6)))
BUILD(slice_empty, graph_slice(g, image(f), shape_make(0, 0, 0, 0, 0), shape_make(1, 1, 0, 5, 6)))
BUILD(pad_negative, graph_pad(g, image(f), shape_make(0, 0, -1, 0, 0), (Shape){{0}}, PAD_ZERO))
BUILD(pad_huge, graph_pad(g, image(f), shape_make(0, 0, INT64_MAX, 0, 0), (Shape){{0}}, PAD_ZERO))
BUILD(pad_reflect_long,
      graph_pad(g, image(f), shape_make(0, 0, 4, 0, 0), (Shape){{0}}, PAD_REFLECT))
BUILD(pad_reflect_time,
      graph_pad(g, image(f), (Shape){{0}}, shape_make(0, 1, 0, 0, 0), PAD_REFLECT))
BUILD(resize_to_nothing, graph_resize(g, image(f), 0, 3, RESIZE_NEAREST))
BUILD(pool_padding, graph_average_pool(g, image(f), 3, 1, 2))
BUILD(pool_huge, graph_average_pool(g, image(f), 3, 1, INT_MAX))
BUILD(pool_window, graph_average_pool(g, image(f), 6, 1, 0))
BUILD(max_pool_nothing, graph_max_pool(g, image(f), 0))
BUILD(max_pool_window, graph_max_pool(g, image(f), 5))
BUILD(matmul_inner, graph_matmul(g, image(f), image(f), false, false))
BUILD(matmul_transposed, graph_matmul(g, image(f), image(f), true, true))
BUILD(matmul_batch, graph_matmul(g, image(f), floats(f, 2, 1, 4, 5, 6), false, true))
BUILD(matmul_dtypes,
      graph_matmul(g, image(f), source(f, DTYPE_BF16, shape_make(1, 1, 4, 5, 6)), false, true))
BUILD(warp_channels, graph_warp(g, image(f), image(f)))
BUILD(warp_size, graph_warp(g, image(f), floats(f, 1, 1, 4, 6, 2)))
BUILD(warp_times, graph_warp(g, floats(f, 1, 3, 4, 5, 6), floats(f, 1, 2, 4, 5, 2)))
BUILD(warp_dtype, graph_warp(g, image(f), source(f, DTYPE_BF16, shape_make(1, 1, 4, 5, 2))))
BUILD(translate_offsets, graph_translate(g, image(f), floats(f, 2, 1, 1, 1, 2)))
BUILD(translate_dtype,
      graph_translate(g, image(f), source(f, DTYPE_BF16, shape_make(1, 1, 1, 1, 2))))
BUILD(norm_gain_alone,
      graph_norm(g, image(f), source(f, DTYPE_F32, shape_vector(6)), NO_VALUE, NORM_RMS, 0, 1e-5f))
BUILD(norm_gain_length, Value v = source(f, DTYPE_F32, shape_vector(5));
      graph_norm(g, image(f), v, v, NORM_RMS, 0, 1e-5f))
BUILD(norm_bias_dtype, Value v = source(f, DTYPE_F32, shape_vector(6));
      graph_norm(g, image(f), v, source(f, DTYPE_BF16, shape_vector(6)), NORM_RMS, 0, 1e-5f))
BUILD(norm_groups, graph_norm(g, image(f), NO_VALUE, NO_VALUE, NORM_GROUP, 4, 1e-5f))
BUILD(norm_epsilon, graph_norm(g, image(f), NO_VALUE, NO_VALUE, NORM_RMS, 0, 0))

static void convolve(Fixture *f, Value weight, Value bias, ConvSpec spec) {
  graph_conv3d(f->graph, image(f), weight, bias, spec);
}

#define SAME   conv_spec_same(1, 3, 1, PAD_ZERO)
#define WEIGHT floats(f, 2, 1, 3, 3, 6)
#define CONVOLVE(name, ...)                                                                        \
  static void name(Fixture *f) {                                                                   \
    __VA_ARGS__;                                                                                   \
  }
CONVOLVE(conv_channels, convolve(f, floats(f, 2, 1, 3, 3, 4), NO_VALUE, SAME))
CONVOLVE(conv_dtypes, convolve(f, source(f, DTYPE_BF16, shape_make(2, 1, 3, 3, 6)), NO_VALUE, SAME))
CONVOLVE(conv_bias, convolve(f, WEIGHT, source(f, DTYPE_F32, shape_vector(3)), SAME))
CONVOLVE(conv_stride, ConvSpec s = SAME; s.stride[1] = 0; convolve(f, WEIGHT, NO_VALUE, s))
CONVOLVE(conv_padding, ConvSpec s = SAME; s.after[2] = -1; convolve(f, WEIGHT, NO_VALUE, s))
CONVOLVE(conv_reflect, ConvSpec s = conv_spec_same(1, 9, 1, PAD_REFLECT);
         convolve(f, floats(f, 2, 1, 9, 9, 6), NO_VALUE, s))
CONVOLVE(conv_taps, ConvSpec s = SAME; s.before[0] = 1;
         convolve(f, floats(f, 2, 3, 3, 3, 6), NO_VALUE, s))

/* Upsamples x [1,1,4,5,6] by 2, to 3 channels. */
static void transpose(Fixture *f, Value weight, Value bias, ConvSpec spec, int output_padding) {
  graph_conv3d_transpose(f->graph, image(f), weight, bias, spec, (int[]){0, output_padding, 0});
}

#define TWICE     conv_spec_same(1, 3, 2, PAD_ZERO)
#define UP_WEIGHT floats(f, 6, 1, 3, 3, 3)
CONVOLVE(transpose_channels, transpose(f, floats(f, 3, 1, 3, 3, 6), NO_VALUE, TWICE, 1))
CONVOLVE(transpose_bias, transpose(f, UP_WEIGHT, source(f, DTYPE_F32, shape_vector(6)), TWICE, 1))
CONVOLVE(transpose_stride, ConvSpec s = TWICE; s.stride[0] = 0;
         transpose(f, UP_WEIGHT, NO_VALUE, s, 0))
CONVOLVE(transpose_reflect, ConvSpec s = TWICE; s.mode = PAD_REFLECT;
         transpose(f, UP_WEIGHT, NO_VALUE, s, 1))
CONVOLVE(transpose_output_padding, transpose(f, UP_WEIGHT, NO_VALUE, TWICE, 2))
CONVOLVE(transpose_padding, ConvSpec s = TWICE; s.before[2] = s.after[2] = 6;
         transpose(f, UP_WEIGHT, NO_VALUE, s, 1))

BUILD(integers_in_pointwise, graph_tanh(g, source(f, DTYPE_I64, shape_vector(3))))
BUILD(cast_integers, graph_cast(g, source(f, DTYPE_I64, shape_vector(3)), DTYPE_F32))
BUILD(store_shapes, graph_store(g, image(f), source(f, DTYPE_F32, shape_vector(120))))
BUILD(store_no_view, Value x = image(f); graph_store(g, x, graph_tanh(g, x)))
BUILD(accumulate_bytes, Value x = image(f);
      graph_accumulate(g, x, source(f, DTYPE_U8, shape_make(1, 1, 4, 5, 6))))
BUILD(all_reduce_nothing, graph_all_reduce(g, NO_VALUE))

static AdamViews adam_views(Fixture *f) {
  AdamViews views = {.ema = NO_VALUE, .compute = NO_VALUE};
  views.parameters = source(f, DTYPE_F32, shape_vector(8));
  views.gradients = source(f, DTYPE_F32, shape_vector(8));
  views.moment1 = source(f, DTYPE_F32, shape_vector(8));
  views.moment2 = source(f, DTYPE_F32, shape_vector(8));
  views.norm = graph_mean(f->graph, views.gradients);
  views.controls = source(f, DTYPE_F32, shape_vector(4));
  views.counters = source(f, DTYPE_I64, shape_vector(3));
  return views;
}

BUILD(adam_counters, AdamViews v = adam_views(f);
      v.counters = source(f, DTYPE_F32, shape_vector(3)); graph_adam(g, &v, 0.5f, 0.99f, 1e-8f, 0))
BUILD(adam_length, AdamViews v = adam_views(f); v.moment2 = source(f, DTYPE_F32, shape_vector(7));
      graph_adam(g, &v, 0.9f, 0.99f, 1e-8f, 0))
BUILD(adam_compute, AdamViews v = adam_views(f); v.compute = source(f, DTYPE_F32, shape_vector(8));
      graph_adam(g, &v, 0.9f, 0.99f, 1e-8f, 0))
BUILD(adam_no_view, AdamViews v = adam_views(f); v.ema = graph_tanh(g, v.moment1);
      graph_adam(g, &v, 0.9f, 0.99f, 1e-8f, 0))
BUILD(adam_norm, AdamViews v = adam_views(f); v.norm = v.controls;
      graph_adam(g, &v, 0.9f, 0.99f, 1e-8f, 0))
BUILD(adam_beta, AdamViews v = adam_views(f); graph_adam(g, &v, 1, 0.99f, 1e-8f, 0))

BUILD(gradients_of_tensor, Value x = image(f), y; graph_gradients(g, graph_tanh(g, x), &x, 1, &y))
BUILD(gradients_of_bf16, Value x = source(f, DTYPE_BF16, shape_scalar()), y;
      graph_gradients(g, graph_tanh(g, x), &x, 1, &y))
BUILD(gradients_missing, Value x = image(f), y[2], w[] = {x, NO_VALUE};
      graph_gradients(g, graph_mean(g, x), w, 2, y))
BUILD(gradients_independent, Value first = image(f), w[] = {first, image(f)}, y[2];
      graph_gradients(g, graph_mean(g, first), w, 2, y))
BUILD(gradients_detached, Value x = image(f), y;
      graph_gradients(g, graph_mean(g, graph_tanh(g, graph_detach(g, x))), &x, 1, &y))
BUILD(gradients_zero, Value x = graph_tanh(g, image(f)), y;
      graph_gradients(g, graph_mean(g, graph_sign(g, x)), &x, 1, &y))

#define PAD_RULE                                                                                   \
  "padding must be 0 to 2^59, reflecting one in height and width only and less than the length"

#define MATMUL_RULE                                                                                \
  "dtypes and axes 0 to 2 must be equal, and the columns of the first matrix (axis 4, transposed " \
  "3) the rows of the second"
#define WARP_RULE "the flow must be f32 [N, T or 1, H, W, 2] of the frames"

static const Case cases[] = {
    {view_outside, "view: [1,1,1,1,4] at element 1048573 of buffer floats, which holds 1048576"},
    {view_empty, "view: [1,1,0,1,1] of buffer floats; every axis must be at least 1, their product "
                 "below 2^59"},
    {view_too_large, "view: [1099511627776,1099511627776,1,1,1] of buffer floats; every axis must "
                     "be at least 1, their product below 2^59"},
    {constant_huge, "constant: the result would be [1099511627776,1099511627776,1,1,1]; every axis "
                    "must be at least 1, their product below 2^59"},
    {cast_to_bytes, "cast: f32 to u8; it must be f32, bf16 or u8 to f32 or bf16"},
    {cast_nothing, "cast: operand 0 is missing"},
    {bytes_in_pointwise, "tanh: operand 0 is u8; it must be f32 or bf16: cast it first"},
    {integers_in_pointwise, "tanh: operand 0 is i64; it must be f32 or bf16"},
    {cast_integers, "cast: i64 to f32; it must be f32, bf16 or u8 to f32 or bf16"},
    {broadcast_shrinks, "broadcast: [1,1,4,5,6] to [1,1,1,1,6]; lengths must be equal or 1 before"},
    {broadcast_other, "broadcast: [1,1,4,5,6] to [1,1,4,5,7]; lengths must be equal or 1 before"},
    {clamp_reversed, "clamp: bounds 1 and -1; the lower bound must not exceed the upper one"},
    {affine_nan, "affine: a constant is NaN"},
    {squares_of_an_image, "segment_squared_norm: f32 [1,1,4,5,6]; it must be an f32 vector"},
    {squares_of_bf16, "segment_squared_norm: bf16 [1,1,1,1,6]; it must be an f32 vector"},
    {squares_short, "segment_squared_norm: 2 segments; offsets must ascend from 0 to the length 7"},
    {squares_empty_range,
     "segment_squared_norm: 2 segments; offsets must ascend from 0 to the length 6"},
    {squares_begin, "segment_squared_norm: 2 segments; offsets must ascend from 0 to the length 6"},
    {squares_none, "segment_squared_norm: 0 segments; offsets must ascend from 0 to the length 6"},
    {squares_differentiated,
     "gradients: net.layer.segment_squared_norm: segment_squared_norm cannot be differentiated"},
    {reduce_axis, "reduce: axes 0x20, scale 1; expected axes in bits 0 to 4, a finite scale"},
    {reduce_scale, "reduce: axes 0x1, scale inf; expected axes in bits 0 to 4, a finite scale"},
    {reshape_count, "reshape: [1,1,4,5,6] to [1,1,1,1,119]; the element counts differ"},
    {reshape_huge,
     "reshape: [1,1,4,5,6] to [4294967296,4294967296,1,1,1]; the element counts differ"},
    {concat_none, "concat: 0 operands along axis 4; expected 1 to 8 operands, axis 0 to 4"},
    {concat_axis, "concat: 1 operands along axis 5; expected 1 to 8 operands, axis 0 to 4"},
    {concat_shapes, "concat: operand 0 is f32 [1,1,4,5,6] and operand 1 is f32 [1,1,4,6,6]; only "
                    "the lengths of axis 4 may differ"},
    {concat_dtypes, "concat: operand 0 is f32 [1,1,4,5,6] and operand 1 is bf16 [1,1,4,5,6]; only "
                    "the lengths of axis 4 may differ"},
    {slice_outside, "slice: size [1,1,3,5,6] at [0,0,2,0,0] is outside of [1,1,4,5,6]"},
    {slice_negative, "slice: size [1,1,3,5,6] at [0,0,-1,0,0] is outside of [1,1,4,5,6]"},
    {slice_empty, "slice: size [1,1,0,5,6] at [0,0,0,0,0] is outside of [1,1,4,5,6]"},
    {pad_negative,
     "pad: [1,1,4,5,6] by [0,0,-1,0,0] before and [0,0,0,0,0] after, mode zero; " PAD_RULE},
    {pad_huge, "pad: [1,1,4,5,6] by [0,0,9223372036854775807,0,0] before and [0,0,0,0,0] after, "
               "mode zero; " PAD_RULE},
    {pad_reflect_long,
     "pad: [1,1,4,5,6] by [0,0,4,0,0] before and [0,0,0,0,0] after, mode reflect; " PAD_RULE},
    {pad_reflect_time,
     "pad: [1,1,4,5,6] by [0,0,0,0,0] before and [0,1,0,0,0] after, mode reflect; " PAD_RULE},
    {resize_to_nothing, "resize: to height 0 and width 3; both must be at least 1"},
    {pool_padding,
     "average_pool: size 3, stride 1, padding 2 on [1,1,4,5,6]; expected size and "
     "stride at least 1, padding 0 to size / 2, a padded frame at least as large as the window"},
    {pool_huge,
     "average_pool: size 3, stride 1, padding 2147483647 on [1,1,4,5,6]; expected size and "
     "stride at least 1, padding 0 to size / 2, a padded frame at least as large as the window"},
    {pool_window,
     "average_pool: size 6, stride 1, padding 0 on [1,1,4,5,6]; expected size and "
     "stride at least 1, padding 0 to size / 2, a padded frame at least as large as the window"},
    {max_pool_nothing,
     "max_pool: size 0 on [1,1,4,5,6]; it must be at least 1 and at most height and "
     "width"},
    {max_pool_window,
     "max_pool: size 5 on [1,1,4,5,6]; it must be at least 1 and at most height and "
     "width"},
    {matmul_inner, "matmul: f32 [1,1,4,5,6] times f32 [1,1,4,5,6]; " MATMUL_RULE},
    {matmul_transposed,
     "matmul: f32 [1,1,4,5,6] transposed times f32 [1,1,4,5,6] transposed; " MATMUL_RULE},
    {matmul_batch, "matmul: f32 [1,1,4,5,6] times f32 [2,1,4,5,6] transposed; " MATMUL_RULE},
    {matmul_dtypes, "matmul: f32 [1,1,4,5,6] times bf16 [1,1,4,5,6] transposed; " MATMUL_RULE},
    {warp_channels, "warp: [1,1,4,5,6] by flow f32 [1,1,4,5,6]; " WARP_RULE},
    {warp_size, "warp: [1,1,4,5,6] by flow f32 [1,1,4,6,2]; " WARP_RULE},
    {warp_times, "warp: [1,3,4,5,6] by flow f32 [1,2,4,5,2]; " WARP_RULE},
    {warp_dtype, "warp: [1,1,4,5,6] by flow bf16 [1,1,4,5,2]; " WARP_RULE},
    {translate_offsets, "translate: [1,1,4,5,6] by offsets f32 [2,1,1,1,2]; the offsets must be "
                        "f32 [1,1,1,1,2]"},
    {translate_dtype, "translate: [1,1,4,5,6] by offsets bf16 [1,1,1,1,2]; the offsets must be "
                      "f32 [1,1,1,1,2]"},
    {norm_gain_alone, "norm: gain and bias must be given together or not at all"},
    {norm_gain_length, "norm: gain is f32 [1,1,1,1,5]; it must be f32 [1,1,1,1,6]"},
    {norm_bias_dtype, "norm: bias is bf16 [1,1,1,1,6]; it must be f32 [1,1,1,1,6]"},
    {norm_groups, "norm: 4 groups do not divide 6 channels"},
    {norm_epsilon, "norm: epsilon 0; it must be finite and above 0"},
    {conv_channels, "conv3d: input [1,1,4,5,6] and weight [2,1,3,3,4] have different numbers of "
                    "input channels"},
    {conv_dtypes, "conv3d: input is f32 and weight is bf16; they must have the same dtype"},
    {conv_bias, "conv3d: bias is f32 [1,1,1,1,3]; weight [2,1,3,3,6] needs f32 [1,1,1,1,2]"},
    {conv_stride, "conv3d: stride 0, padding 1 and 1 in height; stride must be at least 1, padding "
                  "at least 0"},
    {conv_padding,
     "conv3d: stride 1, padding 1 and -1 in width; stride must be at least 1, padding "
     "at least 0"},
    {conv_reflect, "conv3d: reflect padding 4 and 4 in height must be less than the length 4"},
    {conv_taps, "conv3d: kernel size 3 in time exceeds the padded input, 2"},
    {transpose_channels,
     "conv3d_transpose: input [1,1,4,5,6] and weight [3,1,3,3,6] have different "
     "numbers of input channels"},
    {transpose_bias,
     "conv3d_transpose: bias is f32 [1,1,1,1,6]; weight [6,1,3,3,3] needs f32 [1,1,1,1,3]"},
    {transpose_stride, "conv3d_transpose: stride 0, padding 0 and 0 in time; stride must be at "
                       "least 1, padding at least 0"},
    {transpose_reflect, "conv3d_transpose: padding must be zeros"},
    {transpose_output_padding, "conv3d_transpose: output padding 2 in height; it must be at least "
                               "0 and less than the stride 2"},
    {transpose_padding, "conv3d_transpose: padding 6 and 6 leaves no output in width"},
    {store_shapes, "store: [1,1,4,5,6] into [1,1,1,1,120]; the shapes must be equal"},
    {store_no_view, "store: the target is net.layer.tanh; it must be a view of a buffer"},
    {accumulate_bytes, "accumulate: operand 0 is u8; it must be f32 or bf16: cast it first"},
    {all_reduce_nothing, "all_reduce: operand 0 is missing"},
    {adam_length, "adam: moment2 is f32 [1,1,1,1,7]; it must be a view of f32 with 8 elements"},
    {adam_counters, "adam: counters is f32 [1,1,1,1,3]; it must be a view of i64 with 3 elements"},
    {adam_compute, "adam: compute is f32 [1,1,1,1,8]; it must be a view of bf16 with 8 elements"},
    {adam_no_view, "adam: ema is f32 [1,1,1,1,8] and not a view; it must be a view of f32 with 8 "
                   "elements"},
    {adam_norm, "adam: norm is f32 [1,1,1,1,4]; it must be a value of f32 with 1 elements"},
    {adam_beta, "adam: betas 1 and 0.99, epsilon 1e-08, weight decay 0; expected betas in [0, 1), "
                "epsilon above 0, weight decay at least 0"},
    {gradients_of_tensor, "gradients: the loss is f32 [1,1,4,5,6]; it must be f32 [1,1,1,1,1]"},
    {gradients_of_bf16, "gradients: the loss is bf16 [1,1,1,1,1]; it must be f32 [1,1,1,1,1]"},
    {gradients_missing, "gradients: the loss or an entry is missing"},
    {gradients_independent,
     "gradients: the loss does not depend on net.layer.view (entry 1, buffer "
     "floats at element 120)"},
    {gradients_detached, "gradients: the loss does not depend on net.layer.view (entry 0, buffer "
                         "floats at element 0)"},
    {gradients_zero, "gradients: the loss does not depend on net.layer.tanh (entry 0)"},
};

static void invalid_calls_have_errors(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Fixture f = fixture_new();
    char message[ERROR_MESSAGE_SIZE];
    graph_scope_push(f.graph, "net");
    graph_scope_push(f.graph, "layer");
    snprintf(message, sizeof message, "net.layer: %s", cases[i].message);
    cases[i].build(&f);
    check_error(f.graph, message);
    graph_free(f.graph);
  }
}

/* The rule of a warp fails in the scope of the gradients. */
static void warps_have_no_derivative(void **state) {
  (void)state;
  static const char *const names[] = {"x", "flow"};
  for (int i = 0; i < 2; i++) {
    Fixture f = fixture_new();
    char message[ERROR_MESSAGE_SIZE];
    Value operands[] = {image(&f), floats(&f, 1, 1, 4, 5, 2)}, gradient;
    graph_scope_push(f.graph, "net");
    Value loss = graph_mean(f.graph, graph_warp(f.graph, operands[0], operands[1]));
    graph_scope_pop(f.graph);
    graph_gradients(f.graph, loss, &operands[i], 1, &gradient);
    snprintf(message, sizeof message,
             "net.gradient: warp: there is no derivative with respect to %s; detach it first",
             names[i]);
    check_error(f.graph, message);
    graph_free(f.graph);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(invalid_calls_have_errors),
                                     cmocka_unit_test(warps_have_no_derivative)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
