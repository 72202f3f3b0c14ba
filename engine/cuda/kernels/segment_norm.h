/* Squared norms of the segments of a vector, in two stages: one block per chunk, then one block per
 * segment that adds its chunks in a fixed order. Traffic: 4 bytes per element, read once. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_SEGMENT_NORM_H
#define CELFORGE_ENGINE_CUDA_KERNELS_SEGMENT_NORM_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

typedef struct SegmentNormLaunch {
  const float *x;
  const int64_t *begin, *first; /* of SegmentChunks, on the device */
  double *partials;             /* workspace: [chunks] */
  float *out;                   /* [segments] */
  unsigned chunks, segments;
  int vectorized; /* 16-byte accesses: x and all segments are aligned */
} SegmentNormLaunch;

Status launch_segment_norm(const SegmentNormLaunch *launch, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif
#endif
