/* Ops that write buffers: store, accumulate, fill, and the Adam step. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cpu/partition.h"
#include "engine/shared/adam.h"

enum { BLOCK = 1024, ELEMENTS_PER_THREAD = 16384 };

/* --- Store ------------------------------------------------------------------------------------ */

typedef struct EffectKernel {
  Kernel base;
  int64_t count;
  int parts;
  bool accumulate;
  float value;
} EffectKernel;

static void effect_free(Kernel *kernel) {
  free(kernel);
}

static EffectKernel *effect_new(const Backend *backend, int64_t count,
                                Status (*run)(Kernel *, const Tensor *, const Tensor *, void *,
                                              Error *)) {
  EffectKernel *k = mem_new(1, sizeof *k);
  k->count = count;
  k->parts = cpu_parts(backend, count, ELEMENTS_PER_THREAD);
  k->base = (Kernel){.run = run, .free = effect_free};
  return k;
}

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
  const EffectKernel *k = (const EffectKernel *)base;
  const Tensor *value = &inputs[0], *target = &inputs[1];
  const bool copy = !k->accumulate && value->dtype == target->dtype;
  const size_t size = dtype_size(value->dtype);
  if (copy && value->data == target->data) return OK;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t begin = cpu_part_begin(k->count, part, k->parts);
    const int64_t end = cpu_part_begin(k->count, part + 1, k->parts);
    if (copy) {
      memcpy((char *)target->data + (size_t)begin * size,
             (const char *)value->data + (size_t)begin * size, (size_t)(end - begin) * size);
      continue;
    }
    for (int64_t i = begin; i < end; i += BLOCK) {
      store_block(value, target, i, end - i < BLOCK ? end - i : BLOCK, k->accumulate);
    }
  }
  return OK;
}

Status cpu_store_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  (void)outputs;
  *out = NULL;
  const bool accumulate = op->attributes.store.accumulate;
  const DType from = inputs[0].dtype, to = inputs[1].dtype;
  const int64_t count = shape_count(inputs[0].shape);
  const bool copy = !accumulate && from == to;
  if (count != shape_count(inputs[1].shape) || (!copy && (from == DTYPE_U8 || to == DTYPE_U8))) {
    return error_set(error, ERROR_INTERNAL, "%s: cpu: store of %lld %s into %lld %s", op->name,
                     (long long)count, dtype_name(from), (long long)shape_count(inputs[1].shape),
                     dtype_name(to));
  }
  EffectKernel *k = effect_new(backend, count, store_run);
  k->accumulate = accumulate;
  *out = &k->base;
  return OK;
}

/* --- Fill ------------------------------------------------------------------------------------- */

static void fill(const Tensor *target, int64_t begin, int64_t end, float value) {
  if (target->dtype == DTYPE_F32) {
    float *to = target->data;
    for (int64_t i = begin; i < end; i++) to[i] = value;
  } else {
    uint16_t *to = target->data;
    const uint16_t bits = shared_bf16_from_f32(value);
    for (int64_t i = begin; i < end; i++) to[i] = bits;
  }
}

static Status fill_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)outputs, (void)workspace, (void)error;
  const EffectKernel *k = (const EffectKernel *)base;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    fill(&inputs[0], cpu_part_begin(k->count, part, k->parts),
         cpu_part_begin(k->count, part + 1, k->parts), k->value);
  }
  return OK;
}

Status cpu_fill_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                    Kernel **out, Error *error) {
  (void)outputs;
  *out = NULL;
  if (inputs[0].dtype == DTYPE_U8) {
    return error_set(error, ERROR_INTERNAL, "%s: cpu: fill of a u8 view", op->name);
  }
  EffectKernel *k = effect_new(backend, shape_count(inputs[0].shape), fill_run);
  k->value = op->attributes.fill.value;
  *out = &k->base;
  return OK;
}

/* --- Adam ------------------------------------------------------------------------------------- */

/* The op's inputs: AdamViews in order. */
enum { PARAMETERS, GRADIENTS, MOMENT1, MOMENT2, EMA, COMPUTE, NORM, CONTROLS, COUNTERS };

