/* The simulated step: closed forms, random steps against a plain recursion over ranks, failures
 * against a run simulated failure by failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "trainer/scaling/goodput.h"
#include "trainer/scaling/simulate.h"

static Error error;

/* 8 ranks of a node, op times as given; a ring's all-reduce over 2 of them takes bytes * 1e-9. */
static Cluster plain_cluster(void) {
  Cluster cluster;
  assert_int_equal(config_set_defaults(&cluster_schema, &cluster, &error), OK);
  assert_int_equal(config_assign(&cluster_schema, "device.times=measured", &cluster, NULL, &error),
                   OK);
  assert_int_equal(config_assign(&cluster_schema, "reduce.algorithm=ring", &cluster, NULL, &error),
                   OK);
  cluster.node.ranks = 8;
  cluster.node.count = 128;
  return cluster;
}

static StepTrace make_trace(const TraceOp *ops, int count) {
  StepTrace trace = {.name = "test",
                     .clips = 1,
                     .threads = 1,
                     .batches_ahead = 1,
                     .overlap = true,
                     .measured = true};
  for (int i = 0; i < count; i++) step_trace_append(&trace, &ops[i]);
  return trace;
}
#define TRACE(...)                                                                                 \
  make_trace((TraceOp[]){__VA_ARGS__}, (int)(sizeof((TraceOp[]){__VA_ARGS__}) / sizeof(TraceOp)))

static SimulationResult play(const Cluster *cluster, const StepTrace *trace, int ranks, int steps) {
  SimulationOptions options = {.ranks = ranks, .steps = steps, .seed = 5};
  SimulationResult result;
  if (simulate(cluster, trace, &options, &result, &error) != OK) fail_msg("%s", error.message);
  double sum = result.compute + result.straggling + result.exposed + result.data;
  assert_true(fabs(sum + result.checkpoint - result.step) <= 1e-9 * result.step);
  return result;
}

static void assert_near(double value, double wanted, double relative) {
  if (!(fabs(value - wanted) <= relative * fabs(wanted) + 1e-15))
    fail_msg("%.12g, want %.12g", value, wanted);
}

/* --- Closed forms ----------------------------------------------------------------------------- */

static void test_one_rank_computes(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  StepTrace trace =
      TRACE({.seconds = 1}, {.reduces = 1e9}, {.seconds = 2}, {.seconds = 0.5, .waits = true});
  SimulationResult result = play(&cluster, &trace, 1, 3);
  assert_near(result.step, 3.5, 1e-12);
  assert_near(result.compute, 3.5, 1e-12);
  assert_true(result.exposed == 0 && result.reducing == 0);
  cluster.step.host_ms = 250;
  assert_near(play(&cluster, &trace, 1, 3).step, 3.75, 1e-12);
  step_trace_free(&trace);
}

static void test_infinite_bandwidth(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  cluster.intra_node.bandwidth = cluster.inter_node.bandwidth = 1e30;
  StepTrace trace = TRACE({.seconds = 1}, {.reduces = 1e9}, {.seconds = 2, .waits = true});
  for (int ranks = 1; ranks <= 1024; ranks *= 2)
    assert_near(play(&cluster, &trace, ranks, 1).step, 3, 1e-9);
  step_trace_free(&trace);
}

static void test_without_overlap(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  cluster.intra_node.latency_us = 7;
  cluster.inter_node.latency_us = 20;
  StepTrace trace = TRACE({.seconds = 1}, {.reduces = 3e8}, {.seconds = 2});
  trace.overlap = false;
  for (int ranks = 2; ranks <= 1024; ranks *= 2) {
    double reduce = cluster_all_reduce_seconds(&cluster, ranks, 3e8);
    double stop = cluster_all_gather_seconds(&cluster, ranks, 8);
    SimulationResult result = play(&cluster, &trace, ranks, 2);
    assert_near(result.step, 3 + reduce + stop, 1e-12);
    assert_near(result.exposed, reduce + stop, 1e-9);
    assert_near(result.reducing, reduce, 1e-12);
  }
  step_trace_free(&trace);
}

