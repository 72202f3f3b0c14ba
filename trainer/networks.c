#include "trainer/networks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { PARAMETER_NAME_SIZE = 96, GROUP_NORM_CHANNELS = 16 };
static const float NORM_EPSILON = 1e-5f;
static const float LEAKY_SLOPE = 0.2f;
static const float HEAD_SCALE = 0.1f;

/* What the layers below need at every call. Parameters are named by the scopes below the network's:
 * in "generator.block3.conv1" lies "block3.conv1.weight". */
typedef struct Net {
  Graph *graph;
  Parameters *parameters;
  ParameterSource source;
  StreamState *stream;
  int next_state;      /* of the layer with a memory that comes next */
  size_t scope_length; /* of the network's own scope, with its dot */
} Net;

typedef struct Layer {
  int64_t channels; /* of the output */
  int taps[3];
  ConvSpec spec;
  bool bias;
  float init_scale; /* times He's deviation */
} Layer;

static Net net_begin(Graph *graph, Parameters *parameters, ParameterSource source,
                     StreamState *stream) {
  graph_scope_push(graph, "%s", parameters->network);
  return (Net){graph, parameters, source, stream, 0, strlen(graph_scope(graph)) + 1};
}

static const char *parameter_name(const Net *net, const char *what,
                                  char name[PARAMETER_NAME_SIZE]) {
  snprintf(name, PARAMETER_NAME_SIZE, "%s.%s", graph_scope(net->graph) + net->scope_length, what);
  return name;
}

static Value vector_parameter(Net *net, const char *what, int64_t channels, InitKind init) {
  char name[PARAMETER_NAME_SIZE];
  return parameters_vector(net->parameters, net->graph, parameter_name(net, what, name), channels,
                           net->source, init);
}

/* --- Streaming state -------------------------------------------------------------------------- */

Status stream_state_allocate(StreamState *state, Backend *backend, Error *error) {
  for (int i = 0; i < state->count; i++) {
    Status status = buffer_allocate(state->buffers[i], backend, error);
    if (status != OK) return status;
  }
  return OK;
}

Status stream_state_reset(StreamState *state, Error *error) {
  Status status = OK;
  float *zeros = NULL;
  for (int i = 0; i < state->count; i++) {
    Buffer *buffer = state->buffers[i];
    free(zeros);
    zeros = NULL;
    TRY(mem_bulk((size_t)buffer->count * sizeof *zeros, "zeros for the streaming state",
                 (void **)&zeros, error));
    TRY(buffer_upload(buffer, 0, zeros, buffer->count, error));
  }
done:
  free(zeros);
  return status;
}

void stream_state_free(StreamState *state) {
  for (int i = 0; i < state->count; i++) {
    buffer_free(state->buffers[i]);
    free(state->buffers[i]);
  }
  free(state->buffers);
  *state = (StreamState){0};
}

/* What the layer that reads x remembers, `frames` frames of x's shape. */
static Value stream_memory(Net *net, Value x, int64_t frames) {
  StreamState *state = net->stream;
  Shape shape = graph_shape(net->graph, x);
  if (shape.dim[AXIS_T] != 1 || shape.dim[AXIS_N] != 1) {
    graph_fail(net->graph, "streaming takes one frame of one clip at a time");
    return NO_VALUE;
  }
  shape.dim[AXIS_T] = frames;
  if (net->next_state == state->count) {
    MEM_PUSH_SLOT(state->buffers, state->count, state->capacity);
    state->buffers[state->count] = mem_new(1, sizeof(Buffer));
    *state->buffers[state->count++] =
        buffer_describe("streaming state", DTYPE_F32, shape_count(shape));
  }
  return graph_view(net->graph, state->buffers[net->next_state++], 0, shape);
}

/* The two frames before x, then x: [1,3,H,W,C]; leaves the last two for the next frame. */
static Value stream_window(Net *net, Value x) {
  Value past = stream_memory(net, x, 2);
  Shape before = graph_shape(net->graph, past);
  Value window = graph_concat(net->graph, (Value[]){past, x}, 2, AXIS_T);
  Value recent = graph_slice(net->graph, window, shape_make(0, 1, 0, 0, 0), before);
  graph_store(net->graph, recent, past);
  return window;
}

/* --- Layers ----------------------------------------------------------------------------------- */

