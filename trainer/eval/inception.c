#include "trainer/eval/inception.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "engine/program/program.h"
#include "trainer/eval/inception_graph.h"
#include "trainer/gan/pretrained.h"

static const double BATCH_NORM_EPSILON = 0.001;

struct Inception {
  Backend *backend;
  const char *path; /* borrowed */
  Arena *arena;
  Parameters parameters;
  Buffer images, features; /* of a batch */
  Program *program;
};

/* --- Weights ---------------------------------------------------------------------------------- */

enum { MAX_CHANNELS = 512, LAYER_SIZE = 64, NAME_SIZE = LAYER_SIZE + 32 };

/* The batch norm behind a convolution as gain * x + shift. */
static Status read_batch_norm(const PretrainedFile *file, const char *layer, int64_t channels,
                              double *gain, double *shift, Error *error) {
  static const char *const PARTS[] = {"weight", "bias", "running_mean", "running_var"};
  float values[4][MAX_CHANNELS];
  for (int i = 0; i < 4; i++) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%.63s.bn.%s", layer, PARTS[i]);
    Status status = pretrained_values(file, name, &channels, 1, values[i], error);
    if (status != OK) return status;
  }
  for (int64_t c = 0; c < channels; c++) {
    double variance = (double)values[3][c] + BATCH_NORM_EPSILON;
    if (variance <= 0)
      return error_set(error, ERROR_DATA,
                       "%s: tensor \"%s.bn.running_var\": element %lld is %g, expected a variance",
                       file->path, layer, (long long)c, (double)values[3][c]);
    gain[c] = (double)values[0][c] / sqrt(variance);
    shift[c] = (double)values[1][c] - (double)values[2][c] * gain[c];
  }
  return OK;
}

/* Reads a convolution and its batch norm into `weight` and `bias`. */
static Status read_layer(const PretrainedFile *file, const Parameter *weight, const Parameter *bias,
                         float *flat, Error *error) {
  Status status = OK;
  double gain[MAX_CHANNELS], shift[MAX_CHANNELS];
  char layer[LAYER_SIZE], name[NAME_SIZE];
  int64_t channels = weight->shape.dim[AXIS_N], taps = weight->count / channels;
  float *weights = flat + weight->offset;
  size_t stem = strlen(weight->name) - strlen(".weight");
  snprintf(layer, sizeof layer, "%.*s", (int)stem, weight->name);
  snprintf(name, sizeof name, "%.63s.conv.weight", layer);
  TRY(pretrained_parameter(file, name, weight, weights, error));
  TRY(read_batch_norm(file, layer, channels, gain, shift, error));
  for (int64_t i = 0; i < weight->count; i++) {
    weights[i] = (float)((double)weights[i] * gain[i / taps]);
    if (!isfinite(weights[i]))
      FAIL(error, ERROR_DATA,
           "%s: \"%s.bn.weight\" scales a weight to %g, expected a finite number", file->path,
           layer, (double)weights[i]);
  }
  for (int64_t c = 0; c < channels; c++) flat[bias->offset + c] = (float)shift[c];
done:
  return status;
}

static Status read_weights(Inception *s, Error *error) {
  Status status = OK;
  const Parameters *parameters = &s->parameters;
  PretrainedFile file = {0};
  float *flat = NULL;
  TRY(pretrained_open(s->path, "pytorch-fid's Inception (docs/scores.md)", &file, error));
  TRY(mem_bulk((size_t)parameters->total * sizeof *flat, "the weights of Inception", (void **)&flat,
               error));
  /* Each convolution declares its weight, then its bias. */
  for (int i = 0; i < parameters->count; i += 2)
    TRY(read_layer(&file, &parameters->items[i], &parameters->items[i + 1], flat, error));
  TRY(buffer_upload(&s->parameters.master, 0, flat, parameters->total, error));
done:
  if (status != OK) error_context(error, "--inception");
  pretrained_close(&file);
  free(flat);
  return status;
}

/* --- Network ---------------------------------------------------------------------------------- */

static void build(Inception *s, Graph *graph) {
  Shape images = shape_make(INCEPTION_BATCH, 1, INCEPTION_SIDE, INCEPTION_SIDE, 3);
  Shape features = shape_make(INCEPTION_BATCH, 1, 1, 1, INCEPTION_FEATURES);
  Value x = graph_view(graph, &s->images, 0, images);
  x = inception_build(graph, &s->parameters, x);
  graph_store(graph, x, graph_view(graph, &s->features, 0, features));
}

/* Declares the parameters in a first graph, then plans the program. */
static Status plan(Inception *s, Error *error) {
  Status status = OK;
  ProgramOptions options = {.name = "Inception", .arena = s->arena};
  for (int pass = 0; status == OK && pass < 2; pass++) {
    Graph *graph = graph_new();
    build(s, graph);
    status = graph_status(graph, error);
    if (pass == 0)
      parameters_freeze(&s->parameters);
    else if (status == OK)
      status = program_plan(graph, s->backend, &options, &s->program, error);
    graph_free(graph);
  }
  return status;
}

Status inception_new(Backend *backend, const char *path, Inception **out, Error *error) {
  Status status = OK;
  Inception *s = mem_new(1, sizeof *s);
  s->backend = backend;
  s->path = path;
  s->arena = arena_new();
  s->images = buffer_describe("images", DTYPE_F32,
                              (int64_t)INCEPTION_BATCH * INCEPTION_SIDE * INCEPTION_SIDE * 3);
  s->features = buffer_describe("features", DTYPE_F32, INCEPTION_BATCH * INCEPTION_FEATURES);
  parameters_init(&s->parameters, "inception", DTYPE_F32);
  TRY(plan(s, error));
  TRY(parameters_allocate(&s->parameters, backend, false, false, error));
  TRY(buffer_allocate(&s->images, backend, error));
  TRY(buffer_allocate(&s->features, backend, error));
  TRY(read_weights(s, error));
  *out = s;
  s = NULL;
done:
  inception_free(s);
  return status;
}

void inception_free(Inception *s) {
  if (!s) return;
  program_free(s->program);
  parameters_free(&s->parameters);
  buffer_free(&s->images);
  buffer_free(&s->features);
  arena_free(s->arena);
  free(s);
}

Status inception_run(Inception *s, const float *images, int64_t count, float *out, Error *error) {
  Status status = OK;
  int64_t pixels = (int64_t)INCEPTION_SIDE * INCEPTION_SIDE * 3;
  /* The rest of a batch keeps the images of the one before. */
  TRY(buffer_upload(&s->images, 0, images, count * pixels, error));
  TRY(program_run(s->program, error));
  TRY(buffer_download(&s->features, 0, out, count * INCEPTION_FEATURES, error));
  for (int64_t i = 0; i < count * INCEPTION_FEATURES; i++)
    if (!isfinite(out[i]))
      FAIL(error, ERROR_DATA,
           "--inception: %s: feature %lld of a frame is not finite: %g; give weights that were "
           "trained with this network (docs/scores.md)",
           s->path, (long long)(i % INCEPTION_FEATURES), (double)out[i]);
done:
  return status;
}
