#include "trainer/eval/style_classifier.h"

#include <math.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "engine/program/program.h"
#include "trainer/gan/layers.h"

enum { CONVOLUTIONS = 4, CONTROLS = 4, BUCKET_BYTES = 1 << 20 };
static const int64_t CHANNELS[CONVOLUTIONS] = {12, 24, 32, 48};
static const int STRIDES[CONVOLUTIONS] = {1, 2, 2, 1};
static const float LEAKY_SLOPE = 0.2f;
static const double LEARNING_RATE = 2e-3;
static const float BETA1 = 0.9f, BETA2 = 0.99f, EPSILON = 1e-8f, WEIGHT_DECAY = 0.1f;
/* Largest contrasts of jittered patches. Sources get more: clipped blacks make no drawing. */
static const double SOURCE_CONTRAST = 1.0, CARTOON_CONTRAST = 0.6;
static const uint64_t WEIGHT_SEED = 4, BATCH_SEED = 5;

struct StyleClassifier {
  Backend *backend;
  int side;
  Arena *arena;
  Parameters parameters;
  Buffer patches, labels, logits, controls; /* u8 RGB; 1 cartoon, -1 source; of a batch; of Adam */
  Program *training, *inference;
  uint8_t *batch; /* [STYLE_BATCH,side,side,3] */
};

/* --- Network ---------------------------------------------------------------------------------- */

/* Appends the network; returns logits [STYLE_BATCH,1,1,1,1], positive for cartoons. */
static Value append_network(StyleClassifier *s, Graph *graph) {
  Value x = graph_view(graph, &s->patches, 0, shape_make(STYLE_BATCH, 1, s->side, s->side, 3));
  x = frames_normalize(graph, x, DTYPE_F32);
  Net net = net_begin(graph, &s->parameters, READ_COMPUTE, NULL);
  for (int i = 0; i < CONVOLUTIONS; i++) {
    Layer layer = {.channels = CHANNELS[i],
                   .kernel = {1, 3, 3},
                   .spec = conv_spec_same(1, 3, STRIDES[i], PAD_ZERO),
                   .bias = true,
                   .init_scale = 1};
    graph_scope_push(graph, "conv%d", i);
    x = graph_leaky_relu(graph, conv_layer(&net, &layer, x), LEAKY_SLOPE);
    graph_scope_pop(graph);
  }
  Shape shape = graph_shape(graph, x);
  float mean = 1 / (float)(shape.dim[AXIS_H] * shape.dim[AXIS_W]);
  x = graph_reduce_sum(graph, x, 1u << AXIS_H | 1u << AXIS_W, mean);
  Layer linear = {.channels = 32,
                  .kernel = {1, 1, 1},
                  .spec = conv_spec_same(1, 1, 1, PAD_ZERO),
                  .bias = true,
                  .init_scale = 1};
  x = graph_leaky_relu(graph, named_conv_layer(&net, "hidden", &linear, x), LEAKY_SLOPE);
  linear.channels = 1;
  x = named_conv_layer(&net, "logit", &linear, x);
  net_end(&net);
  return x;
}

static void build_inference(StyleClassifier *s, Graph *graph) {
  Value logits = append_network(s, graph);
  graph_store(graph, logits, graph_view(graph, &s->logits, 0, shape_make(STYLE_BATCH, 1, 1, 1, 1)));
}

static void append_adam(StyleClassifier *s, Graph *graph) {
  Parameters *p = &s->parameters;
  Shape flat = shape_vector(p->total);
  AdamViews views = {
      .parameters = graph_view(graph, &p->master, 0, flat),
      .gradients = graph_view(graph, &p->gradient, 0, flat),
      .moment1 = graph_view(graph, &p->moment1, 0, flat),
      .moment2 = graph_view(graph, &p->moment2, 0, flat),
      .ema = NO_VALUE,
      .compute = NO_VALUE,
      .norm = parameters_gradient_norm(p, graph),
      .controls = graph_view(graph, &s->controls, 0, shape_vector(CONTROLS)),
      .counters = graph_view(graph, &p->counters, 0, shape_vector(3)),
  };
  graph_adam(graph, &views, BETA1, BETA2, EPSILON, WEIGHT_DECAY);
}

/* Mean binary cross-entropy, softplus(-label * logit), and one step of Adam. */
static void build_training(StyleClassifier *s, Graph *graph) {
  Value logits = append_network(s, graph);
  Value labels = graph_view(graph, &s->labels, 0, shape_make(STYLE_BATCH, 1, 1, 1, 1));
  Value margin = graph_mul(graph, logits, labels);
  Value loss = graph_mean(graph, graph_softplus(graph, graph_affine(graph, margin, -1, 0)));
  parameters_differentiate(&s->parameters, graph, loss, NULL, false, BUCKET_BYTES);
  append_adam(s, graph);
}

static Status plan(StyleClassifier *s, const char *name, void (*build)(StyleClassifier *, Graph *),
                   Program **out, Error *error) {
  Graph *graph = graph_new();
  ProgramOptions options = {.name = name, .arena = s->arena};
  build(s, graph);
  Status status = graph_status(graph, error);
  if (status == OK) status = program_plan(graph, s->backend, &options, out, error);
  graph_free(graph);
  return status;
}

static Status declare(StyleClassifier *s, Error *error) {
  parameters_init(&s->parameters, "classifier", DTYPE_F32);
  Graph *graph = graph_new();
  append_network(s, graph);
  Status status = graph_status(graph, error);
  parameters_freeze(&s->parameters);
  graph_free(graph);
  return status;
}

