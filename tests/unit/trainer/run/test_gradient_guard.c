/* The gradient guard: limits against a direct computation, consecutive skipped steps, skipped
 * batches, and that a restored guard makes the same decisions as the saved one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "trainer/run/gradient_guard.h"

static Error error;
static Config config;

static int set_up(void **state) {
  (void)state;
  config =
      (Config){.guard = {.max_skips = 3, .max_rollbacks = 2, .window = 40, .max_deviations = 5}};
  return 0;
}

static StepOutcome outcome_of(int64_t step, StepKind kind, double generator, double discriminator) {
  StepOutcome outcome = {.step = step, .kind = kind};
  const double norms[GUARD_NETWORK_COUNT] = {generator, discriminator};
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    outcome.networks[i].updated = kind == STEP_GAN || i == GUARD_GENERATOR;
    outcome.networks[i].norm = norms[i];
  }
  return outcome;
}

static StepOutcome skipped_outcome(int64_t step, double norm) {
  StepOutcome outcome = outcome_of(step, STEP_GAN, norm, 1);
  outcome.networks[GUARD_GENERATOR].skipped = true;
  return outcome;
}

static double draw_norm(Random *random) {
  return exp(0.3 * (double)random_normal(random) - 1);
}

static float generator_limit(const GradientGuard *guard, StepKind kind) {
  StepControls controls = {.kind = kind, .generator_max_norm = -1, .discriminator_max_norm = -1};
  guard_set_limits(guard, &controls);
  return controls.generator_max_norm;
}

static int compare(const void *a, const void *b) {
  double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

/* The formula of gradient_guard.h, computed directly. */
static double expected_limit(const double *norms, int count, double max_deviations) {
  double logs[64], distances[64];
  for (int i = 0; i < count; i++) logs[i] = log(norms[i]);
  qsort(logs, (size_t)count, sizeof *logs, compare);
  double median = (logs[(count - 1) / 2] + logs[count / 2]) / 2;
  for (int i = 0; i < count; i++) distances[i] = fabs(logs[i] - median);
  qsort(distances, (size_t)count, sizeof *distances, compare);
  double mad = (distances[(count - 1) / 2] + distances[count / 2]) / 2;
  double scale = mad / 0.6745 > 0.05 ? mad / 0.6745 : 0.05;
  return exp(median + max_deviations * scale);
}

static void limits_match_the_formula(void **state) {
  (void)state;
  GradientGuard *guard = guard_new(&config);
  Random random = random_stream(1, RANDOM_TEST, 1, 0);
  double norms[200];
  for (int step = 0; step < 200; step++) {
    int held = step < 40 ? step : 40;
    float limit = generator_limit(guard, STEP_GAN);
    if (held < 32)
      assert_true(limit == 0.0f);
    else
      assert_true(fabs((double)limit / expected_limit(norms + step - held, held, 5) - 1) < 1e-6);
    norms[step] = draw_norm(&random);
    StepOutcome outcome = outcome_of(step, STEP_GAN, norms[step], 1);
    assert_int_equal(guard_observe(guard, &outcome), GUARD_CONTINUE);
  }
  guard_free(guard);
}

/* Equal norms have a MAD of 0: the minimum scale of 5 % applies. */
static void equal_norms_use_the_minimum_scale(void **state) {
  (void)state;
  GradientGuard *guard = guard_new(&config);
  for (int64_t step = 0; step < 40; step++) {
    StepOutcome outcome = outcome_of(step, STEP_GAN, 2, 0);
    guard_observe(guard, &outcome);
  }
  StepControls controls = {.kind = STEP_GAN};
  guard_set_limits(guard, &controls);
  assert_true(fabs((double)controls.generator_max_norm - 2 * exp(5 * 0.05)) < 1e-5);
  assert_true(controls.discriminator_max_norm == 0.0f); /* norms of 0 do not enter the window */
  guard_free(guard);
}

