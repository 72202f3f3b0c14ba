#include "tests/unit/comm/support_group.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/random.h"

Comm *group;

void must(Status status, const Error *error) {
  if (status != OK) fail_msg("rank %d: %s", comm_rank(group), error->message);
}

void must_agree(const void *data, size_t bytes) {
  Error error = {0};
  int64_t crc = crc32c(0, data, bytes), low = crc, high = crc;
  must(comm_all_reduce(group, &low, 1, COMM_I64, COMM_MIN, &error), &error);
  must(comm_all_reduce(group, &high, 1, COMM_I64, COMM_MAX, &error), &error);
  assert_int_equal(low, high);
}

void fill(float *values, int64_t count, int rank, uint32_t round) {
  Random random = random_stream(7, RANDOM_TEST, (uint64_t)rank, round);
  for (int64_t i = 0; i < count; i++)
    values[i] = (float)(random_uniform(&random) - 0.5) * (float)(1 << (i % 13));
}

float *new_floats(int64_t count) {
  float *values = malloc((size_t)count * sizeof *values);
  assert_non_null(values);
  return values;
}

int exit_on_error(Status status, const Error *error) {
  if (status == OK) return 1;
  fprintf(stderr, "%s\n", error->message);
  comm_abort(group, (int)status);
}

void silence_other_ranks(void) {
  if (comm_rank(group) > 0 && !freopen("/dev/null", "w", stdout)) comm_abort(group, ERROR_IO);
}

int end_tests(int failed) {
  if (failed > 0) comm_abort(group, 1); /* the ranks may be in different tests */
  comm_close(group);
  return 0;
}
