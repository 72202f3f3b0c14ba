#include "engine/ops/append.h"

bool operands_usable(Graph *graph, const char *builder, const Value *values, int count) {
  if (!graph_usable(graph, NULL, 0)) return false;
  for (int i = 0; i < count; i++) {
    if (!graph_usable(graph, &values[i], 1)) {
      graph_fail(graph, "%s: operand %d is missing", builder, i);
      return false;
    }
    const DType dtype = graph_dtype(graph, values[i]);
    if (dtype_is_float(dtype)) continue;
    graph_fail(graph, "%s: operand %d is %s; it must be f32 or bf16%s", builder, i,
               dtype_name(dtype), dtype == DTYPE_U8 ? ": cast it first" : "");
    return false;
  }
  return true;
}

Value append_one(Graph *graph, const Op *op, const char *label, Shape shape, DType dtype) {
  Op one = *op;
  one.output_count = 1;
  const Op *appended = graph_append(graph, &one, label, &shape, &dtype);
  return appended == NULL ? NO_VALUE : appended->outputs[0];
}

Value append_alias(Graph *graph, Value x) {
  if (!graph_usable(graph, &x, 1)) return NO_VALUE;
  Op op = {.kind = OP_RESHAPE, .input_count = 1, .inputs = {x}};
  return append_one(graph, &op, "alias", graph_shape(graph, x), graph_dtype(graph, x));
}

double addend_flops(const Op *op, Shape shape) {
  return op_has_addend(op) ? (double)shape_count(shape) : 0;
}
