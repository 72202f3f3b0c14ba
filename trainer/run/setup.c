/* Setting up, starting and ending a training run. */
#include <stdlib.h>
#include <unistd.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/log.h"
#include "base/signals.h"
#include "trainer/gan/device.h"
#include "trainer/gan/device_memory.h"
#include "trainer/gan/perceptual_loss.h"
#include "trainer/run/augment_control.h"
#include "trainer/run/preflight.h"
#include "trainer/run/run.h"

/* --- Agreement between ranks ------------------------------------------------------------------ */

Status run_agree(Run *run, Status own, Error *error) {
  Status status = comm_agree(run->comm, own, error);
  if (status != OK) run->failure_is_shared = true;
  return status;
}

Status run_sync_stop_flag(Run *run, bool *stop, Error *error) {
  enum { STOP = 1, FAILED = 2 };
  Status status = OK, own = OK;
  Error failure = {0};
  if (run->checkpoints) own = checkpoint_writer_check(run->checkpoints, &failure);
  int64_t flag = own != OK ? FAILED : signals_stop_requested() ? STOP : 0;
  TRY(comm_all_reduce(run->comm, &flag, 1, COMM_I64, COMM_MAX, error));
  *stop = flag == STOP;
  if (flag != FAILED) goto done;
  if (own != OK) *error = failure;
  status = run_agree(run, own, error);
done:
  return status;
}

/* Ends a phase of the start: fails on all ranks if one has failed, or has received a signal. */
static Status agree_to_continue(Run *run, Status own, Error *error) {
  Status status = OK;
  bool stop = false;
  TRY(run_agree(run, own, error));
  TRY(run_sync_stop_flag(run, &stop, error));
  if (!stop) goto done;
  run->failure_is_shared = true;
  status =
      error_set(error, STOPPED,
                "stopped by a signal before training started; nothing is lost, start it again");
done:
  return status;
}

/* --- Set-up ----------------------------------------------------------------------------------- */

/* Compute threads of this rank; 0: let OpenMP decide. The sums of a kernel depend on the number of
 * threads, so a run that must be reproducible for any number of ranks uses a fixed one. */
static int threads_per_rank(const Run *run) {
  const Config *config = run->config;
  if (config->train.threads > 0) return (int)config->train.threads;
  if (config->comm.reduce == COMM_REDUCE_REPRODUCIBLE) return 1;
  if (getenv("OMP_NUM_THREADS")) return 0;
  int share = comm_local_processors(run->comm) / comm_local_size(run->comm);
  return share > 0 ? share : 1;
}

/* Warns about config keys that have no effect in this run. */
static void warn_of_unused_keys(const Run *run) {
  const Config *config = run->config;
  int64_t steps = config->train.steps - config->optim.pretrain_steps,
          every = config->loss.r1_interval;
  if (run->rank == 0 && config->loss.r1 > 0 && every > 1 && steps < every)
    log_warning(
        "loss.r1_interval is %lld, but the run has only %lld steps after pretraining: R1 is never "
        "applied",
        (long long)every, (long long)(steps > 0 ? steps : 0));
}

static Status open_datasets(Run *run, Error *error) {
  const Config *config = run->config;
  Status status = dataset_open(config->data.path, &run->dataset, error);
  if (status == OK && config_is_unpaired(config))
    status = dataset_open(config->data.target_path, &run->target_dataset, error);
  return status;
}

static Status open_device(Run *run, Error *error) {
  Status status = OK;
  TRY(device_open(run->config, run->comm, threads_per_rank(run), &run->backend, error));
  TRY(gradient_sync_open(run->config, run->comm, run->backend, &run->gradient_sync, error));
done:
  return status;
}

static Status open_loader(Run *run, Error *error) {
  const Config *config = run->config;
  int prefetch = (int)config->data.prefetch;
  LoaderOptions options = {
      .seed = (uint64_t)config->run.seed,
      .global_batch = config->train.global_batch,
      .micro_batch = (int)config->train.micro_batch,
      .rank = run->rank,
      .world_size = run->world_size,
      .frames = (int)config->data.frames,
      .crop_height = (int)config->data.crop_height,
      .crop_width = (int)config->data.crop_width,
      .crop_multiple = 1,
      .flip = config->data.flip,
      .smooth_edges = gan_needs_smoothed(config),
      .flow = gan_needs_flow(config, &dataset_info(run->dataset)->shape),
      .threads = (int)config->data.threads,
      /* A step holds all its micro-batches at the same time. */
      .prefetch_batches = prefetch > run->micro_batches ? prefetch : run->micro_batches + 1,
      .on_corrupt = (OnCorrupt)config->data.on_corrupt,
      /* Shorter than the watchdog's, because the error of the loader names the clip. */
      .timeout = 0.9 * config->comm.timeout,
  };
  options.skipped_batches = guard_skipped_batches(run->guard, &options.skipped_batch_count);
  loader_close(run->loader);
  run->loader = NULL;
  return loader_open(run->dataset, run->target_dataset, &options, run->step, &run->loader, error);
}

