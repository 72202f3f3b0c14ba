/* The reference's matrix products, warps and translations. */
#include <math.h>
#include <string.h>

#include "support_reference.h"

/* --- Matrix products -------------------------------------------------------------------------- */

/* The element of row `i` and column `j` of op(x), in the matrix that `p` is in. */
static double matrix_element(const Array *x, bool transposed, const int64_t p[RANK], int64_t i,
                             int64_t j) {
  const int64_t at[RANK] = {p[0], p[1], p[2], transposed ? j : i, transposed ? i : j};
  return x->data[reference_at(x->shape, at)];
}

void reference_matmul(const Op *op, const Array *inputs, const Array *outputs) {
  const bool ta = op->attributes.matmul.transpose_a, tb = op->attributes.matmul.transpose_b;
  const int64_t terms = inputs[0].shape.dim[ta ? AXIS_W : AXIS_C];
  int64_t p[RANK] = {0};
  do {
    double sum = 0;
    for (int64_t k = 0; k < terms; k++)
      sum += matrix_element(&inputs[0], ta, p, p[AXIS_W], k) *
             matrix_element(&inputs[1], tb, p, k, p[AXIS_C]);
    outputs[0].data[reference_at(outputs[0].shape, p)] = sum;
  } while (reference_next(outputs[0].shape, p));
}

/* --- Motion ----------------------------------------------------------------------------------- */

/* NaN reads pixel 0. */
static double clamped(double position, int64_t count) {
  return fmin(fmax(position, 0), (double)(count - 1));
}

static double interpolated(const Array *x, const int64_t p[RANK], double h, double w) {
  const double top = floor(h), left = floor(w);
  double sum = 0;
  for (int corner = 0; corner < 4; corner++) {
    const double part_h = corner & 1 ? h - top : 1 - (h - top);
    const double part_w = corner & 2 ? w - left : 1 - (w - left);
    const int64_t at[RANK] = {p[0], p[1], (int64_t)top + (corner & 1),
                              (int64_t)left + (corner >> 1), p[4]};
    if (part_h * part_w > 0) sum += part_h * part_w * x->data[reference_at(x->shape, at)];
  }
  return sum;
}

static double warped(const Array *inputs, const int64_t p[RANK]) {
  const Shape shape = inputs[0].shape;
  int64_t at[RANK];
  memcpy(at, p, sizeof at);
  at[AXIS_C] = 0;
  const double dx = inputs[1].data[reference_at(inputs[1].shape, at)];
  at[AXIS_C] = 1;
  const double dy = inputs[1].data[reference_at(inputs[1].shape, at)];
  return interpolated(&inputs[0], p, clamped((double)p[AXIS_H] + dy, shape.dim[AXIS_H]),
                      clamped((double)p[AXIS_W] + dx, shape.dim[AXIS_W]));
}

static double translated(const Op *op, const Array *inputs, const int64_t p[RANK]) {
  const Shape shape = inputs[0].shape;
  const double sign = op->attributes.translate.negated ? -1 : 1;
  const double *offset = inputs[1].data + 2 * p[AXIS_N];
  const double h = (double)p[AXIS_H] - sign * round(offset[1]);
  const double w = (double)p[AXIS_W] - sign * round(offset[0]);
  if (!(h >= 0 && h < (double)shape.dim[AXIS_H] && w >= 0 && w < (double)shape.dim[AXIS_W]))
    return 0;
  const int64_t at[RANK] = {p[0], p[1], (int64_t)h, (int64_t)w, p[4]};
  return inputs[0].data[reference_at(shape, at)];
}

void reference_motion(const Op *op, const Array *inputs, const Array *outputs) {
  int64_t p[RANK] = {0};
  do {
    outputs[0].data[reference_at(outputs[0].shape, p)] =
        op->kind == OP_WARP ? warped(inputs, p) : translated(op, inputs, p);
  } while (reference_next(outputs[0].shape, p));
}
