/* OP_NORM and OP_NORM_BACKWARD: from tensors to the loops of norm_pixels.c and norm_frames.c. */
#include "engine/cpu/norm.h"

#include <stdlib.h>

#include "base/memory.h"

typedef struct NormKernel {
  Kernel base;
  NormKind kind;
  bool parameters, residual, dgain, dbias;
  float *ones, *zeros; /* C, where the op has no gain and bias */
  Norm norm;           /* but for addresses */
} NormKernel;

static void norm_free(Kernel *base) {
  NormKernel *kernel = (NormKernel *)(void *)base;
  if (!kernel) return;
  free(kernel->ones);
  free(kernel->zeros);
  free(kernel);
}

/* The norm with the addresses of gain and bias, which lie at `at` in the inputs. */
static Norm bind(const NormKernel *kernel, const Tensor *inputs, int at) {
  Norm norm = kernel->norm;
  norm.gain = kernel->parameters ? inputs[at].data : kernel->ones;
  norm.bias = kernel->parameters ? inputs[at + 1].data : kernel->zeros;
  return norm;
}

static Status forward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                          void *workspace, Error *error) {
  (void)error;
  NormKernel *kernel = (NormKernel *)(void *)base;
  Norm norm = bind(kernel, inputs, 1);
  norm.x = inputs[0];
  norm.y = outputs[0];
  if (kernel->residual) norm.residual = inputs[3];
  if (kernel->kind == NORM_RMS)
    norm_pixels_forward(&norm, workspace);
  else
    norm_frames_forward(&norm, workspace);
  return OK;
}

static Status backward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                           void *workspace, Error *error) {
  (void)error;
  NormKernel *kernel = (NormKernel *)(void *)base;
  Norm norm = bind(kernel, inputs, 2);
  norm.dy = inputs[0];
  norm.x = inputs[1];
  norm.dx = outputs[0];
  if (kernel->dgain) norm.dgain = outputs[1].data;
  if (kernel->dbias) norm.dbias = outputs[2].data;
  if (kernel->kind == NORM_RMS)
    norm_pixels_backward(&norm, workspace);
  else
    norm_frames_backward(&norm, workspace);
  return OK;
}

static Status check(const Op *op, const Tensor *x, const Tensor *y, const Tensor *other,
                    Error *error) {
  Status status = OK;
  const NormAttributes *norm = &op->attributes.norm;
  int64_t channels = x->shape.dim[AXIS_C];
  if (x->dtype == DTYPE_U8 || y->dtype == DTYPE_U8 || other->dtype == DTYPE_U8)
    FAIL(error, ERROR_INTERNAL, "%s: %s: a tensor is u8; allowed are f32 and bf16", op->name,
         op_kind_name(op->kind));
  if (norm->activation == ACTIVATION_TANH)
    FAIL(error, ERROR_INTERNAL, "%s: %s: activation is tanh; allowed are none and leaky ReLU",
         op->name, op_kind_name(op->kind));
  if (norm->kind == NORM_GROUP && (norm->groups < 1 || channels % norm->groups != 0))
    FAIL(error, ERROR_INTERNAL, "%s: %s: %d groups do not divide %lld channels", op->name,
         op_kind_name(op->kind), norm->groups, (long long)channels);
done:
  return status;
}

static NormKernel *make(Backend *backend, const Op *op, const Tensor *x, bool parameters) {
  const NormAttributes *attributes = &op->attributes.norm;
  const int64_t *dim = x->shape.dim;
  NormKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->kind = attributes->kind;
  kernel->parameters = parameters;
  kernel->norm = (Norm){
      .frames = dim[AXIS_N] * dim[AXIS_T],
      .pixels = dim[AXIS_H] * dim[AXIS_W],
      .channels = dim[AXIS_C],
      .groups = attributes->kind == NORM_GROUP ? attributes->groups : dim[AXIS_C],
      .epsilon = attributes->epsilon,
      .slope = attributes->activation == ACTIVATION_LEAKY_RELU ? attributes->slope : 1.0f,
      .threads = cpu_threads(backend),
  };
  kernel->base.free = norm_free;
  kernel->base.workspace =
      cpu_align(attributes->kind == NORM_RMS ? norm_pixels_workspace(&kernel->norm)
                                             : norm_frames_workspace(&kernel->norm));
  if (!parameters) {
    kernel->ones = mem_new((size_t)dim[AXIS_C], sizeof *kernel->ones);
    kernel->zeros = mem_new((size_t)dim[AXIS_C], sizeof *kernel->zeros);
    for (int64_t c = 0; c < dim[AXIS_C]; c++) kernel->ones[c] = 1.0f;
  }
  return kernel;
}

Status cpu_norm_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                    Kernel **out, Error *error) {
  Status status = OK;
  *out = NULL;
  bool residual = cpu_has_input(op, inputs, 3);
  TRY(check(op, &inputs[0], &outputs[0], residual ? &inputs[3] : &inputs[0], error));
  NormKernel *kernel = make(backend, op, &inputs[0], cpu_has_input(op, inputs, 1));
  kernel->residual = residual;
  kernel->base.run = forward_run;
  *out = &kernel->base;
done:
  return status;
}

Status cpu_norm_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  *out = NULL;
  TRY(check(op, &inputs[1], &outputs[0], &inputs[0], error));
  NormKernel *kernel = make(backend, op, &inputs[1], cpu_has_input(op, inputs, 2));
  kernel->dgain = cpu_has_output(op, outputs, 1);
  kernel->dbias = cpu_has_output(op, outputs, 2);
  kernel->base.run = backward_run;
  *out = &kernel->base;
done:
  return status;
}