static void pretraining_norms_do_not_limit_gan_steps(void **state) {
  (void)state;
  GradientGuard *guard = guard_new(&config);
  int64_t step = 0;
  for (; step < 40; step++) {
    StepOutcome outcome = outcome_of(step, STEP_PRETRAIN, 1, (double)NAN);
    guard_observe(guard, &outcome);
  }
  assert_true(generator_limit(guard, STEP_PRETRAIN) > 1.0f);
  assert_true(generator_limit(guard, STEP_GAN) == 0.0f);
  StepOutcome outcome = outcome_of(step, STEP_GAN, 100, 1);
  guard_observe(guard, &outcome);
  assert_true(generator_limit(guard, STEP_GAN) == 0.0f);
  guard_free(guard);
}

/* With r1_interval > 1, steps with R1 have another loss, of the discriminators only. */
static void discriminator_norms_with_r1_are_ignored(void **state) {
  (void)state;
  GradientGuard *guard = guard_new(&config), *plain = guard_new(&config);
  for (int64_t step = 0; step < 80; step++) {
    bool regularised = step % 4 == 3;
    StepOutcome outcome = outcome_of(step, STEP_GAN, 1, regularised ? 50 : 1);
    outcome.applied_r1 = regularised;
    guard_observe(guard, &outcome);
    if (!regularised) guard_observe(plain, &outcome);
  }
  StepControls with = {.kind = STEP_GAN, .apply_r1 = true}, without = {.kind = STEP_GAN}, expected;
  expected = without;
  guard_set_limits(guard, &with);
  guard_set_limits(guard, &without);
  guard_set_limits(plain, &expected);
  assert_true(with.discriminator_max_norm == 0.0f);
  assert_true(without.discriminator_max_norm == expected.discriminator_max_norm);
  assert_true(without.discriminator_max_norm > 1.0f && without.discriminator_max_norm < 2.0f);
  assert_true(with.generator_max_norm == without.generator_max_norm &&
              with.generator_max_norm > 1.0f);
  guard_free(plain);
  guard_free(guard);
}

static void skipped_steps_do_not_enter_the_window(void **state) {
  (void)state;
  GradientGuard *guard = guard_new(&config);
  int64_t first;
  for (int64_t step = 0; step < 40; step++) {
    StepOutcome outcome = outcome_of(step, STEP_GAN, 1 + 0.01 * (double)(step % 7), 1);
    guard_observe(guard, &outcome);
  }
  float before = generator_limit(guard, STEP_GAN);
  StepOutcome worse = skipped_outcome(40, 1e6), worst = skipped_outcome(41, (double)NAN);
  assert_true(outcome_was_skipped(&worse));
  assert_int_equal(guard_observe(guard, &worse), GUARD_REPORT_SKIP);
  assert_int_equal(guard_observe(guard, &worst), GUARD_REPORT_SKIP);
  assert_int_equal(guard_consecutive_skips(guard, &first), 2);
  assert_int_equal(first, 40);
  assert_true(generator_limit(guard, STEP_GAN) == before);
  StepOutcome good = outcome_of(42, STEP_GAN, 1, 1);
  assert_int_equal(guard_observe(guard, &good), GUARD_CONTINUE);
  assert_int_equal(guard_consecutive_skips(guard, &first), 0);
  for (int64_t step = 43; step < 46; step++) {
    StepOutcome bad = skipped_outcome(step, 1e6);
    assert_int_equal(guard_observe(guard, &bad), step < 45 ? GUARD_REPORT_SKIP : GUARD_ROLL_BACK);
  }
  guard_free(guard);
}

static void skip_steps(GradientGuard *guard, int64_t first, int64_t count) {
  for (int64_t step = first; step < first + count; step++) {
    StepOutcome bad = skipped_outcome(step, (double)INFINITY);
    guard_observe(guard, &bad);
  }
}

static void assert_skipped_batches(const GradientGuard *guard, const int64_t *expected,
                                   int64_t expected_count) {
  int64_t count;
  const int64_t *batches = guard_skipped_batches(guard, &count);
  assert_int_equal(count, expected_count);
  for (int64_t i = 0; i < count; i++) assert_int_equal(batches[i], expected[i]);
}

