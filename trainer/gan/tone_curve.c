#include "trainer/gan/tone_curve.h"

/* The weights at first, times He's standard deviation: training starts without a curve. */
static const float WEIGHT_SCALE = 0.02f;

static Value luma(Graph *graph, Value frames) {
  Value red = graph_affine(graph, frames_channel(graph, frames, 0), 0.299f, 0);
  Value green = graph_affine(graph, frames_channel(graph, frames, 1), 0.587f, 0);
  Value blue = graph_affine(graph, frames_channel(graph, frames, 2), 0.114f, 0);
  return graph_add(graph, red, graph_add(graph, green, blue));
}

Value tone_curve(Net *net, Value frames, int64_t count) {
  Graph *graph = net->graph;
  graph_scope_push(graph, "tones");
  /* f32, like the knots: steps are narrow, and bf16 has three digits. */
  Value y = luma(graph, graph_cast(graph, frames, DTYPE_F32));
  Shape shape = graph_shape(graph, y);
  shape.dim[AXIS_C] = count;
  Value knots = vector_parameter(net, "knots", count, INIT_RAMP);
  Value above =
      graph_sub(graph, graph_broadcast(graph, y, shape), graph_broadcast(graph, knots, shape));
  Value steps = graph_tanh(graph, graph_affine(graph, above, 0.5f * (float)count, 0));
  Layer layer = {.channels = 3,
                 .kernel = {1, 1, 1},
                 .spec = conv_spec_same(1, 1, 1, PAD_REFLECT),
                 .bias = true,
                 .init_scale = WEIGHT_SCALE};
  Value color = conv_layer(net, &layer, graph_cast(graph, steps, graph_dtype(graph, frames)));
  graph_scope_pop(graph);
  return graph_add(graph, frames, color);
}
