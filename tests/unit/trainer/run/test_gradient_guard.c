/* The guard: its limits against a plain computation, bad steps in a row, what is left out, and that
 * a guard that was saved and restored decides as one left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
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
  const double norms[GUARD_NETWORKS] = {generator, discriminator};
  for (int i = 0; i < GUARD_NETWORKS; i++) {
    outcome.of[i].updated = kind == STEP_GAN || i == GUARD_GENERATOR;
    outcome.of[i].norm = norms[i];
  }
  return outcome;
}

static StepOutcome bad_outcome(int64_t step, double norm) {
  StepOutcome outcome = outcome_of(step, STEP_GAN, norm, 1);
  outcome.of[GUARD_GENERATOR].skipped = true;
  return outcome;
}

static double draw_norm(Random *random) {
  return exp(0.3 * (double)random_normal(random) - 1);
}

static float generator_limit(const Guard *guard, StepKind kind) {
  StepControls controls = {.kind = kind, .generator_limit = -1, .discriminator_limit = -1};
  guard_limits(guard, &controls);
  return controls.generator_limit;
}

static int compare(const void *a, const void *b) {
  double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

/* The formula, word by word. */
static double plain_limit(const double *norms, int count, double outlier) {
  double logs[64], distances[64];
  for (int i = 0; i < count; i++) logs[i] = log(norms[i]);
  qsort(logs, (size_t)count, sizeof *logs, compare);
  double median = (logs[(count - 1) / 2] + logs[count / 2]) / 2;
  for (int i = 0; i < count; i++) distances[i] = fabs(logs[i] - median);
  qsort(distances, (size_t)count, sizeof *distances, compare);
  double mad = (distances[(count - 1) / 2] + distances[count / 2]) / 2;
  double scale = mad / 0.6745 > 0.05 ? mad / 0.6745 : 0.05;
  return exp(median + outlier * scale);
}

static void limits_follow_the_window(void **state) {
  (void)state;
  Guard *guard = guard_new(&config);
  Random random = random_stream(1, RANDOM_TEST, 1, 0);
  double norms[200];
  for (int step = 0; step < 200; step++) {
    int held = step < 40 ? step : 40;
    float limit = generator_limit(guard, STEP_GAN);
    if (held < 32)
      assert_true(limit == 0.0f);
    else
      assert_true(fabs((double)limit / plain_limit(norms + step - held, held, 5) - 1) < 1e-6);
    norms[step] = draw_norm(&random);
    StepOutcome outcome = outcome_of(step, STEP_GAN, norms[step], 1);
    assert_int_equal(guard_observe(guard, &outcome), GUARD_GOOD);
  }
  guard_free(guard);
}

/* Equal norms: the scale does not become 0. */
static void equal_norms_leave_room(void **state) {
  (void)state;
  Guard *guard = guard_new(&config);
  for (int64_t step = 0; step < 40; step++) {
    StepOutcome outcome = outcome_of(step, STEP_GAN, 2, 0);
    guard_observe(guard, &outcome);
  }
  StepControls controls = {.kind = STEP_GAN};
  guard_limits(guard, &controls);
  assert_true(fabs((double)controls.generator_limit - 2 * exp(5 * 0.05)) < 1e-5);
  assert_true(controls.discriminator_limit == 0.0f); /* norms of 0 say nothing */
  guard_free(guard);
}

static void warm_up_and_game_are_apart(void **state) {
  (void)state;
  Guard *guard = guard_new(&config);
  int64_t step = 0;
  for (; step < 40; step++) {
    StepOutcome outcome = outcome_of(step, STEP_WARMUP, 1, (double)NAN);
    guard_observe(guard, &outcome);
  }
  assert_true(generator_limit(guard, STEP_WARMUP) > 1.0f);
  assert_true(generator_limit(guard, STEP_GAN) == 0.0f);
  StepOutcome outcome = outcome_of(step, STEP_GAN, 100, 1);
  guard_observe(guard, &outcome);
  assert_true(generator_limit(guard, STEP_GAN) == 0.0f);
  guard_free(guard);
}

