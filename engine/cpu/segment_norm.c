/* Sums of squares of a vector's ranges, in double; the same bytes for every number of threads. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cpu/partition.h"

enum { ELEMENTS_PER_THREAD = 16384 };

typedef struct SquareSumsKernel {
  Kernel base;
  SegmentChunks pieces;
  int parts;
} SquareSumsKernel;

static double square_sum(const float *values, int64_t count) {
  double total = 0.0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; i++) total += (double)values[i] * (double)values[i];
  return total;
}

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  (void)error;
  const SquareSumsKernel *k = (const SquareSumsKernel *)base;
  const SegmentChunks *pieces = &k->pieces;
  const float *x = inputs[0].data;
  float *out = outputs[0].data;
  double *partials = workspace;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t end = cpu_part_begin(pieces->count, part + 1, k->parts);
    for (int64_t p = cpu_part_begin(pieces->count, part, k->parts); p < end; p++)
      partials[p] = square_sum(x + pieces->begin[p], pieces->begin[p + 1] - pieces->begin[p]);
  }
  for (int r = 0; r < pieces->segments; r++) {
    double total = 0.0;
    for (int64_t p = pieces->first[r]; p < pieces->first[r + 1]; p++) total += partials[p];
    out[r] = (float)total;
  }
  return OK;
}

static void kernel_free(Kernel *base) {
  segment_chunks_free(&((SquareSumsKernel *)base)->pieces);
  free(base);
}

Status cpu_segment_norm_new(Backend *backend, const Op *op, const Tensor *inputs,
                            const Tensor *outputs, Kernel **out, Error *error) {
  SegmentChunks pieces;
  *out = NULL;
  const Status status = segment_norm_chunks(op, inputs, outputs, backend->name, &pieces, error);
  if (status != OK) return status;
  SquareSumsKernel *k = mem_new(1, sizeof *k);
  k->pieces = pieces;
  k->parts = cpu_parts(backend, shape_count(inputs[0].shape), ELEMENTS_PER_THREAD);
  k->base = (Kernel){.workspace = memory_align((size_t)pieces.count * sizeof(double)),
                     .run = run,
                     .free = kernel_free};
  *out = &k->base;
  return OK;
}
