/* Cluster files, and what messages and ops take on a cluster: against closed forms, and a ring of
 * messages simulated one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "trainer/scaling/cluster_model.h"

static Error error;

static Cluster make_cluster(const char *const *assignments) {
  Cluster cluster;
  assert_int_equal(config_set_defaults(&cluster_schema, &cluster, &error), OK);
  for (; *assignments; assignments++)
    if (config_assign(&cluster_schema, *assignments, &cluster, NULL, &error) != OK)
      fail_msg("%s", error.message);
  return cluster;
}

static Cluster one_node(void) {
  return make_cluster((const char *const[]){"node.ranks=1024", "intra_node.latency_us=3",
                                            "intra_node.bandwidth=20", NULL});
}

static Cluster many_nodes(void) {
  return make_cluster((const char *const[]){
      "node.count=64", "node.ranks=8", "intra_node.latency_us=2", "intra_node.bandwidth=100",
      "inter_node.latency_us=10", "inter_node.bandwidth=5", "inter_node.adapters=4", NULL});
}

static void assert_near(double value, double wanted, double relative) {
  if (!(fabs(value - wanted) <= relative * fabs(wanted))) fail_msg("%g, want %g", value, wanted);
}

/* --- Closed forms ----------------------------------------------------------------------------- */

static void test_one_rank_reduces_nothing(void **state) {
  (void)state;
  Cluster cluster = one_node();
  cluster.reduce.call_us = 50;
  for (Reduction each = 0; each <= REDUCTION_BEST; each++)
    assert_true(cluster_reduce_seconds(&cluster, each, 1, 1e6) == 0);
  assert_true(cluster_all_gather_seconds(&cluster, 1, 8) == 0);
}

static void test_closed_forms(void **state) {
  (void)state;
  Cluster cluster = one_node();
  double alpha = 3e-6, rate = 20e9, bytes = 1 << 22;
  for (int n = 2; n <= 1024; n *= 2) {
    double depth = log2(n);
    assert_near(cluster_reduce_seconds(&cluster, REDUCTION_RING, n, bytes),
                2.0 * (n - 1) * alpha + 2.0 * (n - 1) / n * bytes / rate, 1e-12);
    assert_near(cluster_reduce_seconds(&cluster, REDUCTION_TREE, n, bytes),
                2 * depth * alpha + 2 * bytes / rate, 1e-12);
    assert_near(cluster_reduce_seconds(&cluster, REDUCTION_DOUBLING, n, bytes),
                depth * (alpha + bytes / rate), 1e-12);
    assert_near(cluster_reduce_seconds(&cluster, REDUCTION_HIERARCHICAL, n, bytes),
                cluster_reduce_seconds(&cluster, REDUCTION_RING, n, bytes), 1e-12);
    assert_near(cluster_all_gather_seconds(&cluster, n, 8), depth * alpha + (n - 1) * 8 / rate,
                1e-12);
  }
  cluster.reduce.call_us = 50;
  assert_near(cluster_reduce_seconds(&cluster, REDUCTION_RING, 2, bytes),
              50e-6 + 2 * alpha + bytes / rate, 1e-12);
  /* Three ranks need two levels. */
  assert_near(cluster_reduce_seconds(&cluster, REDUCTION_TREE, 3, 0), 50e-6 + 4 * alpha, 1e-12);
}

static void test_hierarchical(void **state) {
  (void)state;
  Cluster cluster = many_nodes();
  double bytes = 64e6, inside = 2 * 7 * (2e-6 + bytes / 8 / 100e9), part = bytes / 8;
  double rate = 4 * 5e9 / 8; /* a node's adapters, shared by its 8 rings */
  double by_ring = 2 * 3 * (10e-6 + part / 4 / rate), by_tree = 2 * (2 * 10e-6 + part / rate);
  assert_true(by_ring < by_tree);
  assert_near(cluster_reduce_seconds(&cluster, REDUCTION_HIERARCHICAL, 32, bytes), inside + by_ring,
              1e-12);
  /* Small parts over 64 nodes go by tree. */
  bytes = 8000;
  inside = 2 * 7 * (2e-6 + bytes / 8 / 100e9);
  by_tree = 2 * (6 * 10e-6 + bytes / 8 / rate);
  assert_near(cluster_reduce_seconds(&cluster, REDUCTION_HIERARCHICAL, 512, bytes),
              inside + by_tree, 1e-12);
}

