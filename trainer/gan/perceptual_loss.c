#include "trainer/gan/perceptual_loss.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "trainer/gan/layers.h"
#include "trainer/gan/losses.h"
#include "trainer/gan/pretrained.h"

/* --- The network ------------------------------------------------------------------------------ */

enum { BLOCKS = 5 };

/* The convolutions between two poolings; the last block ends with the last layer in the loss. */
static const struct {
  int64_t channels;
  int convolutions;
  float weight; /* in the loss, of the activations of the block's first convolution */
} VGG19[BLOCKS] = {
    {64, 2, 1.0f / 32}, {128, 2, 1.0f / 16}, {256, 4, 1.0f / 8}, {512, 4, 1.0f / 4}, {512, 1, 1.0f},
};

static const char INPUT_SCALE[] = "input.scale", INPUT_SHIFT[] = "input.shift";

/* Normalises with ImageNet's mean and deviation. (A constant of the graph is a scalar, so scale and
 * shift per colour are stored with the weights.) */
static Value normalize(Graph *graph, Parameters *network, Value frames) {
  Value scale = parameters_vector(network, graph, INPUT_SCALE, 3, READ_COMPUTE, INIT_ONE);
  Value shift = parameters_vector(network, graph, INPUT_SHIFT, 3, READ_COMPUTE, INIT_ZERO);
  return graph_add(graph, graph_mul(graph, frames, scale), shift);
}

/* Appends VGG19 up to the first convolution of the last block, or with `content` not NULL up to
 * conv4_4. `features` receives the activations of the first convolution of each block, `content`
 * conv4_4 before its ReLU. */
static void features_build(Graph *graph, Parameters *network, Value frames, Value features[BLOCKS],
                           Value *content) {
  Net net = net_begin(graph, network, READ_COMPUTE, NULL);
  Value x = normalize(graph, network, frames), before = x;
  int index = 0; /* in torchvision's list of convolutions, ReLUs and poolings */
  for (int block = 0; block < (content ? BLOCKS - 1 : BLOCKS); block++) {
    const Layer layer = {.channels = VGG19[block].channels,
                         .kernel = {1, 3, 3},
                         .spec = conv_spec_same(1, 3, 1, PAD_ZERO),
                         .bias = true,
                         .init_scale = 1};
    if (block > 0) {
      x = graph_max_pool(graph, x, 2);
      index++;
    }
    for (int i = 0; i < VGG19[block].convolutions; i++) {
      char name[32];
      snprintf(name, sizeof name, "features.%d", index);
      before = named_conv_layer(&net, name, &layer, x);
      x = graph_relu(graph, before);
      if (i == 0) features[block] = x;
      index += 2;
    }
  }
  if (content) *content = before;
  net_end(&net);
}

static bool check_side(Graph *graph, Value output, const char *key) {
  Shape shape = graph_shape(graph, output);
  if (shape.dim[AXIS_H] >= PERCEPTUAL_MIN_SIDE && shape.dim[AXIS_W] >= PERCEPTUAL_MIN_SIDE)
    return true;
  graph_fail(graph, "%s needs frames of at least %dx%d pixels, these are %lldx%lld", key,
             PERCEPTUAL_MIN_SIDE, PERCEPTUAL_MIN_SIDE, (long long)shape.dim[AXIS_W],
             (long long)shape.dim[AXIS_H]);
  return false;
}

Value loss_perceptual(Graph *graph, Parameters *network, Value output, Value target) {
  Value output_features[BLOCKS], target_features[BLOCKS], sum = NO_VALUE;
  if (!check_side(graph, output, "loss.perceptual")) return NO_VALUE;
  features_build(graph, network, target, target_features, NULL);
  features_build(graph, network, output, output_features, NULL);
  for (int block = 0; block < BLOCKS; block++) {
    Value term = graph_affine(graph, loss_l1(graph, output_features[block], target_features[block]),
                              VGG19[block].weight, 0);
    sum = block == 0 ? term : graph_add(graph, sum, term);
  }
  return sum;
}

