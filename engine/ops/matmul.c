/* Batched matrix products. Their gradients are matrix products again. */
#include "engine/ops/append.h"
#include "engine/ops/rules.h"

/* The rows and columns of x or, with `transposed`, of its transpose. */
static int64_t rows_of(Shape shape, bool transposed) {
  return shape.dim[transposed ? AXIS_C : AXIS_W];
}

static int64_t columns_of(Shape shape, bool transposed) {
  return shape.dim[transposed ? AXIS_W : AXIS_C];
}

static bool shapes_match(Shape a, Shape b, bool transpose_a, bool transpose_b) {
  for (int axis = AXIS_N; axis <= AXIS_H; axis++) {
    if (a.dim[axis] != b.dim[axis]) return false;
  }
  return columns_of(a, transpose_a) == rows_of(b, transpose_b);
}

Value graph_matmul(Graph *graph, Value a, Value b, bool transpose_a, bool transpose_b) {
  const Value operands[] = {a, b};
  if (!operands_usable(graph, "matmul", operands, 2)) return NO_VALUE;
  const Shape left = graph_shape(graph, a), right = graph_shape(graph, b);
  if (graph_dtype(graph, a) != graph_dtype(graph, b) ||
      !shapes_match(left, right, transpose_a, transpose_b)) {
    char p[SHAPE_TEXT_SIZE], q[SHAPE_TEXT_SIZE];
    graph_fail(graph,
               "matmul: %s %s%s times %s %s%s; dtypes and axes 0 to 2 must be equal, and the "
               "columns of the first matrix (axis 4, transposed 3) the rows of the second",
               dtype_name(graph_dtype(graph, a)), shape_text(left, p),
               transpose_a ? " transposed" : "", dtype_name(graph_dtype(graph, b)),
               shape_text(right, q), transpose_b ? " transposed" : "");
    return NO_VALUE;
  }
  Shape shape = left;
  shape.dim[AXIS_W] = rows_of(left, transpose_a);
  shape.dim[AXIS_C] = columns_of(right, transpose_b);
  Op op = {.kind = OP_MATMUL, .input_count = 2, .inputs = {a, b}};
  op.attributes.matmul.transpose_a = transpose_a;
  op.attributes.matmul.transpose_b = transpose_b;
  return append_one(graph, &op, NULL, shape, DTYPE_F32);
}

/* With y = op(a) op(b): the gradient of op(a) is dy op(b)', that of op(b) is op(a)' dy; that of a
 * transposed operand is the transpose of these. */
static void matmul_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                            const bool *wanted, Value *gradients) {
  const Value a = op->inputs[0], b = op->inputs[1];
  const bool ta = op->attributes.matmul.transpose_a, tb = op->attributes.matmul.transpose_b;
  const Value dy = graph_cast(graph, output_gradients[0], graph_dtype(graph, a));
  if (wanted[0])
    gradients[0] =
        ta ? graph_matmul(graph, b, dy, tb, true) : graph_matmul(graph, dy, b, false, !tb);
  if (wanted[1])
    gradients[1] =
        tb ? graph_matmul(graph, dy, a, true, ta) : graph_matmul(graph, a, dy, !ta, false);
}

/* A product and an addition for each term of each sum. */
static double matmul_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  const int64_t terms = columns_of(inputs[0], op->attributes.matmul.transpose_a);
  return 2.0 * (double)terms * (double)shape_count(outputs[0]);
}

const OpRule rule_matmul = {matmul_gradient, matmul_flops};
