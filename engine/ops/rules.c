#include "engine/ops/rules.h"

typedef struct KindEntry {
  const OpRule *rule;
  unsigned written; /* places of the inputs that are written, where these are present */
} KindEntry;

static const KindEntry kinds[OP_KIND_COUNT] = {
    [OP_VIEW] = {&rule_view, 0},
    [OP_RESHAPE] = {&rule_reshape, 0},
    [OP_POINTWISE] = {&rule_pointwise, 0},
    [OP_REDUCE] = {&rule_reduce, 0},
    [OP_SQUARE_SUMS] = {&rule_square_sums, 0},
    [OP_CONV3D] = {&rule_conv3d, 0},
    [OP_CONV3D_BACKWARD_DATA] = {&rule_conv3d_backward_data, 0},
    [OP_CONV3D_BACKWARD_WEIGHTS] = {&rule_conv3d_backward_weights, 0},
    [OP_NORM] = {&rule_norm, 0},
    [OP_NORM_BACKWARD] = {&rule_norm_backward, 0},
    [OP_CONCAT] = {&rule_concat, 0},
    [OP_SLICE] = {&rule_slice, 0},
    [OP_PAD] = {&rule_pad, 0},
    [OP_PAD_BACKWARD] = {&rule_pad_backward, 0},
    [OP_RESIZE] = {&rule_resize, 0},
    [OP_RESIZE_BACKWARD] = {&rule_resize_backward, 0},
    [OP_AVERAGE_POOL] = {&rule_average_pool, 0},
    [OP_AVERAGE_POOL_BACKWARD] = {&rule_average_pool_backward, 0},
    [OP_MAX_POOL] = {&rule_max_pool, 0},
    [OP_MAX_POOL_BACKWARD] = {&rule_max_pool_backward, 0},
    [OP_STORE] = {&rule_store, 1u << 1},
    [OP_FILL] = {&rule_fill, 1u << 0},
    [OP_ALL_REDUCE] = {&rule_all_reduce, 1u << 0},
    [OP_ADAM] = {&rule_adam, 1u << ADAM_PARAMETERS | 1u << ADAM_MOMENT1 | 1u << ADAM_MOMENT2 |
                                 1u << ADAM_EMA | 1u << ADAM_COMPUTE | 1u << ADAM_COUNTERS},
};

const OpRule *op_rule(OpKind kind) {
  return kinds[kind].rule;
}

const char *op_kind_name(OpKind kind) {
  return kinds[kind].rule->name;
}

unsigned op_written_inputs(const Op *op) {
  unsigned written = kinds[op->kind].written;
  for (int i = 0; i < OP_MAX_INPUTS; i++) {
    if (i >= op->input_count || op->inputs[i].id < 0) written &= ~(1u << i);
  }
  return written;
}

bool operands_usable(Graph *graph, const char *what, const Value *values, int count) {
  if (!graph_usable(graph, NULL, 0)) return false;
  for (int i = 0; i < count; i++) {
    if (!graph_usable(graph, &values[i], 1)) {
      graph_fail(graph, "%s: operand %d is missing", what, i);
      return false;
    }
    if (graph_dtype(graph, values[i]) == DTYPE_U8) {
      graph_fail(graph, "%s: operand %d is u8; cast it to f32 or bf16", what, i);
      return false;
    }
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

bool op_map_adds(const Op *op) {
  return op->input_count > 1 && (op->kind == OP_PAD_BACKWARD || op->kind == OP_RESIZE_BACKWARD ||
                                 op->kind == OP_AVERAGE_POOL_BACKWARD);
}

const PadAttributes *op_fused_pad(const Op *op) {
  const bool resizes = op->kind == OP_RESIZE || op->kind == OP_RESIZE_BACKWARD;
  if (!resizes && op->kind != OP_NORM && op->kind != OP_NORM_BACKWARD) return NULL;
  const PadAttributes *pad = resizes ? &op->attributes.resize.pad : &op->attributes.norm.pad;
  for (int axis = 0; axis < RANK; axis++) {
    if (pad->before.dim[axis] > 0 || pad->after.dim[axis] > 0) return pad;
  }
  return NULL;
}

double addend_flops(const Op *op, Shape shape) {
  return op_map_adds(op) ? (double)shape_count(shape) : 0;
}
