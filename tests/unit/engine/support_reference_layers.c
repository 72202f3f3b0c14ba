/* The reference's convolutions and norms. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support_reference.h"

/* --- Convolution ------------------------------------------------------------------------------ */

/* The three kinds are one sum over products dy * w * x, seen from its three sides. */
typedef struct Form {
  const ConvAttributes *conv;
  Shape x, w, y;
} Form;

/* The element of x for one element of y and one of w; -1 if it is padding. */
static int64_t form_x(const Form *form, const int64_t y[RANK], const int64_t w[RANK]) {
  int64_t p[RANK] = {y[AXIS_N], 0, 0, 0, w[AXIS_C]};
  for (int i = 0; i < 3; i++) {
    p[1 + i] = y[1 + i] * form->conv->stride[i] + w[1 + i] - form->conv->before[i];
    if (p[1 + i] < 0 || p[1 + i] >= form->x.dim[1 + i]) return -1;
  }
  return reference_at(form->x, p);
}

static void zero(const Array *array) {
  memset(array->data, 0, (size_t)shape_count(array->shape) * sizeof *array->data);
}

/* Adds the products of the two inputs to the third tensor, `target`. */
static void accumulate_form(const Form *form, const double *x, const double *w, const double *y,
                            double *target, OpKind kind) {
  int64_t p[RANK] = {0};
  do {
    const int64_t at_y = reference_at(form->y, p);
    const Shape taps =
        shape_make(1, form->w.dim[1], form->w.dim[2], form->w.dim[3], form->w.dim[4]);
    int64_t q[RANK] = {0};
    do {
      const int64_t r[RANK] = {p[AXIS_C], q[1], q[2], q[3], q[4]};
      const int64_t at_x = form_x(form, p, r), at_w = reference_at(form->w, r);
      if (at_x < 0) continue;
      if (kind == OP_CONV3D) target[at_y] += x[at_x] * w[at_w];
      if (kind == OP_CONV3D_BACKWARD_DATA) target[at_x] += y[at_y] * w[at_w];
      if (kind == OP_CONV3D_BACKWARD_WEIGHTS) target[at_w] += y[at_y] * x[at_x];
    } while (reference_next(taps, q));
  } while (reference_next(form->y, p));
}

static void forward(const Op *op, const Array *inputs, const Array *outputs) {
  const ConvAttributes *conv = &op->attributes.conv;
  const Form form = {conv, inputs[0].shape, inputs[1].shape, outputs[0].shape};
  const int64_t count = shape_count(form.y), channels = form.y.dim[AXIS_C];
  const bool has_bias = op->input_count > 2 && inputs[2].data;
  double *y = outputs[0].data;
  for (int64_t i = 0; i < count; i++) y[i] = has_bias ? inputs[2].data[i % channels] : 0;
  accumulate_form(&form, inputs[0].data, inputs[1].data, NULL, y, op->kind);
  for (int64_t i = 0; i < count; i++) {
    y[i] = reference_activation(conv->activation, conv->slope, y[i]);
  }
}

void reference_convolution(const Op *op, const Array *inputs, const Array *outputs) {
  const ConvAttributes *conv = &op->attributes.conv;
  if (op->kind == OP_CONV3D) {
    forward(op, inputs, outputs);
    return;
  }
  zero(&outputs[0]);
  if (op->kind == OP_CONV3D_BACKWARD_DATA) {
    const Form form = {conv, outputs[0].shape, inputs[1].shape, inputs[0].shape};
    accumulate_form(&form, NULL, inputs[1].data, inputs[0].data, outputs[0].data, op->kind);
    return;
  }
  const Form form = {conv, inputs[0].shape, outputs[0].shape, inputs[1].shape};
  accumulate_form(&form, inputs[0].data, NULL, inputs[1].data, outputs[0].data, op->kind);
  if (op->output_count < 2 || !outputs[1].data) return;
  zero(&outputs[1]);
  for (int64_t i = 0; i < shape_count(form.y); i++) {
    outputs[1].data[i % form.y.dim[AXIS_C]] += inputs[1].data[i];
  }
}

/* --- Norms ------------------------------------------------------------------------------------ */

/* The index of the set of elements, with a common mean and variance, of a position. */
static int64_t set_of(const NormAttributes *norm, Shape x, const int64_t p[RANK]) {
  const int64_t frame = p[AXIS_N] * x.dim[AXIS_T] + p[AXIS_T];
  const int64_t channels = x.dim[AXIS_C];
  if (norm->kind == NORM_RMS)
    return (frame * x.dim[AXIS_H] + p[AXIS_H]) * x.dim[AXIS_W] + p[AXIS_W];
  if (norm->kind == NORM_INSTANCE) return frame * channels + p[AXIS_C];
  return frame * norm->groups + p[AXIS_C] / (channels / norm->groups);
}

/* Statistics of each set; there are at most as many sets as elements. */
typedef struct Sets {
  const NormAttributes *norm;
  Shape shape;
  double *count, *mean, *inverse;
} Sets;

static double *doubles(int64_t count) {
  return mem_new((size_t)count, sizeof(double));
}

/* Adds value(element) of each element to the sum of its set. */
static void add_to_sets(const Sets *sets, const double *values, double *sums) {
  int64_t p[RANK] = {0}, i = 0;
  do {
    sums[set_of(sets->norm, sets->shape, p)] += values ? values[i] : 1;
    i++;
  } while (reference_next(sets->shape, p));
}

