/* What the networks are made of: layers that declare their parameters, named by the graph's scopes,
 * and remember frames where a clip is translated frame by frame. */
#ifndef CELFORGE_TRAINER_GAN_LAYERS_H
#define CELFORGE_TRAINER_GAN_LAYERS_H

#include "trainer/gan/networks.h"

/* What the layers need at every call. Parameters are named by the scopes below the network's: in
 * "generator.block3.conv1" lies "block3.conv1.weight". */
typedef struct Net {
  Graph *graph;
  Parameters *parameters;
  ParameterSource source;
  StreamState *stream; /* NULL: whole clips */
  int next_state;      /* of the layer with a memory that comes next */
  size_t scope_length; /* of the network's own scope, with its dot */
} Net;

typedef struct Layer {
  int64_t channels; /* of the output */
  int taps[3];
  ConvSpec spec;
  int output_padding[3]; /* of a transposed convolution */
  bool bias;
  float init_scale; /* times He's deviation */
  float deviation;  /* of the initial weights, above 0: instead of that */
} Layer;

/* Opens the network's scope, which net_end closes. */
Net net_begin(Graph *graph, Parameters *parameters, ParameterSource source, StreamState *stream);
void net_end(Net *net);

/* What the layer that reads x remembers, `frames` frames of x's shape; in streams alone. */
Value stream_memory(Net *net, Value x, int64_t frames);

/* A convolution, its parameters in the current scope: "weight" and "bias". */
Value conv_layer(Net *net, const Layer *layer, Value x);
/* A transposed one, without a memory; `deviation` is given. */
Value transposed_layer(Net *net, const Layer *layer, Value x);
/* A convolution in a scope of its own. */
Value named_layer(Net *net, const char *name, const Layer *layer, Value x);
/* A norm with a gain and a bias, in the scope "norm"; x itself for NORM_CHOICE_NONE. */
Value norm_layer(Net *net, NormChoice choice, Value x);
/* Instance norm without them. */
Value plain_instance_norm(Net *net, Value x);

#endif
