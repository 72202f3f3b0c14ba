/* Step timing: time shares, stragglers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "trainer/run/step_timing.h"

static void assert_near(double found, double expected) {
  if (!(fabs(found - expected) < 1e-9)) fail_msg("%.12g instead of %.12g", found, expected);
}

static void shares_are_averaged_over_ranks(void **state) {
  (void)state;
  static const StepSeconds RANKS[] = {
      {.total = 10, .compute = 4, .data = 1, .comm_exposed = 5},
      {.total = 10, .compute = 2, .data = 7, .comm_exposed = 1},
      {.total = 10, .compute = 6, .data = 0, .comm_exposed = 3},
  };
  TimeShares shares = time_shares(RANKS, 3);
  assert_int_equal(shares.straggler_rank, 1);
  assert_near(shares.straggler_seconds, 9);
  assert_near(shares.compute, 0.4);
  assert_near(shares.data, 8.0 / 30);
  assert_near(shares.comm_exposed, 0.3);
}

static void straggler_exceeds_the_median(void **state) {
  (void)state;
  double ratio;
  assert_int_equal(find_straggler((const double[]){3}, 1, &ratio), -1);
  assert_int_equal(find_straggler((const double[]){1, 1.4}, 2, &ratio), -1);
  assert_int_equal(find_straggler((const double[]){1, 1.6}, 2, &ratio), 1);
  assert_near(ratio, 1.6);
  assert_int_equal(find_straggler((const double[]){9, 1, 1, 1}, 4, &ratio), 0);
  assert_int_equal(find_straggler((const double[]){1, 2, 2, 2}, 4, &ratio), -1);
  assert_int_equal(find_straggler((const double[]){1, 3, 2, 4, 2}, 5, &ratio), 3);
  assert_near(ratio, 2);
  assert_int_equal(find_straggler((const double[]){0, 0, 0}, 3, &ratio), -1);
}

static void gather_sums_the_seconds_of_one_rank(void **state) {
  (void)state;
  Error error;
  Comm *comm = NULL;
  StepTiming *timing = NULL;
  TimeShares shares;
  double seconds;
  CommOptions options = {.timeout = 10};
  assert_int_equal(comm_open(&(int){0}, NULL, &options, &comm, &error), OK);
  assert_int_equal(step_timing_new(comm, &timing, &error), OK);
  assert_true(step_timing_host(timing, 0)[0] != '\0');
  step_timing_add(timing, 100, 0, 0);
  step_timing_restart(timing);
  step_timing_add(timing, 2, 1, 0.5);
  step_timing_add(timing, 0, 0, 0.5);
  assert_int_equal(step_timing_gather(timing, &shares, &seconds, &error), OK);
  assert_near(shares.straggler_seconds, 3);
  assert_near(shares.comm_exposed * seconds, 1);
  assert_int_equal(step_timing_gather(timing, &shares, &seconds, &error), OK);
  assert_near(shares.straggler_seconds, 0);
  step_timing_free(timing);
  comm_close(comm);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shares_are_averaged_over_ranks),
      cmocka_unit_test(straggler_exceeds_the_median),
      cmocka_unit_test(gather_sums_the_seconds_of_one_rank),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
