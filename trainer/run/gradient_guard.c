#include "trainer/run/gradient_guard.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/statistics.h"
#include "checkpoints/checkpoint.h"
#include "data/loader/shuffle.h"

enum { MIN_NORMS = 32 };                 /* in a window, before there is a limit */
enum { MAX_COUNT = 1000000 };            /* the largest guard.max_skips and guard.max_rollbacks */
static const double NORMAL_MAD = 0.6745; /* the MAD of the standard normal distribution */
static const double MIN_SCALE = 0.05;
static const char STATE_NAME[] = "state.json: guard"; /* in errors */
static const char *const NETWORK_KEYS[GUARD_NETWORK_COUNT] = {"generator", "discriminator"};

/* Gradient norms of good steps. */
typedef struct Window {
  double *norms; /* [window_size], a ring buffer */
  int64_t count, next;
} Window;

struct GradientGuard {
  int64_t window_size;
  double max_deviations;
  int64_t max_skips;
  StepKind kind; /* of the steps in the windows */
  Window windows[GUARD_NETWORK_COUNT];
  int64_t first_skip, consecutive_skips; /* the first step of the row, and how many */
  int64_t *skipped_batches;
  int64_t skipped_batch_count, skipped_batch_capacity;
  int64_t rollbacks;
};

GradientGuard *guard_new(const Config *config) {
  GradientGuard *guard = mem_new(1, sizeof *guard);
  guard->window_size = config->guard.window;
  guard->max_deviations = config->guard.max_deviations;
  guard->max_skips = config->guard.max_skips;
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++)
    guard->windows[i].norms = mem_new((size_t)guard->window_size + 1, sizeof(double));
  return guard;
}

void guard_free(GradientGuard *guard) {
  if (!guard) return;
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) free(guard->windows[i].norms);
  free(guard->skipped_batches);
  free(guard);
}

/* --- Limits ----------------------------------------------------------------------------------- */

/* Returns 0 while there is no limit. FLT_MAX is the largest norm that a float can hold. */
static double limit_of(const GradientGuard *guard, const Window *window) {
  int64_t needed = guard->window_size < MIN_NORMS ? guard->window_size : MIN_NORMS;
  if (window->count == 0 || window->count < needed) return 0;
  double *values = mem_new((size_t)window->count, sizeof *values);
  for (int64_t i = 0; i < window->count; i++) values[i] = log(window->norms[i]);
  double center = median(values, window->count);
  for (int64_t i = 0; i < window->count; i++) values[i] = fabs(values[i] - center);
  double scale = fmax(median(values, window->count) / NORMAL_MAD, MIN_SCALE);
  free(values);
  return fmin(exp(center + guard->max_deviations * scale), (double)FLT_MAX);
}

void guard_set_limits(const GradientGuard *guard, StepControls *controls) {
  bool same_kind = controls->kind == guard->kind;
  double generator = same_kind ? limit_of(guard, &guard->windows[GUARD_GENERATOR]) : 0;
  double discriminator = same_kind ? limit_of(guard, &guard->windows[GUARD_DISCRIMINATOR]) : 0;
  controls->generator_max_norm = (float)generator;
  controls->discriminator_max_norm = controls->apply_r1 ? 0 : (float)discriminator;
}

/* --- Outcomes --------------------------------------------------------------------------------- */

bool outcome_was_skipped(const StepOutcome *outcome) {
  if (outcome->step < 0) return false;
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++)
    if (outcome->networks[i].updated && outcome->networks[i].skipped) return true;
  return false;
}

static void window_add(const GradientGuard *guard, Window *window, double norm) {
  if (guard->window_size == 0 || !(norm > 0)) return; /* 0 has no logarithm */
  window->norms[window->next] = norm;
  window->next = (window->next + 1) % guard->window_size;
  if (window->count < guard->window_size) window->count++;
}

static void windows_clear(GradientGuard *guard) {
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++)
    guard->windows[i].count = guard->windows[i].next = 0;
}

GuardAction guard_observe(GradientGuard *guard, const StepOutcome *outcome) {
  if (outcome->step < 0) return GUARD_CONTINUE;
  if (outcome_was_skipped(outcome)) {
    if (guard->consecutive_skips++ == 0) guard->first_skip = outcome->step;
    return guard->consecutive_skips >= guard->max_skips ? GUARD_ROLL_BACK : GUARD_REPORT_SKIP;
  }
  guard->consecutive_skips = 0;
  if (outcome->kind != guard->kind) windows_clear(guard);
  guard->kind = outcome->kind;
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    bool other_loss = outcome->applied_r1 && i == GUARD_DISCRIMINATOR;
    if (outcome->networks[i].updated && !other_loss)
      window_add(guard, &guard->windows[i], outcome->networks[i].norm);
  }
  return GUARD_CONTINUE;
}

