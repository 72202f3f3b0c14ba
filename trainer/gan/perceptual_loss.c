#include "trainer/gan/perceptual_loss.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "checkpoints/safetensors.h"
#include "trainer/gan/layers.h"
#include "trainer/gan/losses.h"

/* --- The network ------------------------------------------------------------------------------ */

enum { BLOCKS = 5 };

/* Convolutions between two poolings. Of the last block the first alone: behind it nothing is asked
 * for. */
static const struct {
  int64_t channels;
  int convolutions;
  float weight; /* in the loss, of the first one's activations */
} VGG19[BLOCKS] = {
    {64, 2, 1.0f / 32}, {128, 2, 1.0f / 16}, {256, 4, 1.0f / 8}, {512, 4, 1.0f / 4}, {512, 1, 1.0f},
};

static const char INPUT_SCALE[] = "input.scale", INPUT_SHIFT[] = "input.shift";

/* Frames as the network wants them. (A constant of the graph is one number, so scale and shift, of
 * each colour, lie beside the weights.) */
static Value normalize(Graph *graph, Parameters *network, Value frames) {
  Value scale = parameters_vector(network, graph, INPUT_SCALE, 3, READ_COMPUTE, INIT_ONE);
  Value shift = parameters_vector(network, graph, INPUT_SHIFT, 3, READ_COMPUTE, INIT_ZERO);
  return graph_add(graph, graph_mul(graph, frames, scale), shift);
}

/* The activations behind the first convolution of each block. */
static void features_build(Graph *graph, Parameters *network, Value frames,
                           Value features[BLOCKS]) {
  Net net = net_begin(graph, network, READ_COMPUTE, NULL);
  Value x = normalize(graph, network, frames);
  int place = 0; /* in torchvision's list of convolutions, ReLUs and poolings */
  for (int block = 0; block < BLOCKS; block++) {
    const Layer layer = {.channels = VGG19[block].channels,
                         .taps = {1, 3, 3},
                         .spec = conv_spec_same(1, 3, 1, PAD_ZERO),
                         .bias = true,
                         .init_scale = 1};
    if (block > 0) {
      x = graph_max_pool(graph, x, 2);
      place++;
    }
    for (int i = 0; i < VGG19[block].convolutions; i++) {
      char name[32];
      snprintf(name, sizeof name, "features.%d", place);
      x = graph_relu(graph, named_layer(&net, name, &layer, x));
      if (i == 0) features[block] = x;
      place += 2;
    }
  }
  net_end(&net);
}

Value loss_perceptual(Graph *graph, Parameters *network, Value output, Value target) {
  Value ours[BLOCKS], theirs[BLOCKS], sum = NO_VALUE;
  Shape shape = graph_shape(graph, output);
  if (shape.dim[AXIS_H] < PERCEPTUAL_LEAST_SIDE || shape.dim[AXIS_W] < PERCEPTUAL_LEAST_SIDE) {
    graph_fail(graph, "loss.perceptual wants frames of at least %dx%d pixels, these have %lldx%lld",
               PERCEPTUAL_LEAST_SIDE, PERCEPTUAL_LEAST_SIDE, (long long)shape.dim[AXIS_W],
               (long long)shape.dim[AXIS_H]);
    return NO_VALUE;
  }
  features_build(graph, network, target, theirs);
  features_build(graph, network, output, ours);
  for (int block = 0; block < BLOCKS; block++) {
    Value term =
        graph_affine(graph, loss_l1(graph, ours[block], theirs[block]), VGG19[block].weight, 0);
    sum = block == 0 ? term : graph_add(graph, sum, term);
  }
  return sum;
}

/* --- Its weights ------------------------------------------------------------------------------ */

/* IEEE 754 binary16. */
static float f16_to_f32(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float value = exponent == 0 ? ldexpf((float)fraction, -24)
                              : ldexpf((float)(fraction | 1024), exponent - 25);
  if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
  return bits >> 15 ? -value : value;
}

