#include "tests/unit/trainer/infer/support_generator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"

static Error error;

static void check(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static void declare(SmallGenerator *g, int64_t source_channels) {
  Graph *graph = graph_new();
  int64_t noise_channels = g->config.model.noise_channels;
  parameters_init(&g->parameters, "generator", DTYPE_F32);
  Value source = graph_constant(graph, shape_make(1, 2, 16, 16, source_channels), 0);
  Value noise = NO_VALUE;
  if (noise_channels > 0)
    noise = graph_constant(graph, shape_make(1, 2, 16, 16, noise_channels), 0);
  generator_build(graph, &g->parameters, READ_MASTER, &g->config.model, source, noise, NULL);
  check(graph_status(graph, &error));
  parameters_freeze(&g->parameters);
  graph_free(graph);
}

/* Scales the head's weights by ten: initial weights leave the output close to the source, or to
 * zero. */
static void scale_head(SmallGenerator *g) {
  bool has_enhancer = parameters_find(&g->parameters, "enhancer.head.weight") != NULL;
  const Parameter *head =
      parameters_find(&g->parameters, has_enhancer ? "enhancer.head.weight" : "head.weight");
  float *values = mem_new((size_t)head->count, sizeof *values);
  assert_non_null(head);
  check(buffer_download(&g->parameters.master, head->offset, values, head->count, &error));
  for (int64_t i = 0; i < head->count; i++) values[i] *= 10;
  check(buffer_upload(&g->parameters.master, head->offset, values, head->count, &error));
  free(values);
}

void small_generator_open(SmallGenerator *g, const char *const *assignments,
                          int64_t source_channels, Backend *backend) {
  static const char *const SMALL[] = {"model.channels=4", "model.blocks=2"};
  check(config_set_defaults(&config_schema, &g->config, &error));
  for (size_t i = 0; i < sizeof SMALL / sizeof *SMALL; i++)
    check(config_assign(&config_schema, SMALL[i], &g->config, NULL, &error));
  for (; *assignments; assignments++)
    check(config_assign(&config_schema, *assignments, &g->config, NULL, &error));
  g->backend = backend;
  declare(g, source_channels);
  check(parameters_allocate(&g->parameters, backend, false, false, &error));
  check(parameters_initialize(&g->parameters, 5, &error));
  scale_head(g);
  g->inference = inference_from_parameters(&g->config, &g->parameters, READ_MASTER, backend);
}

void small_generator_close(SmallGenerator *g) {
  inference_free(g->inference);
  parameters_free(&g->parameters);
}

/* The buffers and the program of one whole clip. */
typedef struct WholeClip {
  Shape source_shape, output_shape, noise_shape;
  Buffer source, noise, output;
} WholeClip;

static WholeClip whole_clip_describe(const SmallGenerator *g, const InferenceShape *s, int frames) {
  int64_t noise_channels = g->config.model.noise_channels;
  WholeClip clip = {
      .source_shape = shape_make(1, frames, s->source_height, s->source_width, s->source_channels),
      .output_shape = shape_make(1, frames, s->height, s->width, 3),
      .noise_shape = shape_make(1, frames, s->height, s->width, noise_channels)};
  clip.source = buffer_describe("source", DTYPE_U8, shape_count(clip.source_shape));
  clip.output = buffer_describe("output", DTYPE_F32, shape_count(clip.output_shape));
  clip.noise =
      buffer_describe("noise", DTYPE_F32, noise_channels > 0 ? shape_count(clip.noise_shape) : 0);
  return clip;
}

static Graph *whole_clip_graph(SmallGenerator *g, const InferenceShape *s, WholeClip *clip) {
  Graph *graph = graph_new();
  Value frames = graph_view(graph, &clip->source, 0, clip->source_shape), noise = NO_VALUE;
  Value source =
      frames_upsample(graph, frames_normalize(graph, frames, DTYPE_F32), s->height, s->width);
  if (clip->noise.count > 0) noise = graph_view(graph, &clip->noise, 0, clip->noise_shape);
  Value output =
      generator_build(graph, &g->parameters, READ_MASTER, &g->config.model, source, noise, NULL);
  graph_store(graph, output, graph_view(graph, &clip->output, 0, clip->output_shape));
  check(graph_status(graph, &error));
  return graph;
}

/* Frame t of a stream has the noise of (run.seed, t). */
static void upload_noise(const SmallGenerator *g, WholeClip *clip, int frames) {
  if (clip->noise.count == 0) return;
  size_t each = (size_t)(clip->noise.count / frames);
  float *values = mem_new((size_t)clip->noise.count, sizeof *values);
  check(buffer_allocate(&clip->noise, g->backend, &error));
  for (int t = 0; t < frames; t++) {
    Random random = random_stream((uint64_t)g->config.run.seed, RANDOM_NOISE, (uint64_t)t, 1);
    random_fill_normal(&random, values + (size_t)t * each, each, 1);
  }
  check(buffer_upload(&clip->noise, 0, values, clip->noise.count, &error));
  free(values);
}

void small_generator_clip(SmallGenerator *g, const InferenceShape *shape, int frames,
                          const uint8_t *source, float *output) {
  WholeClip clip = whole_clip_describe(g, shape, frames);
  Graph *graph = whole_clip_graph(g, shape, &clip);
  Arena *arena = arena_new();
  Program *program = NULL;
  const ProgramOptions options = {.name = "whole clip", .arena = arena};
  check(program_plan(graph, g->backend, &options, &program, &error));
  check(buffer_allocate(&clip.source, g->backend, &error));
  check(buffer_allocate(&clip.output, g->backend, &error));
  check(buffer_upload(&clip.source, 0, source, clip.source.count, &error));
  upload_noise(g, &clip, frames);
  check(program_run(program, &error));
  check(buffer_download(&clip.output, 0, output, clip.output.count, &error));
  program_free(program);
  graph_free(graph);
  buffer_free(&clip.source);
  buffer_free(&clip.noise);
  buffer_free(&clip.output);
  arena_free(arena);
}
