#include "engine/backend/op_arguments.h"

#include "engine/backend/shared/motion.h"

enum { CHUNK_ELEMENTS = 16384 };

/* --- Segment norms ---------------------------------------------------------------------------- */

Status segment_norm_chunks(const Op *op, const Tensor *inputs, const Tensor *outputs,
                           const char *backend, SegmentChunks *out, Error *error) {
  Status status = OK;
  const int64_t *offsets = op->attributes.segment_norm.offsets;
  const int segments = op->attributes.segment_norm.segments;
  const Tensor *x = &inputs[0], *norms = &outputs[0];
  *out = (SegmentChunks){0};
  if (x->dtype != DTYPE_F32 || norms->dtype != DTYPE_F32 ||
      shape_count(x->shape) != offsets[segments] || shape_count(norms->shape) != segments)
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: segment_squared_norm: %lld %s to %lld %s, expected %lld f32 to %d f32", op->name,
         backend, (long long)shape_count(x->shape), dtype_name(x->dtype),
         (long long)shape_count(norms->shape), dtype_name(norms->dtype),
         (long long)offsets[segments], segments);
  *out = segment_chunks_cut(offsets, segments, CHUNK_ELEMENTS);
done:
  return status;
}

/* --- Matrix products -------------------------------------------------------------------------- */

Status matmul_arguments(const Op *op, const Tensor *inputs, const Tensor *outputs,
                        const char *backend, MatmulArguments *out, Error *error) {
  Status status = OK;
  const bool ta = op->attributes.matmul.transpose_a, tb = op->attributes.matmul.transpose_b;
  const Shape a = inputs[0].shape, b = inputs[1].shape;
  Shape y = a;
  y.dim[AXIS_W] = a.dim[ta ? AXIS_C : AXIS_W];
  y.dim[AXIS_C] = b.dim[tb ? AXIS_W : AXIS_C];
  *out = (MatmulArguments){.dtype = inputs[0].dtype,
                           .batch = a.dim[AXIS_N] * a.dim[AXIS_T] * a.dim[AXIS_H],
                           .rows = y.dim[AXIS_W],
                           .columns = y.dim[AXIS_C],
                           .terms = a.dim[ta ? AXIS_W : AXIS_C],
                           .transpose_a = ta,
                           .transpose_b = tb};
  if (!dtype_is_float(inputs[0].dtype) || inputs[1].dtype != inputs[0].dtype ||
      outputs[0].dtype != DTYPE_F32 || !shape_equal(outputs[0].shape, y) ||
      b.dim[tb ? AXIS_C : AXIS_W] != out->terms ||
      b.dim[AXIS_N] * b.dim[AXIS_T] * b.dim[AXIS_H] != out->batch) {
    char first[SHAPE_TEXT_SIZE], second[SHAPE_TEXT_SIZE], result[SHAPE_TEXT_SIZE];
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: matmul: %s %s times %s %s to %s %s, transposed %d and %d; expected matching "
         "shapes, equal dtypes and f32",
         op->name, backend, dtype_name(inputs[0].dtype), shape_text(a, first),
         dtype_name(inputs[1].dtype), shape_text(b, second), dtype_name(outputs[0].dtype),
         shape_text(outputs[0].shape, result), ta, tb);
  }
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
  if (!dtype_is_float(x->dtype) || y->dtype != x->dtype || other->dtype != x->dtype)
    FAIL(error, ERROR_INTERNAL, "%s: %s: %s: dtypes are %s, %s, %s, expected all f32 or all bf16",
         op->name, backend, kind, dtype_name(x->dtype), dtype_name(y->dtype),
         dtype_name(other->dtype));
  if (norm->activation == ACTIVATION_TANH)
    FAIL(error, ERROR_INTERNAL, "%s: %s: %s: activation is tanh, expected none or leaky ReLU",
         op->name, backend, kind);
  if (norm->kind == NORM_GROUP && (norm->groups < 1 || channels % norm->groups != 0))
    FAIL(error, ERROR_INTERNAL, "%s: %s: %s: %d groups do not divide %lld channels", op->name,
         backend, kind, norm->groups, (long long)channels);
done:
  return status;
}

/* The frame of `outer`, a tensor of x's frames with padding `pad`. */
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
         "%s: %s: %s: a padded tensor is %s, its interior %s; the padding must be the op's: of RMS "
         "norm reflecting, in height and width, of others none",
         op->name, backend, op_kind_name(op->kind), shape_text(outer->shape, to),
         shape_text(x->shape, from));
  if (op->attributes.norm.kind == NORM_RMS &&
      (shape.dim[AXIS_H] > NORM_MAX_SIDE || shape.dim[AXIS_W] > NORM_MAX_SIDE))
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: %s: frames of %lld x %lld pixels, expected at most %d per side", op->name,
         backend, op_kind_name(op->kind), (long long)shape.dim[AXIS_H],
         (long long)shape.dim[AXIS_W], NORM_MAX_SIDE);
done:
  return status;
}

