/* Reverse-mode differentiation, for parameters and the gradient rules of ops; graph_gradients in
 * engine/graph/graph.h is the entry point for networks. */
#ifndef CELFORGE_ENGINE_OPS_AUTODIFF_H
#define CELFORGE_ENGINE_OPS_AUTODIFF_H

#include "engine/graph/internal.h"

typedef struct Differentiation {
  const Value *outputs, *cotangents; /* cotangents[i] has the shape of outputs[i]; f32 or bf16 */
  int output_count;
  const Value *wrt;
  int wrt_count;
  /* May be NULL. Called once for each wrt as soon as its gradient is complete, so that ops appended
   * by the callback directly follow the last op of that gradient. */
  void (*ready)(void *context, int index, Value gradient);
  void *context;
} Differentiation;

/* Appends ops that compute, for each wrt, the sum over the outputs of cotangent * d output / d wrt,
 * and writes the results to `gradients`; NO_VALUE where the derivative is zero everywhere. Dtypes
 * are those of graph_gradients. */
void graph_differentiate(Graph *graph, const Differentiation *request, Value *gradients);

/* graph_gradients with a callback: of `request` it reads wrt, ready and context. */
void graph_differentiate_loss(Graph *graph, Value loss, const Differentiation *request,
                              Value *gradients);

#endif
