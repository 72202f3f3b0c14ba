/* Reverse differentiation, as graph_gradients and rules of ops need it. */
#ifndef CELFORGE_ENGINE_OPS_AUTODIFF_H
#define CELFORGE_ENGINE_OPS_AUTODIFF_H

#include "engine/graph/internal.h"

typedef struct Differentiation {
  const Value *outputs, *cotangents; /* one cotangent an output, of its shape, f32 or bf16 */
  int output_count;
  const Value *wrt;
  int wrt_count;
  /* May be NULL. Called once for each wrt as soon as its gradient is complete, so that what the
   * caller appends stands right behind the last op of that gradient. */
  void (*ready)(void *context, int index, Value gradient);
  void *context;
} Differentiation;

/* Appends the sum over the outputs of cotangent * d output / d wrt, for each wrt, and writes them
 * to `gradients`; NO_VALUE where the derivative is zero everywhere. Dtypes as of graph_gradients.
 */
void graph_differentiate(Graph *graph, const Differentiation *task, Value *gradients);

/* As graph_gradients, with the `ready` of `request`, of which wrt, ready and context are read. */
void graph_scalar_gradients(Graph *graph, Value loss, const Differentiation *request,
                            Value *gradients);

#endif
