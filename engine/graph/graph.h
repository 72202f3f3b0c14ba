/* The static graph: ops and values in program order.
 *
 * Builders infer the shape and dtype of the output and append an op. The first invalid call (shapes
 * that do not match, a bad attribute) is recorded with the name of the layer; builders that get an
 * invalid value do nothing and return an invalid value. Code that builds a network therefore reads
 * like mathematics and calls graph_status once at the end.
 *
 * Ops read and write buffers through views. Program order defines the order of reads and writes of
 * a buffer: a view read by an op that was appended after an update sees the updated numbers.
 *
 * Dtypes: activations are f32 or bf16 (u8 only as the input of graph_cast); reductions, norm
 * parameters, losses and all gradients of views are f32; Adam's counters are i64. A pointwise op
 * with operands of several dtypes gives bf16 if every operand of the full output shape is bf16,
 * f32 otherwise; its arithmetic is f32.
 *
 * Rounding is a property of the graph: a chain of pointwise ops gives the same bits whether its
 * values are stored or stay in registers (fusion), so what else reads a value does not matter. One
 * kernel computes an activation behind a convolution, and activation and residual behind a norm,
 * and rounds once, if nothing else reads the value in between: networks whose results must not
 * depend on the program around them read the activated value instead.
 */
#ifndef CELFORGE_ENGINE_GRAPH_GRAPH_H
#define CELFORGE_ENGINE_GRAPH_GRAPH_H

#include "engine/graph/tensor.h"

typedef struct Graph Graph;

typedef struct Value {
  int32_t id; /* negative: invalid or absent */
} Value;
#define NO_VALUE ((Value){-1})

Graph *graph_new(void);
void graph_free(Graph *graph);
/* ERROR_USAGE if any call was invalid, with the first one's message:
 * "generator.block3.conv1: conv3d: ...". */
Status graph_status(const Graph *graph, Error *error);
/* Records an error from outside (a network's own checks), prefixed with the current scope like the
 * builders' errors. */
