/* First and second derivatives. Each network's loss is a weighted sum of squares of its output, and
 * a second loss is a random combination of the first one's gradients. Both losses' gradients are
 * held against central differences, all of it in double, and then what the CPU backend computes,
 * with and without fusion, against those. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/memory.h"
#include "engine/program.h"
#include "support_case.h"
#include "support_reference.h"

enum { MOST_WRT = 6, BUFFER_LENGTH = 1 << 14, DIRECTIONS = 2 };

static Backend *backend;

/* --- A graph under test ----------------------------------------------------------------------- */

typedef struct Net {
  Graph *graph;
  Buffer in, out; /* sources; losses and gradients as the backend computes them */
  int64_t in_used, out_used;
  Value wrt[MOST_WRT];
  int wrt_count;
  struct {
    Value loss, gradients[MOST_WRT];
  } order[2]; /* first and second derivatives */
} Net;

typedef Value Build(Net *net);

static Value source(Net *net, Shape shape) {
  const int64_t offset = net->in_used;
  net->in_used += (shape_count(shape) + 15) / 16 * 16;
  assert_true(net->in_used <= BUFFER_LENGTH);
  return graph_view(net->graph, &net->in, offset, shape);
}

/* A source that is differentiated by. */
static Value variable(Net *net, Shape shape) {
  assert_true(net->wrt_count < MOST_WRT);
  return net->wrt[net->wrt_count++] = source(net, shape);
}

static Value usual(Net *net) {
  return variable(net, shape_make(2, 2, 4, 5, 3));
}

static void keep(Net *net, Value value) {
  const Shape shape = graph_shape(net->graph, value);
  Value target = graph_view(net->graph, &net->out, net->out_used, shape);
  net->out_used += (shape_count(shape) + 15) / 16 * 16;
  assert_true(net->out_used <= BUFFER_LENGTH);
  graph_store(net->graph, value, target);
}

static Value weighted_sum(Net *net, Value y) {
  Value weights = source(net, graph_shape(net->graph, y));
  return graph_reduce_sum(net->graph, graph_mul(net->graph, y, weights), ALL_AXES, 1);
}

static void differentiate(Net *net, int order, Value loss) {
  net->order[order].loss = loss;
  graph_gradients(net->graph, loss, net->wrt, net->wrt_count, net->order[order].gradients);
  keep(net, loss);
  for (int i = 0; i < net->wrt_count; i++) keep(net, net->order[order].gradients[i]);
}

static Net *net_new(Build *build, uint64_t seed) {
  Net *net = mem_new(1, sizeof *net);
  Graph *g = net->graph = graph_new();
  Error error = {0};
  net->in = buffer_describe("in", DTYPE_F32, BUFFER_LENGTH);
  net->out = buffer_describe("out", DTYPE_F32, BUFFER_LENGTH);
  differentiate(net, 0, weighted_sum(net, graph_square(g, build(net))));
  Value second = NO_VALUE;
  for (int i = 0; i < net->wrt_count; i++) {
    Value term = weighted_sum(net, net->order[0].gradients[i]);
    second = i == 0 ? term : graph_add(g, second, term);
  }
  differentiate(net, 1, second);
  if (graph_status(g, &error) != OK) fail_msg("%s", error.message);
  Random random = random_stream(seed, RANDOM_TEST, 2, 0);
  assert_int_equal(buffer_allocate(&net->in, backend, &error), OK);
  assert_int_equal(buffer_allocate(&net->out, backend, &error), OK);
  random_fill_normal(&random, net->in.data, BUFFER_LENGTH, 1);
  return net;
}

static void net_free(Net *net) {
  graph_free(net->graph);
  buffer_free(&net->in);
  buffer_free(&net->out);
  free(net);
}

/* --- Central differences ---------------------------------------------------------------------- */

static int64_t count_of(const Net *net, Value value) {
  return shape_count(graph_shape(net->graph, value));
}

