#include "support_rounding.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/backend/backend.h"
#include "support_plan.h"

static Error error;

static void assert_ok(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* --- A graph over inputs of both dtypes whose outputs are f32 --------------------------------- */

enum { ELEMENTS = 1 << 12, MAX_VALUES = 64 };

typedef struct Rounding {
  Backend *backend;
  Graph *graph;
  Buffer in, half, out, beside;
  int64_t read, written, stored; /* elements of the inputs and of the two outputs in use */
  int count;
  Value values[MAX_VALUES]; /* of which other ops are made */
} Rounding;

static Rounding rounding_new(Backend *backend) {
  return (Rounding){.backend = backend,
                    .graph = graph_new(),
                    .in = buffer_describe("in", DTYPE_F32, ELEMENTS),
                    .half = buffer_describe("half", DTYPE_BF16, ELEMENTS),
                    .out = buffer_describe("out", DTYPE_F32, ELEMENTS),
                    .beside = buffer_describe("beside", DTYPE_F32, 16 * ELEMENTS)};
}

static void rounding_free(Rounding *r) {
  graph_free(r->graph);
  buffer_free(&r->in);
  buffer_free(&r->half);
  buffer_free(&r->out);
  buffer_free(&r->beside);
}

static Value input(Rounding *r, DType dtype, Shape shape) {
  const int64_t at = r->read;
  r->read += (shape_count(shape) + 15) / 16 * 16;
  return graph_view(r->graph, dtype == DTYPE_BF16 ? &r->half : &r->in, at, shape);
}

/* Stores a value in `out`, as f32. */
static void keep(Rounding *r, Value value) {
  const Shape shape = graph_shape(r->graph, value);
  graph_store(r->graph, graph_cast(r->graph, value, DTYPE_F32),
              graph_view(r->graph, &r->out, r->written, shape));
  r->written += (shape_count(shape) + 15) / 16 * 16;
}

/* Another reader of a value, which does not change `out`. */
static void read_beside(Rounding *r, Value value) {
  const Shape shape = graph_shape(r->graph, value);
  const Value pooled =
      graph_average_pool(r->graph, graph_cast(r->graph, value, DTYPE_F32), 1, 1, 0);
  graph_store(r->graph, pooled, graph_view(r->graph, &r->beside, r->stored, shape));
  r->stored += (shape_count(shape) + 15) / 16 * 16;
}

static void fill(Rounding *r) {
  Random random = random_stream(3, RANDOM_TEST, 0, 0);
  float *in = mem_new(ELEMENTS, sizeof *in);
  uint16_t *half = mem_new(ELEMENTS, sizeof *half);
  for (int i = 0; i < ELEMENTS; i++) in[i] = (float)random_normal(&random);
  for (int i = 0; i < ELEMENTS; i++) half[i] = bf16_from_f32((float)random_normal(&random));
  assert_ok(buffer_upload(&r->in, 0, in, ELEMENTS, &error));
  assert_ok(buffer_upload(&r->half, 0, half, ELEMENTS, &error));
  free(in);
  free(half);
}

/* The content of `out` after the program has run, to be freed by the caller. `ops`: how many ops
 * that takes. */
static float *run(Rounding *r, bool without_fusion, int *ops) {
  assert_ok(graph_status(r->graph, &error));
  Planned planned = plan_for(r->backend, r->graph, without_fusion, NULL);
  Buffer *buffers[] = {&r->in, &r->half, &r->out, &r->beside};
  for (int i = 0; i < 4; i++)
    if (!buffers[i]->data) assert_ok(buffer_allocate(buffers[i], r->backend, &error));
  fill(r);
  assert_ok(program_run(planned.program, &error));
  float *found = mem_new((size_t)r->written, sizeof *found);
  assert_ok(buffer_download(&r->out, 0, found, r->written, &error));
  *ops = planned.program->step_count;
  planned_free(&planned);
  return found;
}

static void compare(const char *what, int seed, const float *left, const float *right,
                    int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (float_bits(left[i]) != float_bits(right[i]))
      fail_msg("seed %d, %s: element %d is %.9g and %.9g", seed, what, (int)i, (double)left[i],
               (double)right[i]);
}

/* --- Random pointwise graphs ------------------------------------------------------------------ */

static int pick(Random *random, int bound) {
  return (int)random_below(random, (uint64_t)bound);
}

static Value unary(Rounding *r, Random *random, Value x) {
  static const float scales[] = {1, -1, 0.5f, 0.3f, 0};
  Graph *graph = r->graph;
  const float p = scales[pick(random, 5)];
  switch (pick(random, 14)) {
  case 0:
    return graph_tanh(graph, x);
  case 1:
    return graph_sigmoid(graph, x);
  case 2:
    return graph_softplus(graph, x);
  case 3:
    return graph_leaky_relu(graph, x, p);
  case 4:
    return graph_leaky_step(graph, x, p);
  case 5:
    return graph_affine(graph, x, p, pick(random, 2) ? 0.0f : 0.7f);
  case 6:
    return graph_abs(graph, x);
  case 7:
    return graph_square(graph, x);
  case 8:
    return graph_sqrt(graph, graph_abs(graph, x));
  case 9:
    return graph_clamp(graph, x, -0.7f, pick(random, 2) ? 0.5f : 0.9f);
  case 10:
    return graph_exp(graph, graph_clamp(graph, x, -4, 4));
  case 11:
    return graph_sign(graph, x);
  default:
    return graph_cast(graph, x, pick(random, 3) ? DTYPE_BF16 : DTYPE_F32);
  }
}

static Value binary(Rounding *r, Random *random, Value a, Value b) {
  Graph *graph = r->graph;
  switch (pick(random, 5)) {
  case 0:
    return graph_sub(graph, a, b);
  case 1:
    return graph_div(graph, a, b);
  case 2:
    return graph_mul(graph, a, b);
  default:
    return graph_add(graph, a, b);
  }
}

static Value any(const Rounding *r, Random *random) {
  return r->values[pick(random, r->count)];
}

/* About `ops` ops; all of their values can be read by later ones, those without readers are kept.
 */
static void random_chains(Rounding *r, uint64_t seed, int ops, bool readers_beside) {
  static const Shape full = {{2, 1, 3, 4, 4}}, vector = {{1, 1, 1, 1, 4}};
  Random random = random_stream(seed, RANDOM_TEST, 0, 0),
         other = random_stream(seed, RANDOM_TEST, 1, 0);
  for (int i = 0; i < 4; i++)
    r->values[r->count++] = input(r, i ? DTYPE_BF16 : DTYPE_F32, i == 3 ? vector : full);
  for (int i = 0; i < 3; i++)
    r->values[r->count++] =
        graph_constant(r->graph, shape_scalar(), 0.35f * (float)pick(&random, 4));
  for (int i = 0; i < ops; i++) {
    const Value a = any(r, &random), b = any(r, &random);
    const Value made = pick(&random, 2) ? unary(r, &random, a) : binary(r, &random, a, b);
    r->values[pick(&random, 3) || r->count == MAX_VALUES ? pick(&random, r->count) : r->count++] =
        made;
    if (readers_beside && pick(&other, 3) == 0) read_beside(r, made);
  }
  for (int i = 7; i < r->count && i < 12; i++) keep(r, r->values[i]);
  for (int i = 0; i < 3; i++)
    keep(r, graph_reduce_sum(r->graph, any(r, &random), ALL_AXES & ~(1u << AXIS_C), 1));
}

void check_random_chains(Backend *backend, int count) {
  int fewer = 0;
  for (int seed = 0; seed < count; seed++) {
    float *found[3];
    int ops[3];
    int64_t elements = 0;
    for (int way = 0; way < 3; way++) {
      Rounding r = rounding_new(backend);
      random_chains(&r, (uint64_t)seed, 24, way == 2);
      found[way] = run(&r, way == 0, &ops[way]);
      elements = r.written;
      rounding_free(&r);
    }
    compare("unfused and fused", seed, found[0], found[1], elements);
    compare("fused, without and with other readers", seed, found[1], found[2], elements);
    fewer += ops[0] - ops[1];
    for (int way = 0; way < 3; way++) free(found[way]);
  }
  assert_true(fewer > 10 * count); /* so that there is something to compare */
}

/* --- A recurrent layer, whose gates the backward pass reads ----------------------------------- */

static Value gate(Rounding *r, Value gates, int index) {
  Shape size = graph_shape(r->graph, gates);
  size.dim[AXIS_C] /= 3;
  return graph_slice(r->graph, gates, shape_make(0, 0, 0, 0, index * size.dim[AXIS_C]), size);
}

/* Three steps of a convolutional GRU over bf16 frames; with `trains`, the gradient of its mean
 * square with respect to the weights, too. */
static void recurrent(Rounding *r, bool trains) {
  enum { CHANNELS = 4 };
  Graph *graph = r->graph;
  const Shape frame = shape_make(1, 1, 4, 4, CHANNELS);
  const Value w = input(r, DTYPE_BF16, shape_make(3 * CHANNELS, 1, 3, 3, CHANNELS));
  Value state = input(r, DTYPE_BF16, frame);
  for (int t = 0; t < 3; t++) {
    const Value x = input(r, DTYPE_BF16, shape_make(1, 1, 4, 4, 3 * CHANNELS));
    const Value past = graph_conv3d(graph, graph_affine(graph, state, 0.125f, 0), w, NO_VALUE,
                                    conv_spec_same(1, 3, 1, PAD_REFLECT));
    const Value z = graph_sigmoid(graph, graph_add(graph, gate(r, x, 0), gate(r, past, 0)));
    const Value s = graph_sigmoid(graph, graph_add(graph, gate(r, x, 1), gate(r, past, 1)));
    const Value n =
        graph_tanh(graph, graph_add(graph, gate(r, x, 2), graph_mul(graph, s, gate(r, past, 2))));
    state = graph_add(graph, n, graph_mul(graph, z, graph_sub(graph, state, n)));
    keep(r, state);
  }
  if (!trains) return;
  Value gradient;
  graph_gradients(graph, graph_mean(graph, graph_square(graph, state)), &w, 1, &gradient);
  read_beside(r, gradient);
}

void check_recurrent_layer(Backend *backend) {
  float *found[2];
  int ops;
  int64_t count = 0;
  for (int trains = 0; trains < 2; trains++) {
    Rounding r = rounding_new(backend);
    recurrent(&r, trains);
    found[trains] = run(&r, false, &ops);
    count = r.written;
    rounding_free(&r);
  }
  compare("inference and training", 0, found[0], found[1], count);
  free(found[0]);
  free(found[1]);
}
