/* The kernel of all resample maps: padding, resizing, average pooling and their transposes. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/resample_map.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/partition.h"

/* Consecutive pixels of an output row that are computed in the same way. In a stencil run each
 * pixel is the sum of the one before it, moved by one pixel: all of them are one long sum. */
typedef enum RunKind { RUN_ZERO, RUN_COPY, RUN_COMBINE, RUN_STENCIL } RunKind;
typedef struct Run {
  RunKind kind;
  int64_t first, count; /* output pixels */
  int64_t from;         /* RUN_COPY: input pixel of the first one */
} Run;

typedef struct ResampleKernel {
  Kernel base;
  ResampleMap map;
  Shape in, out;
  DType dtype;
  size_t size;                     /* of an element */
  int64_t channel, channels, from; /* first and number of non-zero output channels; first input */
  bool adds;                       /* there is an addend */
  bool whole_pixels;               /* output channel c reads input channel c */
  size_t row_bytes, workspace_of_part; /* the combined row, then the longest sum */
  int parts;
  int64_t run_count, run_capacity;
  Run *runs;
} ResampleKernel;

/* True if output o reads the pixels after those of output o - 1, with the same weights. */
static bool continues_stencil(const ResampleAxis *map, int64_t o) {
  const int64_t at = map->begin[o], before = map->begin[o - 1], count = at - before;
  if (map->begin[o + 1] - at != count) return false;
  for (int64_t k = 0; k < count; k++) {
    if (map->index[at + k] != map->index[before + k] + 1) return false;
    if (map->weight[at + k] != map->weight[before + k]) return false;
  }
  return count > 0;
}

/* The number of outputs from o on that are one stencil. */
static int64_t stencil_length(const ResampleAxis *map, int64_t o) {
  int64_t end = o + 1;
  while (end < map->outputs && continues_stencil(map, end)) end++;
  return end - o;
}

/* Groups the pixels of a row into runs. */
static void find_runs(ResampleKernel *k) {
  const ResampleAxis *w = &k->map.w;
  int64_t stencil = 1;
  for (int64_t o = 0; o < w->outputs; o += stencil) {
    int64_t from = 0;
    RunKind kind = RUN_COMBINE;
    if (w->begin[o] == w->begin[o + 1]) kind = RUN_ZERO;
    if (resample_axis_copies(w, o, &from)) kind = RUN_COPY;
    stencil = kind == RUN_COMBINE && k->whole_pixels ? stencil_length(w, o) : 1;
    if (stencil > 1) kind = RUN_STENCIL;
    Run *last = k->run_count > 0 ? &k->runs[k->run_count - 1] : NULL;
    if (last && last->kind == kind && kind != RUN_STENCIL &&
        (kind != RUN_COPY || from == last->from + last->count)) {
      last->count++;
      continue;
    }
    MEM_PUSH_SLOT(k->runs, k->run_count, k->run_capacity);
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): allocated by the line above */
    k->runs[k->run_count++] = (Run){.kind = kind, .first = o, .count = stencil, .from = from};
  }
}

/* An input row, or the combination of several. */
typedef struct Row {
  const void *data;
  DType dtype;
} Row;

static void add_scaled(float *restrict to, const void *data, DType dtype, int64_t first,
                       float scale, int64_t count) {
  if (dtype == DTYPE_F32) {
    const float *from = (const float *)data + first;
    for (int64_t i = 0; i < count; i++) to[i] += scale * from[i];
  } else {
    const uint16_t *from = (const uint16_t *)data + first;
    for (int64_t i = 0; i < count; i++) to[i] += scale * bf16_to_f32(from[i]);
  }
}

/* to = scale_a * a + scale_b * b */
static void add_two(float *restrict to, const void *data, DType dtype, int64_t a, int64_t b,
                    float scale_a, float scale_b, int64_t count) {
  if (dtype == DTYPE_F32) {
    const float *x = (const float *)data + a, *y = (const float *)data + b;
    for (int64_t i = 0; i < count; i++) to[i] = scale_a * x[i] + scale_b * y[i];
  } else {
    const uint16_t *x = (const uint16_t *)data + a, *y = (const uint16_t *)data + b;
    for (int64_t i = 0; i < count; i++) {
      to[i] = scale_a * bf16_to_f32(x[i]) + scale_b * bf16_to_f32(y[i]);
    }
  }
}

/* to = sum over the entries of output o, each `count` elements at origin + index * step; there is
 * at least one entry. */
