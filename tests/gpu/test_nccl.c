/* Tests of comm/nccl/ on the emulated NCCL with one rank, whose all-reduces take DELAY seconds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <cuda_runtime.h>
#include <nccl.h>

#include "base/thread.h"
#include "comm/nccl.h"

enum { COUNT = 64, WAITS = 100, CAPTURES = 70 }; /* more than 64 of each */
static const double DELAY = 0.002;               /* seconds */

static Comm *group;
static Nccl *nccl;
static cudaStream_t stream;
static float *data, *other_data; /* [COUNT] */

static void must(Status status, const Error *error) {
  if (status != OK) fail_msg("%s", error->message);
}

static void must_cuda(cudaError_t code) {
  assert_int_equal(code, cudaSuccess);
}

static int set_up(void **state) {
  (void)state;
  Error error = {0};
  const CommOptions options = {.timeout = 60, .overlap = true};
  const NcclOptions nccl_options = {.overlap = true, .timeout = 0.5};
  setenv("EMULATOR_NCCL_DELAY", "0.002", 1);
  unsetenv("EMULATOR_NCCL_HANG");
  must_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must_cuda(cudaMalloc((void **)&data, COUNT * sizeof *data));
  must_cuda(cudaMalloc((void **)&other_data, COUNT * sizeof *other_data));
  must(comm_open(NULL, NULL, &options, &group, &error), &error);
  must(nccl_open(group, &nccl_options, &nccl, &error), &error);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  nccl_close(nccl);
  comm_close(group);
  cudaFree(data);
  cudaFree(other_data);
  cudaStreamDestroy(stream);
  return 0;
}

static void enqueue(float *values) {
  Error error = {0};
  must(nccl_all_reduce_mean_start(nccl, values, COUNT, COMM_F32, stream, &error), &error);
  must(nccl_all_reduce_mean_wait(nccl, stream, &error), &error);
}

static double exposed(void) {
  Error error = {0};
  double seconds = -1;
  must(nccl_exposed_seconds(nccl, &seconds, &error), &error);
  assert_true(seconds >= 0);
  return seconds;
}

static cudaGraphExec_t capture(float *values) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t executable = NULL;
  must_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue(values);
  must_cuda(cudaStreamEndCapture(stream, &graph));
  must_cuda(cudaGraphInstantiate(&executable, graph, 0));
  must_cuda(cudaGraphDestroy(graph));
  return executable;
}

static void launch(cudaGraphExec_t executable) {
  must_cuda(cudaGraphLaunch(executable, stream));
  must_cuda(cudaStreamSynchronize(stream));
}

/* --- Exposed seconds -------------------------------------------------------------------------- */

/* As with cuda.graphs: false: the query comes while the device is still busy. */
static void test_waits_under_way_are_counted_later(void **state) {
  (void)state;
  for (int i = 0; i < WAITS; i++) enqueue(data);
  const double early = exposed();
  assert_true(early < WAITS * DELAY);
  must_cuda(cudaStreamSynchronize(stream));
  const double total = early + exposed();
  assert_true(total > 0.9 * WAITS * DELAY);
  assert_true(exposed() == 0);
}

/* Nobody queries: the pairs of events are used again, and no wait is lost. */
static void test_many_waits_between_queries_are_all_counted(void **state) {
  (void)state;
  const double start = clock_seconds();
  for (int i = 0; i < WAITS; i++) {
    enqueue(data);
    must_cuda(cudaStreamSynchronize(stream));
  }
  const double seconds = exposed();
  assert_true(seconds > 0.9 * WAITS * DELAY);
  assert_true(seconds <= clock_seconds() - start);
}

static void test_each_launch_of_a_graph_is_counted_once(void **state) {
  (void)state;
  cudaGraphExec_t executable = capture(data);
  assert_true(exposed() == 0);
  for (int i = 0; i < 3; i++) {
    launch(executable);
    assert_true(exposed() > 0.9 * DELAY);
    assert_true(exposed() == 0);
  }
  must_cuda(cudaGraphExecDestroy(executable));
}

static void test_graphs_are_still_timed_after_many_captures(void **state) {
  (void)state;
  for (int i = 0; i < CAPTURES; i++) {
    cudaGraphExec_t executable = capture(data);
    launch(executable);
    assert_true(exposed() > 0.9 * DELAY);
    must_cuda(cudaGraphExecDestroy(executable));
  }
}

/* Graphs of the same step (captured without a query between them) and of alternative steps. */
static void test_several_graphs_are_timed_side_by_side(void **state) {
  (void)state;
  cudaGraphExec_t first = capture(data), second = capture(other_data), third = capture(data);
  assert_true(exposed() == 0);
  cudaGraphExec_t alternative = capture(data);
  assert_true(exposed() == 0);
  launch(first);
  launch(second);
  launch(third);
  assert_true(exposed() > 0.9 * 3 * DELAY);
  launch(second);
  launch(alternative);
  assert_true(exposed() > 0.9 * 2 * DELAY);
  cudaGraphExec_t all[] = {first, second, third, alternative};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) must_cuda(cudaGraphExecDestroy(all[i]));
}

/* --- Closing ---------------------------------------------------------------------------------- */

static void test_close_destroys_the_communicators(void **state) {
  (void)state;
  enqueue(data);
  assert_int_equal(emulator_nccl_communicators(), 1);
  nccl_close(nccl);
  nccl = NULL;
  assert_int_equal(emulator_nccl_communicators(), 0);
}

static void test_close_aborts_a_communicator_that_does_not_finalise(void **state) {
  (void)state;
  const double start = clock_seconds();
  enqueue(data);
  setenv("EMULATOR_NCCL_HANG", "finalize", 1);
  nccl_close(nccl);
  nccl = NULL;
  assert_int_equal(emulator_nccl_communicators(), 0);
  assert_true(clock_seconds() - start < 30);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_waits_under_way_are_counted_later, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_many_waits_between_queries_are_all_counted, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(test_each_launch_of_a_graph_is_counted_once, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(test_graphs_are_still_timed_after_many_captures, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(test_several_graphs_are_timed_side_by_side, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(test_close_destroys_the_communicators, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_close_aborts_a_communicator_that_does_not_finalise,
                                      set_up, tear_down),
  };
  return cmocka_run_group_tests_name("nccl", tests, NULL, NULL);
}
