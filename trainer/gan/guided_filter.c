#include "trainer/gan/guided_filter.h"

static Value box_mean(Graph *graph, Value x, int radius) {
  return graph_average_pool(graph, x, 2 * radius + 1, 1, radius);
}

Value guided_filter(Graph *graph, Value frames, int radius, float epsilon) {
  Value x = graph_cast(graph, frames, DTYPE_F32);
  Value mean = box_mean(graph, x, radius);
  Value squares = box_mean(graph, graph_square(graph, x), radius);
  Value variance = graph_sub(graph, squares, graph_square(graph, mean));
  Value slope = graph_div(graph, variance, graph_affine(graph, variance, 1, epsilon));
  Value shift = graph_mul(graph, mean, graph_affine(graph, slope, -1, 1));
  Value scaled = graph_mul(graph, box_mean(graph, slope, radius), x);
  Value filtered = graph_add(graph, scaled, box_mean(graph, shift, radius));
  return graph_cast(graph, filtered, graph_dtype(graph, frames));
}
