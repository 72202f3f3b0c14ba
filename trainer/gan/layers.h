/* Layers that declare their parameters, named by the graph's scopes, and that keep a streaming
 * state where a clip is translated frame by frame. */
#ifndef CELFORGE_TRAINER_GAN_LAYERS_H
#define CELFORGE_TRAINER_GAN_LAYERS_H

#include "trainer/gan/networks.h"

/* The context of all layers of a network. Parameters are named by the scopes below the network's:
 * in the scope "generator.block3.conv1", "weight" is called "block3.conv1.weight". */
typedef struct Net {
  Graph *graph;
  Parameters *parameters;
  ParameterSource source;
  StreamState *stream; /* NULL: whole clips */
  int next_state;      /* index of the next temporal layer's state */
  size_t scope_length; /* of the network's own scope and its dot */
} Net;

/* A plain or transposed convolution. */
typedef struct Layer {
  int64_t channels; /* of the output */
  int kernel[3];    /* time, height, width */
  ConvSpec spec;
  int output_padding[3]; /* of a transposed convolution */
  bool bias;
  float init_scale; /* times He's standard deviation */
  float init_std;   /* standard deviation of the initial weights; above 0 it replaces He's */
} Layer;

/* Opens the network's scope, which net_end closes. */
Net net_begin(Graph *graph, Parameters *parameters, ParameterSource source, StreamState *stream);
void net_end(Net *net);

/* Returns a view of the next temporal layer's state: `frames` frames of x's shape. Streaming only.
 */
Value stream_layer_state(Net *net, Value x, int64_t frames);

/* Returns the vector `suffix` of the current scope, [1,1,1,1,channels], f32. */
Value vector_parameter(Net *net, const char *suffix, int64_t channels, InitKind init);
/* Appends a convolution, with the parameters "weight" and "bias" in the current scope. */
Value conv_layer(Net *net, const Layer *layer, Value x);
/* Appends a transposed convolution; it has no streaming state and needs `init_std`. */
Value transposed_conv_layer(Net *net, const Layer *layer, Value x);
/* Appends a convolution in the scope `name`. */
Value named_conv_layer(Net *net, const char *name, const Layer *layer, Value x);
/* Appends a norm with gain and bias in the scope "norm"; returns x for NORM_CHOICE_NONE. */
Value norm_layer(Net *net, NormChoice choice, Value x);
/* Appends an instance norm without gain and bias. */
Value plain_instance_norm(Net *net, Value x);

#endif
