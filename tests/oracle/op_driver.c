/* Runs one builder of the engine on the CPU for test_ops_torch.py.
 *
 *   op_driver NAME [NUMBER ...] < tensors > results
 *
 * A tensor is five int64 (its shape) and its f32 elements. For a builder the last tensor is the
 * gradient of its output; the results are the output and the gradients of the other tensors, bare
 * f32. For "adam" the tensors are parameters, gradients and controls; the results are parameters,
 * both moments and the EMA after NUMBER steps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/program.h"

enum { MOST = 8, MOST_NUMBERS = 16 };

typedef struct Driver {
  Backend *backend;
  Graph *graph;
  int count, results;
  Buffer in[MOST], out[MOST];
  Shape shape[MOST];
  Value x[MOST];
  int number[MOST_NUMBERS];
} Driver;

static void must(Status status, const Error *error) {
  if (status == OK) return;
  fprintf(stderr, "op_driver: %s\n", error->message);
  exit(1);
}

static void read_tensors(Driver *d) {
  Error error;
  while (d->count < MOST && fread(d->shape[d->count].dim, 8, RANK, stdin) == RANK) {
    const int64_t count = shape_count(d->shape[d->count]);
    float *values = mem_new((size_t)count, sizeof *values);
    if (fread(values, sizeof *values, (size_t)count, stdin) != (size_t)count) exit(1);
    Buffer *buffer = &d->in[d->count];
    *buffer = buffer_describe("in", DTYPE_F32, count);
    must(buffer_allocate(buffer, d->backend, &error), &error);
    must(buffer_upload(buffer, 0, values, count, &error), &error);
    d->x[d->count] = graph_view(d->graph, buffer, 0, d->shape[d->count]);
    d->count++;
    free(values);
  }
}

/* A result's buffer and the view of it. */
static Value result(Driver *d, Shape shape) {
  Error error;
  Buffer *buffer = &d->out[d->results++];
  *buffer = buffer_describe("out", DTYPE_F32, shape_count(shape));
  must(buffer_allocate(buffer, d->backend, &error), &error);
  return graph_view(d->graph, buffer, 0, shape);
}

static void write_results(Driver *d) {
  Error error;
  for (int i = 0; i < d->results; i++) {
    float *values = mem_new((size_t)d->out[i].count, sizeof *values);
    must(buffer_download(&d->out[i], 0, values, d->out[i].count, &error), &error);
    fwrite(values, sizeof *values, (size_t)d->out[i].count, stdout);
    free(values);
    buffer_free(&d->out[i]);
  }
  for (int i = 0; i < d->count; i++) buffer_free(&d->in[i]);
}

static void run(Driver *d, int times) {
  Error error;
  Program *program;
  Arena *arena = arena_new();
  const ProgramOptions options = {.name = "op", .arena = arena};
  must(program_plan(d->graph, d->backend, &options, &program, &error), &error);
  for (int i = 0; i < times; i++) must(program_run(program, false, &error), &error);
  program_free(program);
  arena_free(arena);
}

/* --- Builders --------------------------------------------------------------------------------- */

typedef Value Unary(Graph *graph, Value x);

static Value leaky(Graph *graph, Value x) {
  return graph_leaky_relu(graph, x, 0.2f);
}
static Value clamp(Graph *graph, Value x) {
  return graph_clamp(graph, x, -0.5f, 0.75f);
}

static const struct {
  const char *name;
  Unary *build;
} unaries[] = {
    {"leaky_relu", leaky},        {"relu", graph_relu}, {"tanh", graph_tanh},
    {"sigmoid", graph_sigmoid},   {"exp", graph_exp},   {"log", graph_log},
    {"softplus", graph_softplus}, {"abs", graph_abs},   {"sqrt", graph_sqrt},
    {"square", graph_square},     {"clamp", clamp},     {"mean", graph_mean},
};

/* Numbers: strides, before, after (three each), padding mode. */
static Value conv3d(const Driver *d) {
  const int *n = d->number;
  const ConvSpec spec = {.stride = {n[0], n[1], n[2]},
                         .before = {n[3], n[4], n[5]},
                         .after = {n[6], n[7], n[8]},
                         .mode = (PadMode)n[9]};
  return graph_conv3d(d->graph, d->x[0], d->x[1], d->count > 3 ? d->x[2] : NO_VALUE, spec);
}

