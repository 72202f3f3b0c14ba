/* The gradient and the cost of each kind of op: one file for each family of ops in this folder,
 * gathered into one table by rules.c. */
#ifndef CELFORGE_ENGINE_OPS_RULES_H
#define CELFORGE_ENGINE_OPS_RULES_H

#include "engine/graph/internal.h"

typedef struct OpRule {
  /* Appends ops that compute the gradients of the inputs from those of the outputs (NO_VALUE where
   * an output's gradient is zero). Only inputs with wanted[i] need one; gradients[i] stays NO_VALUE
   * where the derivative is zero everywhere. `op` is a copy and stays valid while ops are appended.
   * NULL: the op has no derivative, and differentiating through it fails the graph. */
  void (*gradient)(Graph *graph, const Op *op, const Value *output_gradients, const bool *wanted,
                   Value *gradients);
  /* FLOPs of one run, from the shapes of inputs and outputs; NULL: counted as zero. */
  double (*flops)(const Op *op, const Shape *inputs, const Shape *outputs);
} OpRule;

const OpRule *op_rule(OpKind kind);

extern const OpRule rule_view, rule_reshape, rule_detach;
extern const OpRule rule_pointwise, rule_reduce, rule_segment_squared_norm;
extern const OpRule rule_conv3d, rule_conv3d_backward_data, rule_conv3d_backward_weights;
extern const OpRule rule_matmul;
extern const OpRule rule_norm, rule_norm_backward;
extern const OpRule rule_concat, rule_slice, rule_pad, rule_pad_backward;
extern const OpRule rule_resize, rule_resize_backward;
extern const OpRule rule_average_pool, rule_average_pool_backward;
extern const OpRule rule_max_pool, rule_max_pool_backward;
extern const OpRule rule_warp, rule_translate;
extern const OpRule rule_store, rule_all_reduce, rule_adam;

#endif
