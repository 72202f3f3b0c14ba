/* Steps that go wrong: what they did, where it began, and going back. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "trainer/run/run.h"

static const char *const NETWORK_NAMES[GUARD_NETWORKS] = {"generator", "discriminator"};
static const Metric NORMS[GUARD_NETWORKS] = {METRIC_NORM_G, METRIC_NORM_D};
static const Metric LOSSES[GUARD_NETWORKS] = {METRIC_LOSS_G, METRIC_LOSS_D};

static const NetworkResult *result_of(const StepResult *result, int network) {
  return network == GUARD_GENERATOR ? &result->generator : &result->discriminator;
}

static const Parameters *network_of(const Run *run, int network) {
  return network == GUARD_GENERATOR ? model_generator(run->model) : model_discriminator(run->model);
}

/* --- Outcomes --------------------------------------------------------------------------------- */

void run_note_step(Run *run, const StepControls *controls) {
  run->started[1] = run->started[0];
  run->started[0] = (StartedStep){
      .outcome = {.step = run->step,
                  .kind = controls->kind,
                  .regularised = controls->regularise,
                  .of = {[GUARD_GENERATOR] = {.limit = (double)controls->generator_limit},
                         [GUARD_DISCRIMINATOR] = {.limit = (double)controls->discriminator_limit}}},
  };
}

/* Reads what the model says of the last step (`ago` 0) or the one before (1), if it is not known.
 */
static Status know(Run *run, int ago, Error *error) {
  Status status = OK;
  StartedStep *started = &run->started[ago];
  if (started->known) goto done;
  StepResult *result = &started->result;
  TRY(model_result(run->model, ago, result, error));
  for (int i = 0; i < GUARD_NETWORKS; i++) {
    NetworkOutcome *of = &started->outcome.of[i];
    of->updated = result->computed[NORMS[i]];
    of->norm = result->metrics[NORMS[i]];
    of->skipped = of->updated && result_of(result, i)->skipped_in_a_row > 0;
  }
  started->known = started->has_result = true;
done:
  return status;
}

Status run_know_last_step(Run *run, Error *error) {
  return know(run, 0, error);
}

Status run_is_in_trouble(Run *run, bool *out, Error *error) {
  Status status = know(run, 0, error);
  *out = outcome_is_bad(&run->started[0].outcome);
  return status;
}

/* --- Naming ----------------------------------------------------------------------------------- */

/* "the discriminator's gradient norm 84 is above the limit 12, worst in image0.conv1.weight" */
static void describe_network(const Run *run, const StartedStep *started, int network, Text *out) {
  const NetworkOutcome *of = &started->outcome.of[network];
  int worst = started->has_result ? result_of(&started->result, network)->worst : -1;
  text_append(out, "the %s's gradient ", NETWORK_NAMES[network]);
  if (isfinite(of->norm))
    text_append(out, "norm %.4g is above the limit %.4g", of->norm, of->limit);
  else
    text_append(out, "is not finite");
  if (worst >= 0) text_append(out, ", worst in %s", network_of(run, network)->items[worst].name);
}

/* Which rank's loss stands out. `results` is every rank's. */
static void describe_loss(const Run *run, const StepResult *results, int network, Text *out) {
  Metric loss = LOSSES[network];
  int largest = 0;
  for (int r = 0; r < run->world_size; r++) {
    const char *bad = model_first_bad_loss(&results[r]);
    if (bad) {
      text_append(out, "; %s is not finite on rank %d (%s)", bad, r, timing_host(run->timing, r));
      return;
    }
    if (results[r].metrics[loss] > results[largest].metrics[loss]) largest = r;
  }
  text_append(out, "; %s is %.4g", model_metric_name(loss), results[largest].metrics[loss]);
  if (run->world_size > 1)
    text_append(out, " on rank %d (%s), the largest", largest, timing_host(run->timing, largest));
}

/* Who learns nothing: a network whose own gradient is good has been updated, as ever. */
static void describe_consequence(const StepOutcome *outcome, Text *out) {
  int skipped = 0, updated = 0, last = 0;
  for (int i = 0; i < GUARD_NETWORKS; i++) {
    updated += outcome->of[i].updated;
    skipped += outcome->of[i].skipped;
    if (outcome->of[i].skipped) last = i;
  }
  if (skipped < updated)
    text_append(out, "the %s learns nothing from it", NETWORK_NAMES[last]);
  else
    text_append(out, "nothing is learned from it");
}

