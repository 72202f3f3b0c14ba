#include <stddef.h>

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

void discriminators_build(Graph *graph, Parameters *parameters, const ModelConfig *config,
                          Value pair, DiscriminatorOutputs *outputs) {
  Shape clip = graph_shape(graph, pair);
  Shape frames = clip;
  frames.dim[AXIS_N] = clip.dim[AXIS_N] * clip.dim[AXIS_T];
  frames.dim[AXIS_T] = 1;
  *outputs = (DiscriminatorOutputs){.image_count = (int)config->image_scales};
  Net net = net_begin(graph, parameters, READ_COMPUTE, NULL);
  Value x = graph_reshape(graph, pair, frames);
  for (int scale = 0; scale < config->image_scales; scale++) {
    if (scale > 0) x = graph_average_pool(graph, x, 3, 2, 1);
    graph_scope_push(graph, "image%d", scale);
    patch_discriminator(&net, config, x, config->image_channels, config->image_layers, 1,
                        &outputs->heads[outputs->count++]);
    graph_scope_pop(graph);
  }
  if (config->video) {
    graph_scope_push(graph, "video");
    patch_discriminator(&net, config, pair, config->video_channels, config->video_layers, 3,
                        &outputs->heads[outputs->count++]);
    graph_scope_pop(graph);
  }
  net_end(&net);
}
