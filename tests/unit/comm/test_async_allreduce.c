/* Means over the ranks, with as many ranks as the program is started with and in the way that its
 * argument names: fast (also without one), reproducible, bf16, serial (no overlap). With "checksum"
 * behind it, prints a checksum of results in place of the tests. */
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

#include "base/crc32c.h"
#include "base/thread.h"
#include "tests/unit/comm/support_group.h"

enum { ODD_COUNT = 1000003, MOST_RANKS = 64 }; /* several pieces and a rest */

static CommOptions options = {.timeout = 120, .overlap = true};

/* All ranks' terms as one array and their mean. */
typedef struct Terms {
  int64_t count;
  float *of_rank[MOST_RANKS];
  double *mean, *magnitude; /* of the terms and of their magnitudes */
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

static void average(float *values, int64_t count) {
  Error error = {0};
  must(comm_average_start(group, values, count, COMM_F32, &error), &error);
  must(comm_average_wait(group, &error), &error);
}

/* --- Tests ------------------------------------------------------------------------------------ */

/* How far a mean may be from that in double precision. */
static double bound(const Terms *terms, int64_t i) {
  if (comm_size(group) == 1) return 0;
  double rounding = options.bf16_gradients ? 0x1p-8 : 0x1p-24 * comm_size(group);
  return rounding * (terms->magnitude[i] + fabs(terms->mean[i])) * 1.001;
}

static void check_average(int64_t count, uint32_t round) {
  Terms terms = new_terms(count, round);
  float *values = terms.of_rank[comm_rank(group)];
  average(values, count);
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

static void test_average(void **state) {
  (void)state;
  static const int64_t counts[] = {1, 2, 3, 1000, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, ODD_COUNT};
  for (uint32_t i = 0; i < sizeof counts / sizeof *counts; i++) check_average(counts[i], i);
}

/* Neighbours, then pairs of neighbours, and so on, in f32: to the bit. */
static void test_reproducible_is_a_fixed_tree(void **state) {
  (void)state;
  enum { COUNT = 300001 };
  int size = comm_size(group);
  if (!options.reproducible) return;
  Terms terms = new_terms(COUNT, 17);
  float *values = new_floats(COUNT);
  memcpy(values, terms.of_rank[comm_rank(group)], COUNT * sizeof *values);
  average(values, COUNT);
  for (int step = 1; step < size; step *= 2)
    for (int r = 0; r < size; r += 2 * step)
      for (int64_t i = 0; i < COUNT; i++) terms.of_rank[r][i] += terms.of_rank[r + step][i];
  for (int64_t i = 0; i < COUNT; i++) terms.of_rank[0][i] /= (float)size;
  assert_memory_equal(values, terms.of_rank[0], COUNT * sizeof *values);
  free(values);
  free_terms(&terms);
}

static void test_average_of_bf16_is_summed_in_f32(void **state) {
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
      expected[i] += (double)from_bf16(to_bf16(other[i])) / size;
      if (r == comm_rank(group)) values[i] = to_bf16(other[i]);
    }
  }
  must(comm_average_start(group, values, COUNT, COMM_BF16, &error), &error);
  must(comm_average_wait(group, &error), &error);
  int wrong = 0; /* half a unit in the last of 8 bits, and the sum's own rounding */
  for (int i = 0; i < COUNT; i++)
    wrong += !(fabs((double)from_bf16(values[i]) - expected[i]) <=
               fabs(expected[i]) * 0x1p-8 * 0.5001 * 2 + 1e-3 * 0x1p-8);
  assert_int_equal(wrong, 0);
  must_agree(values, COUNT * sizeof *values);

  uint16_t infinite = to_bf16(INFINITY), nan = 0x7f81; /* a NaN whose upper bits alone say so */
  must(comm_average_start(group, &infinite, 1, COMM_BF16, &error), &error);
  must(comm_average_start(group, &nan, 1, COMM_BF16, &error), &error);
  must(comm_average_wait(group, &error), &error);
  assert_true(isinf(from_bf16(infinite)));
  assert_true(isnan(from_bf16(nan)));
  free(values);
  free(other);
  free(expected);
}

static void test_nan_and_infinity_reach_all(void **state) {
  (void)state;
  for (int where = 0; where < comm_size(group); where++) {
    bool here = comm_rank(group) == where;
    float gradient[4] = {1, here ? NAN : 1, 1, here ? -INFINITY : 1};
    average(gradient, 4);
    assert_true(gradient[0] == 1 && isnan(gradient[1]) && gradient[2] == 1);
    assert_true(isinf(gradient[3]) && gradient[3] < 0);
  }
}

/* Many at once, collectives of the calling thread between them, and the same bits twice over. */
static void test_averages_overlap(void **state) {
  (void)state;
  Error error = {0};
  enum { BUCKETS = 40, EACH = 20011 };
  float *values = new_floats((int64_t)BUCKETS * EACH), *again = new_floats((int64_t)BUCKETS * EACH);
  for (int attempt = 0; attempt < 2; attempt++) {
    float *data = attempt == 0 ? values : again;
    fill(data, (int64_t)BUCKETS * EACH, comm_rank(group), 5);
    for (int b = 0; b < BUCKETS; b++) {
      must(comm_average_start(group, data + (ptrdiff_t)b * EACH, EACH, COMM_F32, &error), &error);
      if (b % 10 == 0) must(comm_barrier(group, &error), &error);
    }
    must(comm_average_wait(group, &error), &error);
  }
  assert_memory_equal(values, again, (size_t)BUCKETS * EACH * sizeof *values);
  must_agree(values, (size_t)BUCKETS * EACH * sizeof *values);
  free(values);
  free(again);
}

