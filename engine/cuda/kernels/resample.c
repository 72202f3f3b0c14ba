/* Kernel constructors of padding, resizing, average pooling and their gradients, for the launcher
 * in resample.cu. */
#include "engine/cuda/kernels/resample.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/backend/resample_map.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct ResampleKernel {
  Kernel base;
  Backend *backend;
  cudaStream_t stream;
  void *tables;    /* on the device */
  bool has_addend; /* the second input */
  ResampleLaunch launch;
} ResampleKernel;

static Status resample_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                           void *workspace, Error *error) {
  (void)workspace;
  const ResampleKernel *kernel = (const ResampleKernel *)(void *)base;
  ResampleLaunch launch = kernel->launch;
  launch.input = inputs[0].data;
  launch.output = outputs[0].data;
  if (kernel->has_addend) launch.addend = inputs[1].data;
  return launch_resample(&launch, kernel->stream, error);
}

static void resample_free(Kernel *base) {
  ResampleKernel *kernel = (ResampleKernel *)(void *)base;
  if (kernel && kernel->tables) kernel->backend->release(kernel->backend, kernel->tables);
  free(kernel);
}

/* --- Tables ----------------------------------------------------------------------------------- */

static size_t table_bytes(const ResampleAxis *map) {
  const size_t entries = (size_t)map->count, begins = (size_t)map->outputs + 1;
  return (begins + entries) * sizeof(int32_t) + entries * sizeof(float);
}

/* Writes the table of `map` to `host`; returns its addresses after a copy to `device`. */
static AxisTable write_table(const ResampleAxis *map, char *host, char *device) {
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

static bool is_copy(const ResampleAxis *map) {
  int64_t index;
  for (int64_t o = 0; o < map->outputs; o++) {
    if (map->begin[o] < map->begin[o + 1] && !resample_axis_copies(map, o, &index)) return false;
  }
  return true;
}

static Status upload_tables(ResampleKernel *kernel, const ResampleMap *map, Error *error) {
  Status status = OK;
  const size_t h_bytes = memory_align(table_bytes(&map->h));
  const size_t bytes = h_bytes + memory_align(table_bytes(&map->w));
  char *host = mem_new(1, bytes);
  TRY(kernel->backend->allocate(kernel->backend, bytes, "resample tables", &kernel->tables, error));
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
         "%s: cuda: %s: input is %s and output %s, expected f32 or bf16 for both", op->name,
         op_kind_name(op->kind), dtype_name(input->dtype), dtype_name(output->dtype));
  for (int axis = AXIS_H; axis <= AXIS_W; axis++) {
    const int64_t in = input->shape.dim[axis], out = output->shape.dim[axis];
    if (in > INT32_MAX / 4096 || out > INT32_MAX / 4096)
      FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: sides of %lld and %lld pixels, at most %d",
           op->name, op_kind_name(op->kind), (long long)in, (long long)out, INT32_MAX / 4096);
  }
done:
  return status;
}

static Status resample_new(Backend *backend, const Op *op, const Tensor *inputs,
                           const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  ResampleMap map = {0};
  ResampleKernel *kernel = mem_new(1, sizeof *kernel);
  ResampleLaunch *launch = &kernel->launch;
  *out = NULL;
  TRY(check(op, &inputs[0], &outputs[0], error));
  map = resample_map_of(op, inputs[0].shape, outputs[0].shape);
  kernel->base = (Kernel){.run = resample_run, .free = resample_free};
  kernel->backend = backend;
  kernel->stream = cuda_backend(backend)->stream;
  launch->bf16 = inputs[0].dtype == DTYPE_BF16;
  kernel->has_addend = op_has_addend(op);
  launch->copies = !kernel->has_addend && is_copy(&map.h) && is_copy(&map.w);
  launch->shift_n = map.shift_n;
  launch->shift_t = map.shift_t;
  launch->shift_c = map.shift_c;
  memcpy(launch->in, inputs[0].shape.dim, sizeof launch->in);
  memcpy(launch->out, outputs[0].shape.dim, sizeof launch->out);
  TRY(upload_tables(kernel, &map, error));
  *out = &kernel->base;
  kernel = NULL;
done:
  resample_map_free(&map);
  if (kernel) resample_free(&kernel->base);
  return status;
}

Status cuda_pad_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                    Kernel **out, Error *error) {
  return resample_new(backend, op, inputs, outputs, out, error);
}

Status cuda_pad_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error) {
  return resample_new(backend, op, inputs, outputs, out, error);
}

Status cuda_resize_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  return resample_new(backend, op, inputs, outputs, out, error);
}

Status cuda_resize_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                                const Tensor *outputs, Kernel **out, Error *error) {
  return resample_new(backend, op, inputs, outputs, out, error);
}

Status cuda_average_pool_new(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error) {
  return resample_new(backend, op, inputs, outputs, out, error);
}

Status cuda_average_pool_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                                      const Tensor *outputs, Kernel **out, Error *error) {
  return resample_new(backend, op, inputs, outputs, out, error);
}
