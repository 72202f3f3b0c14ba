/* Adaptive augmentation: when the probability is adapted, in which direction, and its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "trainer/run/augment_control.h"

/* 8 clips a step and 320 clips from 0 to 1: each adaptation, after 4 steps, moves by 0.1. */
static Config config_of(const char *mode) {
  const char *const assignments[] = {"augment.probability=0.9", "augment.max_probability=0.75",
                                     "augment.target=0.6",      "augment.ramp_clips=320",
                                     "train.global_batch=8",    mode};
  Config config;
  Error error;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  for (size_t i = 0; i < sizeof assignments / sizeof *assignments; i++)
    if (config_assign(&config_schema, assignments[i], &config, NULL, &error) != OK)
      fail_msg("%s", error.message);
  return config;
}

static void assert_adapts(double probability, double real_sign, double expected) {
  const Config config = config_of("augment.mode=adaptive");
  double result = augment_control_adapt(&config, probability, real_sign);
  if (!(fabs(result - expected) < 1e-12))
    fail_msg("%g at a sign of %g becomes %g, expected %g", probability, real_sign, result,
             expected);
}

static void moves_towards_the_target(void **state) {
  (void)state;
  assert_adapts(0.3, 0.8, 0.4);
  assert_adapts(0.3, 1, 0.4);
  assert_adapts(0.3, 0.5, 0.2);
  assert_adapts(0.3, -1, 0.2);
}

static void stays_at_the_target(void **state) {
  (void)state;
  assert_adapts(0.3, 0.6, 0.3);
  assert_adapts(0.3, 0.6 + 1e-7, 0.3); /* rounding */
  assert_adapts(0.3, 0.6 - 1e-7, 0.3);
  assert_adapts(0.3, 0.6 + 1e-4, 0.4);
}

static void stays_within_its_bounds(void **state) {
  (void)state;
  assert_adapts(0.7, 1, 0.75);
  assert_adapts(0.75, 1, 0.75);
  assert_adapts(0.05, 0, 0);
  assert_adapts(0, -1, 0);
  assert_adapts(1, 1, 0.75); /* of a checkpoint with another bound */
}

static void a_sign_that_is_not_finite_changes_nothing(void **state) {
  (void)state;
  assert_adapts(0.3, (double)NAN, 0.3);
  assert_adapts(0.3, (double)INFINITY, 0.3);
}

static void is_due_every_fourth_step(void **state) {
  (void)state;
  const Config adaptive = config_of("augment.mode=adaptive");
  const Config fixed = config_of("augment.mode=fixed"), none = config_of("augment.mode=none");
  for (int64_t step = 1; step <= 16; step++) {
    assert_int_equal(augment_control_is_due(&adaptive, step), step % 4 == 0);
    assert_false(augment_control_is_due(&fixed, step));
    assert_false(augment_control_is_due(&none, step));
  }
}

static void the_initial_probability_is_bounded_if_it_is_adapted(void **state) {
  (void)state;
  const Config adaptive = config_of("augment.mode=adaptive"),
               fixed = config_of("augment.mode=fixed");
  assert_float_equal((float)augment_control_initial(&adaptive), 0.75f, 0);
  assert_float_equal((float)augment_control_initial(&fixed), 0.9f, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(moves_towards_the_target),
      cmocka_unit_test(stays_at_the_target),
      cmocka_unit_test(stays_within_its_bounds),
      cmocka_unit_test(a_sign_that_is_not_finite_changes_nothing),
      cmocka_unit_test(is_due_every_fourth_step),
      cmocka_unit_test(the_initial_probability_is_bounded_if_it_is_adapted),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
