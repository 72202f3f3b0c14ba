/* Padding, resizing, pooling and their transposes: from tensors to the launch of separable.cu. */
#include "engine/cuda/kernels/resample.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/backend/resample_map.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct SeparableKernel {
  Kernel base;
  Backend *backend;
  cudaStream_t stream;
  void *tables; /* the backend's memory */
  bool adds;    /* a second input */
  SeparableLaunch launch;
} SeparableKernel;

static Status separable_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                            void *workspace, Error *error) {
  (void)workspace;
  const SeparableKernel *kernel = (const SeparableKernel *)(void *)base;
  SeparableLaunch launch = kernel->launch;
  launch.input = inputs[0].data;
  launch.output = outputs[0].data;
  if (kernel->adds) launch.addend = inputs[1].data;
  return launch_separable(&launch, kernel->stream, error);
}

static void separable_free(Kernel *base) {
  SeparableKernel *kernel = (SeparableKernel *)(void *)base;
  if (kernel && kernel->tables) kernel->backend->release(kernel->backend, kernel->tables);
  free(kernel);
}

/* --- Tables ----------------------------------------------------------------------------------- */

static size_t table_bytes(const AxisMap *map) {
  const size_t entries = (size_t)map->count, begins = (size_t)map->outputs + 1;
  return (begins + entries) * sizeof(int32_t) + entries * sizeof(float);
}

/* Writes the map's table to `host`; gives it as it will lie at `device`. */
static AxisTable write_table(const AxisMap *map, char *host, char *device) {
  const size_t begins = (size_t)map->outputs + 1, entries = (size_t)map->count;
  int32_t *begin = (int32_t *)(void *)host, *index = begin + begins;
  float *weight = (float *)(void *)(index + entries);
  for (size_t i = 0; i < begins; i++) begin[i] = (int32_t)map->begin[i];
  for (size_t i = 0; i < entries; i++) index[i] = (int32_t)map->index[i];
  memcpy(weight, map->weight, entries * sizeof *weight);
  const int32_t *base = (const int32_t *)(void *)device;
  return (AxisTable){.begin = base,
                     .index = base + begins,
                     .weight = (const float *)(const void *)(base + begins + entries)};
}

static bool only_copies(const AxisMap *map) {
  int64_t index;
  for (int64_t o = 0; o < map->outputs; o++) {
    if (map->begin[o] < map->begin[o + 1] && !axis_map_copies(map, o, &index)) return false;
  }
  return true;
}

static Status upload_tables(SeparableKernel *kernel, const SeparableMap *map, Error *error) {
  Status status = OK;
  const size_t h_bytes = memory_align(table_bytes(&map->h));
  const size_t bytes = h_bytes + memory_align(table_bytes(&map->w));
  char *host = mem_new(1, bytes);
  TRY(kernel->backend->allocate(kernel->backend, bytes, "tables of a map", &kernel->tables, error));
  char *device = kernel->tables;
  kernel->launch.h = write_table(&map->h, host, device);
  kernel->launch.w = write_table(&map->w, host + h_bytes, device + h_bytes);
  TRY(kernel->backend->upload(kernel->backend, device, host, bytes, error));
done:
  free(host);
  return status;
}

/* --- Constructors ----------------------------------------------------------------------------- */

static Status check(const Op *op, const Tensor *input, const Tensor *output, Error *error) {
  Status status = OK;
  if (input->dtype != output->dtype || input->dtype == DTYPE_U8)
    FAIL(error, ERROR_INTERNAL,
         "%s: cuda: %s: input is %s and output %s; both must be f32 or both bf16", op->name,
         op_kind_name(op->kind), dtype_name(input->dtype), dtype_name(output->dtype));
  for (int axis = AXIS_H; axis <= AXIS_W; axis++) {
    const int64_t in = input->shape.dim[axis], out = output->shape.dim[axis];
    if (in > INT32_MAX / 4096 || out > INT32_MAX / 4096)
      FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: %lld to %lld pixels a side; at most %d", op->name,
           op_kind_name(op->kind), (long long)in, (long long)out, INT32_MAX / 4096);
  }
done:
  return status;
}

static Status separable_new(Backend *backend, const Op *op, const Tensor *inputs,
                            const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  SeparableMap map = {0};
  SeparableKernel *kernel = mem_new(1, sizeof *kernel);
  SeparableLaunch *launch = &kernel->launch;
  *out = NULL;
  TRY(check(op, &inputs[0], &outputs[0], error));
  map = separable_map_of(op, inputs[0].shape, outputs[0].shape);
  kernel->base = (Kernel){.run = separable_run, .free = separable_free};
  kernel->backend = backend;
  kernel->stream = cuda_backend(backend)->stream;
  launch->bf16 = inputs[0].dtype == DTYPE_BF16;
  kernel->adds = op_map_adds(op);
  launch->copies = !kernel->adds && only_copies(&map.h) && only_copies(&map.w);
  launch->shift_n = map.shift_n;
  launch->shift_t = map.shift_t;
  launch->shift_c = map.shift_c;
  memcpy(launch->in, inputs[0].shape.dim, sizeof launch->in);
  memcpy(launch->out, outputs[0].shape.dim, sizeof launch->out);
  TRY(upload_tables(kernel, &map, error));
  *out = &kernel->base;
  kernel = NULL;
done:
  separable_map_free(&map);
  if (kernel) separable_free(&kernel->base);
  return status;
}

Status cuda_pad_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                    Kernel **out, Error *error) {
  return separable_new(backend, op, inputs, outputs, out, error);
}

Status cuda_pad_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error) {
  return separable_new(backend, op, inputs, outputs, out, error);
}

Status cuda_resize_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  return separable_new(backend, op, inputs, outputs, out, error);
}

Status cuda_resize_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                                const Tensor *outputs, Kernel **out, Error *error) {
  return separable_new(backend, op, inputs, outputs, out, error);
}

Status cuda_average_pool_new(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error) {
  return separable_new(backend, op, inputs, outputs, out, error);
}

Status cuda_average_pool_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                                      const Tensor *outputs, Kernel **out, Error *error) {
  return separable_new(backend, op, inputs, outputs, out, error);
}
