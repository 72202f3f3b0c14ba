/* The static graph: ops and values in program order.
 *
 * Builders infer the output's shape and dtype and append an op. The first wrong call (shapes that
 * do not fit, a bad attribute) is remembered with the layer's name; builders given an invalid value
 * do nothing and return an invalid value, so code that builds a network reads as mathematics and
 * asks graph_status once at the end.
 *
 * Ops read and write buffers through views. Program order is what orders reads and writes of the
 * same buffer: a view read by an op appended behind an update sees the updated numbers.
 *
 * Dtypes: activations are f32 or bf16 (u8 only as input of graph_cast); reductions, norm
 * parameters, losses and all gradients of views are f32. A pointwise op with operands of several
 * dtypes gives bf16 if every operand of the full output shape is bf16, f32 otherwise; its
 * arithmetic is f32.
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
/* The first wrong call, if any: ERROR_USAGE with "generator.block3.conv1: conv3d: ...". */
Status graph_status(const Graph *graph, Error *error);
/* Fails the graph from outside (a network's own checks), named like the builders' errors. */
void graph_fail(Graph *graph, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Names of ops: the scopes joined by '.'. At most 255 bytes of a scope are kept. */
void graph_scope_push(Graph *graph, const char *format, ...) __attribute__((format(printf, 2, 3)));
void graph_scope_pop(Graph *graph);
/* The current scopes joined by '.'; valid until the next push or pop. */
const char *graph_scope(const Graph *graph);

Shape graph_shape(const Graph *graph, Value value); /* zeros for an invalid value */
DType graph_dtype(const Graph *graph, Value value);

/* --- Sources ---------------------------------------------------------------------------------- */
/* `shape` elements of `buffer` from element `offset` on. */
Value graph_view(Graph *graph, Buffer *buffer, int64_t offset, Shape shape);
Value graph_constant(Graph *graph, Shape shape, float value); /* f32 */

/* --- Pointwise, operands broadcast as in NumPy (axes of length 1) ----------------------------- */
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
Value graph_sqrt(Graph *graph, Value x); /* derivative taken as 0 where x is 0 */
Value graph_exp(Graph *graph, Value x);
Value graph_log(Graph *graph, Value x);
/* min(max(x, low), high); derivative 1 inside, 0 outside. */
Value graph_clamp(Graph *graph, Value x, float low, float high);
Value graph_broadcast(Graph *graph, Value x, Shape shape);

/* --- Reductions: f32; reduced axes become 1 --------------------------------------------------- */
/* `axes` is a mask: 1u << AXIS_C. The result is scale * sum. */
Value graph_reduce_sum(Graph *graph, Value x, unsigned axes, float scale);
Value graph_mean(Graph *graph, Value x); /* over everything, a scalar */
/* The sum of squares of each of a vector's ranges, a vector of `ranges`: range r is elements
 * borders[r] to borders[r + 1] - 1 of x, f32. `borders` ascend from 0 to x's length, and outlive
 * the graph and its programs. Has no derivative. */
Value graph_square_sums(Graph *graph, Value x, const int64_t *borders, int ranges);
enum { ALL_AXES = (1u << RANK) - 1 };

/* --- Convolution ------------------------------------------------------------------------------ */
typedef enum PadMode { PAD_ZERO, PAD_REFLECT, PAD_REPLICATE } PadMode;

/* Cross-correlation, as in every framework: y[n,t,h,w,o] = sum x[n, t*st + i - before, ...]
 * w[o,i,j,k,c]. Index 0, 1, 2 is time, height, width. Padding in time is always zeros; in space it
 * is `mode` (reflect: without the border itself, pad < size). Causal in time: before = taps - 1,
 * after = 0. */
typedef struct ConvSpec {
  int stride[3];
  int before[3], after[3];
  PadMode mode;
} ConvSpec;

/* "Same" padding for odd taps in space, causal in time, one stride in space. */
ConvSpec conv_spec_same(int taps_time, int taps_space, int stride_space, PadMode mode);

/* x [N,T,H,W,I], weight [O,kT,kH,kW,I], bias [1,1,1,1,O] f32 or NO_VALUE. x and weight have one
 * dtype, which is the result's. */
Value graph_conv3d(Graph *graph, Value x, Value weight, Value bias, ConvSpec spec);

/* The transpose of graph_conv3d as a function of its x (Zeiler et al. 2010, "Deconvolutional
 * Networks"; PyTorch's conv_transpose3d): x [N,T,H,W,O], weight [O,kT,kH,kW,I], bias [1,1,1,1,I]
 * f32 or NO_VALUE give [N,T',H',W',I], with
 *   T' = (T - 1) * stride + kT - before - after + output_padding,
 * likewise H', W'. `output_padding`, less than the stride, says which of the lengths that such a
 * convolution makes T of is meant. Padding is zeros. x and weight have one dtype, which is the
 * result's. */
Value graph_conv3d_transpose(Graph *graph, Value x, Value weight, Value bias, ConvSpec spec,
                             const int output_padding[3]);

/* --- Norms ------------------------------------------------------------------------------------ */
typedef enum NormKind {
  NORM_RMS,      /* each pixel over its channels, mean not subtracted (Zhang, Sennrich 2019) */
  NORM_INSTANCE, /* each frame and channel over H, W (Ulyanov, Vedaldi, Lempitsky 2016) */
  NORM_GROUP,    /* each frame and group of channels over H, W (Wu, He 2018) */
} NormKind;

/* gain * (x - mean) / sqrt(var + eps) + bias; variance is the biased one. gain and bias are
 * [1,1,1,1,C] f32, or both NO_VALUE. `groups` is for NORM_GROUP and must divide C. */
Value graph_norm(Graph *graph, Value x, Value gain, Value bias, NormKind kind, int groups,
                 float epsilon);

/* --- Moving data ------------------------------------------------------------------------------ */
Value graph_reshape(Graph *graph, Value x, Shape shape); /* same count; no copy */
enum { CONCAT_MAX_INPUTS = 8 };
Value graph_concat(Graph *graph, const Value *values, int count, int axis);
Value graph_slice(Graph *graph, Value x, Shape begin, Shape size);
/* Pads every axis by before/after; PAD_REFLECT and PAD_REPLICATE in H and W only. */
Value graph_pad(Graph *graph, Value x, Shape before, Shape after, PadMode mode);
typedef enum ResizeMode { RESIZE_NEAREST, RESIZE_BILINEAR } ResizeMode;
/* H and W only. Half-pixel centres (PyTorch's align_corners=False); nearest picks
 * floor(i * in / out), PyTorch's "nearest". */
Value graph_resize(Graph *graph, Value x, int64_t height, int64_t width, ResizeMode mode);
/* H and W only; the mean over the cells inside the picture (PyTorch's count_include_pad=False). */
Value graph_average_pool(Graph *graph, Value x, int size, int stride, int pad);
/* H and W only; the largest of each size x size cells, side by side: rows and columns at the end
 * that fill no window are left out. Of equal ones the first, row by row, gets the gradient, and a
 * NaN is larger than any number (PyTorch's max_pool2d). */
Value graph_max_pool(Graph *graph, Value x, int size);

/* --- Effects on buffers: `target` is a view --------------------------------------------------- */
void graph_store(Graph *graph, Value value, Value target); /* target = value (target's dtype) */
void graph_accumulate(Graph *graph, Value value, Value target); /* target += value */
void graph_fill(Graph *graph, Value target, float value);
/* target = mean over the ranks. Starts as soon as the last op before it that writes the target has
 * run, and is waited for by the first op behind it that touches the target. */
void graph_all_reduce(Graph *graph, Value target);

/* One Adam step over flat arrays of equal length, with clipping, EMA and the cast fused in
 * (Kingma, Ba 2015, bias-corrected as in PyTorch's Adam; decoupled weight decay as in AdamW,
 * Loshchilov, Hutter 2019):
 *
 *   s = clip > 0 ? min(1, clip / (norm + 1e-6)) : 1          (PyTorch's clip_grad_norm_)
 *   g = s * gradient;  t = applied + 1
 *   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
 *   p = p - rate * decay * p - rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 *   ema = d ema + (1 - d) p;   compute = bf16(p)
 *
 * When `norm` is not finite, or above the largest allowed, nothing changes but the counters. All
 * are views, f32 but for compute.
 */
typedef struct AdamViews {
  Value parameters, gradients, moment1, moment2;
  Value ema;     /* or NO_VALUE */
  Value compute; /* bf16 copy, or NO_VALUE */
  Value norm;    /* scalar: the gradients' global norm (any value, not only a view) */
  /* Of 4: rate, clip (0: off), EMA decay d, largest norm (0: any finite one). */
  Value controls;
  Value counters; /* of 3: updates applied, updates skipped, skipped in a row; written */
} AdamViews;

void graph_adam(Graph *graph, const AdamViews *views, float beta1, float beta2, float epsilon,
                float weight_decay);

/* --- Differentiation -------------------------------------------------------------------------- */
/* Appends ops that compute the gradient of the scalar `loss` with respect to each of `wrt` (views
 * or other values) and writes them to `gradients`, each of its wrt's shape: f32 for views, else the
 * value's dtype. Ops appended are ordinary ones and can be differentiated again. What is not on a
 * path from wrt to loss is not walked, so other networks need no "detach". An entry the loss does
 * not depend on fails the graph. */
void graph_gradients(Graph *graph, Value loss, const Value *wrt, int count, Value *gradients);

#endif
