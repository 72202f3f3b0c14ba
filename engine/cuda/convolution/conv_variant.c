#include "engine/cuda/convolution/conv_variant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Convolutions ----------------------------------------------------------------------------- */
static bool present(const Tensor *tensors, int count, int index) {
  return index < count && tensors[index].shape.dim[0] > 0;
}

/* Makes the padding symmetric where that does not change the output: cuDNN has more engines for it.
 */
static void make_padding_symmetric(Convolution *c) {
  for (int i = 0; i < 3; i++) {
    const int64_t free = c->x.dim[AXIS_T + i] + 2 * c->before[i] - c->w.dim[AXIS_T + i];
    if (free >= 0 && free / c->stride[i] + 1 == c->y.dim[AXIS_T + i]) c->after[i] = c->before[i];
  }
}

Status convolution_from_op(ConvolutionPass pass, const Op *op, const Tensor *inputs,
                           const Tensor *outputs, Convolution *out, Error *error) {
  Status status = OK;
  const Tensor *x, *w, *y;
  Convolution c = {.pass = pass};
  if (pass == CONVOLUTION_FORWARD) {
    x = &inputs[0], w = &inputs[1], y = &outputs[0];
    c.bias = present(inputs, op->input_count, 2);
    c.activation = op->attributes.conv.activation;
    if (c.activation == ACTIVATION_LEAKY_RELU) c.slope = op->attributes.conv.slope;
  } else if (pass == CONVOLUTION_BACKWARD_DATA) {
    y = &inputs[0], w = &inputs[1], x = &outputs[0];
  } else {
    x = &inputs[0], y = &inputs[1], w = &outputs[0];
    c.bias = present(outputs, op->output_count, 1);
  }
  c.x = x->shape, c.w = w->shape, c.y = y->shape;
  c.operands = pass == CONVOLUTION_BACKWARD_DATA ? y->dtype : x->dtype;
  c.result = outputs[0].dtype;
  const DType second = pass == CONVOLUTION_BACKWARD_WEIGHTS ? y->dtype : w->dtype;
  const DType expected = pass == CONVOLUTION_BACKWARD_WEIGHTS ? DTYPE_F32 : c.operands;
  if (c.operands == DTYPE_U8 || second != c.operands || c.result != expected)
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: x is %s, weights are %s, y is %s; expected all f32 or all bf16, and f32 for the "
         "gradient of the weights",
         op->name, op_kind_name(op->kind), dtype_name(x->dtype), dtype_name(w->dtype),
         dtype_name(y->dtype));
  for (int i = 0; i < 3; i++) {
    c.stride[i] = op->attributes.conv.stride[i];
    c.before[i] = op->attributes.conv.before[i];
    c.after[i] = op->attributes.conv.after[i];
  }
  make_padding_symmetric(&c);
  *out = c;
done:
  return status;
}

void convolution_text(const Convolution *c, Text *out) {
  static const char *const passes[] = {"forward", "backward_data", "backward_weights"};
  char x[SHAPE_TEXT_SIZE], w[SHAPE_TEXT_SIZE], y[SHAPE_TEXT_SIZE];
  text_append(out, "%s x %s w %s y %s stride %d,%d,%d before %d,%d,%d after %d,%d,%d %s -> %s",
              passes[c->pass], shape_text(c->x, x), shape_text(c->w, w), shape_text(c->y, y),
              c->stride[0], c->stride[1], c->stride[2], c->before[0], c->before[1], c->before[2],
              c->after[0], c->after[1], c->after[2], dtype_name(c->operands),
              dtype_name(c->result));
  if (c->bias) text_append(out, " bias");
  if (c->activation == ACTIVATION_LEAKY_RELU)
    text_append(out, " leaky_relu %.9g", (double)c->slope);
  if (c->activation == ACTIVATION_TANH) text_append(out, " tanh");
}

double convolution_flops(const Convolution *c) {
  const double taps = (double)(c->w.dim[AXIS_T] * c->w.dim[AXIS_H] * c->w.dim[AXIS_W]);
  return 2 * (double)shape_count(c->y) * taps * (double)c->w.dim[AXIS_C];
}

static int more_flops_first(const void *a, const void *b) {
  const double x = convolution_flops(a), y = convolution_flops(b);
  return (x < y) - (x > y);
}

