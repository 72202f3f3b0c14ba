/* Ops without arithmetic: view, reshape, detach, concat, slice, pad. */
#include "engine/ops/append.h"
#include "engine/ops/rules.h"

const OpRule rule_view = {NULL, NULL}; /* graph_view is in engine/graph/graph.c */

/* --- Reshape ---------------------------------------------------------------------------------- */

Value graph_reshape(Graph *graph, Value x, Shape shape) {
  if (!operands_usable(graph, "reshape", &x, 1)) return NO_VALUE;
  Shape from = graph_shape(graph, x);
  if (shape_equal(from, shape)) return x;
  if (!shape_is_countable(shape) || shape_count(from) != shape_count(shape)) {
    char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
    graph_fail(graph, "reshape: %s to %s; the element counts differ", shape_text(from, left),
               shape_text(shape, right));
    return NO_VALUE;
  }
  Op op = {.kind = OP_RESHAPE, .input_count = 1, .inputs = {x}};
  return append_one(graph, &op, NULL, shape, graph_dtype(graph, x));
}

static void reshape_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                             const bool *wanted, Value *gradients) {
  (void)wanted;
  gradients[0] = graph_reshape(graph, output_gradients[0], graph_shape(graph, op->inputs[0]));
}

const OpRule rule_reshape = {reshape_gradient, NULL};

/* --- Detach ----------------------------------------------------------------------------------- */

Value graph_detach(Graph *graph, Value x) {
  if (!operands_usable(graph, "detach", &x, 1)) return NO_VALUE;
  Op op = {.kind = OP_DETACH, .input_count = 1, .inputs = {x}};
  return append_one(graph, &op, NULL, graph_shape(graph, x), graph_dtype(graph, x));
}

/* No path of a differentiation passes through a detach, so the rule is never called. */
const OpRule rule_detach = {NULL, NULL};

/* --- Concat ----------------------------------------------------------------------------------- */

static bool concat_shapes_match(Graph *graph, const Value *values, int count, int axis) {
  Shape first = graph_shape(graph, values[0]);
  for (int i = 1; i < count; i++) {
    Shape shape = graph_shape(graph, values[i]);
    shape.dim[axis] = first.dim[axis];
    if (shape_equal(shape, first) && graph_dtype(graph, values[i]) == graph_dtype(graph, values[0]))
      continue;
    char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
    graph_fail(
        graph,
        "concat: operand 0 is %s %s and operand %d is %s %s; only the lengths of axis %d may "
        "differ",
        dtype_name(graph_dtype(graph, values[0])), shape_text(first, left), i,
        dtype_name(graph_dtype(graph, values[i])), shape_text(graph_shape(graph, values[i]), right),
        axis);
    return false;
  }
  return true;
}

Value graph_concat(Graph *graph, const Value *values, int count, int axis) {
  if (!graph_usable(graph, NULL, 0)) return NO_VALUE;
  if (count < 1 || count > CONCAT_MAX_INPUTS || axis < 0 || axis >= RANK) {
    graph_fail(graph, "concat: %d operands along axis %d; expected 1 to %d operands, axis 0 to %d",
               count, axis, CONCAT_MAX_INPUTS, RANK - 1);
    return NO_VALUE;
  }
  if (!operands_usable(graph, "concat", values, count)) return NO_VALUE;
  if (!concat_shapes_match(graph, values, count, axis)) return NO_VALUE;
  if (count == 1) return values[0];
  Op op = {.kind = OP_CONCAT, .input_count = count};
  op.attributes.concat.axis = axis;
  Shape shape = graph_shape(graph, values[0]);
  shape.dim[axis] = 0;
  for (int i = 0; i < count; i++) {
    op.inputs[i] = values[i];
    shape.dim[axis] += graph_shape(graph, values[i]).dim[axis];
  }
  return append_one(graph, &op, NULL, shape, graph_dtype(graph, values[0]));
}

static void concat_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                            const bool *wanted, Value *gradients) {
  int axis = op->attributes.concat.axis;
  Shape begin = {{0}};
  for (int i = 0; i < op->input_count; i++) {
    Shape size = graph_shape(graph, op->inputs[i]);
    if (wanted[i]) gradients[i] = graph_slice(graph, output_gradients[0], begin, size);
    begin.dim[axis] += size.dim[axis];
  }
}

const OpRule rule_concat = {concat_gradient, NULL};

/* --- Slice ------------------------------------------------------------------------------------ */

