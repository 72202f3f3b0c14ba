#include "support_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"

bool reference_next(Shape shape, int64_t p[RANK]) {
  for (int axis = RANK - 1; axis >= 0; axis--) {
    if (++p[axis] < shape.dim[axis]) return true;
    p[axis] = 0;
  }
  return false;
}

int64_t reference_at(Shape shape, const int64_t p[RANK]) {
  int64_t index = 0;
  for (int axis = 0; axis < RANK; axis++) {
    index = index * shape.dim[axis] + (shape.dim[axis] == 1 ? 0 : p[axis]);
  }
  return index;
}

double reference_activation(Activation activation, float slope, double x) {
  if (activation == ACTIVATION_LEAKY_RELU) return x > 0 ? x : (double)slope * x;
  return activation == ACTIVATION_TANH ? tanh(x) : x;
}

static void clear(const Array *array) {
  memset(array->data, 0, (size_t)shape_count(array->shape) * sizeof *array->data);
}

/* --- Pointwise and reductions ----------------------------------------------------------------- */

static double instruction(const PointwiseInstruction *i, double a, double b) {
  const double p = (double)i->p, q = (double)i->q;
  switch (i->code) {
  case PW_CONSTANT:
    return p;
  case PW_COPY:
    return a;
  case PW_ADD:
    return a + b;
  case PW_SUB:
    return a - b;
  case PW_MUL:
    return a * b;
  case PW_DIV:
    return a / b;
  case PW_AFFINE:
    return p * a + q;
  case PW_LEAKY_RELU:
    return a > 0 ? a : p * a;
  case PW_LEAKY_STEP:
    return a > 0 ? 1 : p;
  case PW_TANH:
    return tanh(a);
  case PW_SIGMOID:
    return a >= 0 ? 1 / (1 + exp(-a)) : exp(a) / (1 + exp(a));
  case PW_SOFTPLUS:
    return (a > 0 ? a : 0) + log1p(exp(-fabs(a)));
  case PW_ABS:
    return fabs(a);
  case PW_SIGN:
    return a > 0 ? 1 : a < 0 ? -1 : 0;
  case PW_SQRT:
    return sqrt(a);
  case PW_SAFE_RECIPROCAL:
    return a == 0 ? 0 : 1 / a;
  case PW_CLAMP:
    return a < p ? p : a > q ? q : a;
  case PW_CLAMP_STEP:
    return p < a && a < q ? 1 : 0;
  case PW_EXP:
    return exp(a);
  case PW_LOG:
    return log(a);
  case PW_ROUND_BF16:
    return (double)bf16_to_f32(bf16_from_f32((float)a));
  case PW_CODE_COUNT:
    break;
  }
  abort();
}

static void program_at(const PointwiseProgram *program, const Array *inputs, int input_count,
                       const int64_t p[RANK], double *registers) {
  for (int r = 0; r < input_count; r++) {
    registers[r] = inputs[r].data[reference_at(inputs[r].shape, p)];
  }
  for (int k = 0; k < program->instruction_count; k++) {
    const PointwiseInstruction *i = &program->instructions[k];
    registers[input_count + k] = instruction(i, registers[i->a], registers[i->b]);
  }
}

static void pointwise(const Op *op, const Array *inputs, const Array *outputs) {
  double registers[POINTWISE_MAX_INPUTS + POINTWISE_MAX_INSTRUCTIONS] = {0};
  int64_t p[RANK] = {0};
  do {
    program_at(&op->attributes.pointwise, inputs, op->input_count, p, registers);
    for (int k = 0; k < op->output_count; k++) {
      outputs[k].data[reference_at(outputs[k].shape, p)] =
          registers[op->attributes.pointwise.outputs[k]];
    }
  } while (reference_next(outputs[0].shape, p));
}