static Value norm(const Driver *d) {
  const bool affine = d->count > 2;
  return graph_norm(d->graph, d->x[0], affine ? d->x[1] : NO_VALUE, affine ? d->x[2] : NO_VALUE,
                    (NormKind)d->number[0], d->number[1], 1e-5f);
}

static Value build(const Driver *d, const char *name) {
  Graph *g = d->graph;
  const int *n = d->number;
  for (size_t i = 0; i < sizeof unaries / sizeof *unaries; i++) {
    if (strcmp(name, unaries[i].name) == 0) return unaries[i].build(g, d->x[0]);
  }
  if (strcmp(name, "add") == 0) return graph_add(g, d->x[0], d->x[1]);
  if (strcmp(name, "sub") == 0) return graph_sub(g, d->x[0], d->x[1]);
  if (strcmp(name, "mul") == 0) return graph_mul(g, d->x[0], d->x[1]);
  if (strcmp(name, "div") == 0) return graph_div(g, d->x[0], d->x[1]);
  if (strcmp(name, "conv3d") == 0) return conv3d(d);
  if (strcmp(name, "norm") == 0) return norm(d);
  if (strcmp(name, "resize") == 0) return graph_resize(g, d->x[0], n[0], n[1], (ResizeMode)n[2]);
  if (strcmp(name, "pool") == 0) return graph_average_pool(g, d->x[0], n[0], n[1], n[2]);
  if (strcmp(name, "pad") == 0) {
    return graph_pad(g, d->x[0], shape_make(0, 0, n[0], n[2], 0), shape_make(0, 0, n[1], n[3], 0),
                     (PadMode)n[4]);
  }
  fprintf(stderr, "op_driver: no builder %s\n", name);
  exit(1);
}

static void derive(Driver *d, const char *name) {
  Graph *g = d->graph;
  Value gradients[MOST];
  const int wrt = d->count - 1;
  Value y = build(d, name);
  graph_store(g, y, result(d, graph_shape(g, y)));
  Value loss = graph_reduce_sum(g, graph_mul(g, y, d->x[wrt]), ALL_AXES, 1);
  graph_gradients(g, loss, d->x, wrt, gradients);
  for (int i = 0; i < wrt; i++) graph_store(g, gradients[i], result(d, d->shape[i]));
  run(d, 1);
}

static void adam(Driver *d) {
  Error error;
  Graph *g = d->graph;
  const Shape shape = d->shape[0];
  Value parameters = result(d, shape), moment1 = result(d, shape), moment2 = result(d, shape);
  Value ema = result(d, shape), counters = result(d, shape_vector(3));
  must(buffer_upload(&d->out[0], 0, d->in[0].data, shape_count(shape), &error), &error);
  must(buffer_upload(&d->out[3], 0, d->in[0].data, shape_count(shape), &error), &error);
  Value square = graph_reduce_sum(g, graph_square(g, d->x[1]), ALL_AXES, 1);
  const AdamViews views = {.parameters = parameters,
                           .gradients = d->x[1],
                           .moment1 = moment1,
                           .moment2 = moment2,
                           .ema = ema,
                           .compute = NO_VALUE,
                           .norm = graph_sqrt(g, square),
                           .controls = d->x[2],
                           .counters = counters};
  graph_adam(g, &views, 0.5f, 0.999f, 1e-8f, 0.01f);
  run(d, d->number[0]);
}

int main(int argc, char **argv) {
  Error error;
  Driver d = {.graph = graph_new()};
  if (argc < 2 || argc > 2 + MOST_NUMBERS) return 1;
  for (int i = 2; i < argc; i++) d.number[i - 2] = atoi(argv[i]);
  must(backend_cpu_new(2, &d.backend, &error), &error);
  read_tensors(&d);
  if (strcmp(argv[1], "adam") == 0) {
    adam(&d);
  } else {
    derive(&d, argv[1]);
  }
  write_results(&d);
  graph_free(d.graph);
  d.backend->free(d.backend);
  return 0;
}
