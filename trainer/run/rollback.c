/* Skipped steps: reading outcomes back, reporting them, rolling the run back. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "trainer/run/run.h"

static const char *const NETWORK_NAMES[GUARD_NETWORK_COUNT] = {"generator", "discriminator"};
static const Metric NORMS[GUARD_NETWORK_COUNT] = {METRIC_NORM_G, METRIC_NORM_D};
static const Metric LOSSES[GUARD_NETWORK_COUNT] = {METRIC_LOSS_G, METRIC_LOSS_D};

static const NetworkResult *result_of(const StepResult *result, int network) {
  return network == GUARD_GENERATOR ? &result->generator : &result->discriminator;
}

static const Parameters *network_of(const Run *run, int network) {
  return network == GUARD_GENERATOR ? gan_generator(run->gan) : gan_discriminator(run->gan);
}

/* --- Outcomes --------------------------------------------------------------------------------- */

void run_record_step_start(Run *run, const StepControls *controls) {
  StepOutcome outcome = {
      .step = run->step,
      .kind = controls->kind,
      .applied_r1 = controls->apply_r1,
      .networks = {[GUARD_GENERATOR] = {.limit = (double)controls->generator_max_norm},
                   [GUARD_DISCRIMINATOR] = {.limit = (double)controls->discriminator_max_norm}}};
  run->recent_steps[1] = run->recent_steps[0];
  run->recent_steps[0] = (RecentStep){.outcome = outcome};
}

/* Reads the outcome of the last step (`age` 0) or the one before (1) back, unless it is known. */
static Status read_outcome(Run *run, int age, Error *error) {
  Status status = OK;
  RecentStep *step = &run->recent_steps[age];
  StepResult *result = &step->result;
  if (step->is_read) goto done;
  TRY(gan_step_result(run->gan, age, result, error));
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    NetworkOutcome *network = &step->outcome.networks[i];
    network->updated = result->computed[NORMS[i]];
    network->norm = result->metrics[NORMS[i]];
    network->skipped = network->updated && result_of(result, i)->skipped_in_a_row > 0;
  }
  step->is_read = step->has_result = true;
done:
  return status;
}

Status run_read_last_step(Run *run, Error *error) {
  return read_outcome(run, 0, error);
}

Status run_last_step_was_skipped(Run *run, bool *out, Error *error) {
  Status status = read_outcome(run, 0, error);
  *out = outcome_was_skipped(&run->recent_steps[0].outcome);
  return status;
}

/* --- Reports ---------------------------------------------------------------------------------- */

/* "the discriminator's gradient norm 84 is above the limit 12, largest in image0.conv1.weight" */
static void describe_gradient(const Run *run, const RecentStep *step, int network, Text *out) {
  const NetworkOutcome *outcome = &step->outcome.networks[network];
  int worst = step->has_result ? result_of(&step->result, network)->worst_parameter : -1;
  text_append(out, "the %s's gradient ", NETWORK_NAMES[network]);
  if (isfinite(outcome->norm))
    text_append(out, "norm %.4g is above the limit %.4g", outcome->norm, outcome->limit);
  else
    text_append(out, "is not finite");
  if (worst >= 0) text_append(out, ", largest in %s", network_of(run, network)->items[worst].name);
}

/* Names the rank with a non-finite loss, or else with the largest. `results`: [world_size]. */
static void describe_loss(const Run *run, const StepResult *results, int network, Text *out) {
  Metric loss = LOSSES[network];
  int largest = 0;
  for (int r = 0; r < run->world_size; r++) {
    const char *bad = step_result_nonfinite_loss(&results[r]);
    if (bad) {
      text_append(out, "; %s is not finite on rank %d (%s)", bad, r,
                  step_timing_host(run->timing, r));
      return;
    }
    if (results[r].metrics[loss] > results[largest].metrics[loss]) largest = r;
  }
  text_append(out, "; %s is %.4g", gan_metric_name(loss), results[largest].metrics[loss]);
  if (run->world_size > 1)
    text_append(out, " on rank %d (%s), the largest", largest,
                step_timing_host(run->timing, largest));
}

/* Each network is skipped by its own gradient: the step may still have updated the other one. */
static void describe_consequence(const StepOutcome *outcome, Text *out) {
  int skipped = 0, updated = 0, last = 0;
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    updated += outcome->networks[i].updated;
    skipped += outcome->networks[i].skipped;
    if (outcome->networks[i].skipped) last = i;
  }
  if (skipped < updated)
    text_append(out, "the %s is not updated", NETWORK_NAMES[last]);
  else
    text_append(out, "no network is updated");
}

