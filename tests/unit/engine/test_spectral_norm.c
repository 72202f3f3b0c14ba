/* Spectral norm alone: the power iteration for weights with known singular values, the gradient
 * against finite differences, and host and device results for the same state. (tests/oracle
 * compares whole training steps with PyTorch's spectral_norm.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/parameters/spectral_norm.h"
#include "engine/program/program.h"

enum { ROWS = 6, TAPS = 2 * 3 * 3, INPUTS = 5, COLUMNS = TAPS * INPUTS, COUNT = ROWS * COLUMNS };

static Backend *backend;
static Error error;

static int open_backend(void **state) {
  (void)state;
  return backend_cpu_new(2, &backend, &error) == OK ? 0 : -1;
}

static int close_backend(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* --- A network of one weight and a bias, and programs on it ----------------------------------- */

typedef struct Net {
  Parameters parameters;
  Arena *arena;
  Program *iteration, *gradient;
} Net;

static Program *plan(Net *net, void (*append)(Parameters *, Graph *)) {
  Graph *graph = graph_new();
  Program *program;
  append(&net->parameters, graph);
  must(graph_status(graph, &error));
  must(program_plan(graph, backend, &(ProgramOptions){.name = "test", .arena = net->arena},
                    &program, &error));
  graph_free(graph);
  return program;
}

static void net_new(Net *net, DType precision, int rows, uint64_t seed) {
  Graph *graph = graph_new();
  Parameters *p = &net->parameters;
  parameters_init(p, "net", precision);
  spectral_attach(p);
  Value weight = parameters_weight(p, graph, READ_COMPUTE, "conv.weight",
                                   shape_make(rows, 2, 3, 3, INPUTS), 0.3f);
  assert_int_equal(graph_dtype(graph, weight), precision);
  parameters_vector(p, graph, "conv.bias", rows, READ_COMPUTE, INIT_ZERO);
  must(graph_status(graph, &error));
  graph_free(graph);
  parameters_freeze(p);
  must(parameters_allocate(p, backend, true, false, &error));
  must(parameters_initialize(p, seed, &error));
  net->arena = arena_new();
  net->iteration = plan(net, spectral_append_iteration);
  net->gradient = plan(net, spectral_append_gradient);
}

static void net_free(Net *net) {
  program_free(net->iteration);
  program_free(net->gradient);
  parameters_free(&net->parameters);
  arena_free(net->arena);
}

static void read_state(const Net *net, const char *what, int64_t count, float *out) {
  const Parameters *spectral = net->parameters.spectral;
  char *name = mem_format("conv.weight_%s", what);
  const Parameter *found = parameters_find(spectral, name);
  free(name);
  assert_non_null(found);
  assert_int_equal(found->count, count);
  must(buffer_download(&spectral->master, found->offset, out, count, &error));
}

static float sigma_of(const Net *net) {
  float sigma;
  read_state(net, "sigma", 1, &sigma);
  return sigma;
}

/* --- Weights with known singular values ------------------------------------------------------- */

/* Row `k` of a discrete cosine transform: rows of equal length are orthonormal. */
static double cosine(int k, int i, int length) {
  double scale = sqrt((k == 0 ? 1.0 : 2.0) / length);
  return scale * cos(acos(-1) * k * (2 * i + 1) / (2.0 * length));
}

/* The sum of values[k] times an outer product of unit vectors. */
static void upload_weight(Net *net, const double values[3]) {
  float weight[COUNT] = {0};
  for (int k = 0; k < 3; k++)
    for (int i = 0; i < COUNT; i++)
      weight[i] += (float)(values[k] * cosine(k + 1, i / COLUMNS, ROWS) *
                           cosine(2 * k + 1, i % COLUMNS, COLUMNS));
  must(buffer_upload(&net->parameters.master, 0, weight, COUNT, &error));
}

static void check_vector(const float *found, int row, int length) {
  double along = 0;
  for (int i = 0; i < length; i++) along += (double)found[i] * cosine(row, i, length);
  if (!(fabs(fabs(along) - 1) < 1e-6)) fail_msg("the cosine is %.9g", along);
}

static void sigma_is_the_largest_singular_value(void **state) {
  (void)state;
  static const double values[][3] = {{3, 1, 0.5}, {0.002, 0.0015, 0.001}, {7e4, 0, 0}};
  for (int test = 0; test < 3; test++) {
    Net net;
    float u[ROWS], v[COLUMNS];
    net_new(&net, DTYPE_F32, ROWS, 7);
    upload_weight(&net, values[test]);
    for (int i = 0; i < 60; i++) must(program_run(net.iteration, &error));
    double relative = (double)sigma_of(&net) / values[test][0];
    if (!(fabs(relative - 1) < 1e-6)) fail_msg("sigma is %.9g of %g", relative, values[test][0]);
    read_state(&net, "u", ROWS, u);
    read_state(&net, "v", COLUMNS, v);
    check_vector(u, 1, ROWS);
    check_vector(v, 1, COLUMNS);
    net_free(&net);
  }
}

