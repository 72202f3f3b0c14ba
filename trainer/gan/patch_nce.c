#include "trainer/gan/patch_nce.h"

#include <math.h>

#include "trainer/gan/layers.h"

static int64_t at_most(int64_t value, int64_t limit) {
  return value < limit ? value : limit;
}

/* The sampled positions of features [N,T,H,W,C], as [N,T,h,w,C]. */
static Value sample(Graph *graph, Value features) {
  Shape shape = graph_shape(graph, features);
  return graph_resize(graph, features, at_most(shape.dim[AXIS_H], PATCH_NCE_GRID),
                      at_most(shape.dim[AXIS_W], PATCH_NCE_GRID), RESIZE_NEAREST);
}

/* Projects to vectors of unit length, [N,T,1,positions,PATCH_NCE_CHANNELS] f32. Where all features
 * of a position are 0, as behind a ReLU, the projection is 0 too and has no direction: without the
 * epsilon its gradient would be unbounded. */
static Value project(Net *net, Value x) {
  static const float EPSILON = 1e-4f;
  Graph *graph = net->graph;
  const Layer layer = {.channels = PATCH_NCE_CHANNELS,
                       .kernel = {1, 1, 1},
                       .spec = conv_spec_same(1, 1, 1, PAD_ZERO),
                       .bias = true,
                       .init_scale = 1};
  x = graph_relu(graph, named_conv_layer(net, "conv1", &layer, x));
  x = graph_cast(graph, named_conv_layer(net, "conv2", &layer, x), DTYPE_F32);
  x = graph_norm(graph, x, NO_VALUE, NO_VALUE, NORM_RMS, 1, EPSILON); /* of length sqrt(C) */
  x = graph_affine(graph, x, 1 / sqrtf(PATCH_NCE_CHANNELS), 0);
  Shape shape = graph_shape(graph, x);
  shape.dim[AXIS_W] *= shape.dim[AXIS_H];
  shape.dim[AXIS_H] = 1;
  return graph_reshape(graph, x, shape);
}

/* The mean cross-entropy of queries against keys. Products of unit vectors are at most 1, so
 * exponents are shifted by 1 / temperature and cannot overflow. */
static Value cross_entropy(Graph *graph, Value queries, Value keys, float temperature) {
  float scale = 1 / temperature;
  Value products = graph_matmul(graph, queries, keys, false, true);
  Value shifted = graph_exp(graph, graph_affine(graph, products, scale, -scale));
  Value sums = graph_log(graph, graph_reduce_sum(graph, shifted, 1u << AXIS_C, 1));
  Value positive = graph_reduce_sum(graph, graph_mul(graph, queries, keys), 1u << AXIS_C, scale);
  return graph_affine(graph, graph_mean(graph, graph_sub(graph, sums, positive)), 1, scale);
}

Value loss_patch_nce(Graph *graph, Parameters *projection, const GeneratorFeatures *output,
                     const GeneratorFeatures *source, float temperature) {
  Value sum = NO_VALUE;
  Net net = net_begin(graph, projection, READ_COMPUTE, NULL);
  for (int i = 0; i < GENERATOR_FEATURES; i++) {
    graph_scope_push(graph, "feature%d", i);
    Value queries = project(&net, sample(graph, output->layers[i]));
    Value keys = project(&net, graph_detach(graph, sample(graph, source->layers[i])));
    Value loss = cross_entropy(graph, queries, graph_detach(graph, keys), temperature);
    loss = graph_affine(graph, loss, 1.0f / GENERATOR_FEATURES, 0);
    sum = i == 0 ? loss : graph_add(graph, sum, loss);
    graph_scope_pop(graph);
  }
  net_end(&net);
  return sum;
}

/* Column w reads column W - 1 - w, which is w + (W - 1 - 2 w). */
Value patch_nce_mirror(Graph *graph, Value x, Value mirrored, Value columns) {
  Shape field = graph_shape(graph, x);
  const float last = (float)(field.dim[AXIS_W] - 1);
  Value distance = graph_mul(graph, mirrored, graph_affine(graph, columns, -2, last));
  Value flow = graph_pad(graph, distance, shape_make(0, 0, 0, 0, 0), shape_make(0, 0, 0, 0, 1),
                         PAD_ZERO); /* rows stay */
  field.dim[AXIS_T] = 1;
  field.dim[AXIS_C] = 2;
  return graph_warp(graph, graph_detach(graph, x), graph_broadcast(graph, flow, field));
}
