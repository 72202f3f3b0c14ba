#include "engine/backend/op_arguments.h"

enum { PIECE_ELEMENTS = 16384 };

/* --- Sums of squares -------------------------------------------------------------------------- */

Status square_sums_pieces(const Op *op, const Tensor *inputs, const Tensor *outputs,
                          const char *backend, Pieces *out, Error *error) {
  Status status = OK;
  const int64_t *borders = op->attributes.square_sums.borders;
  const int ranges = op->attributes.square_sums.ranges;
  const Tensor *x = &inputs[0], *sums = &outputs[0];
  *out = (Pieces){0};
  if (x->dtype != DTYPE_F32 || sums->dtype != DTYPE_F32 ||
      shape_count(x->shape) != borders[ranges] || shape_count(sums->shape) != ranges)
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: square_sums: %lld %s to %lld %s; it must be %lld f32 to %d f32", op->name,
         backend, (long long)shape_count(x->shape), dtype_name(x->dtype),
         (long long)shape_count(sums->shape), dtype_name(sums->dtype), (long long)borders[ranges],
         ranges);
  *out = pieces_cut(borders, ranges, PIECE_ELEMENTS);
done:
  return status;
}

/* --- Norms ------------------------------------------------------------------------------------ */

static Status check_norm(const Op *op, const Tensor *x, const Tensor *y, const Tensor *other,
                         const char *backend, Error *error) {
  Status status = OK;
  const NormAttributes *norm = &op->attributes.norm;
  const char *kind = op_kind_name(op->kind);
  const int64_t channels = x->shape.dim[AXIS_C];
  if (x->dtype == DTYPE_U8 || y->dtype != x->dtype || other->dtype != x->dtype)
    FAIL(error, ERROR_INTERNAL, "%s: %s: %s: tensors are %s, %s, %s; all must be f32 or all bf16",
         op->name, backend, kind, dtype_name(x->dtype), dtype_name(y->dtype),
         dtype_name(other->dtype));
  if (norm->activation == ACTIVATION_TANH)
    FAIL(error, ERROR_INTERNAL, "%s: %s: %s: activation is tanh; allowed are none and leaky ReLU",
         op->name, backend, kind);
  if (norm->kind == NORM_GROUP && (norm->groups < 1 || channels % norm->groups != 0))
    FAIL(error, ERROR_INTERNAL, "%s: %s: %s: %d groups do not divide %lld channels", op->name,
         backend, kind, norm->groups, (long long)channels);
done:
  return status;
}

/* `outer` is a tensor padded by `pad` around frames like x's; without padding it is x's frame. */
static NormFrame norm_frame(const PadAttributes *pad, const Tensor *outer) {
  return (NormFrame){.height = outer->shape.dim[AXIS_H],
                     .width = outer->shape.dim[AXIS_W],
                     .top = pad->before.dim[AXIS_H],
                     .left = pad->before.dim[AXIS_W]};
}

static Status check_norm_frame(const Op *op, const PadAttributes *pad, const Tensor *x,
                               const Tensor *outer, const char *backend, Error *error) {
  Status status = OK;
  Shape shape = x->shape;
  bool reflects = true, pads = false;
  for (int axis = 0; axis < RANK; axis++) {
    const int64_t before = pad->before.dim[axis], after = pad->after.dim[axis];
    const int64_t most = axis == AXIS_H || axis == AXIS_W ? shape.dim[axis] - 1 : 0;
    reflects &= before >= 0 && before <= most && after >= 0 && after <= most;
    pads |= before != 0 || after != 0;
    shape.dim[axis] += before + after;
  }
  reflects &= pad->mode == PAD_REFLECT && op->attributes.norm.kind == NORM_RMS;
  char from[SHAPE_TEXT_SIZE], to[SHAPE_TEXT_SIZE];
  if ((pads && !reflects) || !shape_equal(shape, outer->shape))
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: %s: a padded tensor is %s, around %s; it must be padded as the op says, RMS "
         "norm's "
         "by reflection in height and width, others' not at all",
         op->name, backend, op_kind_name(op->kind), shape_text(outer->shape, to),
         shape_text(x->shape, from));
  if (op->attributes.norm.kind == NORM_RMS &&
      (shape.dim[AXIS_H] > NORM_MOST_SIDE || shape.dim[AXIS_W] > NORM_MOST_SIDE))
    FAIL(error, ERROR_INTERNAL, "%s: %s: %s: frames of %lld x %lld pixels; at most %d a side",
         op->name, backend, op_kind_name(op->kind), (long long)shape.dim[AXIS_H],
         (long long)shape.dim[AXIS_W], NORM_MOST_SIDE);
done:
  return status;
}

