#include "trainer/eval/max_pool3.h"

static Value maximum(Graph *graph, Value a, Value b) {
  return graph_add(graph, a, graph_relu(graph, graph_sub(graph, b, a)));
}

/* x from row `top` and column `left` on. */
static Value window(Graph *graph, Value x, int64_t top, int64_t left, int64_t height,
                    int64_t width) {
  Shape size = graph_shape(graph, x);
  size.dim[AXIS_H] = height;
  size.dim[AXIS_W] = width;
  return graph_slice(graph, x, shape_make(0, 0, top, left, 0), size);
}

/* A window of 3 x 3 pixels is the union of four of 2 x 2. */
Value max_pool3_half(Graph *graph, Value x) {
  Shape shape = graph_shape(graph, x);
  int64_t height = (shape.dim[AXIS_H] - 1) / 2, width = (shape.dim[AXIS_W] - 1) / 2;
  Value result = NO_VALUE;
  if (height < 1 || width < 1) {
    graph_fail(graph, "max pooling over 3x3 pixels of a frame of %lldx%lld",
               (long long)shape.dim[AXIS_W], (long long)shape.dim[AXIS_H]);
    return NO_VALUE;
  }
  for (int corner = 0; corner < 4; corner++) {
    Value part = window(graph, x, corner / 2, corner % 2, 2 * height, 2 * width);
    part = graph_max_pool(graph, part, 2);
    result = corner == 0 ? part : maximum(graph, result, part);
  }
  return result;
}

Value max_pool3_same(Graph *graph, Value x) {
  Shape shape = graph_shape(graph, x), border = shape_make(0, 0, 1, 1, 0);
  int64_t height = shape.dim[AXIS_H], width = shape.dim[AXIS_W];
  Value padded = graph_pad(graph, x, border, border, PAD_ZERO), rows = NO_VALUE, result = NO_VALUE;
  for (int i = 0; i < 3; i++) {
    Value part = window(graph, padded, i, 0, height, width + 2);
    rows = i == 0 ? part : maximum(graph, rows, part);
  }
  for (int i = 0; i < 3; i++) {
    Value part = window(graph, rows, 0, i, height, width);
    result = i == 0 ? part : maximum(graph, result, part);
  }
  return result;
}