int64_t guard_consecutive_skips(const GradientGuard *guard, int64_t *first) {
  *first = guard->first_skip;
  return guard->consecutive_skips;
}

/* --- Skipped batches -------------------------------------------------------------------------- */

static void skip_batch(GradientGuard *guard, int64_t batch) {
  int64_t i = guard->skipped_batch_count;
  MEM_PUSH_SLOT(guard->skipped_batches, guard->skipped_batch_count, guard->skipped_batch_capacity);
  for (; i > 0 && guard->skipped_batches[i - 1] > batch; i--)
    guard->skipped_batches[i] = guard->skipped_batches[i - 1];
  guard->skipped_batches[i] = batch;
  guard->skipped_batch_count++;
}

void guard_skip_batches(GradientGuard *guard) {
  int64_t count = guard->consecutive_skips;
  int64_t *batches = mem_new((size_t)count + 1, sizeof *batches);
  for (int64_t i = 0; i < count; i++)
    batches[i] = shuffle_batch_of_step(guard->first_skip + i, guard->skipped_batches,
                                       guard->skipped_batch_count);
  for (int64_t i = 0; i < count; i++) skip_batch(guard, batches[i]);
  free(batches);
  guard->consecutive_skips = 0;
  guard->rollbacks++;
}

int64_t guard_rollbacks(const GradientGuard *guard) {
  return guard->rollbacks;
}

const int64_t *guard_skipped_batches(const GradientGuard *guard, int64_t *count) {
  *count = guard->skipped_batch_count;
  return guard->skipped_batches;
}

/* --- Saving ----------------------------------------------------------------------------------- */

/* JSON has no NaN and no infinity; both are saved as null and restored as NaN. */
static json_t *save_number(double value) {
  return isfinite(value) ? json_real(value) : json_null();
}

static Status save_network(const NetworkOutcome *network, json_t **out, Error *error) {
  *out = json_pack("{s:b, s:b, s:o, s:f}", "updated", network->updated, "skipped", network->skipped,
                   "norm", save_number(network->norm), "limit", network->limit);
  return json_built(*out, STATE_NAME, error);
}

static Status save_pending(const StepOutcome *pending, json_t **out, Error *error) {
  Status status = OK;
  *out = pending->step < 0
             ? json_null()
             : json_pack("{s:I, s:i}", "step", (json_int_t)pending->step, "kind", pending->kind);
  if (pending->step < 0) goto done;
  TRY(json_built(*out, STATE_NAME, error));
  if (pending->applied_r1) TRY(json_set(*out, "applied_r1", json_true(), STATE_NAME, error));
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    json_t *network;
    TRY(save_network(&pending->networks[i], &network, error));
    TRY(json_set(*out, NETWORK_KEYS[i], network, STATE_NAME, error));
  }
done:
  return status;
}

/* The norms of a window, oldest first. */
static Status save_window(const GradientGuard *guard, const Window *window, json_t *out,
                          Error *error) {
  Status status = OK;
  for (int64_t k = 0; k < window->count; k++) {
    int64_t i = (window->next - window->count + k + guard->window_size) % guard->window_size;
    TRY(json_append(out, json_real(window->norms[i]), STATE_NAME, error));
  }
done:
  return status;
}

Status guard_save(const GradientGuard *guard, const StepOutcome *pending, json_t **out,
                  Error *error) {
  Status status = OK;
  json_t *windows = json_object(), *skipped_batches = json_array(), *outcome = NULL;
  *out = NULL;
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    json_t *norms = json_array();
    TRY(json_set(windows, NETWORK_KEYS[i], norms, STATE_NAME, error));
    TRY(save_window(guard, &guard->windows[i], norms, error));
  }
  for (int64_t i = 0; i < guard->skipped_batch_count; i++)
    TRY(json_append(skipped_batches, json_integer((json_int_t)guard->skipped_batches[i]),
                    STATE_NAME, error));
  TRY(save_pending(pending, &outcome, error));
  *out = json_pack("{s:i, s:O, s:O, s:I, s:I, s:I, s:O}", "kind", guard->kind, "good_norms",
                   windows, "pending", outcome, "bad_first",
                   (json_int_t)(guard->consecutive_skips ? guard->first_skip : 0), "bad_steps",
                   (json_int_t)guard->consecutive_skips, "rollbacks", (json_int_t)guard->rollbacks,
                   "skipped_batches", skipped_batches);
  TRY(json_built(*out, STATE_NAME, error));