Status norm_task(const Op *op, const Tensor *inputs, const Tensor *outputs, const char *backend,
                 NormTask *out, Error *error) {
  Status status = OK;
  const NormAttributes *norm = &op->attributes.norm;
  const bool backward = op->kind == OP_NORM_BACKWARD;
  const bool residual = !backward && op_has_input(op, inputs, 3);
  const Tensor *x = &inputs[backward ? 1 : 0]; /* dy stands before it */
  const Tensor *other = backward ? &inputs[0] : residual ? &inputs[3] : x;
  const Tensor *outer = backward ? &inputs[0] : &outputs[0];
  const Tensor *residual_outer = residual ? &inputs[3] : x;
  const int64_t *dim = x->shape.dim;
  TRY(check_norm(op, x, &outputs[0], other, backend, error));
  TRY(check_norm_frame(op, &norm->pad, x, outer, backend, error));
  TRY(check_norm_frame(op, &norm->residual_pad, x, residual_outer, backend, error));
  *out = (NormTask){
      .kind = norm->kind,
      .dtype = x->dtype,
      .frames = dim[AXIS_N] * dim[AXIS_T],
      .pixels = dim[AXIS_H] * dim[AXIS_W],
      .height = dim[AXIS_H],
      .width = dim[AXIS_W],
      .channels = dim[AXIS_C],
      .groups = norm->kind == NORM_GROUP ? norm->groups : dim[AXIS_C],
      .epsilon = norm->epsilon,
      .slope = norm->activation == ACTIVATION_LEAKY_RELU ? norm->slope : 1.0f,
      .backward = backward,
      .parameters = op_has_input(op, inputs, backward ? 2 : 1),
      .residual = residual,
      .dgain = backward && op_has_output(op, outputs, 1),
      .dbias = backward && op_has_output(op, outputs, 2),
      .padded =
          !shape_equal(outer->shape, x->shape) || !shape_equal(residual_outer->shape, x->shape),
      .outer = norm_frame(&norm->pad, outer),
      .residual_outer = norm_frame(&norm->residual_pad, residual_outer),
  };
done:
  return status;
}

/* --- Store and fill --------------------------------------------------------------------------- */

Status store_task(const Op *op, const Tensor *inputs, const char *backend, StoreTask *out,
                  Error *error) {
  Status status = OK;
  const DType from = inputs[0].dtype, to = inputs[1].dtype;
  const int64_t count = shape_count(inputs[0].shape), room = shape_count(inputs[1].shape);
  const bool accumulates = op->attributes.store.accumulate;
  const bool copies = !accumulates && from == to;
  if (count != room || (!copies && (from == DTYPE_U8 || to == DTYPE_U8)))
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: store of %lld %s into %lld %s; allowed are equal numbers of f32 "
         "or bf16",
         op->name, backend, (long long)count, dtype_name(from), (long long)room, dtype_name(to));
  *out = (StoreTask){.count = count, .accumulates = accumulates, .copies = copies};
done:
  return status;
}

Status fill_task(const Op *op, const Tensor *inputs, const char *backend, FillTask *out,
                 Error *error) {
  Status status = OK;
  if (inputs[0].dtype == DTYPE_U8)
    FAIL(error, ERROR_INTERNAL, "%s: %s: fill of a u8 view; allowed are f32 and bf16", op->name,
         backend);
  *out = (FillTask){.dtype = inputs[0].dtype,
                    .count = shape_count(inputs[0].shape),
                    .value = op->attributes.fill.value};
done:
  return status;
}

/* --- Adam ------------------------------------------------------------------------------------- */

AdamOperand adam_operand(AdamInput input, int64_t count) {
  static const char *const names[ADAM_INPUTS] = {
      [ADAM_PARAMETERS] = "parameters",
      [ADAM_GRADIENTS] = "gradients",
      [ADAM_MOMENT1] = "moment1",
      [ADAM_MOMENT2] = "moment2",
      [ADAM_EMA] = "ema",
      [ADAM_COMPUTE] = "compute",
      [ADAM_NORM] = "norm",
      [ADAM_CONTROLS] = "controls",
      [ADAM_COUNTERS] = "counters",
  };
  AdamOperand operand = {.name = names[input], .dtype = DTYPE_F32, .count = count};
  if (input == ADAM_COMPUTE) operand.dtype = DTYPE_BF16;
  if (input == ADAM_NORM) operand.count = 1;
  if (input == ADAM_CONTROLS) operand.count = sizeof(AdamControls) / sizeof(float);
  if (input == ADAM_COUNTERS) operand.count = sizeof(AdamCounters) / sizeof(float);
  operand.optional = input == ADAM_EMA || input == ADAM_COMPUTE;
  return operand;
}

Status adam_task(const Op *op, const Tensor *inputs, const char *backend, AdamTask *out,
                 Error *error) {
  Status status = OK;
  const int64_t count = shape_count(inputs[ADAM_PARAMETERS].shape);
  for (int i = 0; i < ADAM_INPUTS; i++) {
    const AdamOperand wanted = adam_operand((AdamInput)i, count);
    const bool there = op_has_input(op, inputs, i);
    if (!there && wanted.optional) continue;
    if (!there || shape_count(inputs[i].shape) != wanted.count || inputs[i].dtype != wanted.dtype)
      FAIL(error, ERROR_INTERNAL, "%s: %s: adam: %s must be %lld elements of %s", op->name, backend,
           wanted.name, (long long)wanted.count, dtype_name(wanted.dtype));
  }
  *out = (AdamTask){.count = count,
                    .constants = op->attributes.adam,
                    .ema = op_has_input(op, inputs, ADAM_EMA),
                    .compute = op_has_input(op, inputs, ADAM_COMPUTE)};
done:
  return status;
}
