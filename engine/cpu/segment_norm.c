/* Squared norms of segments, summed in double; equal bytes for any number of threads. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cpu/partition.h"

enum { ELEMENTS_PER_THREAD = 16384 };

typedef struct SegmentNormKernel {
  Kernel base;
  SegmentChunks chunks;
  int parts;
} SegmentNormKernel;

static double squared_norm(const float *values, int64_t count) {
  double total = 0.0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; i++) total += (double)values[i] * (double)values[i];
  return total;
}

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  (void)error;
  const SegmentNormKernel *k = (const SegmentNormKernel *)base;
  const SegmentChunks *chunks = &k->chunks;
  const float *x = inputs[0].data;
  float *out = outputs[0].data;
  double *partials = workspace;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t end = cpu_part_begin(chunks->count, part + 1, k->parts);
    for (int64_t p = cpu_part_begin(chunks->count, part, k->parts); p < end; p++)
      partials[p] = squared_norm(x + chunks->begin[p], chunks->begin[p + 1] - chunks->begin[p]);
  }
  for (int r = 0; r < chunks->segments; r++) {
    double total = 0.0;
    for (int64_t p = chunks->first[r]; p < chunks->first[r + 1]; p++) total += partials[p];
    out[r] = (float)total;
  }
  return OK;
}

static void kernel_free(Kernel *base) {
  segment_chunks_free(&((SegmentNormKernel *)base)->chunks);
  free(base);
}

Status cpu_segment_norm_new(Backend *backend, const Op *op, const Tensor *inputs,
                            const Tensor *outputs, Kernel **out, Error *error) {
  SegmentChunks chunks;
  *out = NULL;
  const Status status = segment_norm_chunks(op, inputs, outputs, backend->name, &chunks, error);
  if (status != OK) return status;
  SegmentNormKernel *k = mem_new(1, sizeof *k);
  k->chunks = chunks;
  k->parts = cpu_parts(backend, shape_count(inputs[0].shape), ELEMENTS_PER_THREAD);
  k->base = (Kernel){.workspace = memory_align((size_t)chunks.count * sizeof(double)),
                     .run = run,
                     .free = kernel_free};
  *out = &k->base;
  return OK;
}
