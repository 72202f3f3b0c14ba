/* A sparse linear map along H times one along W, the same for every frame and channel: padding,
 * resizing and average pooling are such maps, and so are their transposes. The index and weight
 * arithmetic of these ops is here alone, for every backend. Each output is a sum over its inputs in
 * a fixed order, so results do not depend on the number of threads. */
#ifndef CELFORGE_ENGINE_BACKEND_RESAMPLE_MAP_H
#define CELFORGE_ENGINE_BACKEND_RESAMPLE_MAP_H

#include "engine/graph/op.h"

/* Output o of `outputs` is the sum of weight[k] * input[index[k]] for k in [begin[o], begin[o+1]).
 */
typedef struct ResampleAxis {
  int64_t inputs, outputs;
  int64_t *begin;
  int64_t count, capacity; /* entries */
  int64_t *index;
  float *weight;
} ResampleAxis;

/* True if output o is a copy of one input, whose index it gives. */
bool resample_axis_copies(const ResampleAxis *map, int64_t o, int64_t *index);

/* The maps along H and W and, for the other axes, the input plane that an output plane reads:
 * index + shift; planes outside of the input are zero. */
typedef struct ResampleMap {
  ResampleAxis h, w;
  int64_t shift_n, shift_t, shift_c;
} ResampleMap;

/* The map of an OP_PAD, OP_RESIZE (with its fused padding) or OP_AVERAGE_POOL, or of the transpose
 * of one, from a tensor of shape `input` to one of shape `output`. Padding reflects or is zero;
 * bilinear resizing has half-pixel centres and clamps at the edge (align_corners false); an average
 * counts only pixels inside the frame. The caller frees the map. */
ResampleMap resample_map_of(const Op *op, Shape input, Shape output);
void resample_map_free(ResampleMap *map);

#endif