/* With one output u is a sign; a weight of zeros does not divide by zero. */
static void one_row_and_zero_weights(void **state) {
  (void)state;
  Net net;
  float weight[COLUMNS], u, v[COLUMNS], compute[COLUMNS];
  net_new(&net, DTYPE_F32, 1, 7);
  for (int i = 0; i < COLUMNS; i++) weight[i] = i == 3 ? -4 : 0;
  must(buffer_upload(&net.parameters.master, 0, weight, COLUMNS, &error));
  must(program_run(net.iteration, &error));
  read_state(&net, "u", 1, &u);
  read_state(&net, "v", COLUMNS, v);
  assert_true(sigma_of(&net) == 4 && fabsf(u) == 1 && u * v[3] == -1);
  weight[3] = 0;
  must(buffer_upload(&net.parameters.master, 0, weight, COLUMNS, &error));
  for (int k = 0; k < 3; k++) must(program_run(net.iteration, &error));
  read_state(&net, "v", COLUMNS, v);
  must(buffer_download(&net.parameters.compute, 0, compute, COLUMNS, &error));
  for (int i = 0; i < COLUMNS; i++) assert_true(isfinite(v[i]) && compute[i] == 0);
  net_free(&net);
}

/* --- The host beside programs ----------------------------------------------------------------- */

static void compute_is_the_weight_over_sigma(DType precision) {
  Net net;
  float weight[COUNT];
  uint32_t by_program[COUNT] = {0}, by_host[COUNT] = {0}; /* of whichever type */
  net_new(&net, precision, ROWS, 7);
  Parameters *p = &net.parameters;
  for (int i = 0; i < 3; i++) must(program_run(net.iteration, &error));
  must(buffer_download(&p->compute, 0, by_program, COUNT, &error));
  must(buffer_upload(&p->compute, 0, by_host, COUNT, &error));
  must(parameters_refresh(p, &error));
  must(buffer_download(&p->compute, 0, by_host, COUNT, &error));
  assert_memory_equal(by_program, by_host, sizeof by_program);
  must(buffer_download(&p->master, 0, weight, COUNT, &error));
  float sigma = sigma_of(&net);
  for (int i = 0; i < COUNT; i++) {
    float wanted = weight[i] / sigma, found;
    memcpy(&found, &by_host[i], sizeof found);
    if (precision == DTYPE_BF16) {
      found = bf16_to_f32(((const uint16_t *)by_host)[i]);
      wanted = bf16_to_f32(bf16_from_f32(wanted));
    }
    assert_true(found == wanted);
  }
  net_free(&net);
}

static void refresh_restores_the_device_result(void **state) {
  (void)state;
  compute_is_the_weight_over_sigma(DTYPE_F32);
  compute_is_the_weight_over_sigma(DTYPE_BF16);
}

/* A program continues the 15 iterations of the host; initial vectors depend on the seed. */
static void initialisation_runs_15_iterations(void **state) {
  (void)state;
  Net net, other;
  net_new(&net, DTYPE_F32, ROWS, 7);
  net_new(&other, DTYPE_F32, ROWS, 8);
  float first = sigma_of(&net);
  assert_true(first != sigma_of(&other));
  must(program_run(net.iteration, &error));
  float second = sigma_of(&net);
  assert_true(second >= first * (1 - 1e-6f) && second < first * 1.01f);
  for (int i = 0; i < 500; i++) must(program_run(net.iteration, &error));
  assert_true(sigma_of(&net) < first * 1.03f);
  must(parameters_initialize(&net.parameters, 7, &error));
  assert_true(sigma_of(&net) == first);
  net_free(&net);
  net_free(&other);
}

/* --- The gradient ----------------------------------------------------------------------------- */

/* <G, W / (u'W v)> as a function of W with constant u and v. */
static double product(const double *weight, const float *gradient, const float *u, const float *v) {
  double sum = 0, sigma = 0;
  for (int i = 0; i < COUNT; i++) {
    sum += (double)gradient[i] * weight[i];
    sigma += (double)u[i / COLUMNS] * weight[i] * (double)v[i % COLUMNS];
  }
  return sum / sigma;
}

static void gradient_matches_finite_differences(void **state) {
  (void)state;
  const double step = 1e-5;
  Net net;
  float weight[COUNT], gradient[COUNT], found[COUNT], u[ROWS], v[COLUMNS];
  double exact[COUNT], largest = 0;
  Random random = random_stream(3, RANDOM_TEST, 0, 0);
  net_new(&net, DTYPE_F32, ROWS, 7);
  random_fill_normal(&random, gradient, COUNT, 1);
  must(buffer_upload(&net.parameters.gradient, 0, gradient, COUNT, &error));
  must(program_run(net.gradient, &error));
  must(buffer_download(&net.parameters.gradient, 0, found, COUNT, &error));
  must(buffer_download(&net.parameters.master, 0, weight, COUNT, &error));
  read_state(&net, "u", ROWS, u);
  read_state(&net, "v", COLUMNS, v);
  for (int i = 0; i < COUNT; i++) exact[i] = (double)weight[i];
  for (int i = 0; i < COUNT; i++) largest = fmax(largest, fabs((double)found[i]));
  for (int i = 0; i < COUNT; i++) {
    exact[i] += step;
    double above = product(exact, gradient, u, v);
    exact[i] -= 2 * step;
    double wanted = (above - product(exact, gradient, u, v)) / (2 * step);
    exact[i] += step;
    if (!(fabs((double)found[i] - wanted) < 1e-5 * largest))
      fail_msg("element %d: %.9g, by finite differences %.9g", i, (double)found[i], wanted);
  }
  net_free(&net);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sigma_is_the_largest_singular_value),
      cmocka_unit_test(one_row_and_zero_weights),
      cmocka_unit_test(refresh_restores_the_device_result),
      cmocka_unit_test(initialisation_runs_15_iterations),
      cmocka_unit_test(gradient_matches_finite_differences),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
