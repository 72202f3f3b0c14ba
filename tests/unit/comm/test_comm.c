/* Tests of the process group: with one rank as a unit test, with several under mpirun by
 * tests/distributed/test_comm.sh. With an argument the program runs one rank of a scenario (see
 * run_scenario) instead of the tests. */
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

#include "base/bf16.h"
#include "comm/internal.h"
#include "tests/unit/comm/support_group.h"

/* seconds; starting may be slow on a busy machine, and no scenario depends on it */
static const double START_TIMEOUT = 120, SHORT_TIMEOUT = 1.5;

/* --- Tests ------------------------------------------------------------------------------------ */

static void test_ranks_and_sizes_match_the_launcher(void **state) {
  (void)state;
  assert_in_range(comm_rank(group), 0, comm_size(group) - 1);
  assert_in_range(comm_local_rank(group), 0, comm_local_size(group) - 1);
  assert_int_equal(comm_local_size(group), comm_size(group)); /* all on this host */
  const char *expected = getenv("OMPI_COMM_WORLD_SIZE");
  assert_int_equal(comm_size(group), expected ? atoi(expected) : 1);
}

static void test_mpi_is_initialised_only_under_a_launcher(void **state) {
  (void)state;
  int initialized = -1;
  MPI_Initialized(&initialized);
  assert_int_equal(initialized, getenv("OMPI_COMM_WORLD_SIZE") != NULL);
}