static void batches_of_skipped_steps_are_skipped(void **state) {
  (void)state;
  GradientGuard *guard = guard_new(&config);
  skip_steps(guard, 10, 3);
  guard_skip_batches(guard);
  assert_skipped_batches(guard, (const int64_t[]){10, 11, 12}, 3);
  skip_steps(guard, 9, 3); /* these are batches 9, 13, 14 now */
  guard_skip_batches(guard);
  assert_skipped_batches(guard, (const int64_t[]){9, 10, 11, 12, 13, 14}, 6);
  skip_steps(guard, 2, 1);
  guard_skip_batches(guard);
  assert_skipped_batches(guard, (const int64_t[]){2, 9, 10, 11, 12, 13, 14}, 7);
  assert_int_equal(guard_rollbacks(guard), 3);
  guard_free(guard);
}

/* Saves a guard as text, as state.json does, and restores it. */
static GradientGuard *copy(const GradientGuard *guard, const StepOutcome *pending,
                           StepOutcome *found) {
  json_t *saved = NULL, *read = NULL;
  if (guard_save(guard, pending, &saved, &error) != OK) fail_msg("%s", error.message);
  char *text = json_dumps(saved, JSON_INDENT(2));
  if (json_parse("state", text, strlen(text), &read, &error) != OK) fail_msg("%s", error.message);
  GradientGuard *other = guard_new(&config);
  if (guard_restore(other, read, "state", false, found, &error) != OK)
    fail_msg("%s", error.message);
  free(text);
  json_decref(saved);
  json_decref(read);
  return other;
}

static void restored_guard_makes_the_same_decisions(void **state) {
  (void)state;
  GradientGuard *guard = guard_new(&config);
  StepOutcome pending = {.step = -1}, found;
  Random random = random_stream(2, RANDOM_TEST, 2, 0);
  skip_steps(guard, 0, 3);
  guard_skip_batches(guard);
  for (int64_t step = 0; step < 120; step++) {
    GradientGuard *other = copy(guard, &pending, &found);
    assert_int_equal(found.step, pending.step);
    assert_int_equal(found.applied_r1, pending.applied_r1);
    assert_true(generator_limit(other, STEP_GAN) == generator_limit(guard, STEP_GAN));
    assert_int_equal(guard_observe(other, &found), guard_observe(guard, &pending));
    assert_true(generator_limit(other, STEP_GAN) == generator_limit(guard, STEP_GAN));
    int64_t first, other_first;
    assert_int_equal(guard_consecutive_skips(other, &other_first),
                     guard_consecutive_skips(guard, &first));
    assert_skipped_batches(other, (const int64_t[]){0, 1, 2}, 3);
    assert_int_equal(guard_rollbacks(other), 1);
    guard_free(other);
    pending = step % 11 == 10 ? skipped_outcome(step, step % 2 ? (double)NAN : 1e9)
                              : outcome_of(step, STEP_GAN, draw_norm(&random), draw_norm(&random));
    pending.networks[GUARD_GENERATOR].limit = 0.1 + (double)step;
    pending.applied_r1 = step % 5 == 0;
  }
  guard_free(guard);
}

static void rollback_keeps_the_skipped_batches(void **state) {
  (void)state;
  GradientGuard *guard = guard_new(&config);
  StepOutcome none = {.step = -1}, found;
  json_t *early = NULL;
  assert_int_equal(guard_save(guard, &none, &early, &error), OK);
  skip_steps(guard, 5, 3);
  guard_skip_batches(guard);
  assert_int_equal(guard_restore(guard, early, "state", true, &found, &error), OK);
  assert_skipped_batches(guard, (const int64_t[]){5, 6, 7}, 3);
  assert_int_equal(guard_restore(guard, NULL, NULL, true, &found, &error), OK);
  assert_int_equal(guard_rollbacks(guard), 1);
  assert_int_equal(found.step, -1);
  assert_int_equal(guard_restore(guard, early, "state", false, &found, &error), OK);
  assert_skipped_batches(guard, NULL, 0);
  json_decref(early);
  guard_free(guard);
}

#define NO_NORMS                                                                                   \
  "{\"kind\": 0, \"good_norms\": {\"generator\": [], \"discriminator\": []}, \"pending\": null, "

