/* Ops that write buffers: store, accumulate, fill, and the Adam step. */
#include "engine/cuda/kernels/update.h"

#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cuda/runtime/cuda.h"

static void effect_free(Kernel *kernel) {
  free(kernel);
}

static bool is_aligned(const void *address, size_t bytes) {
  return (uintptr_t)address % bytes == 0;
}

/* --- Store ------------------------------------------------------------------------------------ */

typedef struct StoreKernel {
  Kernel base;
  cudaStream_t stream;
  StoreTask task;
} StoreKernel;

static Status store_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                        Error *error) {
  (void)outputs, (void)workspace;
  Status status = OK;
  const StoreKernel *k = (const StoreKernel *)base;
  const Tensor *value = &inputs[0], *target = &inputs[1];
  if (k->task.copies) {
    if (value->data == target->data) return OK;
    CUDA_TRY(cudaMemcpyAsync(target->data, value->data,
                             (size_t)k->task.count * dtype_size(value->dtype),
                             cudaMemcpyDeviceToDevice, k->stream));
    goto done;
  }
  const StoreLaunch launch = {.value = value->data,
                              .target = target->data,
                              .count = k->task.count,
                              .value_bf16 = value->dtype == DTYPE_BF16,
                              .target_bf16 = target->dtype == DTYPE_BF16,
                              .accumulate = k->task.accumulates,
                              .wide = is_aligned(value->data, 16) && is_aligned(target->data, 16)};
  TRY(launch_store(&launch, k->stream, error));
done:
  return status;
}

Status cuda_store_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  (void)outputs;
  Status status = OK;
  StoreTask task;
  *out = NULL;
  TRY(store_task(op, inputs, backend->name, &task, error));
  StoreKernel *k = mem_new(1, sizeof *k);
  k->stream = cuda_backend(backend)->stream;
  k->task = task;
  k->base = (Kernel){.run = store_run, .free = effect_free};
  *out = &k->base;
done:
  return status;
}

/* --- Fill ------------------------------------------------------------------------------------- */

typedef struct FillKernel {
  Kernel base;
  cudaStream_t stream;
  FillLaunch launch;
} FillKernel;

static Status fill_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)outputs, (void)workspace;
  Status status = OK;
  const FillKernel *k = (const FillKernel *)base;
  FillLaunch launch = k->launch;
  launch.target = inputs[0].data;
  launch.wide = is_aligned(launch.target, 16);
  if (launch.word == (launch.word & 0xffu) * 0x01010101u) {
    CUDA_TRY(cudaMemsetAsync(launch.target, (int)(launch.word & 0xffu),
                             (size_t)launch.count * (size_t)launch.size, k->stream));
  } else {
    TRY(launch_fill(&launch, k->stream, error));
  }
done:
  return status;
}

static uint32_t fill_word(float value, DType dtype) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return dtype == DTYPE_F32 ? bits : bf16_from_f32(value) * UINT32_C(0x10001);
}

Status cuda_fill_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  (void)outputs;
  Status status = OK;
  FillTask task;
  *out = NULL;
  TRY(fill_task(op, inputs, backend->name, &task, error));
  FillKernel *k = mem_new(1, sizeof *k);
  k->stream = cuda_backend(backend)->stream;
  k->launch = (FillLaunch){.count = task.count,
                           .word = fill_word(task.value, task.dtype),
                           .size = (int)dtype_size(task.dtype)};
  k->base = (Kernel){.run = fill_run, .free = effect_free};
  *out = &k->base;
done:
  return status;
}

/* --- Adam ------------------------------------------------------------------------------------- */

typedef struct AdamKernel {
  Kernel base;
  cudaStream_t stream;
  AdamTask task;
} AdamKernel;

static Status adam_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)outputs;
  const AdamKernel *k = (const AdamKernel *)base;
  AdamLaunch launch = {.parameters = inputs[ADAM_PARAMETERS].data,
                       .moment1 = inputs[ADAM_MOMENT1].data,
                       .moment2 = inputs[ADAM_MOMENT2].data,
                       .gradients = inputs[ADAM_GRADIENTS].data,
                       .ema = k->task.ema ? inputs[ADAM_EMA].data : NULL,
                       .compute = k->task.compute ? inputs[ADAM_COMPUTE].data : NULL,
                       .norm = inputs[ADAM_NORM].data,
                       .controls = inputs[ADAM_CONTROLS].data,
                       .counters = inputs[ADAM_COUNTERS].data,
                       .plan = workspace,
                       .constants = k->task.constants,
                       .count = k->task.count};
  launch.wide = is_aligned(launch.parameters, 16) && is_aligned(launch.gradients, 16) &&
                is_aligned(launch.moment1, 16) && is_aligned(launch.moment2, 16) &&
                is_aligned(launch.ema, 16) && is_aligned(launch.compute, 8);
  return launch_adam(&launch, k->stream, error);
}

Status cuda_adam_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  (void)outputs;
  Status status = OK;
  AdamTask task;
  *out = NULL;
  TRY(adam_task(op, inputs, backend->name, &task, error));
  AdamKernel *k = mem_new(1, sizeof *k);
  k->stream = cuda_backend(backend)->stream;
  k->task = task;
  k->base =
      (Kernel){.workspace = memory_align(sizeof(AdamPlan)), .run = adam_run, .free = effect_free};
  *out = &k->base;
done:
  return status;
}