static void combine(float *restrict to, const ResampleAxis *map, int64_t o, const void *data,
                    DType dtype, int64_t origin, int64_t step, int64_t count) {
  const int64_t begin = map->begin[o], end = map->begin[o + 1];
  const int64_t *index = map->index + begin;
  const float *weight = map->weight + begin;
  const int64_t a = origin + index[0] * step;
  if (end - begin == 1) {
    for (int64_t i = 0; i < count; i++) to[i] = 0.0f;
    add_scaled(to, data, dtype, a, weight[0], count);
    return;
  }
  add_two(to, data, dtype, a, origin + index[1] * step, weight[0], weight[1], count);
  for (int64_t k = 2; k < end - begin; k++) {
    add_scaled(to, data, dtype, origin + index[k] * step, weight[k], count);
  }
}

/* Copies `count` elements of a row, converted to the output dtype. */
static void put(const ResampleKernel *k, char *to, const Row *row, int64_t first, int64_t count) {
  if (row->dtype == k->dtype) {
    memcpy(to, (const char *)row->data + (size_t)first * k->size, (size_t)count * k->size);
  } else {
    cpu_store(to, k->dtype, 0, (const float *)row->data + first, count);
  }
}

static void copy_run(const ResampleKernel *k, const Run *run, const Row *row, char *to) {
  const int64_t in_channels = k->in.dim[AXIS_C], out_channels = k->out.dim[AXIS_C];
  if (k->whole_pixels) {
    put(k, to, row, run->from * in_channels, run->count * in_channels);
    return;
  }
  const size_t pixel = (size_t)out_channels * k->size, margin = (size_t)k->channel * k->size;
  for (int64_t i = 0; i < run->count; i++, to += pixel) {
    memset(to, 0, pixel);
    put(k, to + margin, row, (run->from + i) * in_channels + k->from, k->channels);
  }
}

/* `space`: for the longest sum. */
static void combine_run(const ResampleKernel *k, const Run *run, const Row *row, float *space,
                        char *to) {
  const size_t bytes = (size_t)k->out.dim[AXIS_C] * k->size;
  const int64_t together = run->kind == RUN_STENCIL ? run->count : 1; /* pixels of a sum */
  const int64_t length = together * k->channels;
  for (int64_t i = 0; i < run->count; i += together, to += bytes) {
    char *channels = to + (size_t)k->channel * k->size;
    float *sum = k->dtype == DTYPE_F32 ? (float *)(void *)channels : space;
    if (!k->whole_pixels) memset(to, 0, bytes);
    combine(sum, &k->map.w, run->first + i, row->data, row->dtype, k->from, k->in.dim[AXIS_C],
            length);
    if (sum == space) cpu_store(channels, k->dtype, 0, space, length);
  }
}

/* Computes one output row (n, t, h). */
static void run_row(const ResampleKernel *k, const Tensor *input, int64_t index, char *to,
                    char *workspace) {
  const int64_t h = index % k->out.dim[AXIS_H];
  const int64_t t = index / k->out.dim[AXIS_H] % k->out.dim[AXIS_T] + k->map.shift_t;
  const int64_t n = index / k->out.dim[AXIS_H] / k->out.dim[AXIS_T] + k->map.shift_n;
  const size_t pixel = (size_t)k->out.dim[AXIS_C] * k->size;
  const bool inside = n >= 0 && n < k->in.dim[AXIS_N] && t >= 0 && t < k->in.dim[AXIS_T];
  if (!inside || k->map.h.begin[h] == k->map.h.begin[h + 1] || k->channels <= 0) {
    memset(to, 0, pixel * (size_t)k->out.dim[AXIS_W]);
    return;
  }
  const int64_t step = k->in.dim[AXIS_W] * k->in.dim[AXIS_C];
  const int64_t origin = (n * k->in.dim[AXIS_T] + t) * k->in.dim[AXIS_H] * step;
  float *combined = (float *)(void *)workspace;
  Row row = {.data = combined, .dtype = DTYPE_F32};
  int64_t from;
  if (resample_axis_copies(&k->map.h, h, &from)) {
    row.data = (const char *)input->data + (size_t)(origin + from * step) * k->size;
    row.dtype = k->dtype;
  } else {
    combine(combined, &k->map.h, h, input->data, k->dtype, origin, step, step);
  }
  for (int64_t i = 0; i < k->run_count; i++) {
    const Run *run = &k->runs[i];
    char *at = to + (size_t)run->first * pixel;
    if (run->kind == RUN_ZERO) memset(at, 0, (size_t)run->count * pixel);
    if (run->kind == RUN_COPY) copy_run(k, run, &row, at);
    if (run->kind == RUN_COMBINE || run->kind == RUN_STENCIL) {
      combine_run(k, run, &row, (float *)(void *)(workspace + k->row_bytes), at);
    }
  }
}

