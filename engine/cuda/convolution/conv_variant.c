#include "engine/cuda/convolution/conv_variant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Reading ops ------------------------------------------------------------------------------ */
static bool present(const Tensor *tensors, int count, int index) {
  return index < count && tensors[index].shape.dim[0] > 0;
}

/* Where padding behind can be what it is before without another output, say so: cuDNN has more
 * engines for it. */
static void make_symmetric(Convolution *c) {
  for (int i = 0; i < 3; i++) {
    const int64_t free = c->x.dim[AXIS_T + i] + 2 * c->before[i] - c->w.dim[AXIS_T + i];
    if (free >= 0 && free / c->stride[i] + 1 == c->y.dim[AXIS_T + i]) c->after[i] = c->before[i];
  }
}

Status convolution_of(ConvolutionPass pass, const Op *op, const Tensor *inputs,
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
  const DType wanted = pass == CONVOLUTION_BACKWARD_WEIGHTS ? DTYPE_F32 : c.operands;
  if (c.operands == DTYPE_U8 || second != c.operands || c.result != wanted)
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: x is %s, weights are %s, y is %s; allowed are f32 or bf16, all alike, and f32 "
         "gradients of weights",
         op->name, op_kind_name(op->kind), dtype_name(x->dtype), dtype_name(w->dtype),
         dtype_name(y->dtype));
  for (int i = 0; i < 3; i++) {
    c.stride[i] = op->attributes.conv.stride[i];
    c.before[i] = op->attributes.conv.before[i];
    c.after[i] = op->attributes.conv.after[i];
  }
  make_symmetric(&c);
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

void convolutions_by_flops(Convolution *convolutions, int count) {
  qsort(convolutions, (size_t)count, sizeof *convolutions, more_flops_first);
}

/* --- Forms ------------------------------------------------------------------------------------ */
int64_t convolution_channel_step(DType dtype) {
  return dtype == DTYPE_BF16 ? 8 : 4;
}

static bool leaves_time_alone(const Convolution *c) {
  return c->w.dim[AXIS_T] == 1 && c->stride[0] == 1 && c->before[0] == 0 && c->after[0] == 0;
}

static bool padding_differs(const Convolution *c) {
  return c->before[0] != c->after[0] || c->before[1] != c->after[1] || c->before[2] != c->after[2];
}

static bool channels_fit(const Convolution *c) {
  const int64_t step = convolution_channel_step(c->operands);
  return c->w.dim[AXIS_C] % step == 0 && c->w.dim[0] % step == 0;
}

/* The forms that differ in what stands behind the convolution alone. */
static int add_endings(const Convolution *c, ConvolutionForm form, ConvolutionForm *forms,
                       int count) {
  if (c->pass == CONVOLUTION_FORWARD && (c->bias || c->activation != ACTIVATION_NONE)) {
    form.fused = true;
    if (form.taps != TAPS_IN_Y) forms[count++] = form;
    form.fused = false;
    forms[count++] = form;
  } else if (c->pass == CONVOLUTION_BACKWARD_WEIGHTS && c->operands != c->result) {
    /* Engines that write f32 are few, and on an H100 take up to 20 times as long for large
     * pictures: who does not measure does not want them. */
    static const GradientForm gradients[] = {GRADIENT_NARROW, GRADIENT_DIRECT, GRADIENT_IDENTITY};
    for (int i = 0; i < 3; i++) {
      /* With channels that 16 bytes do not divide cuDNN 9.19 has engines for the fused graph that
       * compute wrong numbers or read misaligned addresses, which ends the process's device. */
      if (gradients[i] == GRADIENT_IDENTITY && !form.aligned && !channels_fit(c)) continue;
      form.gradient = gradients[i];
      forms[count++] = form;
    }
  } else {
    forms[count++] = form;
  }
  return count;
}

/* Tensor cores work on 8 channels at least, and on 16 to 64 well. cuDNN 9.19's fastest engines for
 * Hopper (62, 67) take 32 taps at most. */
enum { FEW_CHANNELS = 8, MOST_SPREAD = 128, MANY_CHANNELS = 16, MOST_TAPS = 32 };

/* Fewer taps for those engines: what is left over are images. */
static const ConvolutionForm many_taps_form = {
    .frames = true, .aligned = true, .taps = TAPS_IN_X, .taps_of_time = true};

static bool has_many_taps(const Convolution *c) {
  const int64_t taps = c->w.dim[AXIS_T] * c->w.dim[AXIS_H] * c->w.dim[AXIS_W];
  return !leaves_time_alone(c) && taps > MOST_TAPS && c->w.dim[AXIS_C] >= MANY_CHANNELS;
}

/* The forms with taps as channels that are wanted first: of a convolution of few channels all taps
 * that are not along height, of one with many taps those along time. */
