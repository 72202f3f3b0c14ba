/* The walk over a generator's graph that writes it as ONNX: what its two files share. Texts and
 * numbers handed to a model live until the walk ends. */
#ifndef CELFORGE_TRAINER_EXPORT_ONNX_WALK_H
#define CELFORGE_TRAINER_EXPORT_ONNX_WALK_H

#include "checkpoints/onnx.h"
#include "engine/graph/op.h"
#include "trainer/export/export.h"

/* The axes of tensors [N,C,T,H,W]. */
enum { ONNX_C = 1, ONNX_H = 3, ONNX_W = 4 };

typedef struct Walk {
  const ExportedModel *source;
  bool stream;
  int64_t multiple; /* generator_multiple */
  Graph *graph;
  OnnxModel *onnx;
  Buffer film, noise, output;
  StreamState state;
  const Op **makers;  /* of each value */
  const char **names; /* of each value's tensor; NULL: none yet */
  int kept_count, kept_capacity;
  void **kept; /* what must live until the model is written */
} Walk;

/* Frees `memory` when the walk ends; returns it. */
void *walk_keep(Walk *walk, void *memory);
/* A vector of integers, as a constant; returns its name. */
const char *walk_integers(Walk *walk, const char *name, const int64_t *values, int count);
/* An operator without attributes, of one or two inputs (b may be NULL); returns `output`. */
const char *walk_apply(Walk *walk, const char *type, const char *a, const char *b,
                       const char *output);
void walk_concat(Walk *walk, int axis, const char *a, const char *b, const char *output);
/* `pads`: names ten integers, what goes before each axis, then what goes behind. */
void walk_pad(Walk *walk, PadMode mode, const char *x, const char *pads, const char *output);
/* `scale` times as many pixels in H and W. */
void walk_resize(Walk *walk, ResizeMode mode, float scale, const char *x, const char *output);
/* Writes an op that computes something; its output is the tensor `name`. False: it is of a kind, or
 * has attributes, that no generator has. */
bool walk_op(Walk *walk, const Op *op, const char *name);

#endif