void convolutions_sort_by_flops(Convolution *convolutions, int count) {
  qsort(convolutions, (size_t)count, sizeof *convolutions, more_flops_first);
}

/* --- Variants --------------------------------------------------------------------------------- */
/* Channels in one 16-byte load. */
static int64_t channel_alignment(DType dtype) {
  return dtype == DTYPE_BF16 ? 8 : 4;
}

static bool is_per_frame(const Convolution *c) {
  return c->w.dim[AXIS_T] == 1 && c->stride[0] == 1 && c->before[0] == 0 && c->after[0] == 0;
}

static bool has_unequal_padding(const Convolution *c) {
  return c->before[0] != c->after[0] || c->before[1] != c->after[1] || c->before[2] != c->after[2];
}

static bool channels_are_aligned(const Convolution *c) {
  const int64_t step = channel_alignment(c->operands);
  return c->w.dim[AXIS_C] % step == 0 && c->w.dim[0] % step == 0;
}

/* Adds one variant for each way to compute the epilogue: bias and activation, or the conversion of
 * the gradient of the weights. */
static int add_epilogues(const Convolution *c, ConvVariant variant, ConvVariant *variants,
                         int count) {
  if (c->pass == CONVOLUTION_FORWARD && (c->bias || c->activation != ACTIVATION_NONE)) {
    variant.fused = true;
    if (variant.im2col != IM2COL_Y) variants[count++] = variant;
    variant.fused = false;
    variants[count++] = variant;
  } else if (c->pass == CONVOLUTION_BACKWARD_WEIGHTS && c->operands != c->result) {
    /* Few engines write f32, and for large images they take up to 20 times as long on an H100, so
     * they come last where nothing is measured. */
    static const WgradOutput outputs[] = {WGRAD_BF16, WGRAD_DIRECT, WGRAD_IDENTITY};
    for (int i = 0; i < 3; i++) {
      /* For channels that are not a multiple of 16 bytes cuDNN 9.19 has engines for the fused graph
       * that return wrong results or read misaligned addresses, a sticky error of the context. */
      if (outputs[i] == WGRAD_IDENTITY && !variant.aligned && !channels_are_aligned(c)) continue;
      variant.wgrad = outputs[i];
      variants[count++] = variant;
    }
  } else {
    variants[count++] = variant;
  }
  return count;
}

/* Tensor cores work on at least 8 channels and are efficient with 16 to 64. cuDNN 9.19's fastest
 * engines for Hopper (62, 67) support at most 32 taps. */
enum { FEW_CHANNELS = 8, MAX_IM2COL_CHANNELS = 128, MANY_CHANNELS = 16, MAX_TAPS = 32 };

/* Taps along time become channels, so that few enough taps are left for those engines. */
static const ConvVariant many_taps_variant = {
    .frames = true, .aligned = true, .im2col = IM2COL_X, .im2col_time = true};

static bool has_many_taps(const Convolution *c) {
  const int64_t taps = c->w.dim[AXIS_T] * c->w.dim[AXIS_H] * c->w.dim[AXIS_W];
  return !is_per_frame(c) && taps > MAX_TAPS && c->w.dim[AXIS_C] >= MANY_CHANNELS;
}

/* Adds the im2col variants that are preferred to the plain one: with few channels, taps along time
 * and width become channels; with many taps, those along time. */
static int add_im2col(const Convolution *c, ConvVariant *variants, int count) {
  const bool time = !is_per_frame(c), width = c->w.dim[AXIS_W] > 1;
  const int64_t taps = (time ? c->w.dim[AXIS_T] : 1) * c->w.dim[AXIS_W];
  const int64_t in = c->w.dim[AXIS_C], out = c->w.dim[0];
  ConvVariant variant = {
      .frames = true, .aligned = true, .im2col_time = time, .im2col_width = width};
  if (!time && !width) return count;
  if (in <= FEW_CHANNELS && taps * in <= MAX_IM2COL_CHANNELS) {
    variant.im2col = IM2COL_X;
    count = add_epilogues(c, variant, variants, count);
  }
  if (out <= FEW_CHANNELS && taps * out <= MAX_IM2COL_CHANNELS && c->stride[2] == 1 &&
      c->stride[0] == 1) {
    variant.im2col = IM2COL_Y;
    count = add_epilogues(c, variant, variants, count);
  }
  if (c->pass == CONVOLUTION_FORWARD && has_many_taps(c))
    count = add_epilogues(c, many_taps_variant, variants, count);
  return count;
}

