/* Tests of the gradient all-reduce, with as many ranks as mpirun starts. The first argument names
 * the mode: fast (the default), reproducible, bf16, serial (no overlap), bf16-serial. With
 * "checksum" as the second argument the program prints a checksum of results instead of running the
 * tests. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "base/crc32c.h"
#include "base/thread.h"
#include "tests/unit/comm/support_group.h"

enum { ODD_COUNT = 1000003, MAX_RANKS = 64 }; /* several chunks and a remainder */

static CommOptions options = {.timeout = 120, .overlap = true};

/* The terms of all ranks, and their mean in double precision. */
typedef struct Terms {
  int64_t count;
  float *of_rank[MAX_RANKS];
  double *mean, *magnitude; /* means of the terms and of their magnitudes */
} Terms;

static Terms new_terms(int64_t count, uint32_t round) {
  Terms terms = {.count = count};
  int size = comm_size(group);
  terms.mean = calloc((size_t)count, sizeof *terms.mean);
  terms.magnitude = calloc((size_t)count, sizeof *terms.magnitude);
  assert_non_null(terms.mean);
  assert_non_null(terms.magnitude);
  for (int r = 0; r < size; r++) {
    terms.of_rank[r] = new_floats(count);
    fill(terms.of_rank[r], count, r, round);
    for (int64_t i = 0; i < count; i++) {
      terms.mean[i] += (double)terms.of_rank[r][i] / size;
      terms.magnitude[i] += fabs((double)terms.of_rank[r][i]) / size;
    }
  }
  return terms;
}

static void free_terms(Terms *terms) {
  for (int r = 0; r < comm_size(group); r++) free(terms->of_rank[r]);
  free(terms->mean);
  free(terms->magnitude);
}

static void all_reduce_mean(float *values, int64_t count) {
  Error error = {0};
  must(comm_all_reduce_mean_start(group, values, count, COMM_F32, &error), &error);
  must(comm_all_reduce_mean_wait(group, &error), &error);
}

/* --- Tests ------------------------------------------------------------------------------------ */

/* The largest permitted distance from the mean in double precision. */
static double bound(const Terms *terms, int64_t i) {
  if (comm_size(group) == 1) return 0;
  double rounding = options.bf16_gradients ? 0x1p-8 : 0x1p-24 * comm_size(group);
  return rounding * (terms->magnitude[i] + fabs(terms->mean[i])) * 1.001;
}

static void check_mean(int64_t count, uint32_t round) {
  Terms terms = new_terms(count, round);
  float *values = terms.of_rank[comm_rank(group)];
  all_reduce_mean(values, count);
  int64_t wrong = 0, inexact = 0;
  for (int64_t i = 0; i < count; i++) {
    double distance = fabs((double)values[i] - terms.mean[i]);
    wrong += !(distance <= bound(&terms, i));
    inexact += distance > 0x1p-20 * terms.magnitude[i];
  }
  assert_int_equal(wrong, 0);
  bool rounds = options.bf16_gradients && comm_size(group) > 1;
  if (count >= 1000) assert_int_equal(inexact > count / 2, rounds);
  must_agree(values, (size_t)count * sizeof *values);
  free_terms(&terms);
}

static void test_mean_is_within_the_error_bound(void **state) {
  (void)state;
  static const int64_t counts[] = {1, 2, 3, 1000, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, ODD_COUNT};
  for (uint32_t i = 0; i < sizeof counts / sizeof *counts; i++) check_mean(counts[i], i);
}

/* The result equals the tree of neighbours, pairs of neighbours, ... in f32, to the bit. */
static void test_reproducible_mode_is_a_fixed_tree(void **state) {
  (void)state;
  enum { COUNT = 300001 };
  int size = comm_size(group);
  if (!options.reproducible) return;
  Terms terms = new_terms(COUNT, 17);
  float *values = new_floats(COUNT);
  memcpy(values, terms.of_rank[comm_rank(group)], COUNT * sizeof *values);
  all_reduce_mean(values, COUNT);
  for (int step = 1; step < size; step *= 2)
    for (int r = 0; r < size; r += 2 * step)
      for (int64_t i = 0; i < COUNT; i++) terms.of_rank[r][i] += terms.of_rank[r + step][i];
  for (int64_t i = 0; i < COUNT; i++) terms.of_rank[0][i] /= (float)size;
  assert_memory_equal(values, terms.of_rank[0], COUNT * sizeof *values);
  free(values);
  free_terms(&terms);
}