/* conv4_4 of frames, before its ReLU. */
static Value conv4_4(Graph *graph, Parameters *network, Value frames) {
  Value features[BLOCKS], content;
  features_build(graph, network, frames, features, &content);
  return content;
}

Value loss_content(Graph *graph, Parameters *network, Value output, Value source) {
  if (!check_side(graph, output, "loss.content")) return NO_VALUE;
  Shape size = graph_shape(graph, output);
  source = graph_slice(graph, source, shape_make(0, 0, 0, 0, 0), size);
  return loss_l1(graph, conv4_4(graph, network, output), conv4_4(graph, network, source));
}

/* Luma (BT.601) in all three channels. */
static Value grey_frames(Graph *graph, Value frames) {
  static const float WEIGHTS[3] = {0.299f, 0.587f, 0.114f};
  Value sum = NO_VALUE;
  for (int i = 0; i < 3; i++) {
    Value weighted = graph_affine(graph, frames_channel(graph, frames, i), WEIGHTS[i], 0);
    sum = i == 0 ? weighted : graph_add(graph, sum, weighted);
  }
  return graph_broadcast(graph, sum, graph_shape(graph, frames));
}

/* The Gram matrix of each frame, [N,T,1,C,C] f32. */
static Value gram_matrix(Graph *graph, Parameters *network, Value frames) {
  Value x = graph_cast(graph, conv4_4(graph, network, grey_frames(graph, frames)), DTYPE_F32);
  Shape shape = graph_shape(graph, x);
  shape.dim[AXIS_W] *= shape.dim[AXIS_H];
  shape.dim[AXIS_H] = 1;
  x = graph_reshape(graph, x, shape);
  float values = (float)(shape.dim[AXIS_W] * shape.dim[AXIS_C]);
  return graph_affine(graph, graph_matmul(graph, x, x, true, false), 1 / values, 0);
}

Value loss_style(Graph *graph, Parameters *network, Value output, Value target) {
  if (!check_side(graph, output, "loss.style")) return NO_VALUE;
  return loss_l1(graph, gram_matrix(graph, network, output), gram_matrix(graph, network, target));
}

/* --- Reading the weights ---------------------------------------------------------------------- */

/* Fills the normalisation (x / 2 + 1 / 2 - mean) / deviation as scale * x + shift; false: the
 * parameter is neither. */
static bool fill_normalization(const Parameter *parameter, float *out) {
  static const double MEAN[3] = {0.485, 0.456, 0.406}, DEVIATION[3] = {0.229, 0.224, 0.225};
  bool scales = strcmp(parameter->name, INPUT_SCALE) == 0;
  if (!scales && strcmp(parameter->name, INPUT_SHIFT) != 0) return false;
  for (int i = 0; i < 3; i++) out[i] = (float)((0.5 - (scales ? 0 : MEAN[i])) / DEVIATION[i]);
  return true;
}

Status perceptual_read(const char *path, const Parameters *network, float **out, Error *error) {
  Status status = OK;
  PretrainedFile file = {0};
  float *flat = NULL;
  *out = NULL;
  TRY(mem_bulk((size_t)network->total * sizeof *flat, "the weights of loss.perceptual",
               (void **)&flat, error));
  TRY(pretrained_open(path, "torchvision's VGG19 (docs/perceptual.md)", &file, error));
  for (int i = 0; i < network->count; i++) {
    const Parameter *parameter = &network->items[i];
    if (fill_normalization(parameter, flat + parameter->offset)) continue;
    TRY(pretrained_parameter(&file, parameter->name, parameter, flat + parameter->offset, error));
  }
  *out = flat;
  flat = NULL;
done:
  if (status != OK) error_context(error, "loss.perceptual_weights");
  pretrained_close(&file);
  free(flat);
  return status;
}