/* Every rank calls it for the same step, and has the words then. */
static Status report(Run *run, const StartedStep *started, Error *error) {
  Status status = OK;
  Text text = {0};
  StepResult *results = mem_new((size_t)run->world_size, sizeof *results);
  int64_t count, samples = run->config->train.global_batch;
  const int64_t *skipped_batches = guard_skipped_batches(run->guard, &count);
  int64_t first = shuffle_batch_of_step(started->outcome.step, skipped_batches, count) * samples;
  TRY(comm_all_gather(run->comm, &started->result, sizeof *results, results, error));
  text_append(&text, "step %lld (samples %lld to %lld): ", (long long)started->outcome.step + 1,
              (long long)first, (long long)(first + samples - 1));
  const char *between = "";
  for (int i = 0; i < GUARD_NETWORKS; i++) {
    if (!started->outcome.of[i].skipped) continue;
    text_append(&text, "%s", between);
    describe_network(run, started, i, &text);
    if (started->has_result) describe_loss(run, results, i, &text);
    between = "; ";
  }
  snprintf(run->trouble, sizeof run->trouble, "%s", text.data);
  text_append(&text, "; ");
  describe_consequence(&started->outcome, &text);
  if (run->rank == 0) log_warning("%s", text.data);
done:
  text_free(&text);
  free(results);
  return status;
}

/* --- Going back ------------------------------------------------------------------------------- */

static Status give_up(Run *run, int64_t bad_steps, Error *error) {
  run->common_failure = true;
  return error_set(
      error, ERROR_INTERNAL,
      "%lld steps in a row were skipped (guard.max_skips), after the run had gone back "
      "%lld times (guard.max_rollbacks); the last one: %s. What is saved is from "
      "before them",
      (long long)bad_steps, (long long)guard_rollbacks(run->guard), run->trouble);
}

/* Rank 0's `checkpoint` is the one to go back to; none: the beginning. */
static Status restore(Run *run, const Checkpoint *checkpoint, Error *error) {
  Status status = OK;
  bool found = checkpoint != NULL;
  TRY(comm_broadcast(run->comm, &found, sizeof found, 0, error));
  TRY(run_restore(run, checkpoint, found, true, error));
  if (run->rank == 0) status = run_reopen_metrics(run, error);
  status = run_agree(run, status, error);
  timing_restart(run->timing);
  run->read_at = clock_seconds();
  if (run->rank == 0 && status == OK)
    log_warning("went back to step %lld, %s: %lld of %lld times (guard.max_rollbacks)",
                (long long)run->step, checkpoint ? checkpoint->path : "the beginning",
                (long long)guard_rollbacks(run->guard),
                (long long)run->config->guard.max_rollbacks);
done:
  return status;
}

static Status go_back(Run *run, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  int64_t first_bad, bad_steps = guard_bad_steps(run->guard, &first_bad);
  if (guard_rollbacks(run->guard) >= run->config->guard.max_rollbacks)
    return give_up(run, bad_steps, error);
  if (run->rank == 0)
    log_warning("steps %lld to %lld were skipped, %lld in a row (guard.max_skips): the run goes "
                "back to before them and leaves their samples out from now on",
                (long long)first_bad + 1, (long long)(first_bad + bad_steps), (long long)bad_steps);
  heartbeat_phase(run->heartbeat, PHASE_START, run->step);
  guard_leave_out(run->guard);
  if (run->rank == 0) status = run_choose_before(run, first_bad, &checkpoint, error);
  TRY(run_agree(run, status, error));
  TRY(restore(run, checkpoint, error));
done:
  checkpoint_close(checkpoint);
  return status;
}

Status run_watch_end(Run *run, Error *error) {
  Status status = OK;
  const StartedStep *last = &run->started[0];
  TRY(know(run, 0, error));
  if (outcome_is_bad(&last->outcome)) TRY(report(run, last, error));
done:
  return status;
}

Status run_watch(Run *run, bool *went_back, Error *error) {
  Status status = OK;
  *went_back = false;
  TRY(know(run, 1, error));
  GuardVerdict verdict = guard_observe(run->guard, &run->started[1].outcome);
  if (verdict == GUARD_GOOD) goto done;
  TRY(report(run, &run->started[1], error));
  if (verdict == GUARD_BAD) goto done;
  TRY(go_back(run, error));
  *went_back = true;
done:
  return status;
}
