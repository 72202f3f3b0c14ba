#include <stddef.h>

#include "trainer/gan/guided_filter.h"
#include "trainer/gan/layers.h"
#include "trainer/gan/pix2pixhd.h"
#include "trainer/gan/tone_curve.h"

static const float HEAD_SCALE = 0.1f;
/* Of the last convolution of a residual block without norms: such blocks begin near the identity
 * (Zhang, Dauphin, Ma 2019, "Fixup Initialization", begin at 0), without which high learning rates
 * diverge. */
static const float RESIDUAL_SCALE = 0.1f;

/* A convolution that keeps the size (divided by the stride), without a bias. */
static Layer same_conv(int64_t channels, int kernel_time, int kernel_size, int stride) {
  return (Layer){.channels = channels,
                 .kernel = {kernel_time, kernel_size, kernel_size},
                 .spec = conv_spec_same(kernel_time, kernel_size, stride, PAD_REFLECT),
                 .init_scale = 1};
}

/* The convolution, with a bias or else the configured norm behind it. */
static Value conv_norm(Net *net, const ModelConfig *config, const char *name, Value x,
                       Layer layer) {
  layer.bias = config->norm == NORM_CHOICE_NONE;
  graph_scope_push(net->graph, "%s", name);
  Value y = norm_layer(net, (NormChoice)config->norm, conv_layer(net, &layer, x));
  graph_scope_pop(net->graph);
  return y;
}

/* The block called "block3" for the name "block" and index 3. */
static Value residual_block(Net *net, const ModelConfig *config, const char *name, int index,
                            Value x, int kernel_time) {
  int64_t channels = graph_shape(net->graph, x).dim[AXIS_C];
  graph_scope_push(net->graph, "%s%d", name, index);
  Layer first = same_conv(channels, kernel_time, 3, 1), second = same_conv(channels, 1, 3, 1);
  if (config->norm == NORM_CHOICE_NONE) second.init_scale = RESIDUAL_SCALE;
  Value y = graph_relu(net->graph, conv_norm(net, config, "conv1", x, first));
  y = conv_norm(net, config, "conv2", y, second);
  graph_scope_pop(net->graph);
  return graph_add(net->graph, y, x);
}

/* --- Convolutional GRU ------------------------------------------------------------------------ */

/* Gate `index` of [N,1,H,W,3C]: channels index * C to (index + 1) * C - 1. */
static Value gate(Net *net, Value gates, int index) {
  Shape size = graph_shape(net->graph, gates);
  size.dim[AXIS_C] /= 3;
  return graph_slice(net->graph, gates, shape_make(0, 0, 0, 0, index * size.dim[AXIS_C]), size);
}

/* Returns the next hidden state [N,1,H,W,C]; `input` is W x of this frame, [N,1,H,W,3C]. The names
 * follow the formula in networks.h. */
static Value gru_step(Net *net, const Layer *layer, Value input, Value state) {
  Graph *graph = net->graph;
  Value recurrent = named_conv_layer(net, "past", layer, state);
  Value z = graph_sigmoid(graph, graph_add(graph, gate(net, input, 0), gate(net, recurrent, 0)));
  Value r = graph_sigmoid(graph, graph_add(graph, gate(net, input, 1), gate(net, recurrent, 1)));
  Value reset = graph_mul(graph, r, gate(net, recurrent, 2));
  Value n = graph_tanh(graph, graph_add(graph, gate(net, input, 2), reset));
  return graph_add(graph, n, graph_mul(graph, z, graph_sub(graph, state, n)));
}