static Value conv_layer(Net *net, const Layer *layer, Value x) {
  Graph *graph = net->graph;
  ConvSpec spec = layer->spec;
  if (net->stream && layer->taps[0] > 1) {
    x = stream_window(net, x);
    spec.before[0] = 0;
  }
  int64_t inputs = graph_shape(graph, x).dim[AXIS_C];
  Shape shape = shape_make(layer->channels, layer->taps[0], layer->taps[1], layer->taps[2], inputs);
  double fan_in = (double)(layer->taps[0] * layer->taps[1] * layer->taps[2]) * (double)inputs;
  float deviation = layer->init_scale * (float)sqrt(2.0 / fmax(fan_in, 1));
  char name[PARAMETER_NAME_SIZE];
  Value weight = parameters_weight(net->parameters, graph, net->source,
                                   parameter_name(net, "weight", name), shape, deviation);
  Value bias = layer->bias ? vector_parameter(net, "bias", layer->channels, INIT_ZERO) : NO_VALUE;
  return graph_conv3d(graph, x, weight, bias, spec);
}

static Value named_layer(Net *net, const char *name, const Layer *layer, Value x) {
  graph_scope_push(net->graph, "%s", name);
  Value y = conv_layer(net, layer, x);
  graph_scope_pop(net->graph);
  return y;
}

static Value norm_layer(Net *net, NormChoice choice, Value x) {
  if (choice == NORM_CHOICE_NONE) return x;
  static const NormKind KINDS[] = {[NORM_CHOICE_RMS] = NORM_RMS,
                                   [NORM_CHOICE_INSTANCE] = NORM_INSTANCE,
                                   [NORM_CHOICE_GROUP] = NORM_GROUP};
  int64_t channels = graph_shape(net->graph, x).dim[AXIS_C];
  bool divides = channels % GROUP_NORM_CHANNELS == 0;
  int groups = divides ? (int)(channels / GROUP_NORM_CHANNELS) : 1;
  graph_scope_push(net->graph, "norm");
  Value gain = vector_parameter(net, "gain", channels, INIT_ONE);
  Value bias = vector_parameter(net, "bias", channels, INIT_ZERO);
  Value y = graph_norm(net->graph, x, gain, bias, KINDS[choice], groups, NORM_EPSILON);
  graph_scope_pop(net->graph);
  return y;
}

Value frames_normalize(Graph *graph, Value frames, DType dtype) {
  Value x = graph_affine(graph, graph_cast(graph, frames, DTYPE_F32), 1 / 127.5f, -1);
  return graph_cast(graph, x, dtype);
}

Value frames_enlarge(Graph *graph, Value frames, int64_t height, int64_t width) {
  Shape shape = graph_shape(graph, frames);
  if (shape.dim[AXIS_H] == height && shape.dim[AXIS_W] == width) return frames;
  return graph_resize(graph, frames, height, width, RESIZE_BILINEAR);
}

/* --- Generator -------------------------------------------------------------------------------- */

static Value conv_norm(Net *net, const ModelConfig *config, const char *name, Value x,
                       int64_t channels, int taps_time, int taps_space, int stride) {
  Layer layer = {.channels = channels,
                 .taps = {taps_time, taps_space, taps_space},
                 .spec = conv_spec_same(taps_time, taps_space, stride, PAD_REFLECT),
                 .bias = config->norm == NORM_CHOICE_NONE,
                 .init_scale = 1};
  graph_scope_push(net->graph, "%s", name);
  Value y = norm_layer(net, (NormChoice)config->norm, conv_layer(net, &layer, x));
  graph_scope_pop(net->graph);
  return y;
}

static Value residual_block(Net *net, const ModelConfig *config, int index, Value x,
                            int taps_time) {
  int64_t channels = graph_shape(net->graph, x).dim[AXIS_C];
  graph_scope_push(net->graph, "block%d", index);
  Value y = graph_relu(net->graph, conv_norm(net, config, "conv1", x, channels, taps_time, 3, 1));
  y = conv_norm(net, config, "conv2", y, channels, 1, 3, 1);
  graph_scope_pop(net->graph);
  return graph_add(net->graph, y, x);
}

/* --- Recurrence ------------------------------------------------------------------------------- */