static void invalid_states_are_rejected(void **state) {
  (void)state;
  static const struct {
    const char *text, *words;
  } CASES[] = {
      {"{}", "kind"},
      {"{\"kind\": 7}", "kind"},
      {"{\"kind\": 0, \"good_norms\": {\"generator\": [1, -2]}}", "good_norms.generator[1]"},
      {"{\"kind\": 0, \"good_norms\": {\"generator\": [], \"discriminator\": []}, \"pending\": 3}",
       "pending"},
      {NO_NORMS
       "\"bad_first\": 0, \"bad_steps\": 0, \"rollbacks\": 0, \"skipped_batches\": [\"a\"]}",
       "skipped_batches[0]"},
      {NO_NORMS
       "\"bad_first\": 0, \"bad_steps\": 0, \"rollbacks\": 0, \"skipped_batches\": [4, 4]}",
       "skipped_batches[1]"},
      /* A rollback would skip this many batches, one by one. */
      {NO_NORMS "\"bad_first\": 0, \"bad_steps\": 9223372036854775807}", "bad_steps"},
      {NO_NORMS "\"bad_first\": 9223372036854775807, \"bad_steps\": 1}", "bad_first"},
      {NO_NORMS "\"bad_first\": 0, \"bad_steps\": 0, \"rollbacks\": 9223372036854775807}",
       "rollbacks"},
  };
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    json_t *saved = NULL;
    StepOutcome found;
    GradientGuard *guard = guard_new(&config);
    assert_int_equal(json_parse("x", CASES[i].text, strlen(CASES[i].text), &saved, &error), OK);
    assert_int_equal(guard_restore(guard, saved, "there", false, &found, &error), ERROR_DATA);
    assert_non_null(strstr(error.message, "there"));
    assert_non_null(strstr(error.message, CASES[i].words));
    json_decref(saved);
    guard_free(guard);
  }
}

static void window_0_disables_the_limit(void **state) {
  (void)state;
  config.guard.window = 0;
  GradientGuard *guard = guard_new(&config);
  for (int64_t step = 0; step < 100; step++) {
    StepOutcome outcome = outcome_of(step, STEP_GAN, 1, 1);
    guard_observe(guard, &outcome);
  }
  assert_true(generator_limit(guard, STEP_GAN) == 0.0f);
  guard_free(guard);
}

/* The largest max_deviations with widely spread norms: exp() overflows, the limit is FLT_MAX, and
 * the state can be saved and restored. */
static void large_limits_stay_finite(void **state) {
  (void)state;
  config.guard.max_deviations = 1000;
  GradientGuard *guard = guard_new(&config);
  for (int64_t step = 0; step < 40; step++) {
    StepOutcome outcome = outcome_of(step, STEP_GAN, exp((double)(step % 8)), 1);
    guard_observe(guard, &outcome);
  }
  float limit = generator_limit(guard, STEP_GAN);
  assert_true(limit == FLT_MAX);
  StepOutcome pending = outcome_of(40, STEP_GAN, 1, 1), found;
  pending.networks[GUARD_GENERATOR].limit = (double)limit;
  GradientGuard *other = copy(guard, &pending, &found);
  assert_true(found.networks[GUARD_GENERATOR].limit == (double)limit);
  guard_free(other);
  guard_free(guard);
}

/* A value that JSON cannot hold is an error, not a checkpoint that cannot be resumed. */
static void infinite_limits_are_not_saved(void **state) {
  (void)state;
  json_t *saved = NULL;
  GradientGuard *guard = guard_new(&config);
  StepOutcome pending = outcome_of(0, STEP_GAN, 1, 1);
  pending.networks[GUARD_GENERATOR].limit = (double)INFINITY;
  assert_int_equal(guard_save(guard, &pending, &saved, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "state.json: guard: cannot be written as JSON"));
  assert_null(saved);
  guard_free(guard);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup(name, set_up)
  const struct CMUnitTest tests[] = {
      TEST(limits_match_the_formula),
      TEST(equal_norms_use_the_minimum_scale),
      TEST(pretraining_norms_do_not_limit_gan_steps),
      TEST(discriminator_norms_with_r1_are_ignored),
      TEST(skipped_steps_do_not_enter_the_window),
      TEST(batches_of_skipped_steps_are_skipped),
      TEST(restored_guard_makes_the_same_decisions),
      TEST(rollback_keeps_the_skipped_batches),
      TEST(invalid_states_are_rejected),
      TEST(window_0_disables_the_limit),
      TEST(large_limits_stay_finite),
      TEST(infinite_limits_are_not_saved),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