done:
  json_decref(windows);
  json_decref(skipped_batches);
  json_decref(outcome);
  return status;
}

/* --- Restoring -------------------------------------------------------------------------------- */

static Status restore_kind(const json_t *saved, const char *where, StepKind *kind, Error *error) {
  int64_t value = 0;
  Status status = json_get_int(saved, where, "kind", STEP_GAN, STEP_PRETRAIN, &value, error);
  *kind = (StepKind)value;
  return status;
}

static Status restore_network(const json_t *saved, const char *where, NetworkOutcome *network,
                              Error *error) {
  Status status = OK;
  const json_t *updated = json_object_get(saved, "updated");
  const json_t *skipped = json_object_get(saved, "skipped");
  if (!json_is_boolean(updated) || !json_is_boolean(skipped))
    FAIL(error, ERROR_DATA, "%s: \"updated\" and \"skipped\" must be true or false", where);
  network->updated = json_is_true(updated);
  network->skipped = json_is_true(skipped);
  network->norm = (double)NAN;
  if (!json_is_null(json_object_get(saved, "norm")))
    TRY(json_get_double(saved, where, "norm", &network->norm, error));
  TRY(json_get_double(saved, where, "limit", &network->limit, error));
done:
  return status;
}

static Status restore_pending(const json_t *saved, const char *where, StepOutcome *pending,
                              Error *error) {
  Status status = OK;
  if (json_is_null(json_object_get(saved, "pending"))) return OK;
  json_t *object, *network;
  TRY(json_get_object(saved, where, "pending", &object, error));
  TRY(restore_kind(object, where, &pending->kind, error));
  pending->applied_r1 = json_is_true(json_object_get(object, "applied_r1"));
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    TRY(json_get_object(object, where, NETWORK_KEYS[i], &network, error));
    TRY(restore_network(network, where, &pending->networks[i], error));
  }
  TRY(json_get_int(object, where, "step", 0, CHECKPOINT_MAX_STEP, &pending->step, error));
done:
  return status;
}

/* A window that is smaller than the saved one keeps the newest norms. */
static Status restore_windows(GradientGuard *guard, const json_t *saved, const char *where,
                              Error *error) {
  Status status = OK;
  size_t index;
  json_t *windows, *norms, *norm;
  TRY(json_get_object(saved, where, "good_norms", &windows, error));
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    TRY(json_get_array(windows, where, NETWORK_KEYS[i], &norms, error));
    json_array_foreach(norms, index, norm) {
      if (!json_is_number(norm) || !(json_number_value(norm) > 0))
        FAIL(error, ERROR_DATA, "%s: good_norms.%s[%zu]: must be a number above 0", where,
             NETWORK_KEYS[i], index);
      window_add(guard, &guard->windows[i], json_number_value(norm));
    }
  }
done:
  return status;
}

/* They are saved in ascending order. Any other would take time quadratic in their number. */
static Status restore_skipped_batches(GradientGuard *guard, const json_t *saved, const char *where,
                                      Error *error) {
  Status status = OK;
  size_t index;
  int64_t last = -1;
  json_t *batches, *batch;
  guard->skipped_batch_count = 0;
  TRY(json_get_int(saved, where, "rollbacks", 0, MAX_COUNT, &guard->rollbacks, error));
  TRY(json_get_array(saved, where, "skipped_batches", &batches, error));
  json_array_foreach(batches, index, batch) {
    int64_t number = json_integer_value(batch);
    if (!json_is_integer(batch) || number <= last)
      FAIL(error, ERROR_DATA,
           "%s: skipped_batches[%zu]: must be a batch number above the one before", where, index);
    skip_batch(guard, number);
    last = number;
  }
done:
  return status;
}

Status guard_restore(GradientGuard *guard, const json_t *saved, const char *where,
                     bool rolling_back, StepOutcome *pending, Error *error) {
  Status status = OK;
  *pending = (StepOutcome){.step = -1};
  windows_clear(guard);
  guard->first_skip = guard->consecutive_skips = 0;
  if (!rolling_back) guard->skipped_batch_count = guard->rollbacks = 0;
  if (!saved) return OK;
  TRY(restore_kind(saved, where, &guard->kind, error));
  TRY(restore_windows(guard, saved, where, error));
  TRY(restore_pending(saved, where, pending, error));
  TRY(json_get_int(saved, where, "bad_first", 0, CHECKPOINT_MAX_STEP, &guard->first_skip, error));
  TRY(json_get_int(saved, where, "bad_steps", 0, MAX_COUNT, &guard->consecutive_skips, error));
  if (!rolling_back) TRY(restore_skipped_batches(guard, saved, where, error));
done:
  return status;
}