/* Channels `part` * C to (`part` + 1) * C - 1 of [N,1,H,W,3C]. */
static Value gate(Net *net, Value gates, int part) {
  Shape size = graph_shape(net->graph, gates);
  size.dim[AXIS_C] /= 3;
  return graph_slice(net->graph, gates, shape_make(0, 0, 0, 0, part * size.dim[AXIS_C]), size);
}

/* The state behind a frame, from that before it, [N,1,H,W,C]; `driven` is Wx, [N,1,H,W,3C]. */
static Value gru_step(Net *net, const Layer *layer, Value driven, Value past) {
  Graph *graph = net->graph;
  Value kept = named_layer(net, "past", layer, past);
  Value update = graph_sigmoid(graph, graph_add(graph, gate(net, driven, 0), gate(net, kept, 0)));
  Value reset = graph_sigmoid(graph, graph_add(graph, gate(net, driven, 1), gate(net, kept, 1)));
  Value recalled = graph_mul(graph, reset, gate(net, kept, 2));
  Value fresh = graph_tanh(graph, graph_add(graph, gate(net, driven, 2), recalled));
  return graph_add(graph, fresh, graph_mul(graph, update, graph_sub(graph, past, fresh)));
}

/* The states behind all frames, of x's shape. */
static Value recurrence(Net *net, Value x) {
  Graph *graph = net->graph;
  Shape shape = graph_shape(graph, x), frame = shape;
  Layer layer = {.channels = 3 * shape.dim[AXIS_C],
                 .taps = {1, 3, 3},
                 .spec = conv_spec_same(1, 3, 1, PAD_REFLECT),
                 .bias = true,
                 .init_scale = 1};
  graph_scope_push(graph, "gru");
  Value driven = named_layer(net, "input", &layer, x);
  layer.bias = false;
  frame.dim[AXIS_T] = 1;
  Value memory = net->stream ? stream_memory(net, x, 1) : graph_constant(graph, frame, 0);
  frame.dim[AXIS_C] = layer.channels;
  Value state = graph_cast(graph, memory, graph_dtype(graph, x)), parts[CONCAT_MAX_INPUTS];
  int count = 0;
  for (int64_t t = 0; t < shape.dim[AXIS_T]; t++) {
    if (count == CONCAT_MAX_INPUTS) {
      parts[0] = graph_concat(graph, parts, count, AXIS_T);
      count = 1;
    }
    Value now = graph_slice(graph, driven, shape_make(0, t, 0, 0, 0), frame);
    parts[count++] = state = gru_step(net, &layer, now, state);
  }
  if (net->stream) graph_store(graph, state, memory);
  Value all = graph_concat(graph, parts, count, AXIS_T);
  graph_scope_pop(graph);
  return all;
}

/* Twice the size, then a convolution to `skip`'s channels, then the skip. */
static Value up_stage(Net *net, const ModelConfig *config, const char *name, Value x, Value skip) {
  Shape size = graph_shape(net->graph, skip);
  Value large = graph_resize(net->graph, x, size.dim[AXIS_H], size.dim[AXIS_W], RESIZE_NEAREST);
  Value y = conv_norm(net, config, name, large, size.dim[AXIS_C], 1, 3, 1);
  return graph_add(net->graph, graph_relu(net->graph, y), skip);
}

static Value encode_decode(Net *net, const ModelConfig *config, Value x) {
  Graph *graph = net->graph;
  int64_t channels = config->channels;
  int taps_time = config->temporal == TEMPORAL_CONV3D ? 3 : 1;
  Value stem = graph_relu(graph, conv_norm(net, config, "stem", x, channels, taps_time, 7, 1));
  Value half = graph_relu(graph, conv_norm(net, config, "down1", stem, 2 * channels, 1, 3, 2));
  Value y = graph_relu(graph, conv_norm(net, config, "down2", half, 4 * channels, 1, 3, 2));
  if (config->temporal == TEMPORAL_CONVGRU) y = graph_add(graph, y, recurrence(net, y));
  for (int i = 0; i < config->blocks; i++) y = residual_block(net, config, i, y, taps_time);
  y = up_stage(net, config, "up1", y, half);
  y = up_stage(net, config, "up2", y, stem);
  Layer head = {.channels = 3,
                .taps = {1, 7, 7},
                .spec = conv_spec_same(1, 7, 1, PAD_REFLECT),
                .bias = true,
                .init_scale = HEAD_SCALE};
  return named_layer(net, "head", &head, y);
}