/* Moves wrt `i` by `scale` times a random direction. */
static void move(Net *net, Reference *reference, int i, int direction, double scale) {
  const Op *view = graph_producer(net->graph, net->wrt[i]);
  double *x = reference_buffer(reference, &net->in) + view->attributes.view.offset;
  Random random = random_stream((uint64_t)direction, RANDOM_TEST, 3, (uint32_t)i);
  for (int64_t k = 0; k < count_of(net, net->wrt[i]); k++) {
    x[k] += scale * (double)random_normal(&random);
  }
}

/* The gradient along that direction, and the gradient's norm. */
static double slope(const Net *net, const Reference *reference, int order, int i, int direction,
                    double *norm) {
  const double *gradient = reference_value(reference, net->order[order].gradients[i]);
  double along = 0, square = 0;
  Random random = random_stream((uint64_t)direction, RANDOM_TEST, 3, (uint32_t)i);
  for (int64_t k = 0; k < count_of(net, net->wrt[i]); k++) {
    along += gradient[k] * (double)random_normal(&random);
    square += gradient[k] * gradient[k];
  }
  *norm = sqrt(square);
  return along;
}

static void check_direction(Net *net, const char *name, int i, int direction) {
  const double step = 1e-5;
  double loss[2][2], expected[2], norm[2];
  Reference *reference = reference_new(net->graph);
  reference_evaluate(reference);
  for (int order = 0; order < 2; order++) {
    expected[order] = slope(net, reference, order, i, direction, &norm[order]);
  }
  for (int side = 0; side < 2; side++) {
    move(net, reference, i, direction, side == 0 ? step : -2 * step);
    reference_evaluate(reference);
    for (int order = 0; order < 2; order++) {
      loss[side][order] = *reference_value(reference, net->order[order].loss);
    }
  }
  reference_free(reference);
  for (int order = 0; order < 2; order++) {
    const double found = (loss[0][order] - loss[1][order]) / (2 * step);
    if (!(norm[order] > 0)) fail_msg("%s: derivative %d by input %d is 0", name, order + 1, i);
    if (!(fabs(found - expected[order]) <= 1e-6 * fmax(norm[order], fabs(found)))) {
      fail_msg("%s: derivative %d by input %d: central difference %.9g, gradient %.9g", name,
               order + 1, i, found, expected[order]);
    }
  }
}

/* --- The backend ------------------------------------------------------------------------------ */

static void compare(const Net *net, const Reference *reference, const char *name, const char *what,
                    Value value, int64_t *offset, double tolerance) {
  const int64_t count = count_of(net, value);
  const float *found = (const float *)net->out.data + *offset;
  double *values = mem_new((size_t)count, sizeof *values);
  for (int64_t i = 0; i < count; i++) values[i] = (double)found[i];
  const double error = relative_error(values, reference_value(reference, value), count);
  free(values);
  *offset += (count + 15) / 16 * 16;
  if (!(error <= tolerance)) {
    fail_msg("%s: %s: the backend is off by %.3g, allowed %.3g", name, what, error, tolerance);
  }
}

static void check_backend(Net *net, const char *name, bool without_fusion, double tolerance) {
  Error error = {0};
  Program *program = NULL;
  Arena *arena = arena_new();
  const ProgramOptions options = {.name = "test", .arena = arena, .without_fusion = without_fusion};
  Reference *reference = reference_new(net->graph);
  reference_evaluate(reference);
  if (program_plan(net->graph, backend, &options, &program, &error) != OK ||
      program_run(program, &error) != OK) {
    fail_msg("%s: %s", name, error.message);
  }
  int64_t offset = 0;
  for (int order = 0; order < 2; order++) {
    const char *what = order == 0 ? "first derivative" : "second derivative";
    /* A loss may nearly cancel. */
    compare(net, reference, name, "loss", net->order[order].loss, &offset, 50 * tolerance);
    for (int i = 0; i < net->wrt_count; i++) {
      compare(net, reference, name, what, net->order[order].gradients[i], &offset, tolerance);
    }
  }
  reference_free(reference);
  program_free(program);
  arena_free(arena);
}