int conv_variants(const Convolution *c, ConvVariant variants[CONV_MAX_VARIANTS]) {
  const bool frames = is_per_frame(c), unequal = has_unequal_padding(c),
             fit = channels_are_aligned(c);
  int count = add_im2col(c, variants, 0), tier = 0;
  for (int padded = 0; padded <= (unequal ? 1 : 0); padded++) {
    for (int volume = frames ? 0 : 1; volume <= 1; volume++, tier++) {
      for (int aligned = 0; aligned <= (fit ? 0 : 1); aligned++) {
        const ConvVariant variant = {
            .frames = !volume, .aligned = aligned, .padded = padded, .tier = tier};
        count = add_epilogues(c, variant, variants, count);
      }
      /* Behind the plain ones, so only measurement selects it: it reads x once for each tap in
       * time. */
      if (tier == 0 && c->pass == CONVOLUTION_BACKWARD_WEIGHTS && has_many_taps(c))
        count = add_epilogues(c, many_taps_variant, variants, count);
    }
  }
  return count;
}

const char *conv_variant_name(const ConvVariant *variant, char name[64]) {
  static const char *const wgrads[] = {"", "+identity", "+bf16_wgrad"};
  static const char *const im2cols[] = {"", "+x_im2col_", "+y_im2col_"};
  snprintf(name, 64, "%s%s%s%s%s%s%s%s", variant->frames ? "frames" : "volume",
           variant->padded ? "+padded" : "", variant->aligned ? "+aligned" : "",
           im2cols[variant->im2col], variant->im2col && variant->im2col_time ? "t" : "",
           variant->im2col && variant->im2col_width ? "w" : "", variant->fused ? "+fused" : "",
           wgrads[variant->wgrad]);
  return name;
}

static int64_t round_up(int64_t count, int64_t step) {
  return (count + step - 1) / step * step;
}

/* Unfolds the taps along one axis, which then has one tap; returns how many there were. */
static int64_t unfold_axis(Convolution *c, Im2colTensor im2col, int axis) {
  const int64_t count = c->w.dim[AXIS_T + axis];
  c->w.dim[AXIS_T + axis] = 1;
  if (im2col == IM2COL_X)
    c->x.dim[AXIS_T + axis] = c->y.dim[AXIS_T + axis];
  else
    c->y.dim[AXIS_T + axis] = c->x.dim[AXIS_T + axis];
  c->stride[axis] = 1;
  c->before[axis] = c->after[axis] = 0;
  return count;
}

static void unfold(Convolution *c, const ConvVariant *variant) {
  enum { TIME, HEIGHT, WIDTH };
  int64_t count = 1;
  if (variant->im2col_time) count *= unfold_axis(c, variant->im2col, TIME);
  if (variant->im2col_width) count *= unfold_axis(c, variant->im2col, WIDTH);
  if (variant->im2col == IM2COL_X)
    c->x.dim[AXIS_C] = c->w.dim[AXIS_C] *= count;
  else
    c->y.dim[AXIS_C] = c->w.dim[0] *= count;
}

Convolution conv_variant_apply(const Convolution *convolution, const ConvVariant *variant) {
  Convolution c = *convolution;
  if (variant->im2col != IM2COL_NONE) unfold(&c, variant);
  if (variant->padded) {
    for (int i = 0; i < 3; i++) {
      if (c.before[i] == c.after[i]) continue;
      c.x.dim[AXIS_T + i] += c.before[i] + c.after[i];
      c.before[i] = c.after[i] = 0;
    }
  }
  if (variant->aligned) {
    const int64_t step = channel_alignment(c.operands);
    c.x.dim[AXIS_C] = c.w.dim[AXIS_C] = round_up(c.w.dim[AXIS_C], step);
    c.y.dim[AXIS_C] = c.w.dim[0] = round_up(c.w.dim[0], step);
  }
  if (!variant->fused) {
    c.bias = false;
    c.activation = ACTIVATION_NONE;
    c.slope = 0;
  }
  if (variant->wgrad == WGRAD_BF16) c.result = c.operands;
  return c;
}
