/* Who is slow, and how the time is shared out. */
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

static void the_slowest_does_not_wait(void **state) {
  (void)state;
  static const StepSeconds RANKS[] = {
      {.all = 10, .computing = 4, .data = 1, .exposed = 5},
      {.all = 10, .computing = 2, .data = 7, .exposed = 1},
      {.all = 10, .computing = 6, .data = 0, .exposed = 3},
  };
  TimeShares shares = timing_shares(RANKS, 3);
  assert_int_equal(shares.slowest, 1);
  assert_near(shares.straggler_seconds, 9);
  assert_near(shares.computing, 0.4);
  assert_near(shares.data, 8.0 / 30);
  assert_near(shares.exposed, 0.3);
}

static void stragglers_are_far_above_the_median(void **state) {
  (void)state;
  double times;
  assert_int_equal(timing_straggler((const double[]){3}, 1, &times), -1);
  assert_int_equal(timing_straggler((const double[]){1, 1.4}, 2, &times), -1);
  assert_int_equal(timing_straggler((const double[]){1, 1.6}, 2, &times), 1);
  assert_near(times, 1.6);
  assert_int_equal(timing_straggler((const double[]){9, 1, 1, 1}, 4, &times), 0);
  assert_int_equal(timing_straggler((const double[]){1, 2, 2, 2}, 4, &times), -1);
  assert_int_equal(timing_straggler((const double[]){1, 3, 2, 4, 2}, 5, &times), 3);
  assert_near(times, 2);
  assert_int_equal(timing_straggler((const double[]){0, 0, 0}, 3, &times), -1);
}

static void one_rank_adds_up(void **state) {
  (void)state;
  Error error;
  Comm *comm = NULL;
  Timing *timing = NULL;
  TimeShares shares;
  double seconds;
  CommOptions options = {.timeout = 10};
  assert_int_equal(comm_open(&(int){0}, NULL, &options, &comm, &error), OK);
  assert_int_equal(timing_new(comm, &timing, &error), OK);
  assert_true(timing_host(timing, 0)[0] != '\0');
  timing_add(timing, 100, 0, 0);
  timing_restart(timing);
  timing_add(timing, 2, 1, 0.5);
  timing_add(timing, 0, 0, 0.5);
  assert_int_equal(timing_gather(timing, &shares, &seconds, &error), OK);
  assert_near(shares.straggler_seconds, 3);
  assert_near(shares.exposed * seconds, 1);
  assert_int_equal(timing_gather(timing, &shares, &seconds, &error), OK);
  assert_near(shares.straggler_seconds, 0);
  timing_free(timing);
  comm_close(comm);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_slowest_does_not_wait),
      cmocka_unit_test(stragglers_are_far_above_the_median),
      cmocka_unit_test(one_rank_adds_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