/* Number `index` of a tensor; a foreign file's may lie at any address. */
static float number_at(const NamedTensor *tensor, int64_t index) {
  const char *data = tensor->data;
  float value;
  uint16_t half;
  if (tensor->type == TENSOR_F32) {
    memcpy(&value, data + (size_t)index * sizeof value, sizeof value);
    return value;
  }
  memcpy(&half, data + (size_t)index * sizeof half, sizeof half);
  return tensor->type == TENSOR_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

/* What the file must have for the parameter: a weight [out,in,3,3], a bias [out]. */
static int shape_in_file(const Parameter *parameter, int64_t shape[4]) {
  const int64_t *dim = parameter->shape.dim;
  bool is_weight = parameter->init == INIT_NORMAL;
  const int64_t weight[4] = {dim[0], dim[4], dim[2], dim[3]};
  memcpy(shape, is_weight ? weight : &dim[AXIS_C], (is_weight ? 4 : 1) * sizeof *shape);
  return is_weight ? 4 : 1;
}

static Status find_tensor(const Safetensors *file, const char *path, const Parameter *parameter,
                          const NamedTensor **out, Error *error) {
  Status status = OK;
  int64_t wanted[4];
  int rank = shape_in_file(parameter, wanted);
  Text found = {0}, expected = {0};
  const NamedTensor *tensor = safetensors_find(file, parameter->name);
  tensor_shape_append(&expected, wanted, rank);
  if (!tensor)
    FAIL(error, ERROR_DATA,
         "%s: has no tensor \"%s\", which is to be %s; expected are the weights of VGG19, named as "
         "torchvision's (docs/perceptual.md)",
         path, parameter->name, expected.data);
  tensor_shape_append(&found, tensor->shape, tensor->rank);
  bool readable =
      tensor->type == TENSOR_F32 || tensor->type == TENSOR_F16 || tensor->type == TENSOR_BF16;
  bool fits =
      tensor->rank == rank && memcmp(tensor->shape, wanted, (size_t)rank * sizeof *wanted) == 0;
  if (!readable || !fits)
    FAIL(error, ERROR_DATA,
         "%s: tensor \"%s\" is %s %s; expected is F32, F16 or BF16 %s, as torchvision's VGG19 has "
         "it (docs/perceptual.md)",
         path, parameter->name, tensor_type_name(tensor->type), found.data, expected.data);
  *out = tensor;
done:
  text_free(&found);
  text_free(&expected);
  return status;
}

/* [out,in,height,width] to [out,1,height,width,in]; a vector as it is. */
static Status read_tensor(const NamedTensor *tensor, const char *path, const Parameter *parameter,
                          float *out, Error *error) {
  const int64_t *dim = parameter->shape.dim;
  int64_t taps = dim[2] * dim[3], inputs = parameter->init == INIT_NORMAL ? dim[4] : 1;
  for (int64_t from = 0; from < parameter->count; from++) {
    int64_t tap = from % taps, input = from / taps % inputs, output = from / taps / inputs;
    float value = number_at(tensor, from);
    if (!isfinite(value))
      return error_set(error, ERROR_DATA,
                       "%s: tensor \"%s\" has a number that is not finite: %g, at place %lld of "
                       "%lld",
                       path, parameter->name, (double)value, (long long)from,
                       (long long)parameter->count);
    out[(output * taps + tap) * inputs + input] = value;
  }
  return OK;
}

/* (x / 2 + 1 / 2 - mean) / deviation, as scale * x + shift. */
static bool fill_normalization(const Parameter *parameter, float *out) {
  static const double MEAN[3] = {0.485, 0.456, 0.406}, DEVIATION[3] = {0.229, 0.224, 0.225};
  bool scales = strcmp(parameter->name, INPUT_SCALE) == 0;
  if (!scales && strcmp(parameter->name, INPUT_SHIFT) != 0) return false;
  for (int i = 0; i < 3; i++) out[i] = (float)((0.5 - (scales ? 0 : MEAN[i])) / DEVIATION[i]);
  return true;
}

Status perceptual_read(const char *path, const Parameters *network, float **out, Error *error) {
  Status status = OK;
  Safetensors *file = NULL;
  float *flat = NULL;
  *out = NULL;
  TRY(mem_bulk((size_t)network->total * sizeof *flat, "the weights of loss.perceptual",
               (void **)&flat, error));
  memset(flat, 0, (size_t)network->total * sizeof *flat);
  TRY(safetensors_open(path, &file, error));
  for (int i = 0; i < network->count; i++) {
    const Parameter *parameter = &network->items[i];
    const NamedTensor *tensor = NULL;
    if (fill_normalization(parameter, flat + parameter->offset)) continue;
    TRY(find_tensor(file, path, parameter, &tensor, error));
    TRY(read_tensor(tensor, path, parameter, flat + parameter->offset, error));
  }
  *out = flat;
  flat = NULL;
done:
  if (status != OK) error_context(error, "loss.perceptual_weights");
  safetensors_close(file);
  free(flat);
  return status;
}