/* A step with R1 now and then has another loss, of the discriminators alone. */
static void r1_is_apart(void **state) {
  (void)state;
  Guard *guard = guard_new(&config), *plain = guard_new(&config);
  for (int64_t step = 0; step < 80; step++) {
    bool regularised = step % 4 == 3;
    StepOutcome outcome = outcome_of(step, STEP_GAN, 1, regularised ? 50 : 1);
    outcome.regularised = regularised;
    guard_observe(guard, &outcome);
    if (!regularised) guard_observe(plain, &outcome);
  }
  StepControls with = {.kind = STEP_GAN, .regularise = true}, without = {.kind = STEP_GAN},
               expected;
  expected = without;
  guard_limits(guard, &with);
  guard_limits(guard, &without);
  guard_limits(plain, &expected);
  assert_true(with.discriminator_limit == 0.0f);
  assert_true(without.discriminator_limit == expected.discriminator_limit);
  assert_true(without.discriminator_limit > 1.0f && without.discriminator_limit < 2.0f);
  assert_true(with.generator_limit == without.generator_limit && with.generator_limit > 1.0f);
  guard_free(plain);
  guard_free(guard);
}

static void bad_steps_do_not_enter(void **state) {
  (void)state;
  Guard *guard = guard_new(&config);
  int64_t first;
  for (int64_t step = 0; step < 40; step++) {
    StepOutcome outcome = outcome_of(step, STEP_GAN, 1 + 0.01 * (double)(step % 7), 1);
    guard_observe(guard, &outcome);
  }
  float before = generator_limit(guard, STEP_GAN);
  StepOutcome worse = bad_outcome(40, 1e6), worst = bad_outcome(41, (double)NAN);
  assert_true(outcome_is_bad(&worse));
  assert_int_equal(guard_observe(guard, &worse), GUARD_BAD);
  assert_int_equal(guard_observe(guard, &worst), GUARD_BAD);
  assert_int_equal(guard_bad_steps(guard, &first), 2);
  assert_int_equal(first, 40);
  assert_true(generator_limit(guard, STEP_GAN) == before);
  StepOutcome good = outcome_of(42, STEP_GAN, 1, 1);
  assert_int_equal(guard_observe(guard, &good), GUARD_GOOD);
  assert_int_equal(guard_bad_steps(guard, &first), 0);
  for (int64_t step = 43; step < 46; step++) {
    StepOutcome bad = bad_outcome(step, 1e6);
    assert_int_equal(guard_observe(guard, &bad), step < 45 ? GUARD_BAD : GUARD_GO_BACK);
  }
  guard_free(guard);
}

static void fail_steps(Guard *guard, int64_t first, int64_t count) {
  for (int64_t step = first; step < first + count; step++) {
    StepOutcome bad = bad_outcome(step, (double)INFINITY);
    guard_observe(guard, &bad);
  }
}

static void assert_left_out(const Guard *guard, const int64_t *expected, int64_t expected_count) {
  int64_t count;
  const int64_t *batches = guard_skipped_batches(guard, &count);
  assert_int_equal(count, expected_count);
  for (int64_t i = 0; i < count; i++) assert_int_equal(batches[i], expected[i]);
}

static void batches_of_bad_steps_are_left_out(void **state) {
  (void)state;
  Guard *guard = guard_new(&config);
  fail_steps(guard, 10, 3);
  guard_leave_out(guard);
  assert_left_out(guard, (const int64_t[]){10, 11, 12}, 3);
  fail_steps(guard, 9, 3); /* batches 9, 13, 14 by now */
  guard_leave_out(guard);
  assert_left_out(guard, (const int64_t[]){9, 10, 11, 12, 13, 14}, 6);
  fail_steps(guard, 2, 1);
  guard_leave_out(guard);
  assert_left_out(guard, (const int64_t[]){2, 9, 10, 11, 12, 13, 14}, 7);
  assert_int_equal(guard_rollbacks(guard), 3);
  guard_free(guard);
}

/* Through the text that state.json holds. */
static Guard *copy(const Guard *guard, const StepOutcome *pending, StepOutcome *found) {
  json_t *saved = guard_save(guard, pending), *read = NULL;
  assert_non_null(saved);
  char *text = json_dumps(saved, JSON_INDENT(2));
  if (json_parse("state", text, strlen(text), &read, &error) != OK) fail_msg("%s", error.message);
  Guard *other = guard_new(&config);
  if (guard_restore(other, read, "state", false, found, &error) != OK)
    fail_msg("%s", error.message);
  free(text);
  json_decref(saved);
  json_decref(read);
  return other;
}

