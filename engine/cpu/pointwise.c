#include <stdlib.h>

#include "base/memory.h"
#include "engine/cpu/partition.h"
#include "engine/cpu/tiles.h"

typedef struct PointwiseKernel {
  Kernel base;
  TilePlan plan;
  int64_t count;
  int parts; /* threads that get work */
} PointwiseKernel;

/* Fewer elements are not worth another thread. */
enum { ELEMENTS_PER_THREAD = 8 * TILE_LENGTH };

static void run_part(const PointwiseKernel *kernel, const Tensor *inputs, const Tensor *outputs,
                     int64_t first, int64_t end, float *workspace) {
  const TilePlan *plan = &kernel->plan;
  const int d = plan->direct;
  const bool is_direct = d >= 0 && outputs[d].dtype == DTYPE_F32;
  tile_begin(plan, inputs, workspace);
  for (int64_t i = first; i < end; i += TILE_LENGTH) {
    const int64_t length = end - i < TILE_LENGTH ? end - i : TILE_LENGTH;
    const float *results[POINTWISE_MAX_OUTPUTS];
    float *direct = is_direct ? (float *)outputs[d].data + i : NULL;
    tile_run(plan, inputs, i, length, workspace, direct, results);
    for (int k = 0; k < plan->output_count; k++) {
      if (k == d && is_direct) continue;
      cpu_store(outputs[k].data, outputs[k].dtype, i, results[k], length);
    }
  }
}

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  (void)error;
  const PointwiseKernel *kernel = (const PointwiseKernel *)base;
  const int64_t tiles = (kernel->count + TILE_LENGTH - 1) / TILE_LENGTH;
#pragma omp parallel for num_threads(kernel->parts) schedule(static, 1)
  for (int part = 0; part < kernel->parts; part++) {
    const int64_t first = cpu_part_begin(tiles, part, kernel->parts) * TILE_LENGTH;
    const int64_t end = cpu_part_begin(tiles, part + 1, kernel->parts) * TILE_LENGTH;
    char *mine = (char *)workspace + (size_t)part * tile_workspace(&kernel->plan);
    run_part(kernel, inputs, outputs, first, end < kernel->count ? end : kernel->count,
             (float *)(void *)mine);
  }
  return OK;
}

static void kernel_free(Kernel *kernel) {
  free(kernel);
}

Status cpu_pointwise_new(Backend *backend, const Op *op, const Tensor *inputs,
                         const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  PointwiseKernel *kernel = mem_new(1, sizeof *kernel);
  *out = NULL;
  for (int k = 0; k < op->output_count; k++) {
    if (!dtype_is_float(outputs[k].dtype) || !shape_equal(outputs[k].shape, outputs[0].shape)) {
      FAIL(
          error, ERROR_INTERNAL,
          "%s: cpu: pointwise: output %d is %s, expected f32 or bf16 of the same shape as output 0",
          op->name, k, dtype_name(outputs[k].dtype));
    }
  }
  kernel->count = shape_count(outputs[0].shape);
  TRY(tile_plan(&kernel->plan, op, &op->attributes.pointwise, op->output_count, inputs,
                outputs[0].shape, error));
  kernel->parts = cpu_parts(backend, kernel->count, ELEMENTS_PER_THREAD);
  kernel->base = (Kernel){.workspace = (size_t)kernel->parts * tile_workspace(&kernel->plan),
                          .run = run,
                          .free = kernel_free};
  *out = &kernel->base;
  kernel = NULL;
done:
  free(kernel);
  return status;
}
