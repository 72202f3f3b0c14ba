#include "engine/backend/segments.h"

#include <stdlib.h>

#include "base/memory.h"

SegmentChunks segment_chunks_cut(const int64_t *offsets, int segments, int64_t most) {
  SegmentChunks chunks = {.segments = segments};
  chunks.first = mem_new((size_t)segments + 1, sizeof *chunks.first);
  for (int s = 0; s < segments; s++)
    chunks.first[s + 1] = chunks.first[s] + (offsets[s + 1] - offsets[s] + most - 1) / most;
  chunks.count = chunks.first[segments];
  chunks.begin = mem_new((size_t)chunks.count + 1, sizeof *chunks.begin);
  for (int s = 0; s < segments; s++) {
    for (int64_t c = chunks.first[s]; c < chunks.first[s + 1]; c++)
      chunks.begin[c] = offsets[s] + (c - chunks.first[s]) * most;
  }
  chunks.begin[chunks.count] = offsets[segments];
  return chunks;
}

void segment_chunks_free(SegmentChunks *chunks) {
  free(chunks->begin);
  free(chunks->first);
  *chunks = (SegmentChunks){0};
}
