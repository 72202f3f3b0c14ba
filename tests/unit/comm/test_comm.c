/* The process group, with as many ranks as it is started with: alone as a unit test, under mpirun
 * by tests/distributed/test_comm.sh. With an argument it plays one rank of a scenario (see
 * SCENARIOS) in place of the tests. */
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
#include <mpi.h>

#include "base/crc32c.h"
#include "base/random.h"
#include "base/thread.h"
#include "comm/comm.h"

enum { ODD_COUNT = 1000003 }; /* several pieces and a rest */

static Comm *group;

static void must(Status status, const Error *error) {
  if (status != OK) fail_msg("rank %d: %s", comm_rank(group), error->message);
}

/* The same bytes on every rank. */
static void must_agree(const void *data, size_t bytes) {
  Error error = {0};
  int64_t crc = crc32c(0, data, bytes), low = crc, high = crc;
  must(comm_all_reduce(group, &low, 1, COMM_I64, COMM_MIN, &error), &error);
  must(comm_all_reduce(group, &high, 1, COMM_I64, COMM_MAX, &error), &error);
  assert_int_equal(low, high);
}

/* What rank `rank` puts in, so that every rank can compute every other's. */
static void fill(float *values, int64_t count, int rank, uint32_t round) {
  Random random = random_stream(7, RANDOM_TEST, (uint64_t)rank, round);
  for (int64_t i = 0; i < count; i++)
    values[i] = (float)(random_uniform(&random) - 0.5) * (float)(1 << (i % 13));
}

static float *new_floats(int64_t count) {
  float *values = malloc((size_t)count * sizeof *values);
  assert_non_null(values);
  return values;
}

static uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* --- Tests ------------------------------------------------------------------------------------ */

static void test_ranks(void **state) {
  (void)state;
  assert_in_range(comm_rank(group), 0, comm_size(group) - 1);
  assert_in_range(comm_local_rank(group), 0, comm_local_size(group) - 1);
  assert_int_equal(comm_local_size(group), comm_size(group)); /* all on this host */
  const char *expected = getenv("OMPI_COMM_WORLD_SIZE");
  assert_int_equal(comm_size(group), expected ? atoi(expected) : 1);
}

static void test_no_launcher_means_no_mpi(void **state) {
  (void)state;
  int initialized = -1;
  MPI_Initialized(&initialized);
  assert_int_equal(initialized, getenv("OMPI_COMM_WORLD_SIZE") != NULL);
}

static void test_broadcast(void **state) {
  (void)state;
  Error error = {0};
  enum { BYTES = 5000001 }; /* more than one piece */
  unsigned char *bytes = malloc(BYTES);
  assert_non_null(bytes);
  for (int root = 0; root < comm_size(group); root++) {
    for (int i = 0; i < BYTES; i++)
      bytes[i] = comm_rank(group) == root ? (unsigned char)(i * 7 + root) : 0xee;
    must(comm_broadcast(group, bytes, BYTES, root, &error), &error);
    int wrong = 0;
    for (int i = 0; i < BYTES; i++) wrong += bytes[i] != (unsigned char)(i * 7 + root);
    assert_int_equal(wrong, 0);
  }
  must(comm_broadcast(group, bytes, 0, 0, &error), &error);
  assert_int_equal(comm_broadcast(group, bytes, 1, comm_size(group), &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "must be from 0 to"));
  free(bytes);
}

static void test_all_gather(void **state) {
  (void)state;
  Error error = {0};
  enum { BYTES = 1100001 };
  size_t size = (size_t)comm_size(group);
  char *mine = malloc(BYTES), *all = malloc(size * BYTES);
  assert_non_null(mine);
  assert_non_null(all);
  memset(mine, 'a' + comm_rank(group), BYTES);
  must(comm_all_gather(group, mine, BYTES, all, &error), &error);
  int wrong = 0;
  for (size_t r = 0; r < size; r++)
    for (size_t i = 0; i < BYTES; i++) wrong += all[r * BYTES + i] != 'a' + (char)r;
  assert_int_equal(wrong, 0);
  free(mine);
  free(all);
}

static void test_all_reduce_integers(void **state) {
  (void)state;
  Error error = {0};
  int64_t size = comm_size(group), rank = comm_rank(group);
  int64_t sum[2] = {rank, INT64_C(1) << 40}, most[1] = {rank - 5}, least[1] = {rank - 5};
  must(comm_all_reduce(group, sum, 2, COMM_I64, COMM_SUM, &error), &error);
  must(comm_all_reduce(group, most, 1, COMM_I64, COMM_MAX, &error), &error);
  must(comm_all_reduce(group, least, 1, COMM_I64, COMM_MIN, &error), &error);
  assert_int_equal(sum[0], size * (size - 1) / 2);
  assert_int_equal(sum[1], size << 40);
  assert_int_equal(most[0], size - 6);
  assert_int_equal(least[0], -5);
}

