#include <stdio.h>

#include "trainer/gan/guided_filter.h"
#include "trainer/gan/layers.h"

static const float LEAKY_SLOPE = 0.2f;

/* PatchGAN: `layers` convolutions of stride 2 with C, 2C, 4C, 8C ... channels, one of stride 1, and
 * one that yields a logit per patch. Kernels are 4 x 4 in space and `kernel_time` in time, centred:
 * unlike the generator, a discriminator may see later frames. */
static void patch_discriminator(Net *net, const ModelConfig *config, Value x, int64_t channels,
                                int64_t layers, int kernel_time, DiscriminatorOutput *output) {
  int middle = kernel_time / 2;
  output->feature_count = 0;
  for (int i = 0; i <= layers + 1; i++) {
    bool last = i == layers + 1;
    int stride = i < layers ? 2 : 1;
    NormChoice norm = i > 0 && !last ? (NormChoice)config->discriminator_norm : NORM_CHOICE_NONE;
    Layer layer = {.channels = last ? 1 : channels << (i < 3 ? i : 3),
                   .kernel = {kernel_time, 4, 4},
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
      output->features[output->feature_count++] = x;
    }
    graph_scope_pop(net->graph);
  }
  output->logits = x;
}

/* --- Views ------------------------------------------------------------------------------------ */

/* By channels: a reduction over rows of three would load and store single numbers. */
Value frames_grey(Graph *graph, Value frames, Value weights) {
  Value sum = NO_VALUE;
  for (int i = 0; i < 3; i++) {
    Value channel = graph_cast(graph, frames_channel(graph, frames, i), DTYPE_F32);
    Value weighted = graph_mul(graph, channel, frames_channel(graph, weights, i));
    sum = i == 0 ? weighted : graph_add(graph, sum, weighted);
  }
  return graph_cast(graph, sum, graph_dtype(graph, frames));
}

/* White-box Cartoonization's surface: smooths everything but strong edges. */
static Value smooth_view(Graph *graph, Value frames) {
  enum { RADIUS = 5 };
  static const float EPSILON = 0.2f;
  return guided_filter(graph, frames, RADIUS, EPSILON);
}

/* --- All of them ------------------------------------------------------------------------------ */

/* The frames of all clips as an image batch. */
static Value frames_of_clips(Graph *graph, Value clips) {
  Shape shape = graph_shape(graph, clips);
  shape.dim[AXIS_N] *= shape.dim[AXIS_T];
  shape.dim[AXIS_T] = 1;
  return graph_reshape(graph, clips, shape);
}

static void image_discriminator(Net *net, const ModelConfig *config, const char *name, Value frames,
                                DiscriminatorOutputs *outputs) {
  graph_scope_push(net->graph, "%s", name);
  patch_discriminator(net, config, frames, config->image_channels, config->image_layers, 1,
                      &outputs->heads[outputs->count++]);
  graph_scope_pop(net->graph);
  outputs->image_count++;
}

static void image_discriminators(Net *net, const ModelConfig *config,
                                 const DiscriminatorInput *input, Value clips,
                                 DiscriminatorOutputs *outputs) {
  Graph *graph = net->graph;
  Value x = frames_of_clips(graph, clips);
  for (int scale = 0; scale < config->image_scales; scale++) {
    char name[16];
    if (scale > 0) x = graph_average_pool(graph, x, 3, 2, 1);
    snprintf(name, sizeof name, "image%d", scale);
    image_discriminator(net, config, name, x, outputs);
  }
  if (config->grey_view) {
    Value grey = frames_grey(graph, input->candidate, input->grey_weights);
    image_discriminator(net, config, "grey", frames_of_clips(graph, grey), outputs);
  }
  if (config->smooth_view) {
    Value smooth = smooth_view(graph, input->candidate);
    image_discriminator(net, config, "smooth", frames_of_clips(graph, smooth), outputs);
  }
}

void discriminators_build(Graph *graph, Parameters *parameters, const ModelConfig *config,
                          const DiscriminatorInput *input, DiscriminatorOutputs *outputs) {
  Value clips = input->candidate;
  *outputs = (DiscriminatorOutputs){0};
  if (input->source.id >= 0)
    clips = graph_concat(graph, (Value[]){input->source, input->candidate}, 2, AXIS_C);
  Net net = net_begin(graph, parameters, READ_COMPUTE, NULL);
  image_discriminators(&net, config, input, clips, outputs);
  if (config->video) {
    graph_scope_push(graph, "video");
    patch_discriminator(&net, config, clips, config->video_channels, config->video_layers, 3,
                        &outputs->heads[outputs->count++]);
    graph_scope_pop(graph);
  }
  net_end(&net);
}