static void reduce(const Op *op, const Array *inputs, const Array *outputs) {
  double registers[POINTWISE_MAX_INPUTS + POINTWISE_MAX_INSTRUCTIONS] = {0};
  int64_t p[RANK] = {0};
  clear(&outputs[0]);
  do {
    program_at(&op->attributes.reduce.program, inputs, op->input_count, p, registers);
    outputs[0].data[reference_at(outputs[0].shape, p)] +=
        (double)op->attributes.reduce.scale * registers[op->attributes.reduce.program.outputs[0]];
  } while (reference_next(op->attributes.reduce.full, p));
}

/* --- Moving data ------------------------------------------------------------------------------ */

static void concat(const Op *op, const Array *inputs, const Array *outputs) {
  const int axis = op->attributes.concat.axis;
  int64_t begin = 0;
  for (int i = 0; i < op->input_count; i++) {
    int64_t p[RANK] = {0}, q[RANK];
    do {
      memcpy(q, p, sizeof q);
      q[axis] += begin;
      outputs[0].data[reference_at(outputs[0].shape, q)] =
          inputs[i].data[reference_at(inputs[i].shape, p)];
    } while (reference_next(inputs[i].shape, p));
    begin += inputs[i].shape.dim[axis];
  }
}

static void slice(const Op *op, const Array *inputs, const Array *outputs) {
  int64_t p[RANK] = {0}, q[RANK];
  do {
    for (int axis = 0; axis < RANK; axis++)
      q[axis] = p[axis] + op->attributes.slice.begin.dim[axis];
    outputs[0].data[reference_at(outputs[0].shape, p)] =
        inputs[0].data[reference_at(inputs[0].shape, q)];
  } while (reference_next(outputs[0].shape, p));
}

/* A linear map from x to y: forward adds into y, backward is the transpose and adds into x. */
typedef struct Linear {
  const Op *op;
  const Array *x, *y;
  bool backward;
} Linear;

static void couple(const Linear *map, const int64_t from[RANK], const int64_t to[RANK],
                   double weight) {
  double *x = &map->x->data[reference_at(map->x->shape, from)];
  double *y = &map->y->data[reference_at(map->y->shape, to)];
  if (map->backward) {
    *x += weight * *y;
  } else {
    *y += weight * *x;
  }
}

static int64_t pad_source(int64_t o, int64_t before, int64_t length, PadMode mode) {
  int64_t i = o - before;
  if (mode == PAD_REFLECT) {
    if (i < 0) i = -i;
    if (i >= length) i = 2 * length - 2 - i;
  }
  return i;
}

bool reference_behind_padding(const PadAttributes *pad, Shape inner, const int64_t to[RANK],
                              int64_t from[RANK]) {
  for (int axis = 0; axis < RANK; axis++) {
    const PadMode mode = axis == AXIS_H || axis == AXIS_W ? pad->mode : PAD_ZERO;
    from[axis] = pad_source(to[axis], pad->before.dim[axis], inner.dim[axis], mode);
    if (from[axis] < 0 || from[axis] >= inner.dim[axis]) return false;
  }
  return true;
}

static void pad_at(const Linear *map, const int64_t to[RANK]) {
  int64_t from[RANK];
  if (reference_behind_padding(&map->op->attributes.pad, map->x->shape, to, from))
    couple(map, from, to, 1);
}

static void resize_at(const Linear *map, const int64_t to[RANK]) {
  const PadAttributes *pad = &map->op->attributes.resize.pad;
  int64_t lower[2], upper[2], inner[RANK];
  double part[2];
  Shape resized;
  for (int axis = 0; axis < RANK; axis++)
    resized.dim[axis] = map->y->shape.dim[axis] - pad->before.dim[axis] - pad->after.dim[axis];
  if (!reference_behind_padding(pad, resized, to, inner)) return;
  for (int i = 0; i < 2; i++) {
    const int64_t in = map->x->shape.dim[AXIS_H + i], out = resized.dim[AXIS_H + i];
    const int64_t o = inner[AXIS_H + i];
    if (map->op->attributes.resize.mode == RESIZE_NEAREST) {
      lower[i] = upper[i] = o * in / out;
      part[i] = 0;
    } else {
      const double centre = fmax(((double)o + 0.5) * (double)in / (double)out - 0.5, 0);
      lower[i] = (int64_t)floor(centre);
      upper[i] = lower[i] + 1 < in ? lower[i] + 1 : in - 1;
      part[i] = centre - (double)lower[i];
    }
  }
  for (int corner = 0; corner < 4; corner++) {
    int64_t from[RANK];
    memcpy(from, inner, sizeof from);
    from[AXIS_H] = corner & 1 ? upper[0] : lower[0];
    from[AXIS_W] = corner & 2 ? upper[1] : lower[1];
    couple(map, from, to,
           (corner & 1 ? part[0] : 1 - part[0]) * (corner & 2 ? part[1] : 1 - part[1]));
  }
}