/* --- Networks --------------------------------------------------------------------------------- */

static Value build_add(Net *n) {
  Value vector = variable(n, shape_vector(3));
  return graph_add(n->graph, usual(n), vector);
}
static Value build_sub(Net *n) {
  Value frame = variable(n, shape_make(1, 1, 4, 5, 1));
  return graph_sub(n->graph, frame, usual(n));
}
static Value build_mul(Net *n) {
  Value scale = variable(n, shape_make(2, 1, 1, 1, 3));
  return graph_mul(n->graph, usual(n), scale);
}
static Value build_div(Net *n) {
  Value positive = graph_affine(n->graph, graph_square(n->graph, usual(n)), 1, 0.5f);
  return graph_div(n->graph, variable(n, shape_make(1, 2, 1, 5, 1)), positive);
}
static Value build_affine(Net *n) {
  return graph_affine(n->graph, usual(n), -1.5f, 0.25f);
}
static Value build_leaky_relu(Net *n) {
  return graph_leaky_relu(n->graph, usual(n), 0.2f);
}
static Value build_relu(Net *n) {
  return graph_relu(n->graph, usual(n));
}
static Value build_leaky_step(Net *n) {
  Value x = usual(n);
  return graph_mul(n->graph, x, graph_leaky_step(n->graph, x, 0.3f));
}
static Value build_tanh(Net *n) {
  return graph_tanh(n->graph, usual(n));
}
static Value build_sigmoid(Net *n) {
  return graph_sigmoid(n->graph, usual(n));
}
static Value build_softplus(Net *n) {
  return graph_softplus(n->graph, usual(n));
}
static Value build_abs(Net *n) {
  return graph_abs(n->graph, usual(n));
}
static Value build_sign(Net *n) {
  Value x = usual(n);
  return graph_mul(n->graph, x, graph_sign(n->graph, x));
}
static Value build_square(Net *n) {
  return graph_square(n->graph, usual(n));
}
static Value build_sqrt(Net *n) {
  return graph_sqrt(n->graph, graph_affine(n->graph, graph_square(n->graph, usual(n)), 1, 0.5f));
}
static Value build_exp(Net *n) {
  return graph_exp(n->graph, usual(n));
}
static Value build_log(Net *n) {
  return graph_log(n->graph, graph_affine(n->graph, graph_square(n->graph, usual(n)), 1, 0.5f));
}
static Value build_clamp(Net *n) {
  return graph_clamp(n->graph, usual(n), -0.5f, 0.75f);
}
static Value build_broadcast(Net *n) {
  return graph_broadcast(n->graph, variable(n, shape_make(1, 2, 1, 5, 1)),
                         shape_make(2, 2, 4, 5, 3));
}
static Value build_reduce_channels(Net *n) {
  return graph_reduce_sum(n->graph, usual(n), 1u << AXIS_C, 0.5f);
}
static Value build_reduce_space(Net *n) {
  return graph_reduce_sum(n->graph, usual(n), 1u << AXIS_H | 1u << AXIS_W, 2);
}
static Value build_mean(Net *n) {
  return graph_mean(n->graph, usual(n));
}

static Value convolve(Net *n, ConvSpec spec, bool has_bias) {
  Value x = variable(n, shape_make(2, 3, 5, 6, 3));
  Value w = variable(n, shape_make(4, 2, 3, 3, 3));
  Value bias = has_bias ? variable(n, shape_vector(4)) : NO_VALUE;
  return graph_conv3d(n->graph, x, w, bias, spec);
}
static Value build_conv3d(Net *n) {
  return convolve(n, conv_spec_same(2, 3, 1, PAD_ZERO), true);
}
static Value build_conv3d_stride(Net *n) {
  return convolve(n, conv_spec_same(2, 3, 2, PAD_ZERO), false);
}
static Value build_conv3d_reflect(Net *n) {
  return convolve(n, conv_spec_same(2, 3, 1, PAD_REFLECT), true);
}
static Value build_conv3d_uneven(Net *n) {
  const ConvSpec spec = {
      .stride = {1, 2, 1}, .before = {1, 2, 0}, .after = {1, 0, 2}, .mode = PAD_REPLICATE};
  return convolve(n, spec, true);
}

