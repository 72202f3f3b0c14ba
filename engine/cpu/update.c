/* Updates of buffers: store, accumulate and the Adam step. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cpu/partition.h"

enum { BLOCK = 1024, ELEMENTS_PER_THREAD = 16384 };

typedef struct UpdateKernel {
  Kernel base;
  int parts;
  union {
    StoreArguments store;
    AdamArguments adam;
  };
} UpdateKernel;

static void update_free(Kernel *kernel) {
  free(kernel);
}

static UpdateKernel *update_new(const Backend *backend, int64_t count,
                                Status (*run)(Kernel *, const Tensor *, const Tensor *, void *,
                                              Error *)) {
  UpdateKernel *k = mem_new(1, sizeof *k);
  k->parts = cpu_parts(backend, count, ELEMENTS_PER_THREAD);
  k->base = (Kernel){.run = run, .free = update_free};
  return k;
}

/* --- Store ------------------------------------------------------------------------------------ */

/* At most BLOCK elements. */
static void store_block(const Tensor *value, const Tensor *target, int64_t first, int64_t count,
                        bool accumulate) {
  float values[BLOCK], sums[BLOCK];
  cpu_load(values, value->data, value->dtype, first, count);
  if (accumulate) {
    cpu_load(sums, target->data, target->dtype, first, count);
    for (int64_t i = 0; i < count; i++) values[i] += sums[i];
  }
  cpu_store(target->data, target->dtype, first, values, count);
}

static Status store_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                        Error *error) {
  (void)outputs, (void)workspace, (void)error;
  const UpdateKernel *k = (const UpdateKernel *)base;
  const StoreArguments arguments = k->store;
  const Tensor *value = &inputs[0], *target = &inputs[1];
  const size_t size = dtype_size(value->dtype);
  if (arguments.copies && value->data == target->data) return OK;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t begin = cpu_part_begin(arguments.count, part, k->parts);
    const int64_t end = cpu_part_begin(arguments.count, part + 1, k->parts);
    if (arguments.copies) {
      memcpy((char *)target->data + (size_t)begin * size,
             (const char *)value->data + (size_t)begin * size, (size_t)(end - begin) * size);
      continue;
    }
    for (int64_t i = begin; i < end; i += BLOCK) {
      store_block(value, target, i, end - i < BLOCK ? end - i : BLOCK, arguments.accumulates);
    }
  }
  return OK;
}

Status cpu_store_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  (void)outputs;
  Status status = OK;
  StoreArguments arguments;
  *out = NULL;
  TRY(store_arguments(op, inputs, backend->name, &arguments, error));
  UpdateKernel *k = update_new(backend, arguments.count, store_run);
  k->store = arguments;
  *out = &k->base;
done:
  return status;
}

/* --- Adam ------------------------------------------------------------------------------------- */

static void adam_part(const AdamArguments *arguments, const Tensor *inputs, const AdamStep *step,
                      int64_t begin, int64_t end) {
  float *restrict p = inputs[ADAM_PARAMETERS].data;
  const float *restrict gradient = inputs[ADAM_GRADIENTS].data;
  float *restrict m = inputs[ADAM_MOMENT1].data;
  float *restrict v = inputs[ADAM_MOMENT2].data;
  const AdamConstants constants = arguments->constants;
  const AdamStep s = *step;
  for (int64_t i = begin; i < end; i++) {
    const float g = s.gradient_scale * gradient[i];
    m[i] = adam_moment1(constants, m[i], g);
    v[i] = adam_moment2(constants, v[i], g);
    p[i] = adam_parameter(constants, s, p[i], m[i], v[i]);
  }
  if (arguments->ema) {
    float *restrict ema = inputs[ADAM_EMA].data;
    for (int64_t i = begin; i < end; i++) ema[i] = adam_ema_update(s, ema[i], p[i]);
  }
  if (arguments->compute)
    cpu_store((uint16_t *)inputs[ADAM_COMPUTE].data + begin, DTYPE_BF16, 0, p + begin, end - begin);
}

static Status adam_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)outputs, (void)workspace, (void)error;
  const UpdateKernel *k = (const UpdateKernel *)base;
  const AdamArguments *arguments = &k->adam;
  AdamCounters *counters = inputs[ADAM_COUNTERS].data;
  const AdamControls *controls = inputs[ADAM_CONTROLS].data;
  const float norm = *(const float *)inputs[ADAM_NORM].data;
  const int applies = adam_applies(norm, *controls);
  const AdamStep step = adam_step(arguments->constants, norm, *controls, counters->applied);
  *counters = adam_count(*counters, applies);
  if (!applies) return OK;
  const int64_t blocks = (arguments->count + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    /* Blocks that stay in the cache during the three loops: one pass over memory. */
    for (int64_t b = cpu_part_begin(blocks, part, k->parts);
         b < cpu_part_begin(blocks, part + 1, k->parts); b++) {
      const int64_t end = (b + 1) * BLOCK;
      adam_part(arguments, inputs, &step, b * BLOCK,
                end < arguments->count ? end : arguments->count);
    }
  }
  return OK;
}

Status cpu_adam_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                    Kernel **out, Error *error) {
  (void)outputs;
  Status status = OK;
  AdamArguments arguments;
  *out = NULL;
  TRY(adam_arguments(op, inputs, backend->name, &arguments, error));
  UpdateKernel *k = update_new(backend, arguments.count, adam_run);
  k->adam = arguments;
  *out = &k->base;
done:
  return status;
}