static void pool_at(const Linear *map, const int64_t to[RANK]) {
  const int size = map->op->attributes.pool.size, stride = map->op->attributes.pool.stride;
  int64_t cells[64 * 64][2];
  int count = 0;
  for (int i = 0; i < size; i++) {
    for (int j = 0; j < size; j++) {
      const int64_t h = to[AXIS_H] * stride - map->op->attributes.pool.pad + i;
      const int64_t w = to[AXIS_W] * stride - map->op->attributes.pool.pad + j;
      if (h < 0 || w < 0 || h >= map->x->shape.dim[AXIS_H] || w >= map->x->shape.dim[AXIS_W]) {
        continue;
      }
      cells[count][0] = h;
      cells[count++][1] = w;
    }
  }
  for (int k = 0; k < count; k++) {
    const int64_t from[RANK] = {to[0], to[1], cells[k][0], cells[k][1], to[4]};
    couple(map, from, to, 1.0 / count);
  }
}

static void linear(const Op *op, const Array *input, const Array *output, bool backward,
                   void (*at)(const Linear *, const int64_t[RANK])) {
  const Linear map = {op, backward ? output : input, backward ? input : output, backward};
  int64_t p[RANK] = {0};
  clear(output);
  do {
    at(&map, p);
  } while (reference_next(map.y->shape, p));
  if (op->input_count < 2) return;
  for (int64_t i = 0; i < shape_count(output->shape); i++) output->data[i] += input[1].data[i];
}

/* The argmax of x in the window of `to`: the first of equal maxima, a NaN before any number. */
static int64_t largest_at(const Op *op, const Array *x, const int64_t to[RANK]) {
  const int size = op->attributes.max_pool.size;
  int64_t best = -1;
  for (int i = 0; i < size; i++) {
    for (int j = 0; j < size; j++) {
      const int64_t from[RANK] = {to[0], to[1], to[2] * size + i, to[3] * size + j, to[4]};
      const int64_t at = reference_at(x->shape, from);
      if (best < 0 || x->data[at] > x->data[best] || isnan(x->data[at])) best = at;
    }
  }
  return best;
}

static void max_pool(const Op *op, const Array *inputs, const Array *outputs) {
  const Array *read = &inputs[op->input_count - 1];
  int64_t p[RANK] = {0};
  do {
    outputs[0].data[reference_at(outputs[0].shape, p)] = read->data[largest_at(op, &inputs[0], p)];
  } while (reference_next(outputs[0].shape, p));
}

static void max_pool_backward(const Op *op, const Array *inputs, const Array *outputs) {
  int64_t p[RANK] = {0};
  clear(&outputs[0]);
  do {
    const int64_t at = largest_at(op, &inputs[1], p);
    const bool steps = op->attributes.max_pool.activation == ACTIVATION_LEAKY_RELU;
    const bool falls = steps && !(inputs[1].data[at] > 0);
    outputs[0].data[at] = inputs[0].data[reference_at(inputs[0].shape, p)] *
                          (falls ? (double)op->attributes.max_pool.slope : 1);
  } while (reference_next(inputs[0].shape, p));
}

static void segment_squared_norm(const Op *op, const Array *inputs, const Array *outputs) {
  const int64_t *offsets = op->attributes.segment_norm.offsets;
  clear(&outputs[0]);
  for (int r = 0; r < op->attributes.segment_norm.segments; r++) {
    for (int64_t i = offsets[r]; i < offsets[r + 1]; i++)
      outputs[0].data[r] += inputs[0].data[i] * inputs[0].data[i];
  }
}