/* Returns the hidden states of all frames, of x's shape. */
static Value conv_gru(Net *net, Value x) {
  Graph *graph = net->graph;
  Shape shape = graph_shape(graph, x), frame = shape;
  Layer layer = {.channels = 3 * shape.dim[AXIS_C],
                 .kernel = {1, 3, 3},
                 .spec = conv_spec_same(1, 3, 1, PAD_REFLECT),
                 .bias = true,
                 .init_scale = 1};
  graph_scope_push(graph, "gru");
  Value input = named_conv_layer(net, "input", &layer, x);
  layer.bias = false;
  frame.dim[AXIS_T] = 1;
  Value initial = net->stream ? stream_layer_state(net, x, 1) : graph_constant(graph, frame, 0);
  frame.dim[AXIS_C] = layer.channels;
  Value state = graph_cast(graph, initial, graph_dtype(graph, x)), states[CONCAT_MAX_INPUTS];
  int count = 0;
  for (int64_t t = 0; t < shape.dim[AXIS_T]; t++) {
    if (count == CONCAT_MAX_INPUTS) {
      states[0] = graph_concat(graph, states, count, AXIS_T);
      count = 1;
    }
    Value now = graph_slice(graph, input, shape_make(0, t, 0, 0, 0), frame);
    states[count++] = state = gru_step(net, &layer, now, state);
  }
  if (net->stream) graph_store(graph, state, initial);
  Value all = graph_concat(graph, states, count, AXIS_T);
  graph_scope_pop(graph);
  return all;
}

/* --- celnet: encoder and decoder -------------------------------------------------------------- */

/* Nearest-neighbour upsampling, a convolution to the channels of `skip`, the skip connection. */
static Value up_stage(Net *net, const ModelConfig *config, const char *name, Value x, Value skip) {
  Shape size = graph_shape(net->graph, skip);
  Value large = graph_resize(net->graph, x, size.dim[AXIS_H], size.dim[AXIS_W], RESIZE_NEAREST);
  Value y = conv_norm(net, config, name, large, same_conv(size.dim[AXIS_C], 1, 3, 1));
  return graph_add(net->graph, graph_relu(net->graph, y), skip);
}

/* The encoder's activations, and those behind the residual blocks. */
typedef struct Encoding {
  Value stem, half, quarter;
  Value middle; /* behind half of the residual blocks */
} Encoding;

static int temporal_kernel(const ModelConfig *config) {
  return config->temporal == TEMPORAL_CONV3D ? 3 : 1;
}

static void encode(Net *net, const ModelConfig *config, Value x, Encoding *out) {
  Graph *graph = net->graph;
  int64_t channels = config->channels;
  int kernel_time = temporal_kernel(config);
  out->stem =
      graph_relu(graph, conv_norm(net, config, "stem", x, same_conv(channels, kernel_time, 7, 1)));
  out->half = graph_relu(
      graph, conv_norm(net, config, "down1", out->stem, same_conv(2 * channels, 1, 3, 2)));
  Value y = graph_relu(
      graph, conv_norm(net, config, "down2", out->half, same_conv(4 * channels, 1, 3, 2)));
  if (config->temporal == TEMPORAL_CONVGRU) y = graph_add(graph, y, conv_gru(net, y));
  out->quarter = y;
  for (int i = 0; i < config->blocks / 2; i++)
    y = residual_block(net, config, "block", i, y, kernel_time);
  out->middle = y;
}

static Value decode(Net *net, const ModelConfig *config, const Encoding *encoding) {
  Value y = encoding->middle;
  for (int i = (int)config->blocks / 2; i < config->blocks; i++)
    y = residual_block(net, config, "block", i, y, temporal_kernel(config));
  y = up_stage(net, config, "up1", y, encoding->half);
  y = up_stage(net, config, "up2", y, encoding->stem);
  for (int i = 0; i < config->refinements; i++) y = residual_block(net, config, "refine", i, y, 1);
  int head_size = config->refinements > 0 ? 3 : 7;
  Layer head = {.channels = 3,
                .kernel = {1, head_size, head_size},
                .spec = conv_spec_same(1, head_size, 1, PAD_REFLECT),
                .bias = true,
                .init_scale = HEAD_SCALE};
  return named_conv_layer(net, "head", &head, y);
}

static GeneratorFeatures features_of(Value input, const Encoding *encoding) {
  return (GeneratorFeatures){
      {input, encoding->stem, encoding->half, encoding->quarter, encoding->middle}};
}

/* --- Either generator ------------------------------------------------------------------------- */

int64_t generator_multiple(const ModelConfig *config) {
  return config->generator == GENERATOR_PIX2PIXHD ? pix2pixhd_multiple(config) : 4;
}

