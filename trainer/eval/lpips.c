#include "trainer/eval/lpips.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "engine/program/program.h"
#include "trainer/eval/max_pool3.h"
#include "trainer/gan/layers.h"
#include "trainer/gan/pretrained.h"

/* --- The networks ----------------------------------------------------------------------------- */

enum { LEVELS = 5, MAX_LAYERS = 13, NAME_SIZE = 48 };
static const char SHIFT[] = "scaling_layer.shift", SCALE[] = "scaling_layer.scale";
static const char ORIGIN[] = "the state dict of lpips.LPIPS (docs/scores.md)";
static const float LENGTH_EPSILON = 1e-10f;

/* A convolution and its ReLU, behind a pooling if `pools`; the activations of the last layer of
 * each slice are compared. */
typedef struct ConvLayer {
  int slice, index; /* "net.slice2.3" */
  int64_t channels;
  int kernel, stride, pad;
  bool pools;
} ConvLayer;

typedef struct Network {
  const char *name;
  int min_side; /* pixels: one is left behind the last pooling */
  int layer_count;
  ConvLayer layers[MAX_LAYERS];
} Network;

/* torchvision's alexnet and vgg16 (Krizhevsky 2014; Simonyan, Zisserman 2015, configuration D). The
 * former pools 3 x 3 pixels, the latter 2 x 2. */
static const Network ALEXNET = {"AlexNet",
                                31,
                                5,
                                {{1, 0, 64, 11, 4, 2, false},
                                 {2, 3, 192, 5, 1, 2, true},
                                 {3, 6, 384, 3, 1, 1, true},
                                 {4, 8, 256, 3, 1, 1, false},
                                 {5, 10, 256, 3, 1, 1, false}}};
static const Network VGG16 = {"VGG16",
                              16,
                              13,
                              {{1, 0, 64, 3, 1, 1, false},
                               {1, 2, 64, 3, 1, 1, false},
                               {2, 5, 128, 3, 1, 1, true},
                               {2, 7, 128, 3, 1, 1, false},
                               {3, 10, 256, 3, 1, 1, true},
                               {3, 12, 256, 3, 1, 1, false},
                               {3, 14, 256, 3, 1, 1, false},
                               {4, 17, 512, 3, 1, 1, true},
                               {4, 19, 512, 3, 1, 1, false},
                               {4, 21, 512, 3, 1, 1, false},
                               {5, 24, 512, 3, 1, 1, true},
                               {5, 26, 512, 3, 1, 1, false},
                               {5, 28, 512, 3, 1, 1, false}}};

struct Lpips {
  Backend *backend;
  const Network *network;
  int height, width, videos;
  Arena *arena;
  Parameters parameters;
  Buffer frame, distances; /* u8 RGB; LpipsDistances of each video, f32 */
  /* Of the last frame of each video, normalised; while a frame is compared, the reference's are
   * those of the same time. */
  Buffer features[LPIPS_MAX_VIDEOS][LEVELS];
  Program *programs[LPIPS_MAX_VIDEOS];
};

/* --- Graph ------------------------------------------------------------------------------------ */

static Value scaled_frame(Lpips *s, Graph *graph) {
  Value x = graph_view(graph, &s->frame, 0, shape_make(1, 1, s->height, s->width, 3));
  Value shift = parameters_vector(&s->parameters, graph, SHIFT, 3, READ_COMPUTE, INIT_ZERO);
  Value scale = parameters_vector(&s->parameters, graph, SCALE, 3, READ_COMPUTE, INIT_ONE);
  x = frames_normalize(graph, x, DTYPE_F32);
  return graph_div(graph, graph_sub(graph, x, shift), scale);
}

/* x divided by its length over the channels. */
static Value unit_length(Graph *graph, Value x) {
  Value square = graph_reduce_sum(graph, graph_square(graph, x), 1u << AXIS_C, 1);
  return graph_div(graph, x, graph_affine(graph, graph_sqrt(graph, square), 1, LENGTH_EPSILON));
}