static void a_restored_guard_decides_alike(void **state) {
  (void)state;
  Guard *guard = guard_new(&config);
  StepOutcome pending = {.step = -1}, found;
  Random random = random_stream(2, RANDOM_TEST, 2, 0);
  fail_steps(guard, 0, 3);
  guard_leave_out(guard);
  for (int64_t step = 0; step < 120; step++) {
    Guard *other = copy(guard, &pending, &found);
    assert_int_equal(found.step, pending.step);
    assert_int_equal(found.regularised, pending.regularised);
    assert_true(generator_limit(other, STEP_GAN) == generator_limit(guard, STEP_GAN));
    assert_int_equal(guard_observe(other, &found), guard_observe(guard, &pending));
    assert_true(generator_limit(other, STEP_GAN) == generator_limit(guard, STEP_GAN));
    int64_t first, other_first;
    assert_int_equal(guard_bad_steps(other, &other_first), guard_bad_steps(guard, &first));
    assert_left_out(other, (const int64_t[]){0, 1, 2}, 3);
    assert_int_equal(guard_rollbacks(other), 1);
    guard_free(other);
    pending = step % 11 == 10 ? bad_outcome(step, step % 2 ? (double)NAN : 1e9)
                              : outcome_of(step, STEP_GAN, draw_norm(&random), draw_norm(&random));
    pending.of[GUARD_GENERATOR].limit = 0.1 + (double)step;
    pending.regularised = step % 5 == 0;
  }
  guard_free(guard);
}

static void going_back_keeps_what_is_left_out(void **state) {
  (void)state;
  Guard *guard = guard_new(&config);
  StepOutcome none = {.step = -1}, found;
  json_t *early = guard_save(guard, &none);
  fail_steps(guard, 5, 3);
  guard_leave_out(guard);
  assert_int_equal(guard_restore(guard, early, "state", true, &found, &error), OK);
  assert_left_out(guard, (const int64_t[]){5, 6, 7}, 3);
  assert_int_equal(guard_restore(guard, NULL, NULL, true, &found, &error), OK);
  assert_int_equal(guard_rollbacks(guard), 1);
  assert_int_equal(found.step, -1);
  assert_int_equal(guard_restore(guard, early, "state", false, &found, &error), OK);
  assert_left_out(guard, NULL, 0);
  json_decref(early);
  guard_free(guard);
}

static void bad_states_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *text, *words;
  } CASES[] = {
      {"{}", "kind"},
      {"{\"kind\": 7}", "kind"},
      {"{\"kind\": 0, \"good_norms\": {\"generator\": [1, -2]}}", "good_norms.generator[1]"},
      {"{\"kind\": 0, \"good_norms\": {\"generator\": [], \"discriminator\": []}, \"pending\": 3}",
       "pending"},
      {"{\"kind\": 0, \"good_norms\": {\"generator\": [], \"discriminator\": []}, \"pending\": "
       "null, \"bad_first\": 0, \"bad_steps\": 0, \"rollbacks\": 0, \"skipped_batches\": [\"a\"]}",
       "skipped_batches[0]"},
  };
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    json_t *saved = NULL;
    StepOutcome found;
    Guard *guard = guard_new(&config);
    assert_int_equal(json_parse("x", CASES[i].text, strlen(CASES[i].text), &saved, &error), OK);
    assert_int_equal(guard_restore(guard, saved, "there", false, &found, &error), ERROR_DATA);
    assert_non_null(strstr(error.message, "there"));
    assert_non_null(strstr(error.message, CASES[i].words));
    json_decref(saved);
    guard_free(guard);
  }
}

static void without_a_window_only_infinity_counts(void **state) {
  (void)state;
  config.guard.window = 0;
  Guard *guard = guard_new(&config);
  for (int64_t step = 0; step < 100; step++) {
    StepOutcome outcome = outcome_of(step, STEP_GAN, 1, 1);
    guard_observe(guard, &outcome);
  }
  assert_true(generator_limit(guard, STEP_GAN) == 0.0f);
  guard_free(guard);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup(name, set_up)
  const struct CMUnitTest tests[] = {
      TEST(limits_follow_the_window),       TEST(equal_norms_leave_room),
      TEST(warm_up_and_game_are_apart),     TEST(r1_is_apart),
      TEST(bad_steps_do_not_enter),         TEST(batches_of_bad_steps_are_left_out),
      TEST(a_restored_guard_decides_alike), TEST(going_back_keeps_what_is_left_out),
      TEST(bad_states_are_refused),         TEST(without_a_window_only_infinity_counts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