/* Rank 1 comes `pause` seconds late. True where the statistics of rank 0 say that it waited for
 * that: a rank 0 that is late itself, as on a busy machine, has less to wait for. */
static bool sees_the_wait(double pause) {
  Error error = {0};
  float value = (float)comm_rank(group), mean = (float)(comm_size(group) - 1) / 2;
  must(comm_barrier(group, &error), &error);
  CommStats before = comm_stats(group);
  if (comm_rank(group) == 1) usleep((useconds_t)(pause * 1e6));
  must(comm_average_start(group, &value, 1, COMM_F32, &error), &error);
  if (!options.overlap) assert_true(value == mean);
  must(comm_average_wait(group, &error), &error);
  assert_true(value == mean);
  CommStats after = comm_stats(group);
  assert_int_equal(after.collectives - before.collectives, 1);
  bool seen = after.seconds_waiting - before.seconds_waiting > pause / 2 &&
              after.seconds_busy - before.seconds_busy > pause / 2;
  must(comm_broadcast(group, &seen, sizeof seen, 0, &error), &error);
  return seen;
}

static void test_where_the_wait_is(void **state) {
  (void)state;
  if (comm_size(group) == 1) { /* nothing was sent */
    float value = 1;
    average(&value, 1);
    assert_int_equal(comm_stats(group).collectives, 0);
    return;
  }
  double pause = 0.2;
  while (pause < 10 && !sees_the_wait(pause)) pause *= 2;
  assert_true(pause < 10);
}

/* Rank 1 begins only when it has heard that all others have begun and do not wait for it. */
static void test_beginning_does_not_wait(void **state) {
  (void)state;
  Error error = {0};
  int rank = comm_rank(group), size = comm_size(group);
  float value = (float)rank;
  if (!options.overlap || size == 1) return;
  if (rank != 1) must(comm_average_start(group, &value, 1, COMM_F32, &error), &error);
  must(comm_barrier(group, &error), &error);
  if (rank == 1) must(comm_average_start(group, &value, 1, COMM_F32, &error), &error);
  must(comm_average_wait(group, &error), &error);
  assert_true(value == (float)(size - 1) / 2);
}

static void test_bytes_are_those_that_travel(void **state) {
  (void)state;
  Error error = {0};
  float values[1000] = {0};
  int64_t before = comm_stats(group).bytes;
  average(values, 1000);
  int64_t wide = comm_stats(group).bytes;
  must(comm_average_start(group, values, 1000, COMM_BF16, &error), &error);
  must(comm_average_wait(group, &error), &error);
  int64_t narrow = comm_stats(group).bytes;
  bool alone = comm_size(group) == 1;
  assert_int_equal(wide - before, alone ? 0 : options.bf16_gradients ? 2000 : 4000);
  assert_int_equal(narrow - wide, alone ? 0 : options.reproducible ? 4000 : 2000);
}

static void test_average_refuses(void **state) {
  (void)state;
  Error error = {0};
  double value = 1;
  assert_int_equal(comm_average_start(group, &value, 1, COMM_F64, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "must be F32 or BF16"));
  assert_int_equal(comm_average_start(group, &value, -1, COMM_F32, &error), ERROR_INTERNAL);
}

/* --- Main ------------------------------------------------------------------------------------- */

static int print_checksum(void) {
  float *values = new_floats(ODD_COUNT);
  Error error = {0};
  uint32_t crc = 0;
  for (uint32_t round = 0; round < 4; round++) {
    fill(values, ODD_COUNT, comm_rank(group), round);
    Status status = comm_average_start(group, values, ODD_COUNT, COMM_F32, &error);
    if (status == OK) status = comm_average_wait(group, &error);
    if (status != OK) return leave(status, &error);
    crc = crc32c(crc, values, ODD_COUNT * sizeof *values);
  }
  free(values);
  printf("checksum %08x\n", crc);
  comm_close(group);
  return 0;
}

static void choose(const char *way) {
  options.reproducible = strstr(way, "reproducible") != NULL;
  options.bf16_gradients = strstr(way, "bf16") != NULL;
  options.overlap = strstr(way, "serial") == NULL;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_average),
      cmocka_unit_test(test_reproducible_is_a_fixed_tree),
      cmocka_unit_test(test_average_of_bf16_is_summed_in_f32),
      cmocka_unit_test(test_nan_and_infinity_reach_all),
      cmocka_unit_test(test_averages_overlap),
      cmocka_unit_test(test_where_the_wait_is),
      cmocka_unit_test(test_beginning_does_not_wait),
      cmocka_unit_test(test_bytes_are_those_that_travel),
      cmocka_unit_test(test_average_refuses),
  };
  Error error = {0};
  if (argc > 1) choose(argv[1]);
  if (comm_open(&argc, &argv, &options, &group, &error) != OK) {
    fprintf(stderr, "%s\n", error.message);
    return (int)error.status;
  }
  if (argc > 2) return print_checksum();
  quiet_others();
  return end_tests(cmocka_run_group_tests_name("average", tests, NULL, NULL));
}