static Value normalize(Net *n, NormKind kind, bool affine) {
  const int groups = kind == NORM_GROUP ? 2 : 1;
  Value x = variable(n, shape_make(2, 2, 3, 4, 6));
  Value gain = affine ? variable(n, shape_vector(6)) : NO_VALUE;
  Value bias = affine ? variable(n, shape_vector(6)) : NO_VALUE;
  return graph_norm(n->graph, x, gain, bias, kind, groups, 1e-3f);
}
static Value build_norm_rms(Net *n) {
  return normalize(n, NORM_RMS, true);
}
static Value build_norm_rms_plain(Net *n) {
  return normalize(n, NORM_RMS, false);
}
static Value build_norm_instance(Net *n) {
  return normalize(n, NORM_INSTANCE, true);
}
static Value build_norm_instance_plain(Net *n) {
  return normalize(n, NORM_INSTANCE, false);
}
static Value build_norm_group(Net *n) {
  return normalize(n, NORM_GROUP, true);
}
static Value build_norm_group_plain(Net *n) {
  return normalize(n, NORM_GROUP, false);
}

static Value build_reshape(Net *n) {
  return graph_reshape(n->graph, usual(n), shape_make(4, 1, 5, 4, 3));
}
static Value build_concat(Net *n) {
  Value pieces[] = {usual(n), variable(n, shape_make(2, 2, 4, 5, 1)), usual(n)};
  return graph_concat(n->graph, pieces, 3, AXIS_C);
}
static Value build_slice(Net *n) {
  return graph_slice(n->graph, usual(n), shape_make(1, 0, 1, 2, 0), shape_make(1, 2, 3, 2, 3));
}
static Value pad(Net *n, PadMode mode) {
  const bool zero = mode == PAD_ZERO;
  return graph_pad(n->graph, usual(n), shape_make(0, zero, 3, 1, zero),
                   shape_make(zero, 0, 2, 4, 0), mode);
}
static Value build_pad_zero(Net *n) {
  return pad(n, PAD_ZERO);
}
static Value build_pad_reflect(Net *n) {
  return pad(n, PAD_REFLECT);
}
static Value build_pad_replicate(Net *n) {
  return pad(n, PAD_REPLICATE);
}
static Value build_nearest(Net *n) {
  return graph_resize(n->graph, usual(n), 8, 7, RESIZE_NEAREST);
}
static Value build_bilinear_up(Net *n) {
  return graph_resize(n->graph, usual(n), 8, 9, RESIZE_BILINEAR);
}
static Value build_bilinear_down(Net *n) {
  return graph_resize(n->graph, usual(n), 2, 3, RESIZE_BILINEAR);
}
static Value build_average_pool(Net *n) {
  return graph_average_pool(n->graph, usual(n), 3, 2, 1);
}

/* What fusion joins: convolution, norm, activation, residual. */
static Value build_block(Net *n) {
  Graph *g = n->graph;
  Value x = variable(n, shape_make(1, 2, 5, 4, 4)), w = variable(n, shape_make(4, 2, 3, 3, 4));
  Value bias = variable(n, shape_vector(4)), gain = variable(n, shape_vector(4));
  Value shift = variable(n, shape_vector(4));
  Value y = graph_conv3d(g, x, w, bias, conv_spec_same(2, 3, 1, PAD_REFLECT));
  y = graph_leaky_relu(g, graph_norm(g, y, gain, shift, NORM_RMS, 1, 1e-3f), 0.2f);
  y = graph_conv3d(g, graph_add(g, y, x), w, NO_VALUE, conv_spec_same(2, 3, 1, PAD_ZERO));
  return graph_tanh(g, y);
}