static void test_overlap(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  double stop = cluster_all_gather_seconds(&cluster, 2, 8);
  StepTrace hidden =
      TRACE({.seconds = 1}, {.reduces = 1.5e9}, {.seconds = 2}, {.seconds = 0.25, .waits = true});
  assert_near(play(&cluster, &hidden, 2, 1).step, 3.25 + stop, 1e-12);
  StepTrace seen =
      TRACE({.seconds = 1}, {.reduces = 3e9}, {.seconds = 2}, {.seconds = 0.25, .waits = true});
  SimulationResult result = play(&cluster, &seen, 2, 1);
  assert_near(result.step, 4.25 + stop, 1e-12);
  assert_near(result.exposed, 1 + stop, 1e-9);
  /* One that nobody waits for is waited for at the end. */
  StepTrace last = TRACE({.seconds = 1}, {.reduces = 1e9});
  assert_near(play(&cluster, &last, 2, 1).step, 2 + stop, 1e-12);
  step_trace_free(&hidden);
  step_trace_free(&seen);
  step_trace_free(&last);
}

/* The channel takes one at a time, in their order: 1..4, 4..5, 5..6. */
static void test_order(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  StepTrace trace = TRACE({.seconds = 1}, {.reduces = 3e9}, {.seconds = 1}, {.reduces = 1e9},
                          {.reduces = 1e9}, {.seconds = 0.5}, {.seconds = 0.5, .waits = true});
  double stop = cluster_all_gather_seconds(&cluster, 2, 8);
  SimulationResult result = play(&cluster, &trace, 2, 1);
  assert_near(result.step, 6.5 + stop, 1e-12);
  assert_near(result.reducing, 5, 1e-12);
  step_trace_free(&trace);
}

/* 1 s, then an all-reduce of 2 s during which 2 s of work proceed at three quarters: 1.5 s of them,
 * the rest at full pace. */
static void test_interference(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  cluster.reduce.interference = 0.25;
  StepTrace trace = TRACE({.seconds = 1}, {.reduces = 2e9}, {.seconds = 2});
  double stop = cluster_all_gather_seconds(&cluster, 2, 8);
  SimulationResult result = play(&cluster, &trace, 2, 1);
  assert_near(result.step, 3.5 + stop, 1e-12);
  assert_near(result.compute, 3.5, 1e-12);
  step_trace_free(&trace);
}

static void test_data(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  StepTrace trace = TRACE({.seconds = 1});
  trace.clip_bytes = 1e9;
  trace.clips = 3;
  cluster.storage.node_read = 2; /* a step's clips: 1.5 s on one rank, 3 s on two */
  assert_near(play(&cluster, &trace, 1, 50).step, 1.5, 1e-9);
  double two = play(&cluster, &trace, 2, 50).step;
  assert_near(two, 3, 1e-6);
  cluster.storage.node_read = 100;
  assert_near(play(&cluster, &trace, 1, 50).step, 1, 1e-9);
  cluster.storage.read = 1; /* all together */
  assert_near(play(&cluster, &trace, 16, 50).step, 48, 1e-6);
  step_trace_free(&trace);
}

static void test_checkpoints(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  StepTrace trace = TRACE({.seconds = 1});
  trace.state_bytes = 10e9;
  trace.checkpoint_every = 20;
  cluster.storage.copy = 5;
  SimulationResult result = play(&cluster, &trace, 1, 4);
  assert_near(result.step, 1 + 2.0 / 20, 1e-12);
  assert_near(result.goodput, 20.0 / 22, 1e-12);
  cluster.storage.write = 0.25; /* 40 s: the next copy waits for 20 of them */
  assert_near(play(&cluster, &trace, 1, 4).step, 1 + 22.0 / 20, 1e-12);
  step_trace_free(&trace);
}

/* --- Stragglers ------------------------------------------------------------------------------- */

/* Alone a rank keeps its mean; of many the slowest decides: the mean of the largest of n normal
 * numbers is 1.0294 for 4, 2.0697 for 32 (Harter 1961). */
static void test_stragglers(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  cluster.intra_node.bandwidth = cluster.inter_node.bandwidth = 1e30;
  cluster.step.spread = 0.02;
  StepTrace trace = TRACE({.seconds = 1});
  assert_near(play(&cluster, &trace, 1, 4000).step, 1, 2e-3);
  assert_near(play(&cluster, &trace, 4, 4000).step, 1 + 0.02 * 1.0294, 2e-3);
  assert_near(play(&cluster, &trace, 32, 2000).step, 1 + 0.02 * 2.0697, 2e-3);
  cluster.step.spread = 0;
  cluster.step.slow_share = 0.01;
  cluster.step.slow_by = 1;
  assert_near(play(&cluster, &trace, 64, 4000).straggling, 1 - pow(0.99, 64) - 0.01, 0.05);
  step_trace_free(&trace);
}