Status norm_arguments(const Op *op, const Tensor *inputs, const Tensor *outputs,
                      const char *backend, NormArguments *out, Error *error) {
  Status status = OK;
  const NormAttributes *norm = &op->attributes.norm;
  const bool backward = op->kind == OP_NORM_BACKWARD;
  const bool residual = !backward && op_has_input(op, inputs, 3);
  const Tensor *x = &inputs[backward ? 1 : 0]; /* after dy */
  const Tensor *other = backward ? &inputs[0] : residual ? &inputs[3] : x;
  const Tensor *outer = backward ? &inputs[0] : &outputs[0];
  const Tensor *residual_outer = residual ? &inputs[3] : x;
  const int64_t *dim = x->shape.dim;
  TRY(check_norm(op, x, &outputs[0], other, backend, error));
  TRY(check_norm_frame(op, &norm->pad, x, outer, backend, error));
  TRY(check_norm_frame(op, &norm->residual_pad, x, residual_outer, backend, error));
  *out = (NormArguments){
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

/* --- Motion ----------------------------------------------------------------------------------- */

Status motion_arguments(const Op *op, const Tensor *inputs, const Tensor *outputs,
                        const char *backend, MotionArguments *out, Error *error) {
  Status status = OK;
  const Tensor *x = &inputs[0], *by = &inputs[1], *y = &outputs[0];
  const int64_t *dim = x->shape.dim;
  const bool warps = op->kind == OP_WARP;
  Shape expected = shape_make(dim[AXIS_N], 1, 1, 1, 2);
  if (warps)
    expected = shape_make(dim[AXIS_N], by->shape.dim[AXIS_T] == 1 ? 1 : dim[AXIS_T], dim[AXIS_H],
                          dim[AXIS_W], 2);
  char a[SHAPE_TEXT_SIZE], b[SHAPE_TEXT_SIZE], c[SHAPE_TEXT_SIZE];
  if (!dtype_is_float(x->dtype) || y->dtype != x->dtype || !shape_equal(y->shape, x->shape) ||
      by->dtype != DTYPE_F32 || !shape_equal(by->shape, expected))
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: %s: x %s %s, y %s %s, moved by %s %s; expected equal f32 or bf16 tensors and "
         "an f32 one for each sample",
         op->name, backend, op_kind_name(op->kind), dtype_name(x->dtype), shape_text(x->shape, a),
         dtype_name(y->dtype), shape_text(y->shape, b), dtype_name(by->dtype),
         shape_text(by->shape, c));
  if (dim[AXIS_H] > MOTION_MAX_SIDE || dim[AXIS_W] > MOTION_MAX_SIDE)
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: %s: frames of %lld x %lld pixels, expected at most %d per side", op->name,
         backend, op_kind_name(op->kind), (long long)dim[AXIS_H], (long long)dim[AXIS_W],
         MOTION_MAX_SIDE);
  *out = (MotionArguments){.dtype = x->dtype,
                           .samples = dim[AXIS_N],
                           .times = dim[AXIS_T],
                           .height = dim[AXIS_H],
                           .width = dim[AXIS_W],
                           .channels = dim[AXIS_C],
                           .flow_times = warps ? by->shape.dim[AXIS_T] : 1,
                           .negated = !warps && op->attributes.translate.negated};
done:
  return status;
}

/* --- Store ------------------------------------------------------------------------------------ */

Status store_arguments(const Op *op, const Tensor *inputs, const char *backend, StoreArguments *out,
                       Error *error) {
  Status status = OK;
  const DType from = inputs[0].dtype, to = inputs[1].dtype;
  const int64_t count = shape_count(inputs[0].shape), room = shape_count(inputs[1].shape);
  const bool accumulates = op->attributes.store.accumulate;
  const bool copies = !accumulates && from == to;
  if (count != room || (!copies && !(dtype_is_float(from) && dtype_is_float(to))))
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: store of %lld %s into %lld %s, expected equal counts of f32 or bf16", op->name,
         backend, (long long)count, dtype_name(from), (long long)room, dtype_name(to));
  *out = (StoreArguments){.count = count, .accumulates = accumulates, .copies = copies};
done:
  return status;
}

/* --- Adam ------------------------------------------------------------------------------------- */

Status adam_arguments(const Op *op, const Tensor *inputs, const char *backend, AdamArguments *out,
                      Error *error) {
  Status status = OK;
  const int64_t count = shape_count(inputs[ADAM_PARAMETERS].shape);
  for (int i = 0; i < ADAM_INPUTS; i++) {
    const AdamInputSpec spec = adam_input_spec((AdamInput)i, count);
    const bool present = op_has_input(op, inputs, i);
    if (!present && spec.optional) continue;
    if (!present || shape_count(inputs[i].shape) != spec.count || inputs[i].dtype != spec.dtype)
      FAIL(error, ERROR_INTERNAL, "%s: %s: adam: %s must be %lld elements of %s", op->name, backend,
           spec.name, (long long)spec.count, dtype_name(spec.dtype));
  }
  *out = (AdamArguments){.count = count,
                         .constants = op->attributes.adam,
                         .ema = op_has_input(op, inputs, ADAM_EMA),
                         .compute = op_has_input(op, inputs, ADAM_COMPUTE)};
done:
  return status;
}
