/* Segments of a vector, cut into chunks, so that the order of additions in a sum over a segment
 * depends on the segments alone, not on the number of threads or blocks. */
#ifndef CELFORGE_ENGINE_BACKEND_SEGMENTS_H
#define CELFORGE_ENGINE_BACKEND_SEGMENTS_H

#include <stdint.h>

/* Chunk c is elements begin[c] to begin[c + 1] - 1; segment s is chunks first[s] to
 * first[s + 1] - 1. */
typedef struct SegmentChunks {
  int segments;
  int64_t count; /* of chunks */
  int64_t *begin, *first;
} SegmentChunks;

/* Segment s is elements offsets[s] to offsets[s + 1] - 1; offsets ascend. Chunks have `most`
 * elements, the last one of a segment perhaps fewer. */
SegmentChunks segment_chunks_cut(const int64_t *offsets, int segments, int64_t most);
void segment_chunks_free(SegmentChunks *chunks);

#endif
