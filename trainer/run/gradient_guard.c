#include "trainer/run/gradient_guard.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/statistics.h"
#include "data/loader/shuffle.h"

enum { LEAST_GOOD = 32 };
static const double NORMAL_MAD = 0.6745; /* the MAD of a normal distribution of deviation 1 */
static const double LEAST_SCALE = 0.05;
static const char *const NETWORK_KEYS[GUARD_NETWORKS] = {"generator", "discriminator"};

/* Norms of good steps. */
typedef struct Window {
  double *norms; /* [size], a ring */
  int64_t count, next;
} Window;

struct Guard {
  int64_t size; /* of a window */
  double outlier;
  int64_t max_skips;
  StepKind kind; /* of the steps in the windows */
  Window windows[GUARD_NETWORKS];
  int64_t bad_first, bad_count; /* the bad steps in a row */
  int64_t *skipped_batches;
  int64_t skipped_batch_count, skipped_batch_capacity;
  int64_t rollbacks;
};

Guard *guard_new(const Config *config) {
  Guard *guard = mem_new(1, sizeof *guard);
  guard->size = config->guard.window;
  guard->outlier = config->guard.max_deviations;
  guard->max_skips = config->guard.max_skips;
  for (int i = 0; i < GUARD_NETWORKS; i++)
    guard->windows[i].norms = mem_new((size_t)guard->size + 1, sizeof(double));
  return guard;
}

void guard_free(Guard *guard) {
  if (!guard) return;
  for (int i = 0; i < GUARD_NETWORKS; i++) free(guard->windows[i].norms);
  free(guard->skipped_batches);
  free(guard);
}

/* --- Limits ----------------------------------------------------------------------------------- */

static double limit_of(const Guard *guard, const Window *window) {
  int64_t least = guard->size < LEAST_GOOD ? guard->size : LEAST_GOOD;
  if (window->count == 0 || window->count < least) return 0;
  double *values = mem_new((size_t)window->count, sizeof *values);
  for (int64_t i = 0; i < window->count; i++) values[i] = log(window->norms[i]);
  double middle = median(values, window->count);
  for (int64_t i = 0; i < window->count; i++) values[i] = fabs(values[i] - middle);
  double scale = fmax(median(values, window->count) / NORMAL_MAD, LEAST_SCALE);
  free(values);
  return exp(middle + guard->outlier * scale);
}

void guard_limits(const Guard *guard, StepControls *controls) {
  bool known = controls->kind == guard->kind;
  double generator = known ? limit_of(guard, &guard->windows[GUARD_GENERATOR]) : 0;
  double discriminator = known ? limit_of(guard, &guard->windows[GUARD_DISCRIMINATOR]) : 0;
  controls->generator_limit = (float)generator;
  controls->discriminator_limit = controls->regularise ? 0 : (float)discriminator;
}

/* --- Outcomes --------------------------------------------------------------------------------- */

bool outcome_is_bad(const StepOutcome *outcome) {
  if (outcome->step < 0) return false;
  for (int i = 0; i < GUARD_NETWORKS; i++)
    if (outcome->of[i].updated && outcome->of[i].skipped) return true;
  return false;
}

static void window_add(const Guard *guard, Window *window, double norm) {
  if (guard->size == 0 || !(norm > 0)) return; /* 0 has no logarithm and is no news */
  window->norms[window->next] = norm;
  window->next = (window->next + 1) % guard->size;
  if (window->count < guard->size) window->count++;
}

static void windows_clear(Guard *guard) {
  for (int i = 0; i < GUARD_NETWORKS; i++) guard->windows[i].count = guard->windows[i].next = 0;
}