static void test_all_reduce_reals(void **state) {
  (void)state;
  Error error = {0};
  int size = comm_size(group), rank = comm_rank(group);
  enum { COUNT = 400001 };
  double *values = malloc(COUNT * sizeof *values);
  assert_non_null(values);
  for (int i = 0; i < COUNT; i++) values[i] = (double)(rank + 1) / (double)(i + 1);
  must(comm_all_reduce(group, values, COUNT, COMM_F64, COMM_SUM, &error), &error);
  int wrong = 0;
  for (int i = 0; i < COUNT; i++) {
    double expected = 0;
    for (int r = 0; r < size; r++) expected += (double)(r + 1) / (double)(i + 1);
    wrong += values[i] != expected;
  }
  assert_int_equal(wrong, 0);
  free(values);

  float real = (float)rank + 0.5F;
  must(comm_all_reduce(group, &real, 1, COMM_F32, COMM_MAX, &error), &error);
  assert_true(real == (float)size - 0.5F);
  uint16_t half = to_bf16((float)rank + 1);
  must(comm_all_reduce(group, &half, 1, COMM_BF16, COMM_SUM, &error), &error);
  assert_true(from_bf16(half) == (float)(size * (size + 1) / 2));
}

static void test_nan_wins_everywhere(void **state) {
  (void)state;
  Error error = {0};
  for (int where = 0; where < comm_size(group); where++) {
    double most = comm_rank(group) == where ? (double)NAN : 1.0, least = most;
    must(comm_all_reduce(group, &most, 1, COMM_F64, COMM_MAX, &error), &error);
    must(comm_all_reduce(group, &least, 1, COMM_F64, COMM_MIN, &error), &error);
    assert_true(isnan(most));
    assert_true(isnan(least));
    float gradient[3] = {1, comm_rank(group) == where ? NAN : 1, 1};
    must(comm_average_start(group, gradient, 3, COMM_F32, &error), &error);
    must(comm_average_wait(group, &error), &error);
    assert_true(gradient[0] == 1 && isnan(gradient[1]) && gradient[2] == 1);
  }
}

/* Against a sum in double precision of what every rank put in. */
static void check_average(int64_t count, uint32_t round) {
  Error error = {0};
  int size = comm_size(group);
  float *values = new_floats(count), *other = new_floats(count);
  double *expected = calloc((size_t)count, sizeof *expected);
  assert_non_null(expected);
  for (int r = 0; r < size; r++) {
    fill(other, count, r, round);
    for (int64_t i = 0; i < count; i++) expected[i] += (double)other[i] / size;
  }
  fill(values, count, comm_rank(group), round);
  must(comm_average_start(group, values, count, COMM_F32, &error), &error);
  must(comm_average_wait(group, &error), &error);
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; i++)
    wrong += !(fabs((double)values[i] - expected[i]) <= 1e-6 * (double)(1 << (i % 13)));
  assert_int_equal(wrong, 0);
  must_agree(values, (size_t)count * sizeof *values);
  free(values);
  free(other);
  free(expected);
}

