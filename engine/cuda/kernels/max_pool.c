/* Kernel constructors of OP_MAX_POOL and OP_MAX_POOL_BACKWARD, for the launchers in max_pool.cu. */
#include "engine/cuda/kernels/max_pool.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct MaxPoolKernel {
  Kernel base;
  cudaStream_t stream;
  bool has_other;
  MaxPoolLaunch launch;
} MaxPoolKernel;

static Status forward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                          void *workspace, Error *error) {
  (void)workspace;
  const MaxPoolKernel *kernel = (const MaxPoolKernel *)(void *)base;
  MaxPoolLaunch launch = kernel->launch;
  launch.x = inputs[0].data;
  launch.other = kernel->has_other ? inputs[1].data : NULL;
  launch.out = outputs[0].data;
  return launch_max_pool(&launch, kernel->stream, error);
}

static Status backward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                           void *workspace, Error *error) {
  (void)workspace;
  const MaxPoolKernel *kernel = (const MaxPoolKernel *)(void *)base;
  MaxPoolLaunch launch = kernel->launch;
  launch.dy = inputs[0].data;
  launch.x = inputs[1].data;
  launch.out = outputs[0].data;
  return launch_max_pool_backward(&launch, kernel->stream, error);
}

static void max_pool_free(Kernel *kernel) {
  free(kernel);
}

static Status max_pool_new(Backend *backend, const Op *op, const Tensor *x, const Tensor *pooled,
                           MaxPoolKernel **out, Error *error) {
  if (x->dtype != pooled->dtype || x->dtype == DTYPE_U8)
    return error_set(
        error, ERROR_INTERNAL,
        "%s: cuda: %s: x is %s and the pooled tensor %s, expected f32 or bf16 for both", op->name,
        op_kind_name(op->kind), dtype_name(x->dtype), dtype_name(pooled->dtype));
  const bool leaky = op->attributes.max_pool.activation == ACTIVATION_LEAKY_RELU;
  MaxPoolKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->base.free = max_pool_free;
  kernel->stream = cuda_backend(backend)->stream;
  kernel->launch = (MaxPoolLaunch){.bf16 = x->dtype == DTYPE_BF16,
                                   .size = op->attributes.max_pool.size,
                                   .slope = leaky ? op->attributes.max_pool.slope : 1,
                                   .frames = x->shape.dim[AXIS_N] * x->shape.dim[AXIS_T],
                                   .height = x->shape.dim[AXIS_H],
                                   .width = x->shape.dim[AXIS_W],
                                   .channels = x->shape.dim[AXIS_C]};
  *out = kernel;
  return OK;
}

Status cuda_max_pool_new(Backend *backend, const Op *op, const Tensor *inputs,
                         const Tensor *outputs, Kernel **out, Error *error) {
  MaxPoolKernel *kernel = NULL;
  *out = NULL;
  Status status = max_pool_new(backend, op, &inputs[0], &outputs[0], &kernel, error);
  if (status != OK) return status;
  kernel->has_other = op->input_count > 1;
  kernel->base.run = forward_run;
  *out = &kernel->base;
  return OK;
}

Status cuda_max_pool_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                                  const Tensor *outputs, Kernel **out, Error *error) {
  MaxPoolKernel *kernel = NULL;
  *out = NULL;
  Status status = max_pool_new(backend, op, &outputs[0], &inputs[0], &kernel, error);
  if (status != OK) return status;
  kernel->base.run = backward_run;
  *out = &kernel->base;
  return OK;
}