static void test_same_seed_same_numbers(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  cluster.step.spread = 0.1;
  StepTrace trace = TRACE({.seconds = 1}, {.reduces = 1e8}, {.seconds = 1, .waits = true});
  SimulationOptions options = {.ranks = 8, .steps = 10, .seed = 1};
  SimulationResult a, b, other;
  assert_int_equal(simulate(&cluster, &trace, &options, &a, &error), OK);
  assert_int_equal(simulate(&cluster, &trace, &options, &b, &error), OK);
  options.seed = 2;
  assert_int_equal(simulate(&cluster, &trace, &options, &other, &error), OK);
  assert_memory_equal(&a, &b, sizeof a);
  assert_true(a.step != other.step);
  step_trace_free(&trace);
}

/* --- Random steps against a recursion --------------------------------------------------------- */

/* Ranks reach the ops in the same order, so times follow op by op: an all-reduce begins when the
 * last rank is there and the one before has ended, a wait ends with the last one started. */
static double recursion(const Cluster *cluster, const StepTrace *trace, int ranks, int step) {
  double at[64] = {0}, factor[64], last = 0, channel = 0;
  for (int rank = 0; rank < ranks; rank++) {
    Random random = random_stream(5, RANDOM_SIMULATION, (uint64_t)rank, (uint32_t)step);
    double spread = cluster->step.spread;
    factor[rank] = exp(spread * (double)random_normal(&random) - spread * spread / 2);
  }
  for (int i = 0; i <= trace->count; i++) {
    const TraceOp *op = &trace->ops[i < trace->count ? i : 0];
    bool waits = i == trace->count || op->waits;
    for (int rank = 0; rank < ranks && waits; rank++) at[rank] = fmax(at[rank], channel);
    if (i == trace->count) break;
    for (int rank = 0; rank < ranks; rank++) {
      at[rank] += op->seconds * factor[rank];
      if (op->reduces > 0) channel = fmax(channel, at[rank]);
    }
    if (op->reduces > 0) channel += cluster_all_reduce_seconds(cluster, ranks, op->reduces);
  }
  for (int rank = 0; rank < ranks; rank++) last = fmax(last, at[rank]);
  return last + cluster_all_gather_seconds(cluster, ranks, 8);
}

static void test_random_steps(void **state) {
  (void)state;
  for (uint64_t number = 0; number < 200; number++) {
    Random random = random_stream(9, RANDOM_TEST, number, 0);
    Cluster cluster = plain_cluster();
    StepTrace trace = make_trace(NULL, 0);
    int count = 1 + (int)random_below(&random, 40), ranks = 2 + (int)random_below(&random, 7);
    if (number % 2) ranks = 8 * (1 + (int)random_below(&random, 8));
    cluster.intra_node.latency_us = 1e6 * 0.05 * random_uniform(&random) / ranks;
    cluster.step.spread = 0.3 * random_uniform(&random);
    for (int i = 0; i < count; i++) {
      bool reduces = random_below(&random, 3) == 0;
      TraceOp op = {.seconds = reduces ? 0 : random_uniform(&random),
                    .reduces = reduces ? 1 + 1e9 * random_uniform(&random) : 0,
                    .waits = !reduces && random_below(&random, 4) == 0};
      step_trace_append(&trace, &op);
    }
    TraceOp end = {.seconds = 0.1, .waits = true};
    step_trace_append(&trace, &end);
    double sum = 0;
    for (int step = 0; step < 3; step++) sum += recursion(&cluster, &trace, ranks, step);
    assert_near(play(&cluster, &trace, ranks, 3).step, sum / 3, 1e-9);
    step_trace_free(&trace);
  }
}

/* --- Failures --------------------------------------------------------------------------------- */

/* Work and stall again and again; a failure throws away what was done since the last checkpoint,
 * and the restart can fail as well. */