Value graph_slice(Graph *graph, Value x, Shape begin, Shape size) {
  if (!operands_usable(graph, "slice", &x, 1)) return NO_VALUE;
  Shape from = graph_shape(graph, x);
  for (int axis = 0; axis < RANK; axis++) {
    int64_t length = from.dim[axis], first = begin.dim[axis], count = size.dim[axis];
    if (first >= 0 && count >= 1 && first <= length && count <= length - first) continue;
    char a[SHAPE_TEXT_SIZE], b[SHAPE_TEXT_SIZE], c[SHAPE_TEXT_SIZE];
    graph_fail(graph, "slice: size %s at %s is outside of %s", shape_text(size, a),
               shape_text(begin, b), shape_text(from, c));
    return NO_VALUE;
  }
  if (shape_equal(size, from)) return x;
  Op op = {.kind = OP_SLICE, .input_count = 1, .inputs = {x}};
  op.attributes.slice.begin = begin;
  return append_one(graph, &op, NULL, size, graph_dtype(graph, x));
}

static void slice_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                           const bool *wanted, Value *gradients) {
  (void)wanted;
  Shape from = graph_shape(graph, op->inputs[0]), size = graph_shape(graph, op->outputs[0]);
  Shape begin = op->attributes.slice.begin, after;
  for (int axis = 0; axis < RANK; axis++)
    after.dim[axis] = from.dim[axis] - begin.dim[axis] - size.dim[axis];
  gradients[0] = graph_pad(graph, output_gradients[0], begin, after, PAD_ZERO);
}

const OpRule rule_slice = {slice_gradient, NULL};

/* --- Pad -------------------------------------------------------------------------------------- */

static bool pad_valid(Graph *graph, Shape from, Shape before, Shape after, PadMode mode) {
  static const char *const modes[] = {"zero", "reflect"};
  const int64_t most = INT64_C(1) << 59; /* two of these and a length do not overflow */
  for (int axis = 0; axis < RANK; axis++) {
    int64_t first = before.dim[axis], last = after.dim[axis], length = from.dim[axis];
    bool in_space = axis == AXIS_H || axis == AXIS_W;
    bool allowed = first >= 0 && last >= 0 && first <= most && last <= most;
    if (mode == PAD_REFLECT)
      allowed &= in_space ? first < length && last < length : first == 0 && last == 0;
    if (allowed) continue;
    char a[SHAPE_TEXT_SIZE], b[SHAPE_TEXT_SIZE], c[SHAPE_TEXT_SIZE];
    graph_fail(
        graph,
        "pad: %s by %s before and %s after, mode %s; padding must be 0 to 2^59, reflecting one "
        "in height and width only and less than the length",
        shape_text(from, a), shape_text(before, b), shape_text(after, c), modes[mode]);
    return false;
  }
  return true;
}

static Value append_pad(Graph *graph, OpKind kind, Value x, const OpAttributes *attributes,
                        Shape shape) {
  Op op = {.kind = kind, .input_count = 1, .inputs = {x}, .attributes = *attributes};
  return append_one(graph, &op, NULL, shape, graph_dtype(graph, x));
}

Value graph_pad(Graph *graph, Value x, Shape before, Shape after, PadMode mode) {
  if (!operands_usable(graph, "pad", &x, 1)) return NO_VALUE;
  Shape from = graph_shape(graph, x), shape;
  if (!pad_valid(graph, from, before, after, mode)) return NO_VALUE;
  for (int axis = 0; axis < RANK; axis++)
    shape.dim[axis] = before.dim[axis] + from.dim[axis] + after.dim[axis];
  if (shape_equal(shape, from)) return x;
  OpAttributes attributes = {.pad = {.before = before, .after = after, .mode = mode}};
  return append_pad(graph, OP_PAD, x, &attributes, shape);
}

static void pad_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                         const bool *wanted, Value *gradients) {
  (void)wanted;
  Value dy = output_gradients[0];
  Shape from = graph_shape(graph, op->inputs[0]);
  gradients[0] = op->attributes.pad.mode == PAD_ZERO
                     ? graph_slice(graph, dy, op->attributes.pad.before, from)
                     : append_pad(graph, OP_PAD_BACKWARD, dy, &op->attributes, from);
}

static void pad_backward_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                                  const bool *wanted, Value *gradients) {
  (void)wanted;
  gradients[0] = append_pad(graph, OP_PAD, output_gradients[0], &op->attributes,
                            graph_shape(graph, op->inputs[0]));
}

/* One addition for each padding element whose gradient is added to the interior. */
static double pad_backward_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  return (double)(shape_count(inputs[0]) - shape_count(outputs[0])) + addend_flops(op, outputs[0]);
}

const OpRule rule_pad = {pad_gradient, NULL};
const OpRule rule_pad_backward = {pad_backward_gradient, pad_backward_flops};