/* Pads right and bottom so that every downsampling divides the sides evenly. */
static Value pad_to_multiple(Graph *graph, Value x, int64_t multiple) {
  Shape shape = graph_shape(graph, x);
  int64_t down = (multiple - shape.dim[AXIS_H] % multiple) % multiple;
  int64_t right = (multiple - shape.dim[AXIS_W] % multiple) % multiple;
  if (down == 0 && right == 0) return x;
  return graph_pad(graph, x, shape_make(0, 0, 0, 0, 0), shape_make(0, 0, down, right, 0),
                   PAD_REFLECT);
}

int64_t generator_extra_channels(const ModelConfig *config) {
  return config->noise_channels + (config->smooth_base ? 3 : 0);
}

static Value first_colours(Graph *graph, Value x) {
  Shape size = graph_shape(graph, x);
  size.dim[AXIS_C] = 3;
  return graph_slice(graph, x, shape_make(0, 0, 0, 0, 0), size);
}

/* The frames that celnet's output is added to. */
static Value base_frames(Graph *graph, const ModelConfig *config, Value source) {
  enum { RADIUS = 4 };
  static const float EPSILON = 0.02f;
  Value colours = first_colours(graph, source);
  return config->smooth_base ? guided_filter(graph, colours, RADIUS, EPSILON) : colours;
}

/* The network's input: source, smooth base and noise along the channels, padded. */
static Value network_input(Graph *graph, const ModelConfig *config, Value source, Value base,
                           Value noise) {
  Value parts[3] = {source};
  int count = 1;
  if (config->smooth_base) parts[count++] = base;
  if (config->noise_channels > 0)
    parts[count++] = graph_cast(graph, noise, graph_dtype(graph, source));
  Value x = count > 1 ? graph_concat(graph, parts, count, AXIS_C) : source;
  return pad_to_multiple(graph, x, generator_multiple(config));
}

/* Crops the padding. */
static Value network_output(Graph *graph, Value padded, Value source) {
  Shape result = graph_shape(graph, source);
  result.dim[AXIS_C] = 3;
  return graph_slice(graph, padded, shape_make(0, 0, 0, 0, 0), result);
}

static Value celnet_build(Net *net, const ModelConfig *config, Value source, Value noise,
                          GeneratorFeatures *features) {
  Encoding encoding;
  Graph *graph = net->graph;
  Value base = base_frames(graph, config, source);
  Value x = network_input(graph, config, source, base, noise);
  encode(net, config, x, &encoding);
  Value output = network_output(graph, decode(net, config, &encoding), source);
  if (features) *features = features_of(x, &encoding);
  output = graph_add(graph, output, base);
  return config->tones > 0 ? tone_curve(net, output, config->tones) : output;
}

static Value pix2pixhd(Net *net, const ModelConfig *config, Value source, Value noise) {
  Graph *graph = net->graph;
  Value x = network_input(graph, config, source, source, noise);
  return network_output(graph, pix2pixhd_build(net, config, x), source);
}

Value generator_build(Graph *graph, Parameters *parameters, ParameterSource weights,
                      const ModelConfig *config, Value source, Value noise, StreamState *stream) {
  Net net = net_begin(graph, parameters, weights, stream);
  Value output = config->generator == GENERATOR_PIX2PIXHD
                     ? pix2pixhd(&net, config, source, noise)
                     : celnet_build(&net, config, source, noise, NULL);
  net_end(&net);
  return output;
}

Value generator_build_with_features(Graph *graph, Parameters *parameters, const ModelConfig *config,
                                    Value source, Value noise, GeneratorFeatures *features) {
  Net net = net_begin(graph, parameters, READ_COMPUTE, NULL);
  Value output = celnet_build(&net, config, source, noise, features);
  net_end(&net);
  return output;
}

void generator_encode(Graph *graph, Parameters *parameters, const ModelConfig *config, Value source,
                      Value noise, GeneratorFeatures *features) {
  Encoding encoding;
  Net net = net_begin(graph, parameters, READ_COMPUTE, NULL);
  Value base = base_frames(graph, config, source);
  Value x = network_input(graph, config, source, base, noise);
  encode(&net, config, x, &encoding);
  net_end(&net);
  *features = features_of(x, &encoding);
}