void reference_run(const Op *op, const Array *inputs, const Array *outputs) {
  switch (op->kind) {
  case OP_POINTWISE:
    pointwise(op, inputs, outputs);
    return;
  case OP_REDUCE:
    reduce(op, inputs, outputs);
    return;
  case OP_SEGMENT_SQUARED_NORM:
    segment_squared_norm(op, inputs, outputs);
    return;
  case OP_CONV3D:
  case OP_CONV3D_BACKWARD_DATA:
  case OP_CONV3D_BACKWARD_WEIGHTS:
    reference_convolution(op, inputs, outputs);
    return;
  case OP_MATMUL:
    reference_matmul(op, inputs, outputs);
    return;
  case OP_WARP:
  case OP_TRANSLATE:
    reference_motion(op, inputs, outputs);
    return;
  case OP_NORM:
  case OP_NORM_BACKWARD:
    reference_norm(op, inputs, outputs);
    return;
  case OP_CONCAT:
    concat(op, inputs, outputs);
    return;
  case OP_SLICE:
    slice(op, inputs, outputs);
    return;
  case OP_PAD:
    linear(op, inputs, outputs, false, pad_at);
    return;
  case OP_PAD_BACKWARD:
    linear(op, inputs, outputs, true, pad_at);
    return;
  case OP_RESIZE:
    linear(op, inputs, outputs, false, resize_at);
    return;
  case OP_RESIZE_BACKWARD:
    linear(op, inputs, outputs, true, resize_at);
    return;
  case OP_AVERAGE_POOL:
    linear(op, inputs, outputs, false, pool_at);
    return;
  case OP_AVERAGE_POOL_BACKWARD:
    linear(op, inputs, outputs, true, pool_at);
    return;
  case OP_MAX_POOL:
    max_pool(op, inputs, outputs);
    return;
  case OP_MAX_POOL_BACKWARD:
    max_pool_backward(op, inputs, outputs);
    return;
  case OP_STORE:
  case OP_ADAM:
    reference_update(op, inputs);
    return;
  default:
    abort();
  }
}

void reference_update(const Op *op, const Array *inputs) {
  enum { P, G, M, V, EMA, COMPUTE, NORM, CONTROLS, COUNTERS };
  const int64_t count = shape_count(inputs[0].shape);
  if (op->kind != OP_ADAM) {
    for (int64_t i = 0; i < count; i++) {
      const double before = op->attributes.store.accumulate ? inputs[1].data[i] : 0;
      inputs[1].data[i] = before + inputs[0].data[i];
    }
    return;
  }
  double *counters = inputs[COUNTERS].data;
  const double *controls = inputs[CONTROLS].data, norm = inputs[NORM].data[0];
  const double b1 = (double)op->attributes.adam.beta1, b2 = (double)op->attributes.adam.beta2;
  if (!isfinite(norm) || (controls[3] > 0 && norm > controls[3])) {
    counters[1] += 1;
    counters[2] += 1;
    return;
  }
  const double t = counters[0] += 1;
  counters[2] = 0;
  const double s = controls[1] > 0 ? fmin(1, controls[1] / (norm + 1e-6)) : 1;
  for (int64_t i = 0; i < count; i++) {
    double *p = &inputs[P].data[i], *m = &inputs[M].data[i], *v = &inputs[V].data[i];
    const double g = s * inputs[G].data[i];
    *m = b1 * *m + (1 - b1) * g;
    *v = b2 * *v + (1 - b2) * g * g;
    *p -= controls[0] * (double)op->attributes.adam.weight_decay * *p;
    *p -= controls[0] * (*m / (1 - pow(b1, t))) /
          (sqrt(*v / (1 - pow(b2, t))) + (double)op->attributes.adam.epsilon);
    if (inputs[EMA].data) {
      inputs[EMA].data[i] = controls[2] * inputs[EMA].data[i] + (1 - controls[2]) * *p;
    }
    if (inputs[COMPUTE].data) inputs[COMPUTE].data[i] = *p;
  }
}
