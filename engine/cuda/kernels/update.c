/* Kernel constructors of OP_STORE and OP_ADAM, for the launchers in update.cu. */
#include "engine/cuda/kernels/update.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cuda/runtime/cuda.h"

static void update_free(Kernel *kernel) {
  free(kernel);
}

static bool is_aligned(const void *address, size_t bytes) {
  return (uintptr_t)address % bytes == 0;
}

/* --- Store ------------------------------------------------------------------------------------ */

typedef struct StoreKernel {
  Kernel base;
  cudaStream_t stream;
  StoreArguments arguments;
} StoreKernel;

static Status store_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                        Error *error) {
  (void)outputs, (void)workspace;
  Status status = OK;
  const StoreKernel *k = (const StoreKernel *)base;
  const Tensor *value = &inputs[0], *target = &inputs[1];
  if (k->arguments.copies) {
    if (value->data == target->data) return OK;
    CUDA_TRY(cudaMemcpyAsync(target->data, value->data,
                             (size_t)k->arguments.count * dtype_size(value->dtype),
                             cudaMemcpyDeviceToDevice, k->stream));
    goto done;
  }
  const StoreLaunch launch = {.value = value->data,
                              .target = target->data,
                              .count = k->arguments.count,
                              .value_bf16 = value->dtype == DTYPE_BF16,
                              .target_bf16 = target->dtype == DTYPE_BF16,
                              .accumulate = k->arguments.accumulates,
                              .vectorized =
                                  is_aligned(value->data, 16) && is_aligned(target->data, 16)};
  TRY(launch_store(&launch, k->stream, error));
done:
  return status;
}

Status cuda_store_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  (void)outputs;
  Status status = OK;
  StoreArguments arguments;
  *out = NULL;
  TRY(store_arguments(op, inputs, backend->name, &arguments, error));
  StoreKernel *k = mem_new(1, sizeof *k);
  k->stream = cuda_backend(backend)->stream;
  k->arguments = arguments;
  k->base = (Kernel){.run = store_run, .free = update_free};
  *out = &k->base;
done:
  return status;
}

/* --- Adam ------------------------------------------------------------------------------------- */

typedef struct AdamKernel {
  Kernel base;
  cudaStream_t stream;
  AdamArguments arguments;
} AdamKernel;

static Status adam_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)outputs;
  const AdamKernel *k = (const AdamKernel *)base;
  AdamLaunch launch = {.parameters = inputs[ADAM_PARAMETERS].data,
                       .moment1 = inputs[ADAM_MOMENT1].data,
                       .moment2 = inputs[ADAM_MOMENT2].data,
                       .gradients = inputs[ADAM_GRADIENTS].data,
                       .ema = k->arguments.ema ? inputs[ADAM_EMA].data : NULL,
                       .compute = k->arguments.compute ? inputs[ADAM_COMPUTE].data : NULL,
                       .norm = inputs[ADAM_NORM].data,
                       .controls = inputs[ADAM_CONTROLS].data,
                       .counters = inputs[ADAM_COUNTERS].data,
                       .decision = workspace,
                       .constants = k->arguments.constants,
                       .count = k->arguments.count};
  launch.vectorized = is_aligned(launch.parameters, 16) && is_aligned(launch.gradients, 16) &&
                      is_aligned(launch.moment1, 16) && is_aligned(launch.moment2, 16) &&
                      is_aligned(launch.ema, 16) && is_aligned(launch.compute, 8);
  return launch_adam(&launch, k->stream, error);
}

Status cuda_adam_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  (void)outputs;
  Status status = OK;
  AdamArguments arguments;
  *out = NULL;
  TRY(adam_arguments(op, inputs, backend->name, &arguments, error));
  AdamKernel *k = mem_new(1, sizeof *k);
  k->stream = cuda_backend(backend)->stream;
  k->arguments = arguments;
  k->base = (Kernel){
      .workspace = memory_align(sizeof(AdamDecision)), .run = adam_run, .free = update_free};
  *out = &k->base;
done:
  return status;
}