/* Pads right and bottom so that both halvings come out even. */
static Value pad_to_multiple(Graph *graph, Value x, int64_t multiple) {
  Shape shape = graph_shape(graph, x);
  int64_t down = (multiple - shape.dim[AXIS_H] % multiple) % multiple;
  int64_t right = (multiple - shape.dim[AXIS_W] % multiple) % multiple;
  if (down == 0 && right == 0) return x;
  return graph_pad(graph, x, shape_make(0, 0, 0, 0, 0), shape_make(0, 0, down, right, 0),
                   PAD_REFLECT);
}

Value generator_build(Graph *graph, Parameters *parameters, ParameterSource source,
                      const ModelConfig *config, Value film, Value noise, StreamState *stream) {
  Net net = net_begin(graph, parameters, source, stream);
  Value x = film;
  if (config->noise_channels > 0) {
    noise = graph_cast(graph, noise, graph_dtype(graph, film));
    x = graph_concat(graph, (Value[]){film, noise}, 2, AXIS_C);
  }
  Value change = encode_decode(&net, config, pad_to_multiple(graph, x, 4));
  Shape result = graph_shape(graph, film);
  result.dim[AXIS_C] = 3;
  Shape origin = shape_make(0, 0, 0, 0, 0);
  Value output = graph_add(graph, graph_slice(graph, change, origin, result),
                           graph_slice(graph, film, origin, result));
  graph_scope_pop(graph);
  return output;
}

/* --- Discriminators --------------------------------------------------------------------------- */

/* C - 2C - 4C ... at stride 2, one more doubling at stride 1, then one logit a patch. Taps are 4 x
 * 4 in space, `taps_time` in time (centred: a discriminator may look ahead). */
static void patch_discriminator(Net *net, const ModelConfig *config, Value x, int64_t channels,
                                int64_t layers, int taps_time, Verdict *verdict) {
  int middle = taps_time / 2;
  verdict->feature_count = 0;
  for (int i = 0; i <= layers + 1; i++) {
    bool last = i == layers + 1;
    int stride = i < layers ? 2 : 1;
    NormChoice norm = i > 0 && !last ? (NormChoice)config->discriminator_norm : NORM_CHOICE_NONE;
    Layer layer = {.channels = last ? 1 : channels << (i < 3 ? i : 3),
                   .taps = {taps_time, 4, 4},
                   .spec = {.stride = {1, stride, stride},
                            .before = {middle, 1, 1},
                            .after = {middle, 1, 1},
                            .mode = PAD_ZERO},
                   .bias = norm == NORM_CHOICE_NONE,
                   .init_scale = 1};
    graph_scope_push(net->graph, "conv%d", i);
    x = norm_layer(net, norm, conv_layer(net, &layer, x));
    if (!last) {
      x = graph_leaky_relu(net->graph, x, LEAKY_SLOPE);
      verdict->features[verdict->feature_count++] = x;
    }
    graph_scope_pop(net->graph);
  }
  verdict->logits = x;
}

void discriminators_build(Graph *graph, Parameters *parameters, const ModelConfig *config,
                          Value pair, Verdicts *verdicts) {
  Shape clip = graph_shape(graph, pair);
  Shape frames = clip;
  frames.dim[AXIS_N] = clip.dim[AXIS_N] * clip.dim[AXIS_T];
  frames.dim[AXIS_T] = 1;
  *verdicts = (Verdicts){.image_count = (int)config->image_scales};
  Net net = net_begin(graph, parameters, READ_TRAINING, NULL);
  Value x = graph_reshape(graph, pair, frames);
  for (int scale = 0; scale < config->image_scales; scale++) {
    if (scale > 0) x = graph_average_pool(graph, x, 3, 2, 1);
    graph_scope_push(graph, "image%d", scale);
    patch_discriminator(&net, config, x, config->image_channels, config->image_layers, 1,
                        &verdicts->heads[verdicts->count++]);
    graph_scope_pop(graph);
  }
  if (config->video) {
    graph_scope_push(graph, "video");
    patch_discriminator(&net, config, pair, config->video_channels, config->video_layers, 3,
                        &verdicts->heads[verdicts->count++]);
    graph_scope_pop(graph);
  }
  graph_scope_pop(graph);
}
