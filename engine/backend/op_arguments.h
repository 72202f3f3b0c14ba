/* The arguments of an op as plain numbers, checked: the part of kernel constructors that is the
 * same on every backend (matrix products, norms, motion and updates of buffers).
 *
 * `inputs` and `outputs` are those given to Backend.kernel_new, `backend` is its name. Operands
 * that no builder creates are ERROR_INTERNAL naming op and backend. */
#ifndef CELFORGE_ENGINE_BACKEND_OP_ARGUMENTS_H
#define CELFORGE_ENGINE_BACKEND_OP_ARGUMENTS_H

#include <stdint.h>

#include "engine/backend/backend.h"
#include "engine/backend/segments.h"

/* True if an optional input (output) is present. */
static inline bool op_has_input(const Op *op, const Tensor *inputs, int index) {
  return index < op->input_count && inputs[index].shape.dim[0] > 0;
}
static inline bool op_has_output(const Op *op, const Tensor *outputs, int index) {
  return index < op->output_count && outputs[index].shape.dim[0] > 0;
}

/* --- OP_SEGMENT_SQUARED_NORM ------------------------------------------------------------------ */
/* Cuts the segments into chunks of at most 16384 elements, a multiple of every vector width. The
 * caller frees them. */
Status segment_norm_chunks(const Op *op, const Tensor *inputs, const Tensor *outputs,
                           const char *backend, SegmentChunks *out, Error *error);

/* --- OP_MATMUL -------------------------------------------------------------------------------- */
/* y [rows, columns] = op(a) [rows, terms] op(b) [terms, columns], `batch` times; y is f32. */
typedef struct MatmulArguments {
  DType dtype; /* of a and b: f32 or bf16 */
  int64_t batch, rows, columns, terms;
  bool transpose_a, transpose_b;
} MatmulArguments;

Status matmul_arguments(const Op *op, const Tensor *inputs, const Tensor *outputs,
                        const char *backend, MatmulArguments *out, Error *error);

/* --- OP_NORM, OP_NORM_BACKWARD ---------------------------------------------------------------- */
/* The largest side of a frame in pixels: RMS norm computes positions up to twice a side in 32 bits.
 */
enum { NORM_MAX_SIDE = INT32_MAX / 2 };

/* The frame of a padded tensor: its size, and the position of x's frame inside of it. */
typedef struct NormFrame {
  int64_t height, width, top, left;
} NormFrame;

typedef struct NormArguments {
  NormKind kind;
  DType dtype;            /* of x, y, residual, dy, dx: f32 or bf16 */
  int64_t frames, pixels; /* N * T, H * W */
  int64_t height, width;
  int64_t channels, groups; /* groups = channels except for group norm */
  float epsilon;
  float slope; /* activation v > 0 ? v : slope * v; 1: none */
  bool backward;
  bool parameters;   /* gain and bias are present */
  bool residual;     /* forward: the residual is present */
  bool dgain, dbias; /* backward: these outputs are present */
  /* RMS norm alone: y (backward: dy) has reflect padding, or the residual is the interior of a
   * padded tensor. Without either, both frames are that of x. */
  bool padded;
  NormFrame outer, residual_outer; /* of y (backward: dy); of the residual */
} NormArguments;

Status norm_arguments(const Op *op, const Tensor *inputs, const Tensor *outputs,
                      const char *backend, NormArguments *out, Error *error);

/* --- OP_WARP, OP_TRANSLATE -------------------------------------------------------------------- */
typedef struct MotionArguments {
  DType dtype; /* of x and y: f32 or bf16 */
  int64_t samples, times, height, width, channels;
  int64_t flow_times; /* warp: frames of a sample's flow, `times` or 1 */
  bool negated;       /* translate: by the negated offsets */
} MotionArguments;

/* Sides are at most MOTION_MAX_SIDE (engine/backend/shared/motion.h). */
Status motion_arguments(const Op *op, const Tensor *inputs, const Tensor *outputs,
                        const char *backend, MotionArguments *out, Error *error);

/* --- OP_STORE --------------------------------------------------------------------------------- */
typedef struct StoreArguments {
  int64_t count;
  bool accumulates; /* target += value, else target = value */
  bool copies;      /* target = value of the same dtype: copy the bytes */
} StoreArguments;

Status store_arguments(const Op *op, const Tensor *inputs, const char *backend, StoreArguments *out,
                       Error *error);

/* --- OP_ADAM ---------------------------------------------------------------------------------- */
typedef struct AdamArguments {
  int64_t count;
  AdamConstants constants;
  bool ema, compute; /* these inputs are present */
} AdamArguments;

Status adam_arguments(const Op *op, const Tensor *inputs, const char *backend, AdamArguments *out,
                      Error *error);

#endif
