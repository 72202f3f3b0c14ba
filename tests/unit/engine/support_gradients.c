#include "support_gradients.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/memory.h"
#include "engine/program/program.h"
#include "support_case.h"
#include "support_reference.h"

enum { BUFFER_LENGTH = 1 << 14, DIRECTIONS = 2 };

/* --- A graph under test ----------------------------------------------------------------------- */

Value net_source(Net *net, Shape shape) {
  const int64_t offset = net->in_used;
  net->in_used += (shape_count(shape) + 15) / 16 * 16;
  assert_true(net->in_used <= BUFFER_LENGTH);
  return graph_view(net->graph, &net->in, offset, shape);
}

/* A variable. */
Value net_variable(Net *net, Shape shape) {
  assert_true(net->wrt_count < MOST_WRT);
  return net->wrt[net->wrt_count++] = net_source(net, shape);
}

static void keep(Net *net, Value value) {
  const Shape shape = graph_shape(net->graph, value);
  Value target = graph_view(net->graph, &net->out, net->out_used, shape);
  net->out_used += (shape_count(shape) + 15) / 16 * 16;
  assert_true(net->out_used <= BUFFER_LENGTH);
  graph_store(net->graph, value, target);
}

static Value weighted_sum(Net *net, Value y) {
  Value weights = net_source(net, graph_shape(net->graph, y));
  return graph_reduce_sum(net->graph, graph_mul(net->graph, y, weights), ALL_AXES, 1);
}

static void differentiate(Net *net, int order, Value loss) {
  net->order[order].loss = loss;
  graph_gradients(net->graph, loss, net->wrt, net->wrt_count, net->order[order].gradients);
  keep(net, loss);
  for (int i = 0; i < net->wrt_count; i++) keep(net, net->order[order].gradients[i]);
}

static Net *net_new(Backend *backend, Build *build, uint64_t seed) {
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
  float *content = mem_new(BUFFER_LENGTH, sizeof *content);
  random_fill_normal(&random, content, BUFFER_LENGTH, 1);
  assert_int_equal(buffer_upload(&net->in, 0, content, BUFFER_LENGTH, &error), OK);
  free(content);
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

/* Moves variable `i` by `scale` times a random direction. */
static void move(Net *net, Reference *reference, int i, int direction, double scale) {
  const Op *view = graph_producer(net->graph, net->wrt[i]);
  double *x = reference_buffer(reference, &net->in) + view->attributes.view.offset;
  Random random = random_stream((uint64_t)direction, RANDOM_TEST, 3, (uint32_t)i);
  for (int64_t k = 0; k < count_of(net, net->wrt[i]); k++) {
    x[k] += scale * (double)random_normal(&random);
  }
}

/* The derivative along that direction, and the norm of the gradient. */
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
  float *found = mem_new((size_t)count, sizeof *found);
  double *values = mem_new((size_t)count, sizeof *values);
  Error failure = {0};
  assert_int_equal(buffer_download(&net->out, *offset, found, count, &failure), OK);
  for (int64_t i = 0; i < count; i++) values[i] = (double)found[i];
  free(found);
  const double error = relative_error(values, reference_value(reference, value), count);
  free(values);
  *offset += (count + 15) / 16 * 16;
  if (!(error <= tolerance)) {
    fail_msg("%s: %s: the backend is off by %.3g, allowed %.3g", name, what, error, tolerance);
  }
}

static void check_backend(Net *net, Backend *backend, const char *name, bool without_fusion,
                          double tolerance) {
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

void gradient_check(const GradientCase *test, Backend *backend) {
  Net *net = net_new(backend, test->build, 1);
  for (int i = 0; i < net->wrt_count; i++) {
    for (int direction = 0; direction < DIRECTIONS; direction++) {
      check_direction(net, test->name, i, direction);
    }
  }
  check_backend(net, backend, test->name, true, test->tolerance);
  check_backend(net, backend, test->name, false, test->tolerance);
  net_free(net);
}
