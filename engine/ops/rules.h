/* What the families of ops (one file each in this folder) share: their rules, which rules.c gathers
 * into op_rule's table, and the helpers that builders and gradient rules are made of. */
#ifndef CELFORGE_ENGINE_OPS_RULES_H
#define CELFORGE_ENGINE_OPS_RULES_H

#include "engine/graph/internal.h"

extern const OpRule rule_view, rule_reshape;
extern const OpRule rule_pointwise, rule_reduce, rule_square_sums;
extern const OpRule rule_conv3d, rule_conv3d_backward_data, rule_conv3d_backward_weights;
extern const OpRule rule_norm, rule_norm_backward;
extern const OpRule rule_concat, rule_slice, rule_pad, rule_pad_backward;
extern const OpRule rule_resize, rule_resize_backward;
extern const OpRule rule_average_pool, rule_average_pool_backward;
extern const OpRule rule_max_pool, rule_max_pool_backward;
extern const OpRule rule_store, rule_fill, rule_all_reduce, rule_adam;

/* True when the graph has not failed and the operands are values of f32 or bf16. A missing operand
 * or a u8 one fails the graph; `what` is the builder's name. */
bool operands_usable(Graph *graph, const char *what, const Value *values, int count);
/* Appends an op with one output and returns that. */
Value append_one(Graph *graph, const Op *op, const char *label, Shape shape, DType dtype);
/* Another value with the same content: what is differentiated with respect to it stops there. */
Value append_alias(Graph *graph, Value x);
/* Sums (f32) over the axes along which `x` was broadcast from `shape`; x itself when there are
 * none. */
Value reduce_to_shape(Graph *graph, Value x, Shape shape);
/* Of a map's backward pass: one for each element, where it adds another gradient. */
double addend_flops(const Op *op, Shape shape);
/* x == 0 ? 0 : 1 / x: derivatives alone use it. */
Value append_safe_reciprocal(Graph *graph, Value x);

#endif