static void test_broadcast_copies_from_every_root(void **state) {
  (void)state;
  Error error = {0};
  enum { BYTES = 5000001 }; /* more than one chunk */
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

static void test_all_gather_is_in_rank_order(void **state) {
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

static void test_all_reduce_of_integers_is_exact(void **state) {
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

static void test_all_reduce_of_reals_is_in_rank_order(void **state) {
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
  uint16_t half = bf16_from_f32((float)rank + 1);
  must(comm_all_reduce(group, &half, 1, COMM_BF16, COMM_SUM, &error), &error);
  assert_true(bf16_to_f32(half) == (float)(size * (size + 1) / 2));
}

static void test_nan_wins_on_every_rank(void **state) {
  (void)state;
  Error error = {0};
  for (int where = 0; where < comm_size(group); where++) {
    double most = comm_rank(group) == where ? (double)NAN : 1.0, least = most;
    must(comm_all_reduce(group, &most, 1, COMM_F64, COMM_MAX, &error), &error);
    must(comm_all_reduce(group, &least, 1, COMM_F64, COMM_MIN, &error), &error);
    assert_true(isnan(most));
    assert_true(isnan(least));
  }
}

static void test_agree_returns_the_worst_status_and_first_message(void **state) {
  (void)state;
  Error error = {0};
  int rank = comm_rank(group), size = comm_size(group);
  assert_int_equal(comm_agree(group, OK, &error), OK);

  /* The last two ranks fail, with different statuses. */
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

static void test_equal_digests_compare_equal(void **state) {
  (void)state;
  Error error = {0};
  CommDigest items[] = {{"generator.master", 1}, {"generator.ema", UINT64_MAX}};
  assert_int_equal(comm_compare_digests(group, items, 2, &error), OK);
  assert_int_equal(comm_compare_digests(group, items, 0, &error), OK);
}

static void test_different_values_are_named(void **state) {
  (void)state;
  Error error = {0};
  int size = comm_size(group), deviating = size - 1;
  if (size == 1) return; /* no other rank to differ from */
  CommDigest items[] = {{"generator.master", 1}, {"optimizer.first", 0xab}, {"counters", 3}};
  if (comm_rank(group) == deviating) items[1].value = 0xcd;
  assert_int_equal(comm_compare_digests(group, items, 3, &error), ERROR_INTERNAL);
  char expected[200];
  if (size == 2) /* no majority */
    snprintf(expected, sizeof expected,
             "1 of 3 checksums differ between the ranks: "
             "optimizer.first: rank 0 has ab, rank 1 has cd");
  else
    snprintf(expected, sizeof expected,
             "1 of 3 checksums differ between the ranks: optimizer.first: rank %d has cd, the "
             "other %d have ab",
             deviating, size - 1);
  assert_string_equal(error.message, expected);
  must(comm_barrier(group, &error), &error); /* the group stays usable */
}

static void test_different_names_are_an_error(void **state) {
  (void)state;
  Error error = {0};
  if (comm_size(group) == 1) return;
  CommDigest items[] = {{"a", 1}, {"b", 2}};
  int own_count = comm_rank(group) == 0 ? 1 : 2;
  assert_int_equal(comm_compare_digests(group, items, own_count, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "the list of names"));
  assert_non_null(strstr(error.message, "rank 0 has "));
}

static void test_invalid_options_are_rejected(void **state) {
  (void)state;
  Error error = {0};
  Comm *none;
  CommOptions both = {.timeout = 1, .reproducible = true, .bf16_gradients = true};
  assert_int_equal(comm_open(NULL, NULL, &both, &none, &error), ERROR_USAGE);
  assert_non_null(strstr(error.message, "single rank would not round them"));
  assert_int_equal(comm_open(NULL, NULL, &(CommOptions){0}, &none, &error), ERROR_INTERNAL);
}

/* --- Scenarios -------------------------------------------------------------------------------- */

/* Rank 1 never joins; the others must exit_on_error by themselves, saying why. */
static int stuck(const char *operation) {
  Error error = {0};
  static float values[1 << 20];
  group->options.timeout = SHORT_TIMEOUT;
  if (comm_rank(group) == 1) {
    sleep(60);
    return 1;
  }
  if (strcmp(operation, "barrier") == 0) return exit_on_error(comm_barrier(group, &error), &error);
  if (strcmp(operation, "broadcast") == 0)
    return exit_on_error(comm_broadcast(group, values, sizeof values, 1, &error), &error);
  Status status = comm_all_reduce_mean_start(group, values, 1 << 20, COMM_F32, &error);
  if (status == OK) status = comm_all_reduce_mean_wait(group, &error);
  Error second = {0};
  if (comm_barrier(group, &second) == OK) return 1; /* a failed group fails at once */
  fprintf(stderr, "then: %s\n", second.message);
  return exit_on_error(status, &error);
}

/* Rank 1 never calls comm_close. */
static int missing_close(void) {
  group->options.timeout = SHORT_TIMEOUT;
  if (comm_rank(group) == 1) {
    sleep(60);
    return 1;
  }
  comm_close(group);
  return 1;
}

static int run_scenario(const char *scenario) {
  if (strncmp(scenario, "stuck-", 6) == 0) return stuck(scenario + 6);
  if (strcmp(scenario, "missing-close") == 0) return missing_close();
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
      cmocka_unit_test(test_ranks_and_sizes_match_the_launcher),
      cmocka_unit_test(test_mpi_is_initialised_only_under_a_launcher),
      cmocka_unit_test(test_broadcast_copies_from_every_root),
      cmocka_unit_test(test_all_gather_is_in_rank_order),
      cmocka_unit_test(test_all_reduce_of_integers_is_exact),
      cmocka_unit_test(test_all_reduce_of_reals_is_in_rank_order),
      cmocka_unit_test(test_nan_wins_on_every_rank),
      cmocka_unit_test(test_agree_returns_the_worst_status_and_first_message),
      cmocka_unit_test(test_equal_digests_compare_equal),
      cmocka_unit_test(test_different_values_are_named),
      cmocka_unit_test(test_different_names_are_an_error),
      cmocka_unit_test(test_invalid_options_are_rejected),
  };
  Error error = {0};
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  bool late = argc > 1 && strcmp(argv[1], "late") == 0;
  if (late && rank && strcmp(rank, "1") == 0) sleep(60);
  CommOptions options = {.timeout = late ? SHORT_TIMEOUT : START_TIMEOUT, .overlap = true};
  options.reproducible = argc > 1 && strcmp(argv[1], "reproducible") == 0;
  if (comm_open(&argc, &argv, &options, &group, &error) != OK) {
    fprintf(stderr, "%s\n", error.message);
    return (int)error.status;
  }
  if (argc > 1) return run_scenario(argv[1]);
  silence_other_ranks();
  return end_tests(cmocka_run_group_tests_name("comm", tests, NULL, NULL));
}
