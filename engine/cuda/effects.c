/* Ops that write buffers: store, accumulate, fill, and the Adam step. */
#include "engine/cuda/effects.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/cuda/cuda.h"

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
  int64_t count;
  bool accumulate;
} StoreKernel;

static Status store_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                        Error *error) {
  (void)outputs, (void)workspace;
  Status status = OK;
  const StoreKernel *k = (const StoreKernel *)base;
  const Tensor *value = &inputs[0], *target = &inputs[1];
  if (!k->accumulate && value->dtype == target->dtype) {
    if (value->data == target->data) return OK;
    CUDA_TRY(cudaMemcpyAsync(target->data, value->data, (size_t)k->count * dtype_size(value->dtype),
                             cudaMemcpyDeviceToDevice, k->stream));
    goto done;
  }
  const StoreLaunch launch = {.value = value->data,
                              .target = target->data,
                              .count = k->count,
                              .value_bf16 = value->dtype == DTYPE_BF16,
                              .target_bf16 = target->dtype == DTYPE_BF16,
                              .accumulate = k->accumulate,
                              .wide = is_aligned(value->data, 16) && is_aligned(target->data, 16)};
  TRY(launch_store(&launch, k->stream, error));
done:
  return status;
}

Status cuda_store_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  (void)outputs;
  *out = NULL;
  const bool accumulate = op->attributes.store.accumulate;
  const DType from = inputs[0].dtype, to = inputs[1].dtype;
  const int64_t count = shape_count(inputs[0].shape);
  const bool copy = !accumulate && from == to;
  if (count != shape_count(inputs[1].shape) || (!copy && (from == DTYPE_U8 || to == DTYPE_U8))) {
    return error_set(error, ERROR_INTERNAL, "%s: cuda: store of %lld %s into %lld %s", op->name,
                     (long long)count, dtype_name(from), (long long)shape_count(inputs[1].shape),
                     dtype_name(to));
  }
  StoreKernel *k = mem_new(1, sizeof *k);
  k->stream = cuda_backend(backend)->stream;
  k->count = count;
  k->accumulate = accumulate;
  k->base = (Kernel){.run = store_run, .free = effect_free};
  *out = &k->base;
  return OK;
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
  *out = NULL;
  const DType dtype = inputs[0].dtype;
  if (dtype == DTYPE_U8) {
    return error_set(error, ERROR_INTERNAL, "%s: cuda: fill of a u8 view", op->name);
  }
  FillKernel *k = mem_new(1, sizeof *k);
  k->stream = cuda_backend(backend)->stream;
  k->launch = (FillLaunch){.count = shape_count(inputs[0].shape),
                           .word = fill_word(op->attributes.fill.value, dtype),
                           .size = (int)dtype_size(dtype)};
  k->base = (Kernel){.run = fill_run, .free = effect_free};
  *out = &k->base;
  return OK;
}

/* --- Adam ------------------------------------------------------------------------------------- */

/* The op's inputs: AdamViews in order. */
enum { PARAMETERS, GRADIENTS, MOMENT1, MOMENT2, EMA, COMPUTE, NORM, CONTROLS, COUNTERS };

typedef struct AdamKernel {
  Kernel base;
  cudaStream_t stream;
  int64_t count;
  AdamConstants constants;
  bool has_ema, has_compute;
} AdamKernel;

static Status adam_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)outputs;
  const AdamKernel *k = (const AdamKernel *)base;
  AdamLaunch launch = {.parameters = inputs[PARAMETERS].data,
                       .moment1 = inputs[MOMENT1].data,
                       .moment2 = inputs[MOMENT2].data,
                       .gradients = inputs[GRADIENTS].data,
                       .ema = k->has_ema ? inputs[EMA].data : NULL,
                       .compute = k->has_compute ? inputs[COMPUTE].data : NULL,
                       .norm = inputs[NORM].data,
                       .controls = inputs[CONTROLS].data,
                       .counters = inputs[COUNTERS].data,
                       .plan = workspace,
                       .constants = k->constants,
                       .count = k->count};
  launch.wide = is_aligned(launch.parameters, 16) && is_aligned(launch.gradients, 16) &&
                is_aligned(launch.moment1, 16) && is_aligned(launch.moment2, 16) &&
                is_aligned(launch.ema, 16) && is_aligned(launch.compute, 8);
  return launch_adam(&launch, k->stream, error);
}

static Status adam_check(const Op *op, const Tensor *inputs, int64_t count, Error *error) {
  Status status = OK;
  for (int i = PARAMETERS; i <= COUNTERS; i++) {
    if ((i == EMA || i == COMPUTE) && !cuda_has_input(op, inputs, i)) continue;
    const int64_t wanted = i < NORM ? count : i == NORM ? 1 : i == CONTROLS ? 4 : 3;
    const DType dtype = i == COMPUTE ? DTYPE_BF16 : DTYPE_F32;
    if (!cuda_has_input(op, inputs, i) || shape_count(inputs[i].shape) != wanted ||
        inputs[i].dtype != dtype) {
      FAIL(error, ERROR_INTERNAL, "%s: cuda: adam: input %d must be %lld elements of %s", op->name,
           i, (long long)wanted, dtype_name(dtype));
    }
  }
done:
  return status;
}

Status cuda_adam_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  (void)outputs;
  *out = NULL;
  const int64_t count = shape_count(inputs[PARAMETERS].shape);
  const Status status = adam_check(op, inputs, count, error);
  if (status != OK) return status;
  AdamKernel *k = mem_new(1, sizeof *k);
  k->stream = cuda_backend(backend)->stream;
  k->count = count;
  k->constants = (AdamConstants){.beta1 = op->attributes.adam.beta1,
                                 .beta2 = op->attributes.adam.beta2,
                                 .epsilon = op->attributes.adam.epsilon,
                                 .weight_decay = op->attributes.adam.weight_decay};
  k->has_ema = cuda_has_input(op, inputs, EMA);
  k->has_compute = cuda_has_input(op, inputs, COMPUTE);
  k->base =
      (Kernel){.workspace = cuda_align(sizeof(AdamPlan)), .run = adam_run, .free = effect_free};
  *out = &k->base;
  return OK;
}
