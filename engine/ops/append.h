/* Helpers of builders and gradient rules: check operands, append ops. */
#ifndef CELFORGE_ENGINE_OPS_APPEND_H
#define CELFORGE_ENGINE_OPS_APPEND_H

#include "engine/graph/internal.h"

/* True if the graph has not failed and all operands are f32 or bf16 values. A missing operand or
 * one of another dtype fails the graph; `builder` is the name shown in the error. */
bool operands_usable(Graph *graph, const char *builder, const Value *values, int count);
/* Appends an op with one output and returns that output. */
Value append_one(Graph *graph, const Op *op, const char *label, Shape shape, DType dtype);
/* Another value with the same content: differentiation with respect to it stops there. */
Value append_alias(Graph *graph, Value x);
/* FLOPs of adding the second input of a backward op: one for each element, 0 without that input. */
double addend_flops(const Op *op, Shape shape);

/* Sums (f32) over the axes along which `x` was broadcast from `shape`; x itself if there are none.
 * In reduce.c. */
Value reduce_to_shape(Graph *graph, Value x, Shape shape);
/* x == 0 ? 0 : 1 / x, used in derivatives only. In elementwise.c. */
Value append_safe_reciprocal(Graph *graph, Value x);

#endif