GuardVerdict guard_observe(Guard *guard, const StepOutcome *outcome) {
  if (outcome->step < 0) return GUARD_GOOD;
  if (outcome_is_bad(outcome)) {
    if (guard->bad_count++ == 0) guard->bad_first = outcome->step;
    return guard->bad_count >= guard->max_skips ? GUARD_GO_BACK : GUARD_BAD;
  }
  guard->bad_count = 0;
  if (outcome->kind != guard->kind) windows_clear(guard);
  guard->kind = outcome->kind;
  for (int i = 0; i < GUARD_NETWORKS; i++) {
    bool other = outcome->regularised && i == GUARD_DISCRIMINATOR;
    if (outcome->of[i].updated && !other)
      window_add(guard, &guard->windows[i], outcome->of[i].norm);
  }
  return GUARD_GOOD;
}

int64_t guard_bad_steps(const Guard *guard, int64_t *first) {
  *first = guard->bad_first;
  return guard->bad_count;
}

/* --- Leaving out ------------------------------------------------------------------------------ */

static void leave_out(Guard *guard, int64_t batch) {
  int64_t place = guard->skipped_batch_count;
  MEM_PUSH_SLOT(guard->skipped_batches, guard->skipped_batch_count, guard->skipped_batch_capacity);
  for (; place > 0 && guard->skipped_batches[place - 1] > batch; place--)
    guard->skipped_batches[place] = guard->skipped_batches[place - 1];
  guard->skipped_batches[place] = batch;
  guard->skipped_batch_count++;
}

void guard_leave_out(Guard *guard) {
  int64_t count = guard->bad_count;
  int64_t *batches = mem_new((size_t)count + 1, sizeof *batches);
  for (int64_t i = 0; i < count; i++)
    batches[i] =
        shuffle_batch_of_step(guard->bad_first + i, guard->skipped_batches, guard->skipped_batch_count);
  for (int64_t i = 0; i < count; i++) leave_out(guard, batches[i]);
  free(batches);
  guard->bad_count = 0;
  guard->rollbacks++;
}

int64_t guard_rollbacks(const Guard *guard) {
  return guard->rollbacks;
}

const int64_t *guard_skipped_batches(const Guard *guard, int64_t *count) {
  *count = guard->skipped_batch_count;
  return guard->skipped_batches;
}

/* --- Saving ----------------------------------------------------------------------------------- */

/* JSON has no infinity and no NaN: null stands for both, which are treated alike. */
static json_t *save_number(double value) {
  return isfinite(value) ? json_real(value) : json_null();
}

static json_t *save_pending(const StepOutcome *pending) {
  if (pending->step < 0) return json_null();
  json_t *saved = json_pack("{s:I, s:i}", "step", (json_int_t)pending->step, "kind", pending->kind);
  if (pending->regularised) json_object_set_new(saved, "regularised", json_true());
  for (int i = 0; i < GUARD_NETWORKS; i++) {
    const NetworkOutcome *of = &pending->of[i];
    json_object_set_new(saved, NETWORK_KEYS[i],
                        json_pack("{s:b, s:b, s:o, s:f}", "updated", of->updated, "skipped",
                                  of->skipped, "norm", save_number(of->norm), "limit", of->limit));
  }
  return saved;
}

json_t *guard_save(const Guard *guard, const StepOutcome *pending) {
  json_t *windows = json_object(), *skipped_batches = json_array();
  for (int i = 0; i < GUARD_NETWORKS; i++) {
    const Window *window = &guard->windows[i];
    json_t *norms = json_array();
    for (int64_t k = 0; k < window->count; k++) { /* the oldest first */
      int64_t place = (window->next - window->count + k + guard->size) % guard->size;
      json_array_append_new(norms, json_real(window->norms[place]));
    }
    json_object_set_new(windows, NETWORK_KEYS[i], norms);
  }
  for (int64_t i = 0; i < guard->skipped_batch_count; i++)
    json_array_append_new(skipped_batches, json_integer((json_int_t)guard->skipped_batches[i]));
  return json_pack("{s:i, s:o, s:o, s:I, s:I, s:I, s:o}", "kind", guard->kind, "good_norms",
                   windows, "pending", save_pending(pending), "bad_first",
                   (json_int_t)(guard->bad_count ? guard->bad_first : 0), "bad_steps",
                   (json_int_t)guard->bad_count, "rollbacks", (json_int_t)guard->rollbacks,
                   "skipped_batches", skipped_batches);
}