/* Small messages want few hops, large ones few bytes. */
static void test_crossover(void **state) {
  (void)state;
  Cluster cluster = one_node();
  for (int n = 4; n <= 256; n *= 4) {
    double where = n * 3e-6 * 20e9 * (n - 1 - log2(n));
    double ring = cluster_reduce_seconds(&cluster, REDUCTION_RING, n, where);
    assert_near(cluster_reduce_seconds(&cluster, REDUCTION_TREE, n, where), ring, 1e-9);
    assert_true(cluster_reduce_seconds(&cluster, REDUCTION_TREE, n, 0.9 * where) <
                cluster_reduce_seconds(&cluster, REDUCTION_RING, n, 0.9 * where));
    assert_true(cluster_reduce_seconds(&cluster, REDUCTION_TREE, n, 1.1 * where) >
                cluster_reduce_seconds(&cluster, REDUCTION_RING, n, 1.1 * where));
  }
}

static void test_best_is_the_fastest(void **state) {
  (void)state;
  Cluster cluster = many_nodes();
  for (int n = 2; n <= 512; n *= 2) {
    for (double bytes = 100; bytes < 1e10; bytes *= 10) {
      double fastest = HUGE_VAL;
      for (Reduction each = 0; each < REDUCTION_COUNT; each++)
        fastest = fmin(fastest, cluster_reduce_seconds(&cluster, each, n, bytes));
      assert_true(cluster_all_reduce_seconds(&cluster, n, bytes) == fastest);
    }
  }
}

static void test_infinite_bandwidth_leaves_latency(void **state) {
  (void)state;
  Cluster cluster = many_nodes();
  cluster.intra_node.bandwidth = cluster.inter_node.bandwidth = 1e30;
  for (Reduction each = 0; each < REDUCTION_COUNT; each++)
    assert_near(cluster_reduce_seconds(&cluster, each, 64, 1e12),
                cluster_reduce_seconds(&cluster, each, 64, 0), 1e-6);
}

/* --- A ring, message by message --------------------------------------------------------------- */

/* In each of 2(n-1) rounds every rank sends a piece to the next and goes on when it has sent its
 * own and got the other's. Near links are as fast as far ones here: the formula takes the slowest
 * link's bandwidth. */
static double simulate_ring(int n, int local, double near, double far, double piece) {
  double *at = mem_new((size_t)n, sizeof *at), *next = mem_new((size_t)n, sizeof *next), last = 0;
  for (int round = 0; round < 2 * (n - 1); round++) {
    for (int rank = 0; rank < n; rank++) {
      int from = (rank + n - 1) % n;
      double alpha = from / local == rank / local ? near : far;
      next[rank] = fmax(at[rank] + piece, at[from] + alpha + piece);
    }
    memcpy(at, next, (size_t)n * sizeof *at);
  }
  for (int rank = 0; rank < n; rank++) last = fmax(last, at[rank]);
  free(at);
  free(next);
  return last;
}

static void test_ring_message_by_message(void **state) {
  (void)state;
  Cluster cluster = many_nodes();
  cluster.intra_node.bandwidth = 20; /* as a node's four adapters */
  for (int n = 2; n <= 128; n *= 2) {
    double bytes = 1e6 * n, simulated = simulate_ring(n, 8, 2e-6, 10e-6, 1e6 / 20e9);
    double formula = cluster_reduce_seconds(&cluster, REDUCTION_RING, n, bytes);
    assert_true(fabs(simulated - formula) <= 2 * 10e-6 + 1e-12); /* the mean, by a hop or two */
  }
}

/* --- Ops -------------------------------------------------------------------------------------- */

static void test_roofline(void **state) {
  (void)state;
  Cluster cluster = make_cluster((const char *const[]){
      "device.f32=10", "device.bf16=40", "device.efficiency=0.5", "device.memory=1000",
      "device.memory_efficiency=0.8", "device.launch_us=2", NULL});
  StepTrace trace = {.threads = 1};
  TraceOp heavy = {.flops = 1e12, .bytes = 1e6}, wide = {.flops = 1e6, .bytes = 8e9};
  TraceOp reduce = {.reduces = 1e6}, nothing = {.waits = true};
  assert_near(cluster_op_seconds(&cluster, &trace, &heavy, 1), 0.2 + 2e-6, 1e-12);
  assert_near(cluster_op_seconds(&cluster, &trace, &wide, 1), 0.01 + 2e-6, 1e-12);
  assert_true(cluster_op_seconds(&cluster, &trace, &reduce, 1) == 0);
  assert_true(cluster_op_seconds(&cluster, &trace, &nothing, 1) == 0);
  trace.bf16 = true;
  assert_near(cluster_op_seconds(&cluster, &trace, &heavy, 1), 0.05 + 2e-6, 1e-12);
}