static void append_features(Lpips *s, Graph *graph, Value out[LEVELS]) {
  Value x = scaled_frame(s, graph);
  Net net = net_begin(graph, &s->parameters, READ_COMPUTE, NULL);
  for (int i = 0; i < LEVELS; i++) out[i] = NO_VALUE;
  for (int i = 0; i < s->network->layer_count; i++) {
    const ConvLayer *layer = &s->network->layers[i];
    int k = layer->kernel, stride = layer->stride, pad = layer->pad;
    const Layer conv = {.channels = layer->channels,
                        .kernel = {1, k, k},
                        .spec = {{1, stride, stride}, {0, pad, pad}, {0, pad, pad}, PAD_ZERO},
                        .bias = true,
                        .init_scale = 1};
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "net.slice%d.%d", layer->slice, layer->index);
    if (layer->pools)
      x = s->network == &ALEXNET ? max_pool3_half(graph, x) : graph_max_pool(graph, x, 2);
    x = graph_relu(graph, named_conv_layer(&net, name, &conv, x));
    out[layer->slice - 1] = x;
  }
  net_end(&net);
  for (int i = 0; i < LEVELS; i++) out[i] = unit_length(graph, out[i]);
}

/* A view of the stored features of a video, which the first call describes. */
static Value stored_features(Lpips *s, Graph *graph, int video, int level, Shape shape) {
  Buffer *buffer = &s->features[video][level];
  if (!buffer->name) *buffer = buffer_describe("features", DTYPE_F32, shape_count(shape));
  return graph_view(graph, buffer, 0, shape);
}

/* Appends the distance of the features to those stored for `video`, and stores it. */
static void append_distance(Lpips *s, Graph *graph, const Value *features, int video, int index) {
  Value sum = NO_VALUE;
  for (int level = 0; level < LEVELS; level++) {
    Shape shape = graph_shape(graph, features[level]);
    float mean = 1 / (float)(shape.dim[AXIS_H] * shape.dim[AXIS_W]);
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "lin%d.model.1.weight", level);
    Value weights =
        parameters_vector(&s->parameters, graph, name, shape.dim[AXIS_C], READ_COMPUTE, INIT_ONE);
    Value other = stored_features(s, graph, video, level, shape);
    Value square = graph_square(graph, graph_sub(graph, features[level], other));
    Value term = graph_reduce_sum(graph, graph_mul(graph, square, weights), ALL_AXES, mean);
    sum = level == 0 ? term : graph_add(graph, sum, term);
  }
  graph_store(graph, sum, graph_view(graph, &s->distances, index, shape_scalar()));
}

/* The program of one video: distances to the reference and to its own last frame, then stores its
 * features. */
static void build(Lpips *s, Graph *graph, int video) {
  Value features[LEVELS];
  int reference = s->videos - 1;
  append_features(s, graph, features);
  if (video != reference) append_distance(s, graph, features, reference, 2 * video);
  append_distance(s, graph, features, video, 2 * video + 1);
  for (int level = 0; level < LEVELS; level++)
    graph_store(graph, features[level],
                stored_features(s, graph, video, level, graph_shape(graph, features[level])));
}

/* Declares the parameters in a first graph, then plans a program for each video. */
static Status plan(Lpips *s, Error *error) {
  Status status = OK;
  ProgramOptions options = {.name = "LPIPS", .arena = s->arena};
  for (int video = -1; status == OK && video < s->videos; video++) {
    Graph *graph = graph_new();
    build(s, graph, video < 0 ? 0 : video);
    status = graph_status(graph, error);
    if (video < 0)
      parameters_freeze(&s->parameters);
    else if (status == OK)
      status = program_plan(graph, s->backend, &options, &s->programs[video], error);
    graph_free(graph);
  }
  return status;
}

/* --- Weights ---------------------------------------------------------------------------------- */

/* Reads a vector of [1,channels,1,1] or [1,3,1,1]. */
static Status read_row(const PretrainedFile *file, const Parameter *parameter, float *out,
                       Error *error) {
  const int64_t shape[4] = {1, parameter->count, 1, 1};
  Status status = pretrained_values(file, parameter->name, shape, 4, out, error);
  if (status != OK || strcmp(parameter->name, SCALE) != 0) return status;
  for (int i = 0; i < 3; i++)
    if (out[i] <= 0)
      return error_set(error, ERROR_DATA, "%s: tensor \"%s\": element %d is %g, expected above 0",
                       file->path, SCALE, i, (double)out[i]);
  return OK;
}

