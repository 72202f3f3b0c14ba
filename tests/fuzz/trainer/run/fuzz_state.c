/* Restores the gradient guard from any bytes as state.json: rejected with a message that names the
 * place; or accepted, and then it decides on the next steps, and what it saves restores the same
 * state. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/support/fuzz.h"
#include "trainer/run/gradient_guard.h"

enum { MAX_SKIPS = 1000000 };
static const char WHERE[] = "state.json: guard";

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {
      "1e-320",
      "1e308",
      "\"bad_steps\":3",
      "\"bad_first\":9223372036854775807",
      "\"rollbacks\":9223372036854775807",
      "\"skipped_batches\":[1,2,3]",
      "[1.0,2.0,3.0,4.0]",
      "\"norm\":null",
      "{\"updated\":true,\"skipped\":false,\"norm\":1.0,\"limit\":0.0}",
      NULL};
  Dice dice = dice_new(seed);
  return mutate_json(data, size, room, WORDS, &dice);
}

/* Saves, restores in another guard, and saves again: the same text. */
static void check_saved(const Config *config, const GradientGuard *guard,
                        const StepOutcome *pending) {
  Error error = {0};
  json_t *saved = NULL, *again = NULL;
  StepOutcome other;
  GradientGuard *restored = guard_new(config);
  Status status = guard_save(guard, pending, &saved, &error);
  if (status == OK) {
    require(guard_restore(restored, saved, WHERE, false, &other, &error) == OK);
    require(guard_save(restored, &other, &again, &error) == OK);
    require(json_equal(saved, again));
  } else {
    require_error(status, &error);
  }
  json_decref(saved);
  json_decref(again);
  guard_free(restored);
}

static void take_steps(GradientGuard *guard, int64_t first) {
  StepControls controls = {0};
  int64_t skip;
  for (int64_t i = 0; i < 3; i++) {
    StepOutcome outcome = {.step = first + i, .kind = STEP_GAN};
    for (int n = 0; n < GUARD_NETWORK_COUNT; n++)
      outcome.networks[n] = (NetworkOutcome){true, i == 2, i == 2 ? (double)NAN : 1, 0};
    guard_set_limits(guard, &controls);
    guard_observe(guard, &outcome);
  }
  int64_t skips = guard_consecutive_skips(guard, &skip), batches;
  require(skips >= 0 && skips <= MAX_SKIPS + 3);
  if (skips < 1000) guard_skip_batches(guard);
  const int64_t *skipped = guard_skipped_batches(guard, &batches);
  for (int64_t i = 1; i < batches; i++) require(skipped[i] > skipped[i - 1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static Config config;
  static bool ready;
  Error error = {0};
  json_t *root = NULL;
  StepOutcome pending;
  if (!ready) require(config_set_defaults(&config_schema, &config, &error) == OK);
  ready = true;
  if (json_parse("state.json", (const char *)data, size, &root, &error) != OK) return 0;
  GradientGuard *guard = guard_new(&config);
  const json_t *saved = json_object_get(root, "guard");
  Status status = guard_restore(guard, saved, WHERE, false, &pending, &error);
  if (status == OK) {
    check_saved(&config, guard, &pending);
    take_steps(guard, pending.step < 0 ? 0 : pending.step);
  } else {
    require(status == ERROR_DATA && strncmp(error.message, WHERE, sizeof WHERE - 1) == 0);
  }
  guard_free(guard);
  json_decref(root);
  return 0;
}