static void test_bf16_is_summed_in_f32(void **state) {
  (void)state;
  Error error = {0};
  int size = comm_size(group);
  enum { COUNT = 300007 };
  uint16_t *values = malloc(COUNT * sizeof *values);
  float *other = new_floats(COUNT);
  double *expected = calloc(COUNT, sizeof *expected);
  assert_non_null(values);
  assert_non_null(expected);
  for (int r = 0; r < size; r++) {
    fill(other, COUNT, r, 99);
    for (int i = 0; i < COUNT; i++) {
      expected[i] += (double)bf16_to_f32(bf16_from_f32(other[i])) / size;
      if (r == comm_rank(group)) values[i] = bf16_from_f32(other[i]);
    }
  }
  must(comm_all_reduce_mean_start(group, values, COUNT, COMM_BF16, &error), &error);
  must(comm_all_reduce_mean_wait(group, &error), &error);
  int wrong = 0; /* half a unit in the last of 8 bits, and the sum's own rounding */
  for (int i = 0; i < COUNT; i++)
    wrong += !(fabs((double)bf16_to_f32(values[i]) - expected[i]) <=
               fabs(expected[i]) * 0x1p-8 * 0.5001 * 2 + 1e-3 * 0x1p-8);
  assert_int_equal(wrong, 0);
  must_agree(values, COUNT * sizeof *values);

  uint16_t infinite = bf16_from_f32(INFINITY), nan = 0x7f81; /* a signalling NaN */
  must(comm_all_reduce_mean_start(group, &infinite, 1, COMM_BF16, &error), &error);
  must(comm_all_reduce_mean_start(group, &nan, 1, COMM_BF16, &error), &error);
  must(comm_all_reduce_mean_wait(group, &error), &error);
  assert_true(isinf(bf16_to_f32(infinite)));
  assert_true(isnan(bf16_to_f32(nan)));
  free(values);
  free(other);
  free(expected);
}

static void test_nan_and_infinity_reach_every_rank(void **state) {
  (void)state;
  for (int where = 0; where < comm_size(group); where++) {
    bool here = comm_rank(group) == where;
    float gradient[4] = {1, here ? NAN : 1, 1, here ? -INFINITY : 1};
    all_reduce_mean(gradient, 4);
    assert_true(gradient[0] == 1 && isnan(gradient[1]) && gradient[2] == 1);
    assert_true(isinf(gradient[3]) && gradient[3] < 0);
  }
}

/* Many are pending at once, with collectives of the calling thread between them; two repetitions
 * give the same bits. */
static void test_pending_all_reduces_and_collectives_interleave(void **state) {
  (void)state;
  Error error = {0};
  enum { BUCKETS = 40, EACH = 20011 };
  float *values = new_floats((int64_t)BUCKETS * EACH), *again = new_floats((int64_t)BUCKETS * EACH);
  for (int attempt = 0; attempt < 2; attempt++) {
    float *data = attempt == 0 ? values : again;
    fill(data, (int64_t)BUCKETS * EACH, comm_rank(group), 5);
    for (int b = 0; b < BUCKETS; b++) {
      must(comm_all_reduce_mean_start(group, data + (ptrdiff_t)b * EACH, EACH, COMM_F32, &error),
           &error);
      if (b % 10 == 0) must(comm_barrier(group, &error), &error);
    }
    must(comm_all_reduce_mean_wait(group, &error), &error);
  }
  assert_memory_equal(values, again, (size_t)BUCKETS * EACH * sizeof *values);
  must_agree(values, (size_t)BUCKETS * EACH * sizeof *values);
  free(values);
  free(again);
}

/* Delays rank 1 by `pause` seconds, and returns whether the statistics of rank 0 show that it
 * waited. They may not: on a busy machine rank 0 may be late itself. */
static bool stats_show_the_wait(double pause) {
  Error error = {0};
  float value = (float)comm_rank(group), mean = (float)(comm_size(group) - 1) / 2;
  must(comm_barrier(group, &error), &error);
  CommStats before = comm_stats(group);
  if (comm_rank(group) == 1) usleep((useconds_t)(pause * 1e6));
  must(comm_all_reduce_mean_start(group, &value, 1, COMM_F32, &error), &error);
  if (!options.overlap) assert_true(value == mean);
  must(comm_all_reduce_mean_wait(group, &error), &error);
  assert_true(value == mean);
  CommStats after = comm_stats(group);
  assert_int_equal(after.all_reduces - before.all_reduces, 1);
  bool seen = after.exposed_seconds - before.exposed_seconds > pause / 2 &&
              after.busy_seconds - before.busy_seconds > pause / 2;
  must(comm_broadcast(group, &seen, sizeof seen, 0, &error), &error);
  return seen;
}