static Status read_weights(Lpips *s, const PretrainedFile *file, Error *error) {
  Status status = OK;
  const Parameters *parameters = &s->parameters;
  float *flat = NULL;
  TRY(mem_bulk((size_t)parameters->total * sizeof *flat, "the weights of LPIPS", (void **)&flat,
               error));
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    bool in_network = strncmp(parameter->name, "net.", 4) == 0;
    TRY(in_network ? pretrained_parameter(file, parameter->name, parameter,
                                          flat + parameter->offset, error)
                   : read_row(file, parameter, flat + parameter->offset, error));
  }
  TRY(buffer_upload(&s->parameters.master, 0, flat, parameters->total, error));
done:
  free(flat);
  return status;
}

/* Tells the network by the number of its second slice's first layer. */
static Status choose_network(Lpips *s, const PretrainedFile *file, Error *error) {
  if (pretrained_has(file, "net.slice2.3.weight"))
    s->network = &ALEXNET;
  else if (pretrained_has(file, "net.slice2.5.weight"))
    s->network = &VGG16;
  else
    return error_set(error, ERROR_DATA,
                     "%s: it holds neither \"net.slice2.3.weight\" of AlexNet nor "
                     "\"net.slice2.5.weight\" of VGG16, expected %s with net=\"alex\" or \"vgg\"",
                     file->path, ORIGIN);
  int side = s->network->min_side;
  if (s->height >= side && s->width >= side) return OK;
  return error_set(error, ERROR_USAGE,
                   "%s: %s needs frames of at least %dx%d pixels, these are %dx%d; omit --lpips or "
                   "name a dataset of larger ones",
                   file->path, s->network->name, side, side, s->width, s->height);
}

/* --- Public functions ------------------------------------------------------------------------- */

static Status allocate(Lpips *s, Error *error) {
  Status status = OK;
  TRY(parameters_allocate(&s->parameters, s->backend, false, false, error));
  TRY(buffer_allocate(&s->frame, s->backend, error));
  TRY(buffer_allocate(&s->distances, s->backend, error));
  for (int video = 0; video < s->videos; video++)
    for (int level = 0; level < LEVELS; level++)
      TRY(buffer_allocate(&s->features[video][level], s->backend, error));
done:
  return status;
}

Status lpips_new(Backend *backend, const char *path, int height, int width, int videos, Lpips **out,
                 Error *error) {
  Status status = OK;
  PretrainedFile file = {0};
  Lpips *s = mem_new(1, sizeof *s);
  *s = (Lpips){.backend = backend, .height = height, .width = width, .videos = videos};
  s->arena = arena_new();
  s->frame = buffer_describe("frame", DTYPE_U8, (int64_t)height * width * 3);
  s->distances = buffer_describe("distances", DTYPE_F32, 2 * LPIPS_MAX_VIDEOS);
  parameters_init(&s->parameters, "lpips", DTYPE_F32);
  TRY(pretrained_open(path, ORIGIN, &file, error));
  TRY(choose_network(s, &file, error));
  TRY(plan(s, error));
  TRY(allocate(s, error));
  TRY(read_weights(s, &file, error));
  *out = s;
  s = NULL;
done:
  if (status != OK) error_context(error, "--lpips");
  pretrained_close(&file);
  lpips_free(s);
  return status;
}

void lpips_free(Lpips *s) {
  if (!s) return;
  for (int video = 0; video < s->videos; video++) {
    program_free(s->programs[video]);
    for (int level = 0; level < LEVELS; level++) buffer_free(&s->features[video][level]);
  }
  parameters_free(&s->parameters);
  buffer_free(&s->frame);
  buffer_free(&s->distances);
  arena_free(s->arena);
  free(s);
}

const char *lpips_network(const Lpips *s) {
  return s->network->name;
}

Status lpips_frame(Lpips *s, const uint8_t *const *frames, LpipsDistances *out, Error *error) {
  Status status = OK;
  float distances[2 * LPIPS_MAX_VIDEOS];
  for (int video = s->videos - 1; video >= 0; video--) { /* the reference first */
    TRY(buffer_upload(&s->frame, 0, frames[video], s->frame.count, error));
    TRY(program_run(s->programs[video], error));
  }
  TRY(buffer_download(&s->distances, 0, distances, 2 * LPIPS_MAX_VIDEOS, error));
  for (int video = 0; video < s->videos; video++)
    out[video] = (LpipsDistances){(double)distances[2 * video], (double)distances[2 * video + 1]};
done:
  return status;
}
