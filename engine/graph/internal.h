/* How a graph is stored, and the rules of its ops: for engine/graph/graph.c, engine/ops/,
 * engine/ops/autodiff.c and the planner. Not for users of the engine. */
#ifndef CELFORGE_ENGINE_GRAPH_INTERNAL_H
#define CELFORGE_ENGINE_GRAPH_INTERNAL_H

#include "base/text.h"
#include "engine/graph/op.h"

typedef struct ValueInfo {
  Shape shape;
  DType dtype;
  int producer; /* index of the op whose output it is */
} ValueInfo;

struct Graph {
  int value_count, value_capacity;
  ValueInfo *values; /* by Value.id */
  int op_count, op_capacity;
  Op *ops; /* program order */
  Text scope;
  int scope_depth, scope_capacity;
  size_t *scope_lengths; /* length of `scope` before each push */
  bool differentiating;  /* what is appended computes gradients */
  Error error;           /* status OK: none */
};

/* Appends a copy of `op`, named after the current scope and `label` (the kind's name when NULL),
 * and makes its `output_count` outputs with the shapes and dtypes given. Returns the op, valid
 * until the next append, or NULL when the graph has failed. */
const Op *graph_append(Graph *graph, const Op *op, const char *label, const Shape *shapes,
                       const DType *dtypes);
/* True when the graph has not failed and all the values are valid. */
bool graph_usable(const Graph *graph, const Value *values, int count);
/* The op behind a value. */
const Op *graph_producer(const Graph *graph, Value value);

/* What each kind of op knows of itself (engine/ops/). */
typedef struct OpRule {
  const char *name;
  /* Appends what gives the gradients of the inputs from those of the outputs (NO_VALUE where an
   * output's is zero). Only inputs with wanted[i] need theirs; gradients[i] stays NO_VALUE where
   * the derivative is zero everywhere. `op` is a copy: appending does not move it. NULL: the op has
   * no derivative, and differentiating through it fails the graph. */
  void (*gradient)(Graph *graph, const Op *op, const Value *output_gradients, const bool *wanted,
                   Value *gradients);
  /* FLOPs of one run; NULL: none worth counting. Shapes as in Graph.values. */
  double (*flops)(const Op *op, const Shape *inputs, const Shape *outputs);
} OpRule;

const OpRule *op_rule(OpKind kind);

#endif