static Status allocate(StyleClassifier *s, Error *error) {
  Status status = OK;
  TRY(parameters_allocate(&s->parameters, s->backend, true, false, error));
  TRY(buffer_allocate(&s->patches, s->backend, error));
  TRY(buffer_allocate(&s->labels, s->backend, error));
  TRY(buffer_allocate(&s->logits, s->backend, error));
  TRY(buffer_allocate(&s->controls, s->backend, error));
  TRY(mem_bulk((size_t)s->patches.count, "a batch of patches", (void **)&s->batch, error));
done:
  return status;
}

Status style_classifier_new(Backend *backend, int side, StyleClassifier **out, Error *error) {
  Status status = OK;
  StyleClassifier *s = mem_new(1, sizeof *s);
  s->backend = backend;
  s->side = side;
  s->arena = arena_new();
  s->patches = buffer_describe("patches", DTYPE_U8, (int64_t)STYLE_BATCH * side * side * 3);
  s->labels = buffer_describe("labels", DTYPE_F32, STYLE_BATCH);
  s->logits = buffer_describe("logits", DTYPE_F32, STYLE_BATCH);
  s->controls = buffer_describe("controls", DTYPE_F32, CONTROLS);
  TRY(declare(s, error));
  TRY(plan(s, "training of the classifier", build_training, &s->training, error));
  TRY(plan(s, "classifier", build_inference, &s->inference, error));
  TRY(allocate(s, error));
  TRY(parameters_initialize(&s->parameters, WEIGHT_SEED, error));
  *out = s;
  s = NULL;
done:
  style_classifier_free(s);
  return status;
}

void style_classifier_free(StyleClassifier *s) {
  if (!s) return;
  program_free(s->training);
  program_free(s->inference);
  parameters_free(&s->parameters);
  buffer_free(&s->patches);
  buffer_free(&s->labels);
  buffer_free(&s->logits);
  buffer_free(&s->controls);
  arena_free(s->arena);
  free(s->batch);
  free(s);
}

/* --- Running ---------------------------------------------------------------------------------- */

static size_t patch_bytes(const StyleClassifier *s) {
  return (size_t)s->side * (size_t)s->side * 3;
}

static int default_threads(void) {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/* Fills a batch with sources, then cartoons. */
static void fill_batch(StyleClassifier *s, const StylePatches *sources,
                       const StylePatches *cartoons, int step, int threads) {
  (void)threads; /* unused without OpenMP */
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < STYLE_BATCH; i++) {
    bool source = i < STYLE_BATCH_SOURCES;
    const StylePatches *from = source ? sources : cartoons;
    Random random =
        random_stream(BATCH_SEED, RANDOM_SCORES, (uint64_t)step * STYLE_BATCH + (uint64_t)i, 0);
    size_t index = random_below(&random, (uint64_t)from->count);
    style_patch_jitter(from->pixels + index * patch_bytes(s), s->side,
                       source ? SOURCE_CONTRAST : CARTOON_CONTRAST, &random,
                       s->batch + (size_t)i * patch_bytes(s));
  }
}

static Status train_step(StyleClassifier *s, const StylePatches *sources,
                         const StylePatches *cartoons, int step, int steps, int threads,
                         Error *error) {
  Status status = OK;
  float rate = (float)(LEARNING_RATE * 0.5 * (1 + cos(M_PI * step / steps)));
  fill_batch(s, sources, cartoons, step, threads);
  TRY(buffer_upload(&s->patches, 0, s->batch, s->patches.count, error));
  TRY(buffer_upload(&s->controls, 0, (const float[CONTROLS]){rate}, CONTROLS, error));
  TRY(program_run(s->training, error));
done:
  return status;
}

Status style_classifier_train(StyleClassifier *s, const StylePatches *sources,
                              const StylePatches *cartoons, int steps, int threads, Error *error) {
  Status status = OK;
  float labels[STYLE_BATCH];
  if (sources->count == 0 || cartoons->count == 0 || sources->side != s->side ||
      cartoons->side != s->side)
    FAIL(error, ERROR_INTERNAL,
         "the classifier trains on patches of %d pixels of both classes, not on %lld of %d and "
         "%lld of %d",
         s->side, (long long)sources->count, sources->side, (long long)cartoons->count,
         cartoons->side);
  if (threads <= 0) threads = default_threads();
  for (int i = 0; i < STYLE_BATCH; i++) labels[i] = i < STYLE_BATCH_SOURCES ? -1 : 1;
  TRY(buffer_upload(&s->labels, 0, labels, STYLE_BATCH, error));
  for (int step = 0; step < steps; step++)
    TRY(train_step(s, sources, cartoons, step, steps, threads, error));
done:
  return status;
}

Status style_classifier_logits(StyleClassifier *s, const StylePatches *patches, float *out,
                               Error *error) {
  Status status = OK;
  for (int64_t first = 0; first < patches->count; first += STYLE_BATCH) {
    int64_t left = patches->count - first, count = left < STYLE_BATCH ? left : STYLE_BATCH;
    /* The rest of a last, smaller batch keeps patches of the one before. */
    TRY(buffer_upload(&s->patches, 0, patches->pixels + (size_t)first * patch_bytes(s),
                      count * (int64_t)patch_bytes(s), error));
    TRY(program_run(s->inference, error));
    TRY(buffer_download(&s->logits, 0, out + first, count, error));
  }
done:
  return status;
}