static Status plan_model(Run *run, Error *error) {
  const Collectives *collectives = gradient_sync_collectives(run->gradient_sync);
  GanOptions options = {.shape = loader_shape(run->loader),
                        .micro_batches = run->micro_batches,
                        .all_reduce = collectives != NULL,
                        .collectives = collectives};
  return gan_plan(run->config, run->backend, &options, &run->gan, error);
}

/* Rank 0 reads the weights and broadcasts them, so that all ranks have the same bytes. */
static Status read_perceptual(Run *run, Error *error) {
  Status status = OK;
  const Parameters *network = gan_perceptual_network(run->gan);
  size_t bytes = (size_t)network->total * sizeof(float);
  float *weights = NULL;
  if (bytes == 0) goto done;
  if (run->rank == 0)
    status = perceptual_read(run->config->loss.perceptual_weights, network, &weights, error);
  else
    status = mem_bulk(bytes, "the weights of loss.perceptual", (void **)&weights, error);
  TRY(run_agree(run, status, error));
  TRY(comm_broadcast(run->comm, weights, bytes, 0, error));
  gan_set_perceptual_weights(run->gan, weights);
  weights = NULL;
done:
  free(weights);
  return status;
}

Status run_set_up(Run *run, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  TRY(run_agree(run, config_check(config, run->sources, run->world_size, error), error));
  warn_of_unused_keys(run);
  run->micro_batches =
      (int)(config->train.global_batch / config->train.micro_batch / run->world_size);
  run->guard = guard_new(config);
  TRY(step_timing_new(run->comm, &run->timing, error));
  TRY(agree_to_continue(run, open_datasets(run, error), error));
  const DataIdentity data = data_identity(run->dataset, run->target_dataset);
  TRY(run_agree(run, preflight_check(config, run->comm, data.uuid, data.target_uuid, error),
                error));
  TRY(agree_to_continue(run, open_device(run, error), error));
  TRY(run_agree(run, open_loader(run, error), error));
  TRY(agree_to_continue(run, plan_model(run, error), error));
  TRY(agree_to_continue(run, read_perceptual(run, error), error));
done:
  return status;
}

/* --- Start ------------------------------------------------------------------------------------ */

static Status start_heartbeat(Run *run, Error *error) {
  const Config *config = run->config;
  char *folder = path_join(config->run.dir, "ranks");
  HeartbeatOptions options = {
      .folder = folder,
      .every = config->comm.heartbeat,
      .deadline = {[PHASE_START] = config->comm.start_timeout,
                   [PHASE_DATA] = config->comm.timeout,
                   [PHASE_STEP] = config->comm.timeout,
                   [PHASE_REDUCE] = config->comm.timeout,
                   [PHASE_EVALUATION] = config->comm.evaluation_timeout,
                   [PHASE_CHECKPOINT] = config->comm.checkpoint_timeout,
                   [PHASE_END] = config->comm.timeout},
  };
  Status status =
      run_agree(run, heartbeat_start(run->comm, &options, &run->heartbeat, error), error);
  free(folder);
  return status;
}

static Status allocate(Run *run, Error *error) {
  Status status = OK;
  TRY(device_memory_allocate(&run->gan, error));
  for (Network network = 0; network < NETWORK_COUNT; network++)
    TRY(gradient_sync_register(run->gradient_sync, gan_network(run->gan, network), error));
done:
  return status;
}

