/* The training loop. Read it from top to bottom: train_run sets the run up and ends it, train_steps
 * is the loop, train_one_step a step, finish_step what follows it. All ranks run the same code;
 * each function that communicates is called by all of them together. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/signals.h"
#include "base/thread.h"
#include "trainer/gan/device_memory.h"
#include "trainer/run/augment_control.h"
#include "trainer/run/replica_check.h"
#include "trainer/run/run.h"

static Status open_group(Run *run, int *argc, char ***argv, Error *error);
static Status print_plan(const Run *run, Error *error);
static void abort_other_ranks(Run *run, Status status, const Error *error);
static Status train_steps(Run *run, Error *error);
static Status train_one_step(Run *run, const StepControls *controls, Error *error);
static Status adapt_augmentation(Run *run, Error *error);
static Status synchronise_stop_flag(Run *run, bool *stop, Error *error);
static Status finish_step(Run *run, const StepControls *controls, bool *stop, Error *error);
static Status record_metrics(Run *run, const StepControls *controls, Error *error);
static Status write_sample_sheet(Run *run, bool *stop, Error *error);
static Status checkpoint_is_due(Run *run, bool *due, Error *error);
static Status save_checkpoint(Run *run, Error *error);

/* --- The run ---------------------------------------------------------------------------------- */