static void test_stats_show_the_wait_for_a_late_rank(void **state) {
  (void)state;
  if (comm_size(group) == 1) { /* nothing was sent */
    float value = 1;
    all_reduce_mean(&value, 1);
    assert_int_equal(comm_stats(group).all_reduces, 0);
    return;
  }
  double pause = 0.2;
  while (pause < 10 && !stats_show_the_wait(pause)) pause *= 2;
  assert_true(pause < 10);
}

/* Rank 1 starts only after a barrier that the others reach after their start has returned. */
static void test_start_does_not_wait(void **state) {
  (void)state;
  Error error = {0};
  int rank = comm_rank(group), size = comm_size(group);
  float value = (float)rank;
  if (!options.overlap || size == 1) return;
  if (rank != 1) must(comm_all_reduce_mean_start(group, &value, 1, COMM_F32, &error), &error);
  must(comm_barrier(group, &error), &error);
  if (rank == 1) must(comm_all_reduce_mean_start(group, &value, 1, COMM_F32, &error), &error);
  must(comm_all_reduce_mean_wait(group, &error), &error);
  assert_true(value == (float)(size - 1) / 2);
}

static void test_stats_count_the_bytes_sent(void **state) {
  (void)state;
  Error error = {0};
  float values[1000] = {0};
  int64_t before = comm_stats(group).bytes;
  all_reduce_mean(values, 1000);
  int64_t wide = comm_stats(group).bytes;
  must(comm_all_reduce_mean_start(group, values, 1000, COMM_BF16, &error), &error);
  must(comm_all_reduce_mean_wait(group, &error), &error);
  int64_t narrow = comm_stats(group).bytes;
  bool alone = comm_size(group) == 1;
  assert_int_equal(wide - before, alone ? 0 : options.bf16_gradients ? 2000 : 4000);
  assert_int_equal(narrow - wide, alone ? 0 : options.reproducible ? 4000 : 2000);
}

static void test_invalid_arguments_are_rejected(void **state) {
  (void)state;
  Error error = {0};
  double value = 1;
  assert_int_equal(comm_all_reduce_mean_start(group, &value, 1, COMM_F64, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "must be F32 or BF16"));
  assert_int_equal(comm_all_reduce_mean_start(group, &value, -1, COMM_F32, &error), ERROR_INTERNAL);
}

/* --- Main ------------------------------------------------------------------------------------- */

static int print_checksum(void) {
  float *values = new_floats(ODD_COUNT);
  Error error = {0};
  uint32_t crc = 0;
  for (uint32_t round = 0; round < 4; round++) {
    fill(values, ODD_COUNT, comm_rank(group), round);
    Status status = comm_all_reduce_mean_start(group, values, ODD_COUNT, COMM_F32, &error);
    if (status == OK) status = comm_all_reduce_mean_wait(group, &error);
    if (status != OK) return exit_on_error(status, &error);
    crc = crc32c(crc, values, ODD_COUNT * sizeof *values);
  }
  free(values);
  printf("checksum %08x\n", crc);
  comm_close(group);
  return 0;
}

static void parse_mode(const char *mode) {
  options.reproducible = strstr(mode, "reproducible") != NULL;
  options.bf16_gradients = strstr(mode, "bf16") != NULL;
  options.overlap = strstr(mode, "serial") == NULL;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_mean_is_within_the_error_bound),
      cmocka_unit_test(test_reproducible_mode_is_a_fixed_tree),
      cmocka_unit_test(test_bf16_is_summed_in_f32),
      cmocka_unit_test(test_nan_and_infinity_reach_every_rank),
      cmocka_unit_test(test_pending_all_reduces_and_collectives_interleave),
      cmocka_unit_test(test_stats_show_the_wait_for_a_late_rank),
      cmocka_unit_test(test_start_does_not_wait),
      cmocka_unit_test(test_stats_count_the_bytes_sent),
      cmocka_unit_test(test_invalid_arguments_are_rejected),
  };
  Error error = {0};
  if (argc > 1) parse_mode(argv[1]);
  if (comm_open(&argc, &argv, &options, &group, &error) != OK) {
    fprintf(stderr, "%s\n", error.message);
    return (int)error.status;
  }
  if (argc > 2) return print_checksum();
  silence_other_ranks();
  return end_tests(cmocka_run_group_tests_name("async_allreduce", tests, NULL, NULL));
}
