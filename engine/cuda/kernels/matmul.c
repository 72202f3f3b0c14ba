/* Kernel constructor of OP_MATMUL, for the launcher in matmul.cu. */
#include "engine/cuda/kernels/matmul.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cuda/runtime/cuda.h"

enum { ENOUGH_TILES = 256, MIN_PART_TERMS = 256, MAX_PARTS = 128 };

typedef struct MatmulKernel {
  Kernel base;
  cudaStream_t stream;
  MatmulLaunch launch;
} MatmulKernel;

void matmul_parts(MatmulLaunch *launch) {
  const int64_t tiles = launch->batch * ((launch->rows + MATMUL_TILE - 1) / MATMUL_TILE) *
                        ((launch->columns + MATMUL_TILE - 1) / MATMUL_TILE);
  int64_t parts = ENOUGH_TILES / tiles, most = launch->terms / MIN_PART_TERMS;
  if (most > MAX_PARTS) most = MAX_PARTS;
  if (parts > most) parts = most;
  if (parts < 1) parts = 1;
  const int64_t length = (launch->terms + parts - 1) / parts;
  launch->part_terms = length;
  launch->parts = (launch->terms + length - 1) / length;
}

static Status matmul_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                         Error *error) {
  const MatmulKernel *kernel = (const MatmulKernel *)(void *)base;
  MatmulLaunch launch = kernel->launch;
  launch.a = inputs[0].data;
  launch.b = inputs[1].data;
  launch.y = outputs[0].data;
  launch.partials = workspace;
  return launch_matmul(&launch, kernel->stream, error);
}

static void matmul_free(Kernel *kernel) {
  free(kernel);
}

Status cuda_matmul_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  MatmulArguments arguments;
  *out = NULL;
  const Status status = matmul_arguments(op, inputs, outputs, backend->name, &arguments, error);
  if (status != OK) return status;
  MatmulKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->stream = cuda_backend(backend)->stream;
  kernel->launch = (MatmulLaunch){.bf16 = arguments.dtype == DTYPE_BF16,
                                  .transpose_a = arguments.transpose_a,
                                  .transpose_b = arguments.transpose_b,
                                  .batch = arguments.batch,
                                  .rows = arguments.rows,
                                  .columns = arguments.columns,
                                  .terms = arguments.terms};
  matmul_parts(&kernel->launch);
  const int64_t parts = kernel->launch.parts;
  const size_t sums = parts > 1 ? (size_t)(parts * shape_count(outputs[0].shape)) : 0;
  kernel->base = (Kernel){
      .workspace = memory_align(sums * sizeof(float)), .run = matmul_run, .free = matmul_free};
  *out = &kernel->base;
  return OK;
}