/* The same numbers in bf16 on the way. */
static Value build_block_bf16(Net *n) {
  Graph *g = n->graph;
  Value x = graph_cast(g, variable(n, shape_make(1, 2, 5, 4, 4)), DTYPE_BF16);
  Value w = graph_cast(g, variable(n, shape_make(4, 1, 3, 3, 4)), DTYPE_BF16);
  Value y =
      graph_conv3d(g, x, w, variable(n, shape_vector(4)), conv_spec_same(1, 3, 1, PAD_REFLECT));
  y = graph_resize(g, graph_norm(g, y, NO_VALUE, NO_VALUE, NORM_RMS, 1, 1e-2f), 10, 8,
                   RESIZE_BILINEAR);
  return graph_tanh(g, graph_average_pool(g, y, 2, 2, 0));
}

/* --- The tests -------------------------------------------------------------------------------- */

static void check(const char *name, Build *build, double tolerance) {
  Net *net = net_new(build, 1);
  for (int i = 0; i < net->wrt_count; i++) {
    for (int direction = 0; direction < DIRECTIONS; direction++) {
      check_direction(net, name, i, direction);
    }
  }
  check_backend(net, name, true, tolerance);
  check_backend(net, name, false, tolerance);
  net_free(net);
}

#define CHECK(name) check(#name, build_##name, 5e-5)

static void test_pointwise(void **state) {
  (void)state;
  CHECK(add);
  CHECK(sub);
  CHECK(mul);
  CHECK(div);
  CHECK(affine);
  CHECK(leaky_relu);
  CHECK(relu);
  CHECK(leaky_step);
  CHECK(tanh);
  CHECK(sigmoid);
  CHECK(softplus);
  CHECK(abs);
  CHECK(sign);
  CHECK(square);
  CHECK(sqrt);
  CHECK(exp);
  CHECK(log);
  CHECK(clamp);
  CHECK(broadcast);
}

static void test_reduce(void **state) {
  (void)state;
  CHECK(reduce_channels);
  CHECK(reduce_space);
  CHECK(mean);
}

static void test_convolution(void **state) {
  (void)state;
  CHECK(conv3d);
  CHECK(conv3d_stride);
  CHECK(conv3d_reflect);
  CHECK(conv3d_uneven);
}

static void test_norm(void **state) {
  (void)state;
  CHECK(norm_rms);
  CHECK(norm_rms_plain);
  CHECK(norm_instance);
  CHECK(norm_instance_plain);
  CHECK(norm_group);
  CHECK(norm_group_plain);
}

static void test_movement(void **state) {
  (void)state;
  CHECK(reshape);
  CHECK(concat);
  CHECK(slice);
  CHECK(pad_zero);
  CHECK(pad_reflect);
  CHECK(pad_replicate);
  CHECK(nearest);
  CHECK(bilinear_up);
  CHECK(bilinear_down);
  CHECK(average_pool);
}

static void test_block(void **state) {
  (void)state;
  CHECK(block);
}

static void test_block_bf16(void **state) {
  (void)state;
  if (!backend->supports_bf16(backend)) skip();
  check("block_bf16", build_block_bf16, 5e-2);
}

static int set_up(void **state) {
  (void)state;
  return backend_cpu_new(2, &backend, NULL) == OK ? 0 : 1;
}

static int tear_down(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pointwise),   cmocka_unit_test(test_reduce),
      cmocka_unit_test(test_convolution), cmocka_unit_test(test_norm),
      cmocka_unit_test(test_movement),    cmocka_unit_test(test_block),
      cmocka_unit_test(test_block_bf16),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
