/* A sparse linear map along H times one along W, the same for every frame and channel: padding,
 * resizing and pooling are such maps, and so are their transposes. Every output is gathered from
 * its inputs in a fixed order, so nothing depends on threads. */
#ifndef CELFORGE_ENGINE_CPU_SEPARABLE_H
#define CELFORGE_ENGINE_CPU_SEPARABLE_H

#include "engine/cpu/cpu.h"

/* Output o of `outputs` is the sum of weight[k] * input[index[k]] for k in [begin[o], begin[o+1]).
 */
typedef struct AxisMap {
  int64_t inputs, outputs;
  int64_t *begin;
  int64_t count, capacity; /* entries */
  int64_t *index;
  float *weight;
} AxisMap;

/* Outputs are filled in order: axis_map_push adds entries to the current one, axis_map_next ends
 * it. */
AxisMap axis_map_new(int64_t inputs);
void axis_map_push(AxisMap *map, int64_t index, float weight);
void axis_map_next(AxisMap *map);

/* The maps and, for the other axes, which input plane an output plane reads: index + shift; what
 * lies outside is zero. */
typedef struct SeparableMap {
  AxisMap h, w;
  int64_t shift_n, shift_t, shift_c;
} SeparableMap;

/* The transpose; frees `map`. */
SeparableMap separable_transpose(SeparableMap *map);

/* Takes over `map`, also on failure. Input and output are of one dtype, f32 or bf16. */
Status separable_kernel_new(Backend *backend, const Op *op, SeparableMap map, const Tensor *input,
                            const Tensor *output, Kernel **out, Error *error);

#endif
