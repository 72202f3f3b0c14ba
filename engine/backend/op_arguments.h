/* What an op asks of its kernel, checked and as plain numbers: the beginning of those constructors
 * that are otherwise the same on every backend (norms, and ops that write buffers).
 *
 * `inputs` and `outputs` are what Backend.kernel_new was given, `backend` is its name. What no
 * builder makes is ERROR_INTERNAL naming op and backend. */
#ifndef CELFORGE_ENGINE_BACKEND_OP_ARGUMENTS_H
#define CELFORGE_ENGINE_BACKEND_OP_ARGUMENTS_H

#include <stdint.h>

#include "engine/backend/backend.h"
#include "engine/backend/segments.h"

/* Whether an optional input (or output) is there. */
static inline bool op_has_input(const Op *op, const Tensor *inputs, int index) {
  return index < op->input_count && inputs[index].shape.dim[0] > 0;
}
static inline bool op_has_output(const Op *op, const Tensor *outputs, int index) {
  return index < op->output_count && outputs[index].shape.dim[0] > 0;
}

/* --- OP_SQUARE_SUMS --------------------------------------------------------------------------- */
/* The ranges in pieces of at most 16384 elements, a multiple of what one access loads anywhere. The
 * caller frees them. */
Status square_sums_pieces(const Op *op, const Tensor *inputs, const Tensor *outputs,
                          const char *backend, Pieces *out, Error *error);

/* --- OP_NORM, OP_NORM_BACKWARD ---------------------------------------------------------------- */
/* Pixels: places in RMS norm's frames are counted in 32 bits, up to twice a side's length. */
enum { NORM_MOST_SIDE = INT32_MAX / 2 };

/* A frame that holds one of x's size: how large it is, and where x's begins in it. */
typedef struct NormFrame {
  int64_t height, width, top, left;
} NormFrame;

typedef struct NormTask {
  NormKind kind;
  DType dtype;            /* of x, y, residual, dy, dx: f32 or bf16 */
  int64_t frames, pixels; /* N * T, H * W */
  int64_t height, width;
  int64_t channels, groups; /* as many groups as channels but in group norm */
  float epsilon;
  float slope; /* of the activation v > 0 ? v : slope * v; 1: none */
  bool backward;
  bool parameters;   /* gain and bias are inputs */
  bool residual;     /* forward: is an input */
  bool dgain, dbias; /* backward: are outputs */
  /* RMS norm alone: y (backward: dy) is padded by reflection, or the residual the inside of what
   * is. Without either, both frames are x's own. */
  bool padded;
  NormFrame outer, residual_outer;
} NormTask;

Status norm_task(const Op *op, const Tensor *inputs, const Tensor *outputs, const char *backend,
                 NormTask *out, Error *error);

/* --- OP_STORE, OP_FILL ------------------------------------------------------------------------ */
typedef struct StoreTask {
  int64_t count;
  bool accumulates; /* else the target is overwritten, */
  bool copies;      /* and with the same dtype bytes are copied */
} StoreTask;

Status store_task(const Op *op, const Tensor *inputs, const char *backend, StoreTask *out,
                  Error *error);

typedef struct FillTask {
  DType dtype; /* f32 or bf16 */
  int64_t count;
  float value;
} FillTask;

Status fill_task(const Op *op, const Tensor *inputs, const char *backend, FillTask *out,
                 Error *error);

/* --- OP_ADAM ---------------------------------------------------------------------------------- */
/* What an input of the op must be, for `count` parameters. */
typedef struct AdamOperand {
  const char *name; /* "moment1" */
  DType dtype;
  int64_t count;
  bool optional;
} AdamOperand;

AdamOperand adam_operand(AdamInput input, int64_t count);

typedef struct AdamTask {
  int64_t count;
  AdamConstants constants;
  bool ema, compute; /* are inputs */
} AdamTask;

Status adam_task(const Op *op, const Tensor *inputs, const char *backend, AdamTask *out,
                 Error *error);

#endif
