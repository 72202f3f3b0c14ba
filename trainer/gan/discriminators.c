#include <stddef.h>

#include "trainer/gan/layers.h"

static const float LEAKY_SLOPE = 0.2f;

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
  Net net = net_begin(graph, parameters, READ_COMPUTE, NULL);
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
  net_end(&net);
}