/* Describes a skipped step in run->skip_report and warns of it. Called by all ranks together. */
static Status report_skip(Run *run, const RecentStep *step, Error *error) {
  Status status = OK;
  Text text = {0};
  StepResult *results = mem_new((size_t)run->world_size, sizeof *results);
  int64_t count, samples = run->config->train.global_batch;
  const int64_t *skipped_batches = guard_skipped_batches(run->guard, &count);
  int64_t first = shuffle_batch_of_step(step->outcome.step, skipped_batches, count) * samples;
  TRY(comm_all_gather(run->comm, &step->result, sizeof *results, results, error));
  text_append(&text, "step %lld (samples %lld to %lld): ", (long long)step->outcome.step + 1,
              (long long)first, (long long)(first + samples - 1));
  const char *separator = "";
  for (int i = 0; i < GUARD_NETWORK_COUNT; i++) {
    if (!step->outcome.networks[i].skipped) continue;
    text_append(&text, "%s", separator);
    describe_gradient(run, step, i, &text);
    if (step->has_result) describe_loss(run, results, i, &text);
    separator = "; ";
  }
  snprintf(run->skip_report, sizeof run->skip_report, "%s", text.data);
  text_append(&text, "; ");
  describe_consequence(&step->outcome, &text);
  if (run->rank == 0) log_warning("%s", text.data);
done:
  text_free(&text);
  free(results);
  return status;
}

Status run_report_last_step(Run *run, Error *error) {
  Status status = OK;
  const RecentStep *last = &run->recent_steps[0];
  TRY(read_outcome(run, 0, error));
  if (outcome_was_skipped(&last->outcome)) TRY(report_skip(run, last, error));
done:
  return status;
}

/* --- Rolling back ----------------------------------------------------------------------------- */

static Status fail_after_rollbacks(Run *run, int64_t skipped_steps, Error *error) {
  run->failure_is_shared = true;
  return error_set(
      error, ERROR_INTERNAL,
      "%lld steps in a row were skipped (guard.max_skips) after %lld rollback%s "
      "(guard.max_rollbacks); the last one: %s. No checkpoint holds any of these steps",
      (long long)skipped_steps, (long long)guard_rollbacks(run->guard),
      guard_rollbacks(run->guard) == 1 ? "" : "s", run->skip_report);
}

/* `checkpoint` of rank 0 is the one to roll back to; NULL: the initial state. */
static Status restore(Run *run, const Checkpoint *checkpoint, Error *error) {
  Status status = OK;
  bool found = checkpoint != NULL;
  TRY(comm_broadcast(run->comm, &found, sizeof found, 0, error));
  TRY(run_restore(run, checkpoint, found, true, error));
  if (run->rank == 0) status = run_reopen_metrics(run, error);
  status = run_agree(run, status, error);
  step_timing_restart(run->timing);
  run->data_ready_at = clock_seconds();
  if (run->rank == 0 && status == OK)
    log_warning("rolled back to step %lld, %s: rollback %lld of %lld (guard.max_rollbacks)",
                (long long)run->step, checkpoint ? checkpoint->path : "the initial state",
                (long long)guard_rollbacks(run->guard),
                (long long)run->config->guard.max_rollbacks);
done:
  return status;
}

static Status roll_back(Run *run, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  int64_t first, count = guard_consecutive_skips(run->guard, &first);
  if (guard_rollbacks(run->guard) >= run->config->guard.max_rollbacks)
    return fail_after_rollbacks(run, count, error);
  if (run->rank == 0)
    log_warning("steps %lld to %lld were skipped, %lld in a row (guard.max_skips): rolling back to "
                "before them; training skips their samples from now on",
                (long long)first + 1, (long long)(first + count), (long long)count);
  heartbeat_set_phase(run->heartbeat, PHASE_START, run->step);
  guard_skip_batches(run->guard);
  if (run->rank == 0) status = run_open_rollback_checkpoint(run, first, &checkpoint, error);
  TRY(run_agree(run, status, error));
  TRY(restore(run, checkpoint, error));
done:
  checkpoint_close(checkpoint);
  return status;
}

Status run_guard_step(Run *run, bool *rolled_back, Error *error) {
  Status status = OK;
  const RecentStep *step = &run->recent_steps[1];
  *rolled_back = false;
  TRY(read_outcome(run, 1, error));
  GuardAction action = guard_observe(run->guard, &step->outcome);
  if (action == GUARD_CONTINUE) goto done;
  TRY(report_skip(run, step, error));
  if (action == GUARD_REPORT_SKIP) goto done;
  TRY(roll_back(run, error));
  *rolled_back = true;
done:
  return status;
}
