#include "engine/cuda/kernels/segment_norm.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct SquareSumsKernel {
  Kernel base;
  Backend *backend;
  cudaStream_t stream;
  void *tables; /* the backend's memory */
  bool wide;    /* where x is aligned */
  SquareSumsLaunch launch;
} SquareSumsKernel;

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  const SquareSumsKernel *k = (const SquareSumsKernel *)base;
  SquareSumsLaunch launch = k->launch;
  launch.x = inputs[0].data;
  launch.out = outputs[0].data;
  launch.partials = workspace;
  launch.wide = k->wide && (uintptr_t)launch.x % 16 == 0;
  return launch_square_sums(&launch, k->stream, error);
}

static void kernel_free(Kernel *base) {
  SquareSumsKernel *k = (SquareSumsKernel *)base;
  if (k->tables) k->backend->release(k->backend, k->tables);
  free(k);
}

static Status upload_tables(SquareSumsKernel *k, const Pieces *pieces, Error *error) {
  Status status = OK;
  const size_t begins = ((size_t)pieces->count + 1) * sizeof *pieces->begin;
  const size_t firsts = ((size_t)pieces->ranges + 1) * sizeof *pieces->first;
  TRY(k->backend->allocate(k->backend, begins + firsts, "a table of ranges", &k->tables, error));
  TRY(k->backend->upload(k->backend, k->tables, pieces->begin, begins, error));
  k->launch.begin = k->tables;
  k->launch.first = k->launch.begin + pieces->count + 1;
  TRY(k->backend->upload(k->backend, (char *)k->tables + begins, pieces->first, firsts, error));
done:
  return status;
}

Status cuda_square_sums_new(Backend *backend, const Op *op, const Tensor *inputs,
                            const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  const int64_t *borders = op->attributes.square_sums.borders;
  const int ranges = op->attributes.square_sums.ranges;
  Pieces pieces;
  SquareSumsKernel *k = mem_new(1, sizeof *k);
  *out = NULL;
  k->backend = backend;
  TRY(square_sums_pieces(op, inputs, outputs, backend->name, &pieces, error));
  if (pieces.count > INT32_MAX) {
    FAIL(error, ERROR_INTERNAL, "%s: cuda: square_sums: %lld blocks are more than one launch holds",
         op->name, (long long)pieces.count);
  }
  k->stream = cuda_backend(backend)->stream;
  k->launch.pieces = (unsigned)pieces.count;
  k->launch.ranges = (unsigned)ranges;
  k->wide = true;
  for (int r = 0; r < ranges; r++) k->wide = k->wide && borders[r] % 4 == 0;
  TRY(upload_tables(k, &pieces, error));
  k->base = (Kernel){.workspace = memory_align((size_t)pieces.count * sizeof(double)),
                     .run = run,
                     .free = kernel_free};
  *out = &k->base;
  k = NULL;
done:
  pieces_free(&pieces);
  if (k) kernel_free(&k->base);
  return status;
}
