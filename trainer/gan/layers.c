#include "trainer/gan/layers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"

enum { PARAMETER_NAME_SIZE = 96, GROUP_NORM_CHANNELS = 16 };
static const float NORM_EPSILON = 1e-5f;

Net net_begin(Graph *graph, Parameters *parameters, ParameterSource source, StreamState *stream) {
  graph_scope_push(graph, "%s", parameters->network);
  return (Net){graph, parameters, source, stream, 0, strlen(graph_scope(graph)) + 1};
}

void net_end(Net *net) {
  graph_scope_pop(net->graph);
}

static const char *parameter_name(const Net *net, const char *suffix,
                                  char name[PARAMETER_NAME_SIZE]) {
  snprintf(name, PARAMETER_NAME_SIZE, "%s.%s", graph_scope(net->graph) + net->scope_length, suffix);
  return name;
}

Value vector_parameter(Net *net, const char *suffix, int64_t channels, InitKind init) {
  char name[PARAMETER_NAME_SIZE];
  return parameters_vector(net->parameters, net->graph, parameter_name(net, suffix, name), channels,
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
  char *zeros = NULL;
  for (int i = 0; i < state->count; i++) {
    Buffer *buffer = state->buffers[i];
    free(zeros);
    zeros = NULL;
    TRY(mem_bulk((size_t)buffer->count * dtype_size(buffer->dtype), "zeros for the streaming state",
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

Value stream_layer_state(Net *net, Value x, int64_t frames) {
  StreamState *state = net->stream;
  Shape shape = graph_shape(net->graph, x);
  if (shape.dim[AXIS_T] != 1 || shape.dim[AXIS_N] != 1) {
    graph_fail(net->graph, "streaming takes one frame of one clip at a time, [1,1,H,W,C]");
    return NO_VALUE;
  }
  shape.dim[AXIS_T] = frames;
  if (net->next_state == state->count) {
    MEM_PUSH_SLOT(state->buffers, state->count, state->capacity);
    state->buffers[state->count] = mem_new(1, sizeof(Buffer));
    *state->buffers[state->count++] =
        buffer_describe("streaming state", graph_dtype(net->graph, x), shape_count(shape));
  }
  return graph_view(net->graph, state->buffers[net->next_state++], 0, shape);
}

/* Returns the previous two frames and x, [1,3,H,W,C], and stores the last two for the next frame.
 */
static Value stream_window(Net *net, Value x) {
  Value past = stream_layer_state(net, x, 2);
  Shape before = graph_shape(net->graph, past);
  Value window = graph_concat(net->graph, (Value[]){past, x}, 2, AXIS_T);
  Value recent = graph_slice(net->graph, window, shape_make(0, 1, 0, 0, 0), before);
  graph_store(net->graph, recent, past);
  return window;
}

/* --- Layers ----------------------------------------------------------------------------------- */

static Value weight_parameter(Net *net, Shape shape, float std) {
  char name[PARAMETER_NAME_SIZE];
  return parameters_weight(net->parameters, net->graph, net->source,
                           parameter_name(net, "weight", name), shape, std);
}

static Value bias_parameter(Net *net, const Layer *layer) {
  return layer->bias ? vector_parameter(net, "bias", layer->channels, INIT_ZERO) : NO_VALUE;
}

Value conv_layer(Net *net, const Layer *layer, Value x) {
  Graph *graph = net->graph;
  ConvSpec spec = layer->spec;
  if (net->stream && layer->kernel[0] > 1) {
    x = stream_window(net, x);
    spec.before[0] = 0;
  }
  int64_t inputs = graph_shape(graph, x).dim[AXIS_C];
  Shape shape =
      shape_make(layer->channels, layer->kernel[0], layer->kernel[1], layer->kernel[2], inputs);
  double fan_in = (double)(layer->kernel[0] * layer->kernel[1] * layer->kernel[2]) * (double)inputs;
  float std = layer->init_std;
  if (std <= 0) std = layer->init_scale * (float)sqrt(2.0 / fmax(fan_in, 1));
  Value weight = weight_parameter(net, shape, std);
  Value bias = bias_parameter(net, layer);
  return graph_conv3d(graph, x, weight, bias, spec);
}

Value transposed_conv_layer(Net *net, const Layer *layer, Value x) {
  int64_t inputs = graph_shape(net->graph, x).dim[AXIS_C];
  Shape shape =
      shape_make(inputs, layer->kernel[0], layer->kernel[1], layer->kernel[2], layer->channels);
  Value weight = weight_parameter(net, shape, layer->init_std);
  Value bias = bias_parameter(net, layer);
  return graph_conv3d_transpose(net->graph, x, weight, bias, layer->spec, layer->output_padding);
}

Value named_conv_layer(Net *net, const char *name, const Layer *layer, Value x) {
  graph_scope_push(net->graph, "%s", name);
  Value y = conv_layer(net, layer, x);
  graph_scope_pop(net->graph);
  return y;
}

Value norm_layer(Net *net, NormChoice choice, Value x) {
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

Value plain_instance_norm(Net *net, Value x) {
  return graph_norm(net->graph, x, NO_VALUE, NO_VALUE, NORM_INSTANCE, 1, NORM_EPSILON);
}