typedef struct AdamKernel {
  Kernel base;
  int64_t count;
  int parts;
  AdamConstants constants;
  bool has_ema, has_compute;
} AdamKernel;

static void adam_part(const AdamKernel *k, const Tensor *inputs, const AdamStep *step,
                      int64_t begin, int64_t end) {
  float *restrict p = inputs[PARAMETERS].data;
  const float *restrict gradient = inputs[GRADIENTS].data;
  float *restrict m = inputs[MOMENT1].data;
  float *restrict v = inputs[MOMENT2].data;
  const AdamConstants constants = k->constants;
  const AdamStep s = *step;
  for (int64_t i = begin; i < end; i++) {
    const float g = s.clip * gradient[i];
    m[i] = adam_moment1(constants, m[i], g);
    v[i] = adam_moment2(constants, v[i], g);
    p[i] = adam_parameter(constants, s, p[i], m[i], v[i]);
  }
  if (k->has_ema) {
    float *restrict ema = inputs[EMA].data;
    for (int64_t i = begin; i < end; i++) ema[i] = adam_average(s, ema[i], p[i]);
  }
  if (k->has_compute)
    cpu_store((uint16_t *)inputs[COMPUTE].data + begin, DTYPE_BF16, 0, p + begin, end - begin);
}

static Status adam_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)outputs, (void)workspace, (void)error;
  const AdamKernel *k = (const AdamKernel *)base;
  AdamCounters *counters = inputs[COUNTERS].data;
  const AdamControls *controls = inputs[CONTROLS].data;
  const float norm = *(const float *)inputs[NORM].data;
  const int applies = adam_applies(norm, *controls);
  const AdamStep step = adam_step(k->constants, norm, *controls, counters->applied);
  *counters = adam_count(*counters, applies);
  if (!applies) return OK;
  const int64_t blocks = (k->count + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    /* Blocks that stay in the cache between the three loops: one pass over memory. */
    for (int64_t b = cpu_part_begin(blocks, part, k->parts);
         b < cpu_part_begin(blocks, part + 1, k->parts); b++) {
      const int64_t end = (b + 1) * BLOCK;
      adam_part(k, inputs, &step, b * BLOCK, end < k->count ? end : k->count);
    }
  }
  return OK;
}

static Status adam_check(const Op *op, const Tensor *inputs, int64_t count, Error *error) {
  Status status = OK;
  for (int i = PARAMETERS; i <= COUNTERS; i++) {
    if ((i == EMA || i == COMPUTE) && !cpu_has_input(op, inputs, i)) continue;
    const int64_t wanted = i < NORM ? count : i == NORM ? 1 : i == CONTROLS ? 4 : 3;
    const DType dtype = i == COMPUTE ? DTYPE_BF16 : DTYPE_F32;
    if (!cpu_has_input(op, inputs, i) || shape_count(inputs[i].shape) != wanted ||
        inputs[i].dtype != dtype) {
      FAIL(error, ERROR_INTERNAL, "%s: cpu: adam: input %d must be %lld elements of %s", op->name,
           i, (long long)wanted, dtype_name(dtype));
    }
  }
done:
  return status;
}

Status cpu_adam_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                    Kernel **out, Error *error) {
  (void)outputs;
  *out = NULL;
  const int64_t count = shape_count(inputs[PARAMETERS].shape);
  const Status status = adam_check(op, inputs, count, error);
  if (status != OK) return status;
  AdamKernel *k = mem_new(1, sizeof *k);
  k->count = count;
  k->parts = cpu_parts(backend, count, ELEMENTS_PER_THREAD);
  k->constants = (AdamConstants){.beta1 = op->attributes.adam.beta1,
                                 .beta2 = op->attributes.adam.beta2,
                                 .epsilon = op->attributes.adam.epsilon,
                                 .weight_decay = op->attributes.adam.weight_decay};
  k->has_ema = cpu_has_input(op, inputs, EMA);
  k->has_compute = cpu_has_input(op, inputs, COMPUTE);
  k->base = (Kernel){.run = adam_run, .free = effect_free};
  *out = &k->base;
  return OK;
}