Status train_run(const Config *config, const TrainOptions *options, int *argc, char ***argv,
                 Error *error) {
  Status status = OK;
  Run run = {.config = config, .sources = options->sources, .lock = -1};
  signals_install();
  TRY(open_group(&run, argc, argv, error));
  TRY(run_set_up(&run, error));
  if (options->plan) {
    status = print_plan(&run, error);
    goto done;
  }
  TRY(run_start(&run, options->resume, error));
  if (run.step >= config->train.steps)
    log_info("nothing to train: the checkpoint is at step %lld, train.steps is %lld; increase "
             "train.steps to continue",
             (long long)run.step, (long long)config->train.steps);
  else
    log_info("training on %s, %d rank%s", run.backend->describe(run.backend), run.world_size,
             run.world_size > 1 ? "s" : "");
  status = train_steps(&run, error);
done:
  if (run.comm) status = run_finish(&run, status, error);
  if (run.comm) abort_other_ranks(&run, status, error);
  run_tear_down(&run);
  if (run.comm) comm_report(run.comm, status, error);
  comm_close(run.comm);
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

static Status print_plan(const Run *run, Error *error) {
  Text text = {0};
  gan_print_plan(run->gan, &text);
  Status status = device_memory_print(run->gan, &text, error);
  if (run->rank == 0 && status == OK) fputs(text.data, stdout);
  text_free(&text);
  return status;
}

/* If only this rank has failed, the others would wait for it. */
static void abort_other_ranks(Run *run, Status status, const Error *error) {
  if (status == OK || run->failure_is_shared || run->world_size == 1) return;
  log_error("%s", error->message);
  gradient_sync_abort(run->gradient_sync);
  comm_abort(run->comm, (int)status);
}

/* --- The loop --------------------------------------------------------------------------------- */

static Status train_steps(Run *run, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  bool stop = false, rolled_back = false;
  while (run->step < config->train.steps && !stop) {
    StepControls controls = schedule_at(config, run->step);
    guard_set_limits(run->guard, &controls);
    controls.augment_probability = (float)run->augment_probability;
    TRY(train_one_step(run, &controls, error));
    TRY(run_guard_step(run, &rolled_back, error));
    if (!rolled_back) TRY(adapt_augmentation(run, error));
    TRY(synchronise_stop_flag(run, &stop, error));
    if (!rolled_back) TRY(finish_step(run, &controls, &stop, error));
  }
  if (run->step == config->train.steps) return run_report_last_step(run, error);
  if (stop)
    status = error_set(error, STOPPED,
                       "stopped by a signal after step %lld of %lld, checkpoint saved; continue "
                       "with --resume auto",
                       (long long)run->step, (long long)config->train.steps);
done:
  return status;
}

/* --- A step ----------------------------------------------------------------------------------- */

static Status compute_step(Run *run, const StepControls *controls, const MicroBatch *micro_batches,
                           Error *error) {
  Status status = OK;
  heartbeat_set_phase(run->heartbeat, PHASE_STEP, run->step);
  run_record_step_start(run, controls);
  TRY(gan_step(run->gan, controls, micro_batches, error));
  TRY(gradient_sync_check(run->gradient_sync, error));
done:
  return status;
}

/* Loads all micro-batches of the step, then computes it. */
static Status train_one_step(Run *run, const StepControls *controls, Error *error) {
  Status status = OK;
  int count = 0;
  double began = clock_seconds();
  Batch **batches = mem_new((size_t)run->micro_batches, sizeof(Batch *));
  MicroBatch *micro_batches = mem_new((size_t)run->micro_batches, sizeof *micro_batches);
  heartbeat_set_phase(run->heartbeat, PHASE_DATA, run->step);
  for (; count < run->micro_batches; count++) {
    TRY(loader_next(run->loader, &batches[count], error));
    const Batch *batch = batches[count];
    micro_batches[count] = (MicroBatch){.source = batch->source,
                                        .target = batch->target,
                                        .smoothed = batch->smoothed,
                                        .flow = batch->flow,
                                        .flow_mask = batch->flow_mask,
                                        .samples = batch->samples};
  }
  run->data_ready_at = clock_seconds();
  TRY(compute_step(run, controls, micro_batches, error));
  run->step++;
  step_timing_add(run->timing, 0, run->data_ready_at - began, 0);
done:
  for (int i = 0; i < count; i++) loader_release(run->loader, batches[i]);
  free(micro_batches);
  free(batches);
  return status;
}

/* Synchronises the stop flag, and adds the seconds of the step: waiting for the other ranks here
 * counts as exposed communication, as waiting for gradients does. */
static Status synchronise_stop_flag(Run *run, bool *stop, Error *error) {
  Status status = OK;
  double exposed_before = run->exposed_seconds;
  TRY(gradient_sync_exposed_seconds(run->gradient_sync, &run->exposed_seconds, error));
  double exposed = run->exposed_seconds - exposed_before;
  double computed_at = clock_seconds();
  TRY(run_sync_stop_flag(run, stop, error));
  double waited = clock_seconds() - computed_at;
  step_timing_add(run->timing, computed_at - run->data_ready_at - exposed, 0, exposed + waited);
done:
  return status;
}

/* Adapts the probability of augmentation to the last step, equally on all ranks. */
static Status adapt_augmentation(Run *run, Error *error) {
  Status status = OK;
  StepResult result;
  if (!augment_control_is_due(run->config, run->step)) return OK;
  TRY(gan_step_result(run->gan, 0, &result, error));
  double sign = result.metrics[METRIC_REAL_SIGN];
  TRY(comm_all_reduce(run->comm, &sign, 1, COMM_F64, COMM_SUM, error));
  run->augment_probability =
      augment_control_adapt(run->config, run->augment_probability, sign / run->world_size);
done:
  return status;
}

/* --- After a step ----------------------------------------------------------------------------- */

static bool is_due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

/* Writes what is due after the step. A run that is stopped only saves its state, so that its other
 * files are the same as those of an uninterrupted run. */
static Status finish_step(Run *run, const StepControls *controls, bool *stop, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  bool last = run->step == config->train.steps, due = false;
  if (last || is_due(run->step, config->metrics.every)) TRY(record_metrics(run, controls, error));
  if (run->rank == 0) progress_update(run->progress, run->step);
  if (config->samples.every > 0 && (last || is_due(run->step, config->samples.every)))
    TRY(write_sample_sheet(run, stop, error));
  TRY(checkpoint_is_due(run, &due, error));
  if (last || *stop || due) TRY(save_checkpoint(run, error));
done:
  return status;
}

/* Averages the metrics of the last step over all ranks, and writes them with the timing. */
static Status record_metrics(Run *run, const StepControls *controls, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  MetricsRecord *record = &run->record;
  StepResult result;
  TimeShares shares;
  double seconds;
  int64_t corrupt = loader_corrupt_clips(run->loader);
  TRY(gan_step_result(run->gan, 0, &result, error));
  double *values = result.metrics;
  TRY(comm_all_reduce(run->comm, values, METRIC_COUNT, COMM_F64, COMM_SUM, error));
  TRY(comm_all_reduce(run->comm, &corrupt, 1, COMM_I64, COMM_SUM, error));
  TRY(step_timing_gather(run->timing, &shares, &seconds, error));
  double steps = (double)(run->step - run->recorded_step);
  double r1_fraction = schedule_r1_fraction(run->config, run->recorded_step, run->step);
  *record = (MetricsRecord){
      .step = run->step,
      .seconds_per_step = seconds / steps,
      .clips_per_second = steps * (double)run->config->train.global_batch / seconds,
      .gflops = steps * gan_cost(run->gan, r1_fraction).flops * run->world_size / seconds / 1e9,
      .generator_lr = (double)controls->generator_lr,
      .discriminator_lr = (double)controls->discriminator_lr,
      .augment_probability = config->augment.mode == AUGMENT_NONE
                                 ? (double)NAN
                                 : (double)controls->augment_probability,
      .time_compute = shares.compute,
      .time_data = shares.data,
      .time_comm_exposed = shares.comm_exposed,
      .straggler_rank = run->world_size > 1 ? shares.straggler_rank : -1,
      .straggler_seconds = shares.straggler_seconds / steps,
      .skipped_generator = result.generator.skipped,
      .skipped_discriminator = result.discriminator.skipped,
      .corrupt = corrupt,
      .rollbacks = guard_rollbacks(run->guard),
  };
  guard_skipped_batches(run->guard, &record->skipped_batches);
  for (int i = 0; i < METRIC_COUNT; i++) record->values[i] = values[i] / run->world_size;
  if (run->rank == 0) status = run_write_metrics(run, error);
  run->recorded_step = run->step;
  status = run_agree(run, status, error);
done:
  return status;
}

/* Rank 0 writes the sheet while the others wait, so the stop flag is synchronised once more. */
static Status write_sample_sheet(Run *run, bool *stop, Error *error) {
  Status status = OK;
  heartbeat_set_phase(run->heartbeat, PHASE_EVALUATION, run->step);
  if (run->rank == 0) status = run_write_sample_sheet(run, error);
  TRY(run_agree(run, status, error));
  TRY(run_sync_stop_flag(run, stop, error));
done:
  return status;
}

/* After a skipped step the run may have to roll back to before it, so its state is not saved: the
 * checkpoint is due after the next good step instead. */
static Status checkpoint_is_due(Run *run, bool *due, Error *error) {
  bool skipped = false;
  int64_t every = run->config->checkpoint.every;
  *due = every > 0 && run->step / every > run->saved_step / every;
  if (!*due) return OK;
  Status status = run_last_step_was_skipped(run, &skipped, error);
  *due = !skipped;
  return status;
}

/* Compares the replicas after the snapshot is taken, so that a bit that flips before or between the
 * two is detected, and one that flips later is not in the snapshot. */
static Status save_checkpoint(Run *run, Error *error) {
  Status status = OK;
  heartbeat_set_phase(run->heartbeat, PHASE_CHECKPOINT, run->step);
  TRY(run_read_last_step(run, error));
  if (run->rank == 0) status = run_take_snapshot(run, error);
  TRY(run_agree(run, status, error));
  status = replicas_check(run->gan, run->comm, error);
  if (status != OK) error_context(error, "no checkpoint of step %lld", (long long)run->step);
  TRY(run_agree(run, status, error));
  if (run->rank == 0) status = training_snapshot_submit(run->snapshot, run->checkpoints, error);
  TRY(run_agree(run, status, error));
  run->saved_step = run->step;
done:
  return status;
}
