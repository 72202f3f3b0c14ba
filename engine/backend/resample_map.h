/* A sparse linear map along H times one along W, the same for every frame and channel: padding,
 * resizing and pooling are such maps, and so are their transposes. Every output is gathered from
 * its inputs in a fixed order, so nothing depends on threads, and the index and weight arithmetic
 * of these ops stands here alone, for every backend. */
#ifndef CELFORGE_ENGINE_BACKEND_RESAMPLE_MAP_H
#define CELFORGE_ENGINE_BACKEND_RESAMPLE_MAP_H

#include "engine/graph/op.h"

/* Output o of `outputs` is the sum of weight[k] * input[index[k]] for k in [begin[o], begin[o+1]).
 */
typedef struct AxisMap {
  int64_t inputs, outputs;
  int64_t *begin;
  int64_t count, capacity; /* entries */
  int64_t *index;
  float *weight;
} AxisMap;

/* Whether output o is an input itself, and which. */
bool axis_map_copies(const AxisMap *map, int64_t o, int64_t *index);

/* The maps and, for the other axes, which input plane an output plane reads: index + shift; what
 * lies outside is zero. */
typedef struct SeparableMap {
  AxisMap h, w;
  int64_t shift_n, shift_t, shift_c;
} SeparableMap;

/* The map of an OP_PAD, OP_RESIZE (with the padding that fusion may have given it) or
 * OP_AVERAGE_POOL, or of the transpose of one, from a tensor of shape `input` to one of shape
 * `output`. Pad mirrors or repeats the border, or leaves zeros;
 * bilinear resizing puts samples at pixel centres and stops at the border (align_corners false); a
 * pool's average counts only cells inside the picture. */
SeparableMap separable_map_of(const Op *op, Shape input, Shape output);
void separable_map_free(SeparableMap *map);

#endif