/* Adds a row of the addend to the row at `to`, which is still in the cache. */
static void add_row(const ResampleKernel *k, const Tensor *addend, int64_t row, char *to) {
  enum { CHUNK = 512 };
  const int64_t count = k->out.dim[AXIS_W] * k->out.dim[AXIS_C];
  float sum[CHUNK];
  for (int64_t i = 0; i < count; i += CHUNK) {
    const int64_t length = count - i < CHUNK ? count - i : CHUNK;
    cpu_load(sum, to, k->dtype, i, length);
    add_scaled(sum, addend->data, k->dtype, row * count + i, 1, length);
    cpu_store(to, k->dtype, i, sum, length);
  }
}

static Status run_kernel(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                         Error *error) {
  (void)error;
  const ResampleKernel *k = (const ResampleKernel *)base;
  const int64_t rows = k->out.dim[AXIS_N] * k->out.dim[AXIS_T] * k->out.dim[AXIS_H];
  const size_t row_bytes = (size_t)(k->out.dim[AXIS_W] * k->out.dim[AXIS_C]) * k->size;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t end = cpu_part_begin(rows, part + 1, k->parts);
    char *mine = (char *)workspace + (size_t)part * k->workspace_of_part;
    for (int64_t row = cpu_part_begin(rows, part, k->parts); row < end; row++) {
      char *to = (char *)outputs[0].data + (size_t)row * row_bytes;
      run_row(k, &inputs[0], row, to, mine);
      if (k->adds) add_row(k, &inputs[1], row, to);
    }
  }
  return OK;
}

static void kernel_free(Kernel *base) {
  ResampleKernel *k = (ResampleKernel *)base;
  resample_map_free(&k->map);
  free(k->runs);
  free(k);
}

/* Output channel c reads input channel c + shift if it exists. */
static void plan_channels(ResampleKernel *k) {
  const int64_t in = k->in.dim[AXIS_C], out = k->out.dim[AXIS_C], shift = k->map.shift_c;
  const int64_t begin = shift < 0 ? -shift : 0;
  const int64_t end = in - shift < out ? in - shift : out;
  k->channel = begin;
  k->from = begin + shift;
  k->channels = end - begin;
  k->whole_pixels = shift == 0 && in == out;
}

/* The bytes of the longest sum of combine_run. */
static size_t longest_sum(const ResampleKernel *k) {
  int64_t pixels = 1;
  for (int64_t i = 0; i < k->run_count; i++) {
    if (k->runs[i].kind == RUN_STENCIL && k->runs[i].count > pixels) pixels = k->runs[i].count;
  }
  return memory_align((size_t)(pixels * k->in.dim[AXIS_C]) * sizeof(float));
}

Status cpu_resample_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                        Kernel **out, Error *error) {
  Status status = OK;
  const Tensor *input = &inputs[0], *output = &outputs[0];
  ResampleKernel *k = mem_new(1, sizeof *k);
  *out = NULL;
  k->in = input->shape;
  k->out = output->shape;
  k->dtype = output->dtype;
  k->size = dtype_size(output->dtype);
  if (input->dtype != output->dtype || !dtype_is_float(input->dtype)) {
    FAIL(error, ERROR_INTERNAL, "%s: cpu: input is %s, output %s, expected both f32 or both bf16",
         op->name, dtype_name(input->dtype), dtype_name(output->dtype));
  }
  k->adds = op_has_addend(op);
  k->map = resample_map_of(op, input->shape, output->shape);
  plan_channels(k);
  find_runs(k);
  k->row_bytes = memory_align((size_t)(k->in.dim[AXIS_W] * k->in.dim[AXIS_C]) * sizeof(float));
  k->workspace_of_part = k->row_bytes + longest_sum(k);
  k->parts = cpu_parts(backend, shape_count(output->shape), 16384);
  k->base = (Kernel){
      .workspace = (size_t)k->parts * k->workspace_of_part, .run = run_kernel, .free = kernel_free};
  *out = &k->base;
  k = NULL;
done:
  if (k) kernel_free(&k->base);
  return status;
}
