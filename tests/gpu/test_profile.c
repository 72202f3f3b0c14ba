/* Profiling on a GPU: timing events are in order; a profiled program computes the same results,
 * both op by op and captured, and every op has a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/thread.h"
#include "engine/graph/graph.h"
#include "engine/program/program.h"
#include "tests/gpu/support_gpu.h"

enum { COUNT = 1 << 12, RUNS = 5 };

static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static Backend *open_backend(bool no_graphs) {
  const CudaOptions options = {.no_graphs = no_graphs, .timeout = 60};
  Backend *backend = NULL;
  must(backend_cuda_new(&options, &backend, &error));
  return backend;
}

static void timing_events_are_in_order(void **state) {
  (void)state;
  Backend *backend = open_backend(false);
  double first = -1, both = -1;
  assert_int_equal(backend->event_seconds(backend, 0, 1, &first, &error), ERROR_INTERNAL);
  for (int i = 0; i < 40; i++) must(backend->record_event(backend, i, &error));
  must(backend->event_seconds(backend, 0, 1, &first, &error));
  must(backend->event_seconds(backend, 0, 39, &both, &error));
  assert_true(first >= 0 && both >= first && both < 60);
  assert_int_equal(backend->event_seconds(backend, 0, 1000, &first, &error), ERROR_INTERNAL);
  backend->free(backend);
}

/* sum += value, which counts runs, and the mean of value. */
static Program *plan(Backend *backend, Arena *arena, Buffer *value, Buffer *sum, Buffer *mean) {
  Program *program = NULL;
  Graph *graph = graph_new();
  const Shape shape = shape_vector(COUNT);
  Value target = graph_view(graph, sum, 0, shape);
  graph_accumulate(graph, graph_view(graph, value, 0, shape), target);
  graph_store(graph, graph_mean(graph, graph_view(graph, value, 0, shape)),
              graph_view(graph, mean, 0, shape_scalar()));
  const ProgramOptions options = {.name = "test", .arena = arena};
  must(program_plan(graph, backend, &options, &program, &error));
  graph_free(graph);
  return program;
}

static double run_all(Program *program, Backend *backend) {
  const double begin = clock_seconds();
  for (int i = 0; i < RUNS; i++) must(program_run(program, &error));
  must(backend->synchronize(backend, &error));
  return clock_seconds() - begin;
}

static void check_sum(const Buffer *sum, float expected) {
  float values[COUNT];
  must(buffer_download(sum, 0, values, COUNT, &error));
  for (int i = 0; i < COUNT; i++) assert_true(values[i] == expected);
}

static void check_profile(bool no_graphs) {
  Backend *backend = open_backend(no_graphs);
  Arena *arena = arena_new();
  Buffer value = buffer_describe("value", DTYPE_F32, COUNT);
  Buffer sum = buffer_describe("sum", DTYPE_F32, COUNT);
  Buffer mean = buffer_describe("mean", DTYPE_F32, 1);
  float ones[COUNT];
  for (int i = 0; i < COUNT; i++) ones[i] = 1;
  must(buffer_allocate(&value, backend, &error));
  must(buffer_allocate(&sum, backend, &error));
  must(buffer_allocate(&mean, backend, &error));
  must(buffer_upload(&value, 0, ones, COUNT, &error));
  Program *program = plan(backend, arena, &value, &sum, &mean);
  run_all(program, backend);
  program_profile(program, true);
  const double wall = run_all(program, backend);
  const ProgramTimes times = program_times(program);
  assert_int_equal(times.runs, RUNS);
  assert_true(times.others > 0 && times.others <= wall);
  for (int i = 0; i < program_op_count(program); i++)
    assert_true(program_op(program, i).seconds > 0);
  program_profile(program, false);
  run_all(program, backend);
  check_sum(&sum, 3 * RUNS);
  program_free(program);
  buffer_free(&value);
  buffer_free(&sum);
  buffer_free(&mean);
  arena_free(arena);
  backend->free(backend);
}

static void profile_of_an_uncaptured_program(void **state) {
  (void)state;
  check_profile(true);
}

static void profile_of_a_captured_program(void **state) {
  (void)state;
  check_profile(false);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(timing_events_are_in_order),
      cmocka_unit_test(profile_of_an_uncaptured_program),
      cmocka_unit_test(profile_of_a_captured_program),
  };
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, NULL, NULL);
}