static Sets sets_new(const NormAttributes *norm, const Array *x) {
  const int64_t count = shape_count(x->shape);
  Sets sets = {norm, x->shape, doubles(count), doubles(count), doubles(count)};
  double *squares = doubles(count);
  int64_t p[RANK] = {0}, i = 0;
  add_to_sets(&sets, NULL, sets.count);
  if (norm->kind != NORM_RMS) add_to_sets(&sets, x->data, sets.mean);
  for (int64_t s = 0; s < count; s++) sets.mean[s] /= fmax(sets.count[s], 1);
  do {
    const double centred = x->data[i] - sets.mean[set_of(norm, x->shape, p)];
    squares[i++] = centred * centred;
  } while (reference_next(x->shape, p));
  add_to_sets(&sets, squares, sets.inverse);
  for (int64_t s = 0; s < count; s++) {
    sets.inverse[s] = 1 / sqrt(sets.inverse[s] / fmax(sets.count[s], 1) + (double)norm->epsilon);
  }
  free(squares);
  return sets;
}

static void sets_free(Sets *sets) {
  free(sets->count);
  free(sets->mean);
  free(sets->inverse);
}

static double *normalized(const Sets *sets, const Array *x) {
  double *result = doubles(shape_count(x->shape));
  int64_t p[RANK] = {0}, i = 0;
  do {
    const int64_t s = set_of(sets->norm, x->shape, p);
    result[i] = (x->data[i] - sets->mean[s]) * sets->inverse[s];
    i++;
  } while (reference_next(x->shape, p));
  return result;
}

static void norm_forward(const Op *op, const Array *inputs, const Array *outputs) {
  const NormAttributes *norm = &op->attributes.norm;
  const Array *x = &inputs[0];
  const bool affine = op->input_count > 1 && inputs[1].data;
  const bool residual = op->input_count > 3 && inputs[3].data;
  Sets sets = sets_new(norm, x);
  double *xhat = normalized(&sets, x);
  int64_t p[RANK] = {0};
  do {
    int64_t from[RANK], other[RANK];
    reference_behind_padding(&norm->pad, x->shape, p, from);
    const int64_t i = reference_at(x->shape, from), c = from[AXIS_C];
    const double y = affine ? inputs[1].data[c] * xhat[i] + inputs[2].data[c] : xhat[i];
    for (int axis = 0; axis < RANK; axis++)
      other[axis] = from[axis] + norm->residual_pad.before.dim[axis];
    outputs[0].data[reference_at(outputs[0].shape, p)] =
        reference_activation(norm->activation, norm->slope, y) +
        (residual ? inputs[3].data[reference_at(inputs[3].shape, other)] : 0);
  } while (reference_next(outputs[0].shape, p));
  free(xhat);
  sets_free(&sets);
}

/* dx = r * (h - mean(h) - xhat * mean(h * xhat)), for RMS without mean(h); h = dy * gain. */
static void norm_dx(const Sets *sets, const double *h, const double *xhat, double *dx) {
  const int64_t count = shape_count(sets->shape);
  double *mean_h = doubles(count), *mean_hx = doubles(count), *hx = doubles(count);
  int64_t p[RANK] = {0}, i = 0;
  for (int64_t k = 0; k < count; k++) hx[k] = h[k] * xhat[k];
  if (sets->norm->kind != NORM_RMS) add_to_sets(sets, h, mean_h);
  add_to_sets(sets, hx, mean_hx);
  do {
    const int64_t s = set_of(sets->norm, sets->shape, p);
    dx[i] = sets->inverse[s] *
            (h[i] - mean_h[s] / sets->count[s] - xhat[i] * mean_hx[s] / sets->count[s]);
    i++;
  } while (reference_next(sets->shape, p));
  free(mean_h);
  free(mean_hx);
  free(hx);
}

/* The gradient with respect to each element of x, from all of its copies in the padded tensor. */
static double *unpadded(const NormAttributes *norm, const Array *dy, Shape shape) {
  double *sums = doubles(shape_count(shape));
  int64_t p[RANK] = {0}, from[RANK];
  do {
    reference_behind_padding(&norm->pad, shape, p, from);
    sums[reference_at(shape, from)] += dy->data[reference_at(dy->shape, p)];
  } while (reference_next(dy->shape, p));
  return sums;
}

static void norm_backward(const Op *op, const Array *inputs, const Array *outputs) {
  const NormAttributes *norm = &op->attributes.norm;
  const Array *x = &inputs[1];
  const bool affine = op->input_count > 2 && inputs[2].data;
  const bool want_affine = affine && op->output_count > 1 && outputs[1].data;
  const int64_t channels = x->shape.dim[AXIS_C], count = shape_count(x->shape);
  Sets sets = sets_new(norm, x);
  double *xhat = normalized(&sets, x), *h = doubles(count);
  double *dy = unpadded(norm, &inputs[0], x->shape);
  if (want_affine) {
    zero(&outputs[1]);
    zero(&outputs[2]);
  }
  for (int64_t i = 0; i < count; i++) {
    const int64_t c = i % channels;
    const double before = affine ? inputs[2].data[c] * xhat[i] + inputs[3].data[c] : xhat[i];
    const bool scaled = norm->activation == ACTIVATION_LEAKY_RELU && !(before > 0);
    const double d = scaled ? (double)norm->slope * dy[i] : dy[i];
    if (want_affine) {
      outputs[1].data[c] += d * xhat[i];
      outputs[2].data[c] += d;
    }
    h[i] = affine ? inputs[2].data[c] * d : d;
  }
  norm_dx(&sets, h, xhat, outputs[0].data);
  free(xhat);
  free(dy);
  free(h);
  sets_free(&sets);
}

void reference_norm(const Op *op, const Array *inputs, const Array *outputs) {
  if (op->kind == OP_NORM) {
    norm_forward(op, inputs, outputs);
  } else {
    norm_backward(op, inputs, outputs);
  }
}