/* --- Restoring -------------------------------------------------------------------------------- */

static Status restore_kind(const json_t *saved, const char *where, StepKind *kind, Error *error) {
  int64_t value = 0;
  Status status = json_get_int(saved, where, "kind", STEP_GAN, STEP_WARMUP, &value, error);
  *kind = (StepKind)value;
  return status;
}

static Status restore_network(const json_t *saved, const char *where, NetworkOutcome *of,
                              Error *error) {
  Status status = OK;
  const json_t *updated = json_object_get(saved, "updated");
  const json_t *skipped = json_object_get(saved, "skipped");
  if (!json_is_boolean(updated) || !json_is_boolean(skipped))
    FAIL(error, ERROR_DATA, "%s: \"updated\" and \"skipped\" must be true or false", where);
  of->updated = json_is_true(updated);
  of->skipped = json_is_true(skipped);
  of->norm = (double)NAN;
  if (!json_is_null(json_object_get(saved, "norm")))
    TRY(json_get_double(saved, where, "norm", &of->norm, error));
  TRY(json_get_double(saved, where, "limit", &of->limit, error));
done:
  return status;
}

static Status restore_pending(const json_t *saved, const char *where, StepOutcome *pending,
                              Error *error) {
  Status status = OK;
  if (json_is_null(json_object_get(saved, "pending"))) return OK;
  json_t *object, *of;
  TRY(json_get_object(saved, where, "pending", &object, error));
  TRY(restore_kind(object, where, &pending->kind, error));
  pending->regularised = json_is_true(json_object_get(object, "regularised"));
  for (int i = 0; i < GUARD_NETWORKS; i++) {
    TRY(json_get_object(object, where, NETWORK_KEYS[i], &of, error));
    TRY(restore_network(of, where, &pending->of[i], error));
  }
  TRY(json_get_int(object, where, "step", 0, INT64_MAX, &pending->step, error));
done:
  return status;
}

/* A window that has become smaller keeps the newest. */
static Status restore_windows(Guard *guard, const json_t *saved, const char *where, Error *error) {
  Status status = OK;
  size_t index;
  json_t *windows, *norms, *norm;
  TRY(json_get_object(saved, where, "good_norms", &windows, error));
  for (int i = 0; i < GUARD_NETWORKS; i++) {
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

static Status restore_left_out(Guard *guard, const json_t *saved, const char *where, Error *error) {
  Status status = OK;
  size_t index;
  json_t *batches, *batch;
  guard->skipped_batch_count = 0;
  TRY(json_get_int(saved, where, "rollbacks", 0, INT64_MAX, &guard->rollbacks, error));
  TRY(json_get_array(saved, where, "skipped_batches", &batches, error));
  json_array_foreach(batches, index, batch) {
    if (!json_is_integer(batch) || json_integer_value(batch) < 0)
      FAIL(error, ERROR_DATA, "%s: skipped_batches[%zu]: must be a batch's number", where, index);
    leave_out(guard, json_integer_value(batch));
  }
done:
  return status;
}

Status guard_restore(Guard *guard, const json_t *saved, const char *where, bool going_back,
                     StepOutcome *pending, Error *error) {
  Status status = OK;
  *pending = (StepOutcome){.step = -1};
  windows_clear(guard);
  guard->bad_first = guard->bad_count = 0;
  if (!going_back) guard->skipped_batch_count = guard->rollbacks = 0;
  if (!saved) return OK;
  TRY(restore_kind(saved, where, &guard->kind, error));
  TRY(restore_windows(guard, saved, where, error));
  TRY(restore_pending(saved, where, pending, error));
  TRY(json_get_int(saved, where, "bad_first", 0, INT64_MAX, &guard->bad_first, error));
  TRY(json_get_int(saved, where, "bad_steps", 0, INT64_MAX, &guard->bad_count, error));
  if (!going_back) TRY(restore_left_out(guard, saved, where, error));
done:
  return status;
}
