/* The training run: the loop is train_steps, at the end of the steps' part. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/signals.h"
#include "base/thread.h"
#include "trainer/gan/device_memory.h"
#include "trainer/run/replica_check.h"
#include "trainer/run/run.h"

/* --- What happens between steps --------------------------------------------------------------- */

/* The means over the ranks of a step's numbers, and how the time went, as a line of metrics. */
static Status record_metrics(Run *run, const StepControls *controls, Error *error) {
  Status status = OK;
  MetricsRecord *record = &run->record;
  StepResult result;
  TimeShares shares;
  double seconds;
  int64_t corrupt = loader_corrupt_clips(run->loader);
  TRY(model_result(run->model, 0, &result, error));
  double *values = result.metrics;
  TRY(comm_all_reduce(run->comm, values, METRIC_COUNT, COMM_F64, COMM_SUM, error));
  TRY(comm_all_reduce(run->comm, &corrupt, 1, COMM_I64, COMM_SUM, error));
  TRY(timing_gather(run->timing, &shares, &seconds, error));
  double steps = (double)(run->step - run->recorded_step);
  double regularised = schedule_regularised(run->config, run->recorded_step, run->step);
  *record = (MetricsRecord){
      .step = run->step,
      .seconds_per_step = seconds / steps,
      .clips_per_second = steps * (double)run->config->train.global_batch / seconds,
      .gflops = steps * model_cost(run->model, regularised).flops * run->world_size / seconds / 1e9,
      .generator_lr = (double)controls->generator_lr,
      .discriminator_lr = (double)controls->discriminator_lr,
      .computing = shares.computing,
      .time_data = shares.data,
      .time_comm_exposed = shares.exposed,
      .straggler_rank = run->world_size > 1 ? shares.slowest : -1,
      .straggler_seconds = shares.straggler_seconds / steps,
      .skipped_generator = result.generator.skipped,
      .skipped_discriminator = result.discriminator.skipped,
      .corrupt = corrupt,
      .rollbacks = guard_rollbacks(run->guard),
  };
  guard_skipped_batches(run->guard, &record->skipped_batches);
  for (int i = 0; i < METRIC_COUNT; i++) record->values[i] = values[i] / run->world_size;
  if (run->rank == 0) status = run_write_record(run, error);
  run->recorded_step = run->step;
  status = run_agree(run, status, error);
done:
  return status;
}

static bool is_due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

/* Rank 0 draws, the others wait for it: a signal meanwhile is theirs too. */
static Status write_samples(Run *run, bool *stop, Error *error) {
  Status status = OK;
  heartbeat_phase(run->heartbeat, PHASE_EVALUATION, run->step);
  if (run->rank == 0) status = run_write_samples(run, error);
  TRY(run_agree(run, status, error));
  TRY(run_agree_to_stop(run, stop, error));
done:
  return status;
}

/* A step that was skipped is not a state to keep: the run may have to go back to before it. What is
 * due then is saved behind the next good step. */
static Status checkpoint_is_due(Run *run, bool *due, Error *error) {
  bool trouble = false;
  int64_t every = run->config->checkpoint.every;
  *due = every > 0 && run->step / every > run->saved_step / every;
  if (!*due) return OK;
  Status status = run_is_in_trouble(run, &trouble, error);
  *due = !trouble;
  return status;
}

/* The replicas are compared behind the copy: a bit that flips before it is found, one that flips
 * between copy and comparison is found too, and a later one is not in the copy. */
static Status save_checkpoint(Run *run, Error *error) {
  Status status = OK;
  heartbeat_phase(run->heartbeat, PHASE_CHECKPOINT, run->step);
  TRY(run_know_last_step(run, error));
  if (run->rank == 0) status = run_copy_state(run, error);
  TRY(run_agree(run, status, error));
  status = replicas_check(run->model, run->comm, error);
  if (status != OK) error_context(error, "no checkpoint of step %lld", (long long)run->step);
  TRY(run_agree(run, status, error));
  if (run->rank == 0) status = state_submit(run->copy, run->checkpoints, error);
  TRY(run_agree(run, status, error));
  run->saved_step = run->step;
done:
  return status;
}

/* A run that is stopped saves its state and nothing else: its other files are to be those of one
 * left alone. */
static Status between_steps(Run *run, const StepControls *controls, bool *stop, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  bool last = run->step == config->train.steps, due = false;
  if (last || is_due(run->step, config->metrics.every)) TRY(record_metrics(run, controls, error));
  if (run->rank == 0) progress_update(run->progress, run->step, &run->record);
  if (config->samples.every > 0 && (last || is_due(run->step, config->samples.every)))
    TRY(write_samples(run, stop, error));
  TRY(checkpoint_is_due(run, &due, error));
  if (last || *stop || due) TRY(save_checkpoint(run, error));
done:
  return status;
}

/* --- The loop --------------------------------------------------------------------------------- */

