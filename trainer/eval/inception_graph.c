#include "trainer/eval/inception_graph.h"

#include "trainer/eval/max_pool3.h"
#include "trainer/gan/layers.h"

/* A convolution with bias and ReLU; `name` NULL ends a list. */
typedef struct Conv {
  const char *name;
  int64_t channels;
  int height, width; /* of the kernel */
  int stride;
  bool same; /* padded to the same size */
} Conv;

static Value convolution(Net *net, const Conv *conv, Value x) {
  int y_pad = conv->same ? conv->height / 2 : 0, x_pad = conv->same ? conv->width / 2 : 0;
  Layer layer = {.channels = conv->channels,
                 .kernel = {1, conv->height, conv->width},
                 .spec = {.stride = {1, conv->stride, conv->stride},
                          .before = {0, y_pad, x_pad},
                          .after = {0, y_pad, x_pad},
                          .mode = PAD_ZERO},
                 .bias = true,
                 .init_scale = 1};
  return graph_relu(net->graph, named_conv_layer(net, conv->name, &layer, x));
}

static Value chain(Net *net, const Conv *list, Value x) {
  for (; list->name; list++) x = convolution(net, list, x);
  return x;
}

static Value pool_branch(Net *net, Value pooled, int64_t channels) {
  return convolution(net, &(Conv){"branch_pool", channels, 1, 1, 1, true}, pooled);
}

/* The average of 3 x 3 pixels. */
static Value average_branch(Net *net, Value x, int64_t channels) {
  return pool_branch(net, graph_average_pool(net->graph, x, 3, 1, 1), channels);
}

/* --- Blocks, by the names of Szegedy et al.'s code and of torchvision's classes -----------------
 */

static Value block_a(Net *net, Value x, int64_t pool_channels) {
  static const Conv ONE[] = {{"branch1x1", 64, 1, 1, 1, true}, {0}};
  static const Conv FIVE[] = {
      {"branch5x5_1", 48, 1, 1, 1, true}, {"branch5x5_2", 64, 5, 5, 1, true}, {0}};
  static const Conv DOUBLE[] = {{"branch3x3dbl_1", 64, 1, 1, 1, true},
                                {"branch3x3dbl_2", 96, 3, 3, 1, true},
                                {"branch3x3dbl_3", 96, 3, 3, 1, true},
                                {0}};
  const Value branches[] = {chain(net, ONE, x), chain(net, FIVE, x), chain(net, DOUBLE, x),
                            average_branch(net, x, pool_channels)};
  return graph_concat(net->graph, branches, 4, AXIS_C);
}

static Value block_b(Net *net, Value x) {
  static const Conv THREE[] = {{"branch3x3", 384, 3, 3, 2, false}, {0}};
  static const Conv DOUBLE[] = {{"branch3x3dbl_1", 64, 1, 1, 1, true},
                                {"branch3x3dbl_2", 96, 3, 3, 1, true},
                                {"branch3x3dbl_3", 96, 3, 3, 2, false},
                                {0}};
  const Value branches[] = {chain(net, THREE, x), chain(net, DOUBLE, x),
                            max_pool3_half(net->graph, x)};
  return graph_concat(net->graph, branches, 3, AXIS_C);
}

static Value block_c(Net *net, Value x, int64_t c) {
  static const Conv ONE[] = {{"branch1x1", 192, 1, 1, 1, true}, {0}};
  const Conv seven[] = {{"branch7x7_1", c, 1, 1, 1, true},
                        {"branch7x7_2", c, 1, 7, 1, true},
                        {"branch7x7_3", 192, 7, 1, 1, true},
                        {0}};
  const Conv twice[] = {
      {"branch7x7dbl_1", c, 1, 1, 1, true},   {"branch7x7dbl_2", c, 7, 1, 1, true},
      {"branch7x7dbl_3", c, 1, 7, 1, true},   {"branch7x7dbl_4", c, 7, 1, 1, true},
      {"branch7x7dbl_5", 192, 1, 7, 1, true}, {0}};
  const Value branches[] = {chain(net, ONE, x), chain(net, seven, x), chain(net, twice, x),
                            average_branch(net, x, 192)};
  return graph_concat(net->graph, branches, 4, AXIS_C);
}

static Value block_d(Net *net, Value x) {
  static const Conv THREE[] = {
      {"branch3x3_1", 192, 1, 1, 1, true}, {"branch3x3_2", 320, 3, 3, 2, false}, {0}};
  static const Conv SEVEN[] = {{"branch7x7x3_1", 192, 1, 1, 1, true},
                               {"branch7x7x3_2", 192, 1, 7, 1, true},
                               {"branch7x7x3_3", 192, 7, 1, 1, true},
                               {"branch7x7x3_4", 192, 3, 3, 2, false},
                               {0}};
  const Value branches[] = {chain(net, THREE, x), chain(net, SEVEN, x),
                            max_pool3_half(net->graph, x)};
  return graph_concat(net->graph, branches, 3, AXIS_C);
}

