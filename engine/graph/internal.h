/* The representation of a graph, for engine/graph/, engine/ops/ and the planner. Not for users of
 * the engine. */
#ifndef CELFORGE_ENGINE_GRAPH_INTERNAL_H
#define CELFORGE_ENGINE_GRAPH_INTERNAL_H

#include "base/text.h"
#include "engine/graph/op.h"

typedef struct ValueInfo {
  Shape shape;
  DType dtype;
  int producer; /* index of the op whose output it is */
} ValueInfo;

struct Differentiation; /* engine/ops/autodiff.h */

struct Graph {
  int value_count, value_capacity;
  ValueInfo *values; /* by Value.id */
  int op_count, op_capacity;
  Op *ops; /* program order */
  Text scope;
  int scope_depth, scope_capacity;
  size_t *scope_lengths; /* length of `scope` before each push */
  bool differentiating;  /* ops appended now compute gradients */
  /* graph_differentiate, set when a differentiation begins. Gradient rules call it through this
   * pointer to differentiate ops that they have appended themselves (norm_backward does). */
  void (*differentiate)(Graph *graph, const struct Differentiation *request, Value *gradients);
  Error error; /* status OK: none */
};

/* Appends a copy of `op`, named after the current scope and `label` (NULL: the name of its kind),
 * and creates its `output_count` outputs with the given shapes and dtypes. Returns the op, valid
 * until the next append, or NULL if the graph has failed. */
const Op *graph_append(Graph *graph, const Op *op, const char *label, const Shape *shapes,
                       const DType *dtypes);
/* True if the graph has not failed and all values are valid. */
bool graph_usable(const Graph *graph, const Value *values, int count);
/* The op that computes a value. */
const Op *graph_producer(const Graph *graph, Value value);

#endif