/* The seconds that computing has stood waiting for gradients since the last call. */
static Status newly_exposed(Run *run, double *seconds, Error *error) {
  double before = run->exposed;
  Status status = exchange_exposed_seconds(run->exchange, &run->exposed, error);
  *seconds = run->exposed - before;
  return status;
}

static Status compute(Run *run, const StepControls *controls, const MicroBatch *micro,
                      Error *error) {
  Status status = OK;
  heartbeat_phase(run->heartbeat, PHASE_STEP, run->step);
  run_note_step(run, controls);
  TRY(model_step(run->model, controls, micro, error));
  TRY(exchange_check(run->exchange, error));
done:
  return status;
}

static Status one_step(Run *run, const StepControls *controls, Error *error) {
  Status status = OK;
  int count = 0;
  double began = clock_seconds();
  Batch **batches = mem_new((size_t)run->micro_batches, sizeof(Batch *));
  MicroBatch *micro = mem_new((size_t)run->micro_batches, sizeof *micro);
  heartbeat_phase(run->heartbeat, PHASE_DATA, run->step);
  for (; count < run->micro_batches; count++) {
    TRY(loader_next(run->loader, &batches[count], error));
    const Batch *batch = batches[count];
    micro[count] = (MicroBatch){batch->source, batch->target, batch->samples};
  }
  run->read_at = clock_seconds();
  TRY(compute(run, controls, micro, error));
  run->step++;
  timing_add(run->timing, 0, run->read_at - began, 0);
done:
  for (int i = 0; i < count; i++) loader_release(run->loader, batches[i]);
  free(micro);
  free(batches);
  return status;
}

/* Behind a step: where its time went, and whether it is the last one. */
static Status meet(Run *run, bool *stop, Error *error) {
  Status status = OK;
  double exposed = 0;
  TRY(newly_exposed(run, &exposed, error));
  double computed = clock_seconds();
  TRY(run_agree_to_stop(run, stop, error));
  double met = clock_seconds();
  timing_add(run->timing, computed - run->read_at - exposed, 0, exposed + met - computed);
done:
  return status;
}

static Status train_steps(Run *run, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  bool stop = false, went_back = false;
  while (run->step < config->train.steps && !stop) {
    StepControls controls = schedule_at(config, run->step);
    guard_limits(run->guard, &controls);
    TRY(one_step(run, &controls, error));
    TRY(run_watch(run, &went_back, error));
    TRY(meet(run, &stop, error));
    if (!went_back) TRY(between_steps(run, &controls, &stop, error));
  }
  if (run->step == config->train.steps) return run_watch_end(run, error);
  if (stop)
    status = error_set(error, STOPPED,
                       "stopped by a signal after step %lld of %lld; go on with --resume auto",
                       (long long)run->step, (long long)config->train.steps);
done:
  return status;
}

/* --- The run ---------------------------------------------------------------------------------- */

static Status print_plan(const Run *run, Error *error) {
  Text text = {0};
  model_print(run->model, &text);
  Status status = memory_print(run->model, &text, error);
  if (run->rank == 0 && status == OK) fputs(text.data, stdout);
  text_free(&text);
  return status;
}

static Status open_group(Run *run, int *argc, char ***argv, Error *error) {
  const Config *config = run->config;
  CommOptions options = {.timeout = config->comm.start_timeout,
                         .reproducible = config->comm.reduce == COMM_REDUCE_REPRODUCIBLE,
                         .bf16_gradients = config->comm.gradients == PRECISION_BF16,
                         .overlap = config->comm.overlap};
  Status status = comm_open(argc, argv, &options, &run->comm, error);
  if (status != OK) return status;
  run->rank = comm_rank(run->comm);
  run->world_size = comm_size(run->comm);
  log_set_rank(run->rank, run->world_size);
  return OK;
}

/* Where this rank fails alone the others would wait for it. */
static void end_others(Run *run, Status status, const Error *error) {
  if (status == OK || run->common_failure || run->world_size == 1) return;
  log_error("%s", error->message);
  exchange_abort(run->exchange);
  comm_abort(run->comm, (int)status);
}

Status train_run(const Config *config, const TrainOptions *options, int *argc, char ***argv,
                 Error *error) {
  Status status = OK;
  Run run = {.config = config, .lock = -1};
  signals_catch();
  TRY(open_group(&run, argc, argv, error));
  TRY(run_set_up(&run, error));
  if (options->plan) {
    status = print_plan(&run, error);
    goto done;
  }
  TRY(run_begin(&run, options->resume, error));
  if (run.step >= config->train.steps)
    log_info("nothing to do: the run is at step %lld of %lld; a larger train.steps goes on",
             (long long)run.step, (long long)config->train.steps);
  else
    log_info("training on %s, %d rank%s", run.backend->describe(run.backend), run.world_size,
             run.world_size > 1 ? "s" : "");
  status = train_steps(&run, error);
done:
  if (run.comm) status = run_finish(&run, status, error);
  if (run.comm) end_others(&run, status, error);
  run_tear_down(&run);
  if (run.comm) comm_say(run.comm, status, error);
  comm_close(run.comm);
  return status;
}