/* Sets the initial state; rank 0 opens the checkpoint of run.init, if any. */
static Status initialize(Run *run, Error *error) {
  Status status = OK;
  const char *path = run->config->run.init;
  const CheckpointOptions options = {.advice = "set run.init to the folder of an older one"};
  Checkpoint *init = NULL;
  if (run->rank == 0 && path[0]) status = checkpoint_open_path(path, &options, &init, error);
  if (status != OK) error_context(error, "run.init");
  TRY(run_agree(run, status, error));
  TRY(run_agree(run, training_state_initialize(run->gan, run->comm, init, run->sources, error),
                error));
done:
  checkpoint_close(init);
  return status;
}

Status run_restore(Run *run, const Checkpoint *checkpoint, bool from_checkpoint, bool rolling_back,
                   Error *error) {
  Status status = OK;
  ResumePoint point = {.pending.step = -1,
                       .augment_probability = augment_control_initial(run->config)};
  const DataIdentity data = data_identity(run->dataset, run->target_dataset);
  if (from_checkpoint) {
    TRY(run_agree(run,
                  training_state_restore(run->gan, run->guard, run->comm, checkpoint, &data,
                                         run->sources, rolling_back, &point, error),
                  error));
  } else {
    TRY(guard_restore(run->guard, NULL, NULL, rolling_back, &point.pending, error));
    TRY(initialize(run, error));
  }
  run->step = run->saved_step = run->recorded_step = point.step;
  run->augment_probability = point.augment_probability;
  run->recent_steps[0] = (RecentStep){.outcome = point.pending, .is_read = true};
  run->recent_steps[1] = (RecentStep){.outcome.step = -1, .is_read = true};
  TRY(run_agree(run, open_loader(run, error), error));
done:
  return status;
}

static Status open_outputs(Run *run, const Checkpoint *checkpoint, Error *error) {
  Status status = OK;
  if (run->rank != 0) return OK;
  if (checkpoint) log_info("resuming from %s at step %lld", checkpoint->path, (long long)run->step);
  if (run->config->comm.reduce == COMM_REDUCE_REPRODUCIBLE && run->config->train.threads == 0)
    log_info("comm.reduce: reproducible: one compute thread per rank; set train.threads for more, "
             "to the same value for every number of ranks");
  TRY(run_open_outputs(run, checkpoint, error));
  TRY(run_write_missed_sample_sheet(run, error));
done:
  return status;
}

Status run_start(Run *run, const char *resume, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  bool resumed = false;
  if (run->rank == 0) {
    status = run_lock_folder(run, error);
    if (status == OK) status = run_open_resume_checkpoint(run, resume, &checkpoint, error);
    resumed = checkpoint != NULL;
  }
  TRY(run_agree(run, status, error));
  TRY(comm_broadcast(run->comm, &resumed, sizeof resumed, 0, error));
  TRY(start_heartbeat(run, error));
  TRY(agree_to_continue(run, allocate(run, error), error));
  TRY(run_restore(run, checkpoint, resumed, false, error));
  TRY(agree_to_continue(run, open_outputs(run, checkpoint, error), error));
  step_timing_restart(run->timing);
done:
  checkpoint_close(checkpoint);
  return status;
}

/* --- End -------------------------------------------------------------------------------------- */

/* A failed write of rank 0 fails all ranks, unless there was an earlier error. */
Status run_finish(Run *run, Status status, Error *error) {
  Error late = {0};
  bool succeeded = status == OK || status == STOPPED;
  heartbeat_set_phase(run->heartbeat, PHASE_CHECKPOINT, run->step);
  Status closed = checkpoint_writer_close(run->checkpoints, &late);
  run->checkpoints = NULL;
  if (!succeeded) return status;
  closed = run_agree(run, closed, &late);
  if (closed != OK) *error = late;
  if (status == STOPPED) run->failure_is_shared = true;
  heartbeat_set_phase(run->heartbeat, PHASE_END, run->step);
  return closed != OK ? closed : status;
}

void run_tear_down(Run *run) {
  progress_end(run->progress);
  inference_free(run->sample_inference);
  training_snapshot_free(run->snapshot);
  metrics_log_close(run->metrics);
  tensorboard_close(run->tensorboard);
  loader_close(run->loader);
  /* Captured graphs refer to the communicators, and these to the memory of the gradients. */
  gan_release_captures(run->gan);
  gradient_sync_close(run->gradient_sync);
  gan_free(run->gan);
  dataset_close(run->dataset);
  dataset_close(run->target_dataset);
  guard_free(run->guard);
  step_timing_free(run->timing);
  if (run->backend) run->backend->free(run->backend);
  file_close(&run->lock);
  free(run->external_checkpoint);
}
