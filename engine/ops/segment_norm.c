/* Squared L2 norms of the segments of a vector. */
#include "engine/ops/append.h"
#include "engine/ops/rules.h"

static bool offsets_valid(const int64_t *offsets, int segments, int64_t count) {
  if (segments < 1 || offsets[0] != 0 || offsets[segments] != count) return false;
  for (int s = 0; s < segments; s++) {
    if (offsets[s] >= offsets[s + 1]) return false;
  }
  return true;
}

Value graph_segment_squared_norms(Graph *graph, Value x, const int64_t *offsets, int segments) {
  if (!operands_usable(graph, "segment_squared_norm", &x, 1)) return NO_VALUE;
  Shape shape = graph_shape(graph, x);
  if (graph_dtype(graph, x) != DTYPE_F32 || shape.dim[AXIS_C] != shape_count(shape)) {
    char text[SHAPE_TEXT_SIZE];
    graph_fail(graph, "segment_squared_norm: %s %s; it must be an f32 vector",
               dtype_name(graph_dtype(graph, x)), shape_text(shape, text));
    return NO_VALUE;
  }
  if (!offsets_valid(offsets, segments, shape_count(shape))) {
    graph_fail(graph,
               "segment_squared_norm: %d segments; offsets must ascend from 0 to the length %lld",
               segments, (long long)shape_count(shape));
    return NO_VALUE;
  }
  Op op = {.kind = OP_SEGMENT_SQUARED_NORM, .input_count = 1, .inputs = {x}};
  op.attributes.segment_norm.offsets = offsets;
  op.attributes.segment_norm.segments = segments;
  return append_one(graph, &op, NULL, shape_vector(segments), DTYPE_F32);
}

static double squared_norm_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)op;
  (void)outputs;
  return 2.0 * (double)shape_count(inputs[0]);
}

const OpRule rule_segment_squared_norm = {NULL, squared_norm_flops};