static void test_average(void **state) {
  (void)state;
  static const int64_t counts[] = {1, 2, 3, 1000, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, ODD_COUNT};
  for (uint32_t i = 0; i < sizeof counts / sizeof *counts; i++) check_average(counts[i], i);
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

static void test_start_does_not_wait(void **state) {
  (void)state;
  Error error = {0};
  float value = (float)comm_rank(group);
  must(comm_barrier(group, &error), &error);
  CommStats before = comm_stats(group);
  if (comm_rank(group) == 1) usleep(400000);
  double began = clock_seconds();
  must(comm_average_start(group, &value, 1, COMM_F32, &error), &error);
  assert_true(clock_seconds() - began < 0.2);
  must(comm_average_wait(group, &error), &error);
  assert_true(value == (float)(comm_size(group) - 1) / 2);
  CommStats after = comm_stats(group);
  if (comm_size(group) == 1) { /* nothing was sent */
    assert_int_equal(after.collectives, 0);
    return;
  }
  assert_int_equal(after.collectives - before.collectives, 1);
  assert_int_equal(after.bytes - before.bytes, 4);
  if (comm_rank(group) == 0) { /* waited for rank 1 */
    assert_true(after.seconds_waiting - before.seconds_waiting > 0.2);
    assert_true(after.seconds_busy - before.seconds_busy > 0.2);
  }
}

static void test_average_refuses(void **state) {
  (void)state;
  Error error = {0};
  double value = 1;
  assert_int_equal(comm_average_start(group, &value, 1, COMM_F64, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "must be F32 or BF16"));
  assert_int_equal(comm_average_start(group, &value, -1, COMM_F32, &error), ERROR_INTERNAL);
}

static void test_agree(void **state) {
  (void)state;
  Error error = {0};
  int rank = comm_rank(group), size = comm_size(group);
  assert_int_equal(comm_agree(group, OK, &error), OK);

  /* The last two ranks fail, each in its own way. */
  Status own = OK;
  if (rank == size - 1) own = error_set(&error, ERROR_IO, "disk of rank %d", rank);
  if (rank == size - 2) own = error_set(&error, ERROR_DATA, "clip of rank %d", rank);
  assert_int_equal(comm_agree(group, own, &error), ERROR_IO);
  assert_int_equal(error.status, ERROR_IO);
  char expected[64];
  if (rank >= size - 2)
    snprintf(expected, sizeof expected, "%s of rank %d", rank == size - 1 ? "disk" : "clip", rank);
  else
    snprintf(expected, sizeof expected, "rank %d: clip of rank %d", size - 2, size - 2);
  assert_string_equal(error.message, expected);

  assert_int_equal(comm_agree(group, rank == 0 ? ERROR_DATA : OK, NULL), ERROR_DATA);
}

/* --- Scenarios -------------------------------------------------------------------------------- */

/* Rank 1 never joins; the others must leave by themselves, saying why. */
static int leave(Status status, const Error *error) {
  if (status == OK) return 1;
  fprintf(stderr, "%s\n", error->message);
  comm_abort(group, (int)status);
}

static int stuck(const char *operation) {
  Error error = {0};
  static float values[1 << 20];
  if (comm_rank(group) == 1) {
    sleep(60);
    return 1;
  }
  if (strcmp(operation, "barrier") == 0) return leave(comm_barrier(group, &error), &error);
  if (strcmp(operation, "broadcast") == 0)
    return leave(comm_broadcast(group, values, sizeof values, 1, &error), &error);
  Status status = comm_average_start(group, values, 1 << 20, COMM_F32, &error);
  if (status == OK) status = comm_average_wait(group, &error);
  Error second = {0};
  if (comm_barrier(group, &second) == OK) return 1; /* a broken group says so at once */
  fprintf(stderr, "then: %s\n", second.message);
  return leave(status, &error);
}

/* A peer that ends without a word at the end. */
static int missing_close(void) {
  if (comm_rank(group) == 1) {
    sleep(60);
    return 1;
  }
  comm_close(group);
  return 1;
}

/* Prints a checksum of results, to be compared from run to run. */
static int print_checksum(void) {
  Error error = {0};
  float *values = new_floats(ODD_COUNT);
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

static int play(const char *scenario) {
  if (strncmp(scenario, "stuck-", 6) == 0) return stuck(scenario + 6);
  if (strcmp(scenario, "missing-close") == 0) return missing_close();
  if (strcmp(scenario, "checksum") == 0) return print_checksum();
  if (strcmp(scenario, "late") == 0) return 0;
  if (strcmp(scenario, "size") == 0) {
    printf("size %d\n", comm_size(group));
    comm_close(group);
    return 0;
  }
  if (strcmp(scenario, "abort") == 0) {
    if (comm_rank(group) == comm_size(group) - 1) comm_abort(group, STOPPED);
    sleep(60);
    return 1;
  }
  fprintf(stderr, "unknown scenario %s\n", scenario);
  return ERROR_USAGE;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ranks),
      cmocka_unit_test(test_no_launcher_means_no_mpi),
      cmocka_unit_test(test_broadcast),
      cmocka_unit_test(test_all_gather),
      cmocka_unit_test(test_all_reduce_integers),
      cmocka_unit_test(test_all_reduce_reals),
      cmocka_unit_test(test_nan_wins_everywhere),
      cmocka_unit_test(test_average),
      cmocka_unit_test(test_average_of_bf16_is_summed_in_f32),
      cmocka_unit_test(test_averages_overlap),
      cmocka_unit_test(test_start_does_not_wait),
      cmocka_unit_test(test_average_refuses),
      cmocka_unit_test(test_agree),
  };
  Error error = {0};
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  bool late = argc > 1 && strcmp(argv[1], "late") == 0 && rank && strcmp(rank, "1") == 0;
  if (late) sleep(60);
  CommOptions options = {.timeout = argc > 1 ? 1.5 : 30, .overlap = true};
  if (comm_open(&argc, &argv, &options, &group, &error) != OK) {
    fprintf(stderr, "%s\n", error.message);
    return (int)error.status;
  }
  if (argc > 1) return play(argv[1]);
  if (comm_rank(group) > 0 && !freopen("/dev/null", "w", stdout)) return ERROR_IO;
  int failed = cmocka_run_group_tests_name("comm", tests, NULL, NULL);
  if (failed > 0) comm_abort(group, 1); /* the ranks may be at different places */
  comm_close(group);
  return 0;
}