static int add_taps(const Convolution *c, ConvolutionForm *forms, int count) {
  const bool time = !leaves_time_alone(c), width = c->w.dim[AXIS_W] > 1;
  const int64_t across = (time ? c->w.dim[AXIS_T] : 1) * c->w.dim[AXIS_W];
  const int64_t in = c->w.dim[AXIS_C], out = c->w.dim[0];
  ConvolutionForm form = {
      .frames = true, .aligned = true, .taps_of_time = time, .taps_of_width = width};
  if (!time && !width) return count;
  if (in <= FEW_CHANNELS && across * in <= MOST_SPREAD) {
    form.taps = TAPS_IN_X;
    count = add_endings(c, form, forms, count);
  }
  if (out <= FEW_CHANNELS && across * out <= MOST_SPREAD && c->stride[2] == 1 &&
      c->stride[0] == 1) {
    form.taps = TAPS_IN_Y;
    count = add_endings(c, form, forms, count);
  }
  if (c->pass == CONVOLUTION_FORWARD && has_many_taps(c))
    count = add_endings(c, many_taps_form, forms, count);
  return count;
}

int convolution_forms(const Convolution *c, ConvolutionForm forms[CONVOLUTION_MAX_FORMS]) {
  const bool frames = leaves_time_alone(c), differs = padding_differs(c), fit = channels_fit(c);
  int count = add_taps(c, forms, 0), tier = 0;
  for (int padded = 0; padded <= (differs ? 1 : 0); padded++) {
    for (int volume = frames ? 0 : 1; volume <= 1; volume++, tier++) {
      for (int aligned = 0; aligned <= (fit ? 0 : 1); aligned++) {
        const ConvolutionForm form = {
            .frames = !volume, .aligned = aligned, .padded = padded, .tier = tier};
        count = add_endings(c, form, forms, count);
      }
      /* Measured, not trusted: it reads x as many times over as there are taps along time. */
      if (tier == 0 && c->pass == CONVOLUTION_BACKWARD_WEIGHTS && has_many_taps(c))
        count = add_endings(c, many_taps_form, forms, count);
    }
  }
  return count;
}

const char *convolution_form_name(const ConvolutionForm *form, char name[64]) {
  static const char *const gradients[] = {"", "+identity", "+narrow"};
  static const char *const taps[] = {"", "+x_taps_", "+y_taps_"};
  snprintf(name, 64, "%s%s%s%s%s%s%s%s", form->frames ? "frames" : "volume",
           form->padded ? "+padded" : "", form->aligned ? "+aligned" : "", taps[form->taps],
           form->taps && form->taps_of_time ? "t" : "",
           form->taps && form->taps_of_width ? "w" : "", form->fused ? "+fused" : "",
           gradients[form->gradient]);
  return name;
}

static int64_t round_up(int64_t count, int64_t step) {
  return (count + step - 1) / step * step;
}

/* Moves the taps along one axis into channels; returns how many there were. */
static int64_t take_taps(Convolution *c, TapsForm taps, int axis) {
  const int64_t count = c->w.dim[AXIS_T + axis];
  c->w.dim[AXIS_T + axis] = 1;
  if (taps == TAPS_IN_X)
    c->x.dim[AXIS_T + axis] = c->y.dim[AXIS_T + axis];
  else
    c->y.dim[AXIS_T + axis] = c->x.dim[AXIS_T + axis];
  c->stride[axis] = 1;
  c->before[axis] = c->after[axis] = 0;
  return count;
}

static void take_all_taps(Convolution *c, const ConvolutionForm *form) {
  enum { TIME, HEIGHT, WIDTH };
  int64_t count = 1;
  if (form->taps_of_time) count *= take_taps(c, form->taps, TIME);
  if (form->taps_of_width) count *= take_taps(c, form->taps, WIDTH);
  if (form->taps == TAPS_IN_X)
    c->x.dim[AXIS_C] = c->w.dim[AXIS_C] *= count;
  else
    c->y.dim[AXIS_C] = c->w.dim[0] *= count;
}

Convolution convolution_inner(const Convolution *convolution, const ConvolutionForm *form) {
  Convolution c = *convolution;
  if (form->taps != TAPS_KEPT) take_all_taps(&c, form);
  if (form->padded) {
    for (int i = 0; i < 3; i++) {
      if (c.before[i] == c.after[i]) continue;
      c.x.dim[AXIS_T + i] += c.before[i] + c.after[i];
      c.before[i] = c.after[i] = 0;
    }
  }
  if (form->aligned) {
    const int64_t step = convolution_channel_step(c.operands);
    c.x.dim[AXIS_C] = c.w.dim[AXIS_C] = round_up(c.w.dim[AXIS_C], step);
    c.y.dim[AXIS_C] = c.w.dim[0] = round_up(c.w.dim[0], step);
  }
  if (!form->fused) {
    c.bias = false;
    c.activation = ACTIVATION_NONE;
    c.slope = 0;
  }
  if (form->gradient == GRADIENT_NARROW) c.result = c.operands;
  return c;
}
