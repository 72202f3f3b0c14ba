/* The conversion of a generator's graph to ONNX, op by op: shared by onnx_graph.c and onnx_ops.c.
 * Names and arrays given to the ONNX model must live until it is written; onnx_walk_own keeps them.
 */
#ifndef CELFORGE_TRAINER_EXPORT_ONNX_WALK_H
#define CELFORGE_TRAINER_EXPORT_ONNX_WALK_H

#include "checkpoints/onnx.h"
#include "engine/graph/op.h"
#include "trainer/export/onnx_graph.h"

/* The axes of tensors [N,C,T,H,W]. */
enum { ONNX_C = 1, ONNX_H = 3, ONNX_W = 4 };

typedef struct OnnxWalk {
  const ExportedModel *model;
  bool stream;
  int64_t multiple; /* generator_multiple */
  Graph *graph;
  OnnxModel *onnx;
  Buffer source, noise, output; /* of the graph */
  StreamState state;
  const char *frames;   /* the source at the output's size, before padding */
  bool base_is_padded;  /* with model.smooth_base: whether the padding has been written */
  const Op **producers; /* the op of each value */
  const char **names;   /* the ONNX tensor of each value; NULL: none yet */
  int owned_count, owned_capacity;
  void **owned; /* freed when the walk ends */
} OnnxWalk;

/* Takes ownership of `memory` until the walk ends; returns it. */
void *onnx_walk_own(OnnxWalk *walk, void *memory);
/* Adds a vector of integers as a constant; returns its name. */
const char *onnx_walk_integers(OnnxWalk *walk, const char *name, const int64_t *values, int count);
/* Adds an operator without attributes and with one or two inputs (b may be NULL); returns `output`.
 */
const char *onnx_walk_node(OnnxWalk *walk, const char *type, const char *a, const char *b,
                           const char *output);
void onnx_walk_concat(OnnxWalk *walk, int axis, const char *a, const char *b, const char *output);
/* `pads` names a tensor of ten integers: padding before each axis, then after each axis. */
void onnx_walk_pad(OnnxWalk *walk, PadMode mode, const char *x, const char *pads,
                   const char *output);
/* Resizes H and W by `scale`. */
void onnx_walk_resize(OnnxWalk *walk, ResizeMode mode, float scale, const char *x,
                      const char *output);
/* Converts a computing op; its output becomes the tensor `name`. Returns false for a kind or
 * attributes that no generator uses. */
bool onnx_walk_op(OnnxWalk *walk, const Op *op, const char *name);

#endif