void graph_fail(Graph *graph, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Scopes prefix the names of ops, joined by '.'. At most 255 bytes of a scope are kept. */
void graph_scope_push(Graph *graph, const char *format, ...) __attribute__((format(printf, 2, 3)));
void graph_scope_pop(Graph *graph);
/* The current scopes joined by '.'; valid until the next push or pop. */
const char *graph_scope(const Graph *graph);

Shape graph_shape(const Graph *graph, Value value); /* zeros for an invalid value */
DType graph_dtype(const Graph *graph, Value value);

/* --- Sources ---------------------------------------------------------------------------------- */
/* A view of `shape` into `buffer`, starting at element `offset`. */
Value graph_view(Graph *graph, Buffer *buffer, int64_t offset, Shape shape);
Value graph_constant(Graph *graph, Shape shape, float value); /* f32 */

/* --- Pointwise; operands broadcast as in NumPy (axes of length 1) ----------------------------- */
Value graph_cast(Graph *graph, Value x, DType dtype); /* to f32 or bf16 */
Value graph_add(Graph *graph, Value a, Value b);
Value graph_sub(Graph *graph, Value a, Value b);
Value graph_mul(Graph *graph, Value a, Value b);
Value graph_div(Graph *graph, Value a, Value b);
Value graph_affine(Graph *graph, Value x, float scale, float shift); /* scale * x + shift */
/* x > 0 ? x : slope * x; the derivative at 0 is slope. */
Value graph_leaky_relu(Graph *graph, Value x, float slope);
Value graph_relu(Graph *graph, Value x);
Value graph_leaky_step(Graph *graph, Value x, float slope); /* x > 0 ? 1 : slope; derivative 0 */
Value graph_tanh(Graph *graph, Value x);
Value graph_sigmoid(Graph *graph, Value x);
Value graph_softplus(Graph *graph, Value x); /* log(1 + e^x), stable */
Value graph_abs(Graph *graph, Value x);      /* derivative sign(x), 0 at 0 */
Value graph_sign(Graph *graph, Value x);
Value graph_square(Graph *graph, Value x);
Value graph_sqrt(Graph *graph, Value x); /* derivative defined as 0 where x is 0 */
/* min(max(x, low), high); derivative 1 inside, 0 outside. */
Value graph_clamp(Graph *graph, Value x, float low, float high);
Value graph_exp(Graph *graph, Value x);
Value graph_log(Graph *graph, Value x); /* natural; derivative 1 / x */
Value graph_broadcast(Graph *graph, Value x, Shape shape);

/* --- Reductions: f32; reduced axes become 1 --------------------------------------------------- */
/* scale * sum over `axes`, a bit mask: 1u << AXIS_C. */
Value graph_reduce_sum(Graph *graph, Value x, unsigned axes, float scale);
Value graph_mean(Graph *graph, Value x); /* over all elements, a scalar */
/* The squared L2 norm of each segment of the f32 vector x, as a vector of length `segments`.
 * Segment s is elements offsets[s] to offsets[s + 1] - 1; `offsets` [segments + 1] ascend strictly
 * from 0 to the length of x. The caller keeps them alive as long as the graph and its programs. Has
 * no derivative. */
Value graph_segment_squared_norms(Graph *graph, Value x, const int64_t *offsets, int segments);
enum { ALL_AXES = (1u << RANK) - 1 };

/* --- Convolution ------------------------------------------------------------------------------ */
typedef enum PadMode { PAD_ZERO, PAD_REFLECT } PadMode;

/* Cross-correlation, as in every framework: y[n,t,h,w,o] = sum x[n, t*st + i - before, ...]
 * w[o,i,j,k,c]. Index 0, 1, 2 is time, height, width. Padding in time is always zeros; in space it
 * is `mode` (reflect: without repeating the edge, pad < size). For a convolution that is causal in
 * time, before = kernel size - 1 and after = 0. */
typedef struct ConvSpec {
  int stride[3];
  int before[3], after[3];
  PadMode mode;
} ConvSpec;

/* "Same" padding in space for an odd kernel size, causal padding in time, one stride for height and
 * width. */
ConvSpec conv_spec_same(int kernel_time, int kernel_space, int stride_space, PadMode mode);

/* x [N,T,H,W,I], weight [O,kT,kH,kW,I], bias [1,1,1,1,O] f32 or NO_VALUE. x and weight have the
 * same dtype, which is also the result's. */
Value graph_conv3d(Graph *graph, Value x, Value weight, Value bias, ConvSpec spec);

/* The transpose of graph_conv3d as a function of its x (Zeiler et al. 2010, "Deconvolutional
 * Networks"; PyTorch's conv_transpose3d): x [N,T,H,W,O], weight [O,kT,kH,kW,I], bias [1,1,1,1,I]
 * f32 or NO_VALUE give [N,T',H',W',I], with
 *   T' = (T - 1) * stride + kT - before - after + output_padding,
 * likewise H', W'. `output_padding`, less than the stride, selects one of the lengths for which the
 * forward convolution gives T. Padding is zeros. x and weight have the same dtype, which is also
 * the result's. */
Value graph_conv3d_transpose(Graph *graph, Value x, Value weight, Value bias, ConvSpec spec,
                             const int output_padding[3]);

/* --- Matrix product --------------------------------------------------------------------------- */
/* op(a) op(b) over the last two axes (W rows, C columns), where op(x) is x or its transpose, for
 * each position of N, T and H, which must have equal lengths: op(a) [N,T,H,P,K] and op(b)
 * [N,T,H,K,Q] give [N,T,H,P,Q]. a and b have the same dtype, f32 or bf16; sums and the result are
 * f32. Gradients are matrix products of the same kind: for bf16 operands, the gradient of the
 * result is rounded to bf16 first. */
Value graph_matmul(Graph *graph, Value a, Value b, bool transpose_a, bool transpose_b);

/* --- Norms ------------------------------------------------------------------------------------ */
typedef enum NormKind {
  NORM_RMS,      /* each pixel over its channels, mean not subtracted (Zhang, Sennrich 2019) */
  NORM_INSTANCE, /* each frame and channel over H, W (Ulyanov, Vedaldi, Lempitsky 2016) */
  NORM_GROUP,    /* each frame and group of channels over H, W (Wu, He 2018) */
} NormKind;

/* gain * (x - mean) / sqrt(var + eps) + bias, with the biased variance. gain and bias are
 * [1,1,1,1,C] f32, or both NO_VALUE. `groups` is used by NORM_GROUP alone and must divide C. */
Value graph_norm(Graph *graph, Value x, Value gain, Value bias, NormKind kind, int groups,
                 float epsilon);

/* --- Reshape, concat, slice, pad, resize, pool ------------------------------------------------ */
Value graph_reshape(Graph *graph, Value x, Shape shape); /* same element count; no copy */
enum { CONCAT_MAX_INPUTS = 8 };
Value graph_concat(Graph *graph, const Value *values, int count, int axis);
Value graph_slice(Graph *graph, Value x, Shape begin, Shape size);
/* Pads each axis by before/after; PAD_REFLECT in H and W only. */
Value graph_pad(Graph *graph, Value x, Shape before, Shape after, PadMode mode);
typedef enum ResizeMode { RESIZE_NEAREST, RESIZE_BILINEAR } ResizeMode;
/* Resizes H and W. Bilinear uses half-pixel centres (PyTorch's align_corners=False); nearest reads
 * pixel floor(i * in / out) (PyTorch's "nearest"). */
Value graph_resize(Graph *graph, Value x, int64_t height, int64_t width, ResizeMode mode);
/* Average pooling over H and W; padding is not counted (PyTorch's count_include_pad=False). */
Value graph_average_pool(Graph *graph, Value x, int size, int stride, int pad);
/* Max pooling over H and W with windows of size x size and a stride of `size`; rows and columns at
 * the end that do not fill a window are dropped. The gradient goes to the first of equal maxima in
 * row-major order, and a NaN is larger than any number (PyTorch's max_pool2d). */
Value graph_max_pool(Graph *graph, Value x, int size);

/* --- Motion ----------------------------------------------------------------------------------- */
/* Backward warping: y[n,t,h,w,:] is x[n,t,:,:,:] at column w + flow[...,0] and row h + flow[...,1],
 * interpolated bilinearly, positions clamped to the frame (PyTorch's grid_sample with
 * align_corners=True and padding_mode="border", in pixels). `flow` is f32 [N, T or 1, H, W, 2] in
 * pixels; with T = 1 all frames share it. y has the dtype of x. Has no derivative: differentiating
 * through it fails the graph, so detach x first. */
Value graph_warp(Graph *graph, Value x, Value flow);
/* y[n,t,h,w,:] = x[n,t,h-dy,w-dx,:], 0 where that is outside of the frame. `offsets` is f32
 * [N,1,1,1,2]: (dx, dy) of each sample in pixels, read when the program runs and rounded to the
 * nearest whole number, halves away from 0. The gradient of x is the translation by -dx, -dy;
 * that of offsets is 0. */
Value graph_translate(Graph *graph, Value x, Value offsets);

/* --- Updates of buffers; `target` is a view --------------------------------------------------- */
void graph_store(Graph *graph, Value value, Value target); /* target = value (target's dtype) */
void graph_accumulate(Graph *graph, Value value, Value target); /* target += value */
/* target = mean of target over all ranks. Starts as soon as the last preceding op that accesses the
 * target has run; the first following op that accesses the target waits for it. */
void graph_all_reduce(Graph *graph, Value target);

/* One Adam step over flat arrays of equal length, fused with clipping, EMA and the bf16 cast
 * (Kingma, Ba 2015, bias-corrected as in PyTorch's Adam; decoupled weight decay as in AdamW,
 * Loshchilov, Hutter 2019):
 *
 *   s = clip > 0 ? min(1, clip / (norm + 1e-6)) : 1          (PyTorch's clip_grad_norm_)
 *   g = s * gradient;  t = applied + 1
 *   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
 *   p = p - lr * decay * p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 *   ema = d ema + (1 - d) p;   compute = bf16(p)
 *
 * The step is skipped if `norm` is not finite or exceeds the largest allowed one: then nothing
 * changes but the counters. All operands are views, f32 but for compute and counters.
 */
typedef struct AdamViews {
  Value parameters, gradients, moment1, moment2;
  Value ema;     /* or NO_VALUE */
  Value compute; /* bf16 copy, or NO_VALUE */
  Value norm;    /* scalar: global norm of the gradients; any value, not only a view */
  /* 4 elements: learning rate, clip (0: off), EMA decay d, largest allowed norm (0: no limit). */
  Value controls;
  /* 3 elements, i64: updates applied, updates skipped, skipped in a row; written. */
  Value counters;
} AdamViews;

void graph_adam(Graph *graph, const AdamViews *views, float beta1, float beta2, float epsilon,
                float weight_decay);

/* --- Differentiation -------------------------------------------------------------------------- */
/* Appends ops that compute the gradient of the scalar f32 `loss` with respect to each of `wrt`
 * (views or other values) and writes them to `gradients`, each of the shape of its wrt: f32 for
 * views, else the value's dtype. The appended ops are ordinary ones and can be differentiated
 * again. Only paths from wrt to loss are walked, so other networks need no "detach". An entry that
 * the loss does not depend on is an error of the graph. */
void graph_gradients(Graph *graph, Value loss, const Value *wrt, int count, Value *gradients);
/* x itself, but differentiation treats it as a constant (PyTorch's detach). Costs no copy: like a
 * reshape, it is the same memory. A loss that depends on an entry only through it does not depend
 * on that entry. */
Value graph_detach(Graph *graph, Value x);

#endif