static double play_failures(const Failures *failures, int intervals) {
  Random random = random_stream(3, RANDOM_TEST, 0, 0);
  double now = 0, next = -failures->mtbf * log(1 - random_uniform(&random));
  for (int done = 0; done < intervals;) {
    double end = now + failures->interval + failures->stall;
    if (end <= next) {
      now = end;
      done++;
      continue;
    }
    do {
      now = next;
      next = now - failures->mtbf * log(1 - random_uniform(&random));
    } while (now + failures->restart > next);
    now += failures->restart;
  }
  return intervals * failures->interval / now;
}

static void test_goodput(void **state) {
  (void)state;
  Failures none = {.interval = 90, .stall = 10};
  assert_near(goodput_of(&none), 0.9, 1e-12);
  Failures often = {.interval = 100, .stall = 5, .mtbf = 300, .restart = 40};
  assert_near(goodput_of(&often), play_failures(&often, 200000), 0.01);
  Failures rare = {.interval = 500, .stall = 20, .mtbf = 10000, .restart = 300};
  assert_near(goodput_of(&rare), play_failures(&rare, 200000), 0.01);
}

static void test_best_interval(void **state) {
  (void)state;
  assert_near(goodput_best_interval(1e-3, 1e6), sqrt(2e-3 * 1e6), 1e-3); /* Young's */
  assert_near(goodput_best_interval(100, 40), 40, 1e-12);
  for (double stall = 1; stall < 100; stall *= 3) {
    Failures failures = {.stall = stall, .mtbf = 2000, .restart = 60};
    double best = 0, where = 0;
    for (failures.interval = 1; failures.interval < 4000; failures.interval *= 1.001) {
      double goodput = goodput_of(&failures);
      if (goodput > best) where = failures.interval;
      best = fmax(best, goodput);
    }
    assert_near(goodput_best_interval(stall, 2000), where, 0.01);
  }
}

static void test_failures_by_ranks(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  StepTrace trace = TRACE({.seconds = 1});
  trace.state_bytes = 10e9;
  trace.checkpoint_every = 100;
  cluster.intra_node.bandwidth = cluster.inter_node.bandwidth = 1e30;
  cluster.storage.copy = 5;
  cluster.storage.write = 1;
  cluster.failure.node_hours = 100;
  cluster.failure.restart = 60;
  SimulationResult result = play(&cluster, &trace, 32, 1); /* 4 nodes */
  Failures failures = {.interval = 100, .stall = 2, .mtbf = 25 * 3600, .restart = 60 + 10};
  assert_near(result.failure_seconds, 25 * 3600, 1e-12);
  assert_near(result.goodput, goodput_of(&failures), 1e-9);
  assert_near(result.best_interval, goodput_best_interval(2, 25 * 3600), 0.01);
  step_trace_free(&trace);
}

/* --- Refused ---------------------------------------------------------------------------------- */

static void test_refused(void **state) {
  (void)state;
  Cluster cluster = plain_cluster();
  StepTrace trace = TRACE({.seconds = 1});
  SimulationOptions options = {.ranks = 12, .steps = 1};
  SimulationResult result;
  assert_int_equal(simulate(&cluster, &trace, &options, &result, &error), ERROR_USAGE);
  options.ranks = 16;
  assert_int_equal(simulate(&cluster, &trace, &options, &result, &error), OK);
  trace.measured = false;
  assert_int_equal(simulate(&cluster, &trace, &options, &result, &error), ERROR_USAGE);
  cluster.device.times = OP_TIMES_ROOFLINE; /* of nothing: it has neither FLOPs nor bytes */
  options.ranks = 1;
  assert_int_equal(simulate(&cluster, &trace, &options, &result, &error), ERROR_USAGE);
  assert_non_null(strstr(error.message, "take 0 seconds"));
  step_trace_free(&trace);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_rank_computes),
      cmocka_unit_test(test_infinite_bandwidth),
      cmocka_unit_test(test_without_overlap),
      cmocka_unit_test(test_overlap),
      cmocka_unit_test(test_order),
      cmocka_unit_test(test_interference),
      cmocka_unit_test(test_data),
      cmocka_unit_test(test_checkpoints),
      cmocka_unit_test(test_stragglers),
      cmocka_unit_test(test_same_seed_same_numbers),
      cmocka_unit_test(test_random_steps),
      cmocka_unit_test(test_goodput),
      cmocka_unit_test(test_best_interval),
      cmocka_unit_test(test_failures_by_ranks),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