static Value block_e(Net *net, Value x, bool pools_maximum) {
  static const Conv ONE[] = {{"branch1x1", 320, 1, 1, 1, true}, {0}};
  static const Conv THREE[] = {{"branch3x3_1", 384, 1, 1, 1, true}, {0}};
  static const Conv DOUBLE[] = {
      {"branch3x3dbl_1", 448, 1, 1, 1, true}, {"branch3x3dbl_2", 384, 3, 3, 1, true}, {0}};
  static const Conv SIDES[] = {{"branch3x3_2a", 384, 1, 3, 1, true},
                               {"branch3x3_2b", 384, 3, 1, 1, true},
                               {"branch3x3dbl_3a", 384, 1, 3, 1, true},
                               {"branch3x3dbl_3b", 384, 3, 1, 1, true}};
  Value one = chain(net, ONE, x), three = chain(net, THREE, x), twice = chain(net, DOUBLE, x);
  Value pooled = pools_maximum ? pool_branch(net, max_pool3_same(net->graph, x), 192)
                               : average_branch(net, x, 192);
  const Value branches[] = {one,
                            convolution(net, &SIDES[0], three),
                            convolution(net, &SIDES[1], three),
                            convolution(net, &SIDES[2], twice),
                            convolution(net, &SIDES[3], twice),
                            pooled};
  return graph_concat(net->graph, branches, 6, AXIS_C);
}

/* --- Network ---------------------------------------------------------------------------------- */

static Value stem(Net *net, Value x) {
  static const Conv FIRST[] = {{"Conv2d_1a_3x3", 32, 3, 3, 2, false},
                               {"Conv2d_2a_3x3", 32, 3, 3, 1, false},
                               {"Conv2d_2b_3x3", 64, 3, 3, 1, true},
                               {0}};
  static const Conv SECOND[] = {
      {"Conv2d_3b_1x1", 80, 1, 1, 1, false}, {"Conv2d_4a_3x3", 192, 3, 3, 1, false}, {0}};
  x = max_pool3_half(net->graph, chain(net, FIRST, x));
  return max_pool3_half(net->graph, chain(net, SECOND, x));
}

typedef enum BlockKind { BLOCK_A, BLOCK_B, BLOCK_C, BLOCK_D, BLOCK_E } BlockKind;

static const struct {
  const char *name;
  BlockKind kind;
  int64_t channels; /* of a's pooling branch, of c's first convolutions */
  bool pools_maximum;
} BLOCKS[] = {
    {"Mixed_5b", BLOCK_A, 32, false},  {"Mixed_5c", BLOCK_A, 64, false},
    {"Mixed_5d", BLOCK_A, 64, false},  {"Mixed_6a", BLOCK_B, 0, false},
    {"Mixed_6b", BLOCK_C, 128, false}, {"Mixed_6c", BLOCK_C, 160, false},
    {"Mixed_6d", BLOCK_C, 160, false}, {"Mixed_6e", BLOCK_C, 192, false},
    {"Mixed_7a", BLOCK_D, 0, false},   {"Mixed_7b", BLOCK_E, 0, false},
    {"Mixed_7c", BLOCK_E, 0, true},
};

static Value block(Net *net, size_t index, Value x) {
  switch (BLOCKS[index].kind) {
  case BLOCK_A:
    return block_a(net, x, BLOCKS[index].channels);
  case BLOCK_B:
    return block_b(net, x);
  case BLOCK_C:
    return block_c(net, x, BLOCKS[index].channels);
  case BLOCK_D:
    return block_d(net, x);
  default:
    return block_e(net, x, BLOCKS[index].pools_maximum);
  }
}

Value inception_build(Graph *graph, Parameters *parameters, Value images) {
  Net net = net_begin(graph, parameters, READ_COMPUTE, NULL);
  Value x = stem(&net, images);
  for (size_t i = 0; i < sizeof BLOCKS / sizeof *BLOCKS; i++) {
    graph_scope_push(graph, "%s", BLOCKS[i].name);
    x = block(&net, i, x);
    graph_scope_pop(graph);
  }
  net_end(&net);
  Shape shape = graph_shape(graph, x);
  float mean = 1 / (float)(shape.dim[AXIS_H] * shape.dim[AXIS_W]);
  return graph_reduce_sum(graph, x, 1u << AXIS_H | 1u << AXIS_W, mean);
}
