/* Kernels of OP_NORM and OP_NORM_BACKWARD: bind the tensors and call the loops of the norm's kind.
 */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cpu/norm/instance_norm.h"
#include "engine/cpu/norm/rms_norm.h"

typedef struct NormKernel {
  Kernel base;
  float *ones, *zeros; /* C, if the op has no gain and bias */
  Norm norm;           /* without addresses */
} NormKernel;

static void norm_free(Kernel *base) {
  NormKernel *kernel = (NormKernel *)(void *)base;
  if (!kernel) return;
  free(kernel->ones);
  free(kernel->zeros);
  free(kernel);
}

/* The norm with the addresses of gain and bias, inputs `at` and `at` + 1. */
static Norm bind(const NormKernel *kernel, const Tensor *inputs, int at) {
  Norm norm = kernel->norm;
  norm.gain = kernel->norm.arguments.parameters ? inputs[at].data : kernel->ones;
  norm.bias = kernel->norm.arguments.parameters ? inputs[at + 1].data : kernel->zeros;
  return norm;
}

static Status forward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                          void *workspace, Error *error) {
  (void)error;
  NormKernel *kernel = (NormKernel *)(void *)base;
  Norm norm = bind(kernel, inputs, 1);
  norm.x = inputs[0];
  norm.y = outputs[0];
  if (kernel->norm.arguments.residual) norm.residual = inputs[3];
  if (kernel->norm.arguments.kind == NORM_RMS)
    rms_norm_forward(&norm, workspace);
  else
    instance_norm_forward(&norm, workspace);
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
  if (kernel->norm.arguments.dgain) norm.dgain = outputs[1].data;
  if (kernel->norm.arguments.dbias) norm.dbias = outputs[2].data;
  if (kernel->norm.arguments.kind == NORM_RMS)
    rms_norm_backward(&norm, workspace);
  else
    instance_norm_backward(&norm, workspace);
  return OK;
}

static Status norm_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       NormKernel **out, Error *error) {
  Status status = OK;
  NormArguments arguments;
  TRY(norm_arguments(op, inputs, outputs, backend->name, &arguments, error));
  NormKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->norm = (Norm){.arguments = arguments, .threads = cpu_threads(backend)};
  kernel->base.free = norm_free;
  kernel->base.workspace =
      memory_align(arguments.kind == NORM_RMS ? rms_norm_workspace(&kernel->norm)
                                              : instance_norm_workspace(&kernel->norm));
  if (!arguments.parameters) {
    kernel->ones = mem_new((size_t)arguments.channels, sizeof *kernel->ones);
    kernel->zeros = mem_new((size_t)arguments.channels, sizeof *kernel->zeros);
    for (int64_t c = 0; c < arguments.channels; c++) kernel->ones[c] = 1.0f;
  }
  *out = kernel;
done:
  return status;
}

Status cpu_norm_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                    Kernel **out, Error *error) {
  Status status = OK;
  NormKernel *kernel = NULL;
  *out = NULL;
  TRY(norm_new(backend, op, inputs, outputs, &kernel, error));
  kernel->base.run = forward_run;
  *out = &kernel->base;
done:
  return status;
}

Status cpu_norm_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  NormKernel *kernel = NULL;
  *out = NULL;
  TRY(norm_new(backend, op, inputs, outputs, &kernel, error));
  kernel->base.run = backward_run;
  *out = &kernel->base;
done:
  return status;
}