static void test_shared_cores(void **state) {
  (void)state;
  Cluster cluster = make_cluster((const char *const[]){"device.times=measured", "node.ranks=8",
                                                       "node.cores=2", "node.memory=10", NULL});
  StepTrace trace = {.threads = 1};
  TraceOp busy = {.seconds = 1, .bytes = 1e9}, wide = {.seconds = 1, .bytes = 8e9};
  assert_near(cluster_op_seconds(&cluster, &trace, &busy, 1), 1, 1e-12);
  assert_near(cluster_op_seconds(&cluster, &trace, &busy, 2), 1, 1e-12);
  assert_near(cluster_op_seconds(&cluster, &trace, &busy, 4), 2, 1e-12);
  assert_near(cluster_op_seconds(&cluster, &trace, &wide, 1), 1, 1e-12);
  assert_near(cluster_op_seconds(&cluster, &trace, &wide, 2), 1.6, 1e-12); /* 16 GB at 10 GB/s */
  assert_near(cluster_op_seconds(&cluster, &trace, &wide, 4), 3.2, 1e-12);
  TraceOp cached = {.seconds = 1, .bytes = 20e9};
  assert_near(cluster_op_seconds(&cluster, &trace, &cached, 2), 1, 1e-12);
  trace.threads = 2;
  assert_near(cluster_op_seconds(&cluster, &trace, &busy, 2), 2, 1e-12);
}

/* --- Files ------------------------------------------------------------------------------------ */

static void refuses(const char *yaml, const char *message) {
  char path[] = "/tmp/celforge-cluster-XXXXXX";
  int descriptor = mkstemp(path);
  Cluster cluster = {.node = {.count = 77}};
  char *wanted = mem_format("%s%s", path, message);
  assert_true(descriptor >= 0);
  assert_int_equal(write(descriptor, yaml, strlen(yaml)), (ssize_t)strlen(yaml));
  close(descriptor);
  Status status = cluster_load(path, NULL, 0, &cluster, &error);
  unlink(path);
  if (status != ERROR_USAGE || strncmp(error.message, wanted, strlen(wanted)) != 0)
    fail_msg("status %d: %s, want %s", status, error.message, wanted);
  assert_int_equal(cluster.node.count, 77);
  free(wanted);
}

static void test_bad_files(void **state) {
  (void)state;
  refuses("node:\n  count: 0\n", ":2:10: node.count: ");
  refuses("node:\n  rank: 8\n", ":2:3: node.rank: unknown key; did you mean");
  refuses("near:\n  bandwidth: 3\n", ":1:1: near: this key is now intra_node");
  refuses("far.adapters: 3\n", ":1:1: far.adapters: this key is now inter_node.adapters");
  refuses("intra_node:\n  bandwidth: fast\n", ":2:14: intra_node.bandwidth: ");
  refuses("intra_node:\n  bandwidth: 0\n", ":2:14: intra_node.bandwidth: ");
  refuses("reduce:\n  algorithm: butterfly\n", ":2:14: reduce.algorithm: ");
  refuses("node:\n  cores: 2\n", ":2:10: node.cores: 2 shared cores need device.times: measured");
  refuses("step:\n  slow_share: 0.1\n", ":2:15: step.slow_share: ");
}

static void test_files_of_the_repository(void **state) {
  (void)state;
  static const char *const NAMES[] = {"h200-infiniband", "pcie-ethernet", "this-machine"};
  Cluster cluster;
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
    char *path = mem_format("configs/clusters/%s.yaml", NAMES[i]);
    if (cluster_load(path, NULL, 0, &cluster, &error) != OK) fail_msg("%s", error.message);
    free(path);
  }
}

static void test_numbers_of_ranks(void **state) {
  (void)state;
  Cluster cluster = many_nodes();
  static const int GOOD[] = {1, 3, 8, 16, 24, 512}, BAD[] = {0, -8, 9, 12, 513, 520};
  for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++)
    assert_int_equal(cluster_check_ranks(&cluster, GOOD[i], &error), OK);
  for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
    assert_int_equal(cluster_check_ranks(&cluster, BAD[i], &error), ERROR_USAGE);
  assert_int_equal(cluster_nodes(&cluster, 3), 1);
  assert_int_equal(cluster_nodes(&cluster, 24), 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_rank_reduces_nothing),
      cmocka_unit_test(test_closed_forms),
      cmocka_unit_test(test_hierarchical),
      cmocka_unit_test(test_crossover),
      cmocka_unit_test(test_best_is_the_fastest),
      cmocka_unit_test(test_infinite_bandwidth_leaves_latency),
      cmocka_unit_test(test_ring_message_by_message),
      cmocka_unit_test(test_roofline),
      cmocka_unit_test(test_shared_cores),
      cmocka_unit_test(test_bad_files),
      cmocka_unit_test(test_files_of_the_repository),
      cmocka_unit_test(test_numbers_of_ranks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
