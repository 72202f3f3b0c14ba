/* Kernel constructor of OP_SEGMENT_SQUARED_NORM, for the launcher in segment_norm.cu. */
#include "engine/cuda/kernels/segment_norm.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct SegmentNormKernel {
  Kernel base;
  Backend *backend;
  cudaStream_t stream;
  void *tables;       /* on the device */
  bool can_vectorize; /* all segments begin at multiples of 16 bytes, if x does */
  SegmentNormLaunch launch;
} SegmentNormKernel;

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  const SegmentNormKernel *k = (const SegmentNormKernel *)base;
  SegmentNormLaunch launch = k->launch;
  launch.x = inputs[0].data;
  launch.out = outputs[0].data;
  launch.partials = workspace;
  launch.vectorized = k->can_vectorize && (uintptr_t)launch.x % 16 == 0;
  return launch_segment_norm(&launch, k->stream, error);
}

static void kernel_free(Kernel *base) {
  SegmentNormKernel *k = (SegmentNormKernel *)base;
  if (k->tables) k->backend->release(k->backend, k->tables);
  free(k);
}

static Status upload_tables(SegmentNormKernel *k, const SegmentChunks *chunks, Error *error) {
  Status status = OK;
  const size_t begins = ((size_t)chunks->count + 1) * sizeof *chunks->begin;
  const size_t firsts = ((size_t)chunks->segments + 1) * sizeof *chunks->first;
  TRY(k->backend->allocate(k->backend, begins + firsts, "tables of segments", &k->tables, error));
  TRY(k->backend->upload(k->backend, k->tables, chunks->begin, begins, error));
  k->launch.begin = k->tables;
  k->launch.first = k->launch.begin + chunks->count + 1;
  TRY(k->backend->upload(k->backend, (char *)k->tables + begins, chunks->first, firsts, error));
done:
  return status;
}

Status cuda_segment_norm_new(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  const int64_t *offsets = op->attributes.segment_norm.offsets;
  const int segments = op->attributes.segment_norm.segments;
  SegmentChunks chunks = {0};
  SegmentNormKernel *k = mem_new(1, sizeof *k);
  *out = NULL;
  k->backend = backend;
  TRY(segment_norm_chunks(op, inputs, outputs, backend->name, &chunks, error));
  if (chunks.count > INT32_MAX) {
    FAIL(error, ERROR_INTERNAL,
         "%s: cuda: segment_squared_norm: %lld chunks, at most %d fit in one launch", op->name,
         (long long)chunks.count, INT32_MAX);
  }
  k->stream = cuda_backend(backend)->stream;
  k->launch.chunks = (unsigned)chunks.count;
  k->launch.segments = (unsigned)segments;
  k->can_vectorize = true;
  for (int s = 0; s < segments; s++) k->can_vectorize = k->can_vectorize && offsets[s] % 4 == 0;
  TRY(upload_tables(k, &chunks, error));
  k->base = (Kernel){.workspace = memory_align((size_t)chunks.count * sizeof(double)),
                     .run = run,
                     .free = kernel_free};
  *out = &k->base;
  k = NULL;
done:
  segment_chunks_free(&chunks);
  if (k) kernel_free(&k->base);
  return status;
}
