/* Sums of squares of a vector's ranges. */
#include "engine/ops/rules.h"

static bool borders_fit(const int64_t *borders, int ranges, int64_t count) {
  if (ranges < 1 || borders[0] != 0 || borders[ranges] != count) return false;
  for (int r = 0; r < ranges; r++) {
    if (borders[r] >= borders[r + 1]) return false;
  }
  return true;
}

Value graph_square_sums(Graph *graph, Value x, const int64_t *borders, int ranges) {
  if (!operands_usable(graph, "square_sums", &x, 1)) return NO_VALUE;
  Shape shape = graph_shape(graph, x);
  if (graph_dtype(graph, x) != DTYPE_F32 || shape.dim[AXIS_C] != shape_count(shape)) {
    char text[SHAPE_TEXT_SIZE];
    graph_fail(graph, "square_sums: %s %s; it must be a vector of f32",
               dtype_name(graph_dtype(graph, x)), shape_text(shape, text));
    return NO_VALUE;
  }
  if (!borders_fit(borders, ranges, shape_count(shape))) {
    graph_fail(graph, "square_sums: %d ranges; borders must ascend from 0 to the length, %lld",
               ranges, (long long)shape_count(shape));
    return NO_VALUE;
  }
  Op op = {.kind = OP_SQUARE_SUMS, .input_count = 1, .inputs = {x}};
  op.attributes.square_sums.borders = borders;
  op.attributes.square_sums.ranges = ranges;
  return append_one(graph, &op, NULL, shape_vector(ranges), DTYPE_F32);
}

static double square_sums_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op;
  (void)outputs;
  return 2.0 * (double)shape_count(inputs[0]);
}

const OpRule rule_square_sums = {"square_sums", NULL, square_sums_flops};
