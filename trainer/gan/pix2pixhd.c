#include "trainer/gan/pix2pixhd.h"

#include <stdio.h>

enum { ENHANCER_BLOCKS = 3 };
static const float INIT_STD = 0.02f;

int64_t pix2pixhd_multiple(const ModelConfig *config) {
  return (int64_t)1 << (config->downsamplings + config->local_enhancers);
}

/* --- Layers ----------------------------------------------------------------------------------- */

static Layer layer_of(int64_t channels, int size, int stride, PadMode mode) {
  return (Layer){.channels = channels,
                 .kernel = {1, size, size},
                 .spec = conv_spec_same(1, size, stride, mode),
                 .output_padding = {0, stride - 1, stride - 1},
                 .init_std = INIT_STD};
}

static Value norm(Net *net, const ModelConfig *config, Value x) {
  if (config->norm == NORM_CHOICE_INSTANCE) return plain_instance_norm(net, x);
  return norm_layer(net, (NormChoice)config->norm, x);
}

/* A plain or transposed convolution and its norm, in the scope `name`. */
static Value conv_norm(Net *net, const ModelConfig *config, const char *name, Value x, Layer layer,
                       Value (*build)(Net *net, const Layer *layer, Value x)) {
  layer.bias = config->norm == NORM_CHOICE_NONE;
  graph_scope_push(net->graph, "%s", name);
  Value y = norm(net, config, build(net, &layer, x));
  graph_scope_pop(net->graph);
  return y;
}

static Value stem(Net *net, const ModelConfig *config, Value x, int64_t channels) {
  Layer layer = layer_of(channels, 7, 1, PAD_REFLECT);
  return graph_relu(net->graph, conv_norm(net, config, "stem", x, layer, conv_layer));
}

static Value down(Net *net, const ModelConfig *config, const char *name, Value x,
                  int64_t channels) {
  Layer layer = layer_of(channels, 3, 2, PAD_ZERO);
  return graph_relu(net->graph, conv_norm(net, config, name, x, layer, conv_layer));
}

static Value up(Net *net, const ModelConfig *config, const char *name, Value x, int64_t channels) {
  Layer layer = layer_of(channels, 3, 2, PAD_ZERO);
  return graph_relu(net->graph, conv_norm(net, config, name, x, layer, transposed_conv_layer));
}

static Value residual_block(Net *net, const ModelConfig *config, int index, Value x) {
  int64_t channels = graph_shape(net->graph, x).dim[AXIS_C];
  Layer layer = layer_of(channels, 3, 1, PAD_REFLECT);
  graph_scope_push(net->graph, "block%d", index);
  Value y = graph_relu(net->graph, conv_norm(net, config, "conv1", x, layer, conv_layer));
  y = conv_norm(net, config, "conv2", y, layer, conv_layer);
  graph_scope_pop(net->graph);
  return graph_add(net->graph, y, x);
}

static Value head(Net *net, Value x) {
  Layer layer = layer_of(3, 7, 1, PAD_REFLECT);
  layer.bias = true;
  return graph_tanh(net->graph, named_conv_layer(net, "head", &layer, x));
}

/* --- Generators ------------------------------------------------------------------------------- */

/* G1 without its head; returns [N,T,H,W,C], C = model.channels. */
static Value global_features(Net *net, const ModelConfig *config, Value x) {
  enum { NAME_SIZE = 16 };
  char name[NAME_SIZE];
  int downsamplings = (int)config->downsamplings;
  Value y = stem(net, config, x, config->channels);
  for (int i = 1; i <= downsamplings; i++) {
    snprintf(name, sizeof name, "down%d", i);
    y = down(net, config, name, y, config->channels << i);
  }
  for (int i = 0; i < config->blocks; i++) y = residual_block(net, config, i, y);
  for (int i = 1; i <= downsamplings; i++) {
    snprintf(name, sizeof name, "up%d", i);
    y = up(net, config, name, y, config->channels << (downsamplings - i));
  }
  return y;
}

/* G2, with G1's features at half the resolution. */
static Value local_enhancer(Net *net, const ModelConfig *config, Value x, Value features) {
  int64_t channels = config->channels / 2;
  graph_scope_push(net->graph, "enhancer");
  Value y = down(net, config, "down", stem(net, config, x, channels), config->channels);
  y = graph_add(net->graph, y, features);
  for (int i = 0; i < ENHANCER_BLOCKS; i++) y = residual_block(net, config, i, y);
  y = head(net, up(net, config, "up", y, channels));
  graph_scope_pop(net->graph);
  return y;
}

Value pix2pixhd_build(Net *net, const ModelConfig *config, Value x) {
  if (config->local_enhancers == 0) return head(net, global_features(net, config, x));
  Value half = graph_average_pool(net->graph, x, 3, 2, 1);
  return local_enhancer(net, config, x, global_features(net, config, half));
}
