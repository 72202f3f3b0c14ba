/* The beginning and the end of a training run. */
#include <stdlib.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/signals.h"
#include "trainer/gan/device.h"
#include "trainer/gan/device_memory.h"
#include "trainer/gan/perceptual_loss.h"
#include "trainer/run/preflight.h"
#include "trainer/run/run.h"

/* --- What ranks tell each other --------------------------------------------------------------- */

Status run_agree(Run *run, Status own, Error *error) {
  Status status = comm_agree(run->comm, own, error);
  if (status != OK) run->common_failure = true;
  return status;
}

Status run_agree_to_stop(Run *run, bool *stop, Error *error) {
  enum { STOP = 1, FAILED = 2 };
  Status status = OK, own = OK;
  Error failure = {0};
  if (run->checkpoints) own = checkpoint_writer_check(run->checkpoints, &failure);
  int64_t flag = own != OK ? FAILED : signals_ask_to_stop() ? STOP : 0;
  TRY(comm_all_reduce(run->comm, &flag, 1, COMM_I64, COMM_MAX, error));
  *stop = flag == STOP;
  if (flag != FAILED) goto done;
  if (own != OK) *error = failure;
  status = run_agree(run, own, error);
done:
  return status;
}

/* The end of a part of the beginning: no rank goes on alone, none after a signal. */
static Status end_part(Run *run, Status own, Error *error) {
  Status status = OK;
  bool stop = false;
  TRY(run_agree(run, own, error));
  TRY(run_agree_to_stop(run, &stop, error));
  if (!stop) goto done;
  run->common_failure = true;
  status = error_set(error, STOPPED,
                     "stopped by a signal before training began; nothing is lost, start it again");
done:
  return status;
}

/* --- Set-up ----------------------------------------------------------------------------------- */

/* The sums of a kernel depend on how many threads share them: a run that is to leave the same bytes
 * on any number of ranks must not let the host decide. */
static int threads_per_rank(const Run *run) {
  const Config *config = run->config;
  if (config->train.threads > 0) return (int)config->train.threads;
  if (config->comm.reduce == COMM_REDUCE_REPRODUCIBLE) return 1;
  if (getenv("OMP_NUM_THREADS")) return 0;
  int share = comm_local_processors(run->comm) / comm_local_size(run->comm);
  return share > 0 ? share : 1;
}

/* What is asked for and never comes. */
static void warn_of_idle_keys(const Run *run) {
  const Config *config = run->config;
  int64_t steps = config->train.steps - config->optim.pretrain_steps,
          every = config->loss.r1_interval;
  if (run->rank == 0 && config->loss.r1 > 0 && every > 1 && steps < every)
    log_warning(
        "loss.r1_interval is %lld, and the run has %lld steps behind its warm-up: none has R1",
        (long long)every, (long long)(steps > 0 ? steps : 0));
}

static Status open_device(Run *run, Error *error) {
  Status status = OK;
  TRY(device_open(run->config, run->comm, threads_per_rank(run), &run->backend, error));
  TRY(exchange_open(run->config, run->comm, run->backend, &run->exchange, error));
done:
  return status;
}

static Status open_loader(Run *run, Error *error) {
  const Config *config = run->config;
  int ahead = (int)config->data.prefetch;
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
      .threads = (int)config->data.threads,
      /* A step holds all its micro-batches at once. */
      .prefetch_batches = ahead > run->micro_batches ? ahead : run->micro_batches + 1,
      .on_corrupt = (OnCorrupt)config->data.on_corrupt,
      /* Its words name the clip: they come before the watchdog's. */
      .timeout = 0.9 * config->comm.timeout,
  };
  options.skipped_batches = guard_skipped_batches(run->guard, &options.skipped_batch_count);
  loader_close(run->loader);
  run->loader = NULL;
  Status status = loader_open(run->dataset, &options, run->step, &run->loader, error);
  if (status != OK) error_context(error, "%s", run->config->data.path);
  return status;
}

static Status plan_model(Run *run, Error *error) {
  const Collectives *collectives = exchange_collectives(run->exchange);
  ModelOptions options = {.shape = loader_shape(run->loader),
                          .micro_batches = run->micro_batches,
                          .all_reduce = collectives != NULL,
                          .collectives = collectives};
  return model_plan(run->config, run->backend, &options, &run->model, error);
}

/* Rank 0 reads, so that all ranks have the same bytes. */
static Status read_perceptual(Run *run, Error *error) {
  Status status = OK;
  const Parameters *network = model_perceptual(run->model);
  size_t bytes = (size_t)network->total * sizeof(float);
  float *weights = NULL;
  if (bytes == 0) goto done;
  if (run->rank == 0)
    status = perceptual_read(run->config->loss.perceptual_weights, network, &weights, error);
  else
    status = mem_bulk(bytes, "the weights of loss.perceptual", (void **)&weights, error);
  TRY(run_agree(run, status, error));
  TRY(comm_broadcast(run->comm, weights, bytes, 0, error));
  model_take_perceptual(run->model, weights);
  weights = NULL;
done:
  free(weights);
  return status;
}

Status run_set_up(Run *run, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  TRY(run_agree(run, config_check(config, run->world_size, error), error));
  warn_of_idle_keys(run);
  run->micro_batches =
      (int)(config->train.global_batch / config->train.micro_batch / run->world_size);
  run->guard = guard_new(config);
  TRY(timing_new(run->comm, &run->timing, error));
  TRY(end_part(run, dataset_open(config->data.path, &run->dataset, error), error));
  TRY(run_agree(run, launch_check(config, run->comm, dataset_info(run->dataset)->uuid, error),
                error));
  TRY(end_part(run, open_device(run, error), error));
  TRY(run_agree(run, open_loader(run, error), error));
  TRY(end_part(run, plan_model(run, error), error));
  TRY(end_part(run, read_perceptual(run, error), error));
done:
  return status;
}

/* --- Beginning -------------------------------------------------------------------------------- */

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
  TRY(memory_allocate(&run->model, error));
  TRY(exchange_register(run->exchange, model_generator(run->model), error));
  TRY(exchange_register(run->exchange, model_discriminator(run->model), error));
done:
  return status;
}

/* run.init, which rank 0 reads. */
static Status begin(Run *run, Error *error) {
  Status status = OK;
  const char *init = run->config->run.init;
  Checkpoint *from = NULL;
  if (run->rank == 0 && init[0]) status = checkpoint_open_path(init, &from, error);
  if (status != OK) error_context(error, "run.init");
  TRY(run_agree(run, status, error));
  TRY(run_agree(run, state_begin(run->model, run->comm, from, error), error));
done:
  checkpoint_close(from);
  return status;
}

Status run_restore(Run *run, const Checkpoint *checkpoint, bool resumed, bool going_back,
                   Error *error) {
  Status status = OK;
  ResumePoint point = {.pending.step = -1};
  if (resumed) {
    TRY(run_agree(run,
                  state_restore(run->model, run->guard, run->comm, checkpoint,
                                dataset_info(run->dataset)->uuid, going_back, &point, error),
                  error));
  } else {
    TRY(guard_restore(run->guard, NULL, NULL, going_back, &point.pending, error));
    TRY(begin(run, error));
  }
  run->step = run->saved_step = run->recorded_step = point.step;
  run->started[0] = (StartedStep){.outcome = point.pending, .known = true};
  run->started[1] = (StartedStep){.outcome.step = -1, .known = true};
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
             "alike for every number of ranks");
  TRY(run_open_outputs(run, checkpoint, error));
  TRY(run_write_owed_samples(run, error));
done:
  return status;
}

Status run_begin(Run *run, const char *resume, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  bool resumed = false;
  if (run->rank == 0) {
    status = run_lock_folder(run, error);
    if (status == OK) status = run_choose_checkpoint(run, resume, &checkpoint, error);
    resumed = checkpoint != NULL;
  }
  TRY(run_agree(run, status, error));
  TRY(comm_broadcast(run->comm, &resumed, sizeof resumed, 0, error));
  TRY(start_heartbeat(run, error));
  TRY(end_part(run, allocate(run, error), error));
  TRY(run_restore(run, checkpoint, resumed, false, error));
  TRY(end_part(run, open_outputs(run, checkpoint, error), error));
  timing_restart(run->timing);
done:
  checkpoint_close(checkpoint);
  return status;
}

/* --- End -------------------------------------------------------------------------------------- */

/* Rank 0's failure to write is everybody's, but does not hide an error that there was before. */
Status run_finish(Run *run, Status status, Error *error) {
  Error late = {0};
  bool in_order = status == OK || status == STOPPED;
  heartbeat_phase(run->heartbeat, PHASE_CHECKPOINT, run->step);
  Status closed = checkpoint_writer_close(run->checkpoints, &late);
  run->checkpoints = NULL;
  if (!in_order) return status;
  closed = run_agree(run, closed, &late);
  if (closed != OK) *error = late;
  if (status == STOPPED) run->common_failure = true;
  heartbeat_phase(run->heartbeat, PHASE_END, run->step);
  return closed != OK ? closed : status;
}

void run_tear_down(Run *run) {
  progress_end(run->progress);
  inference_free(run->sampler);
  state_copy_free(run->copy);
  metrics_close(run->metrics);
  tensorboard_close(run->tensorboard);
  loader_close(run->loader);
  /* Captured graphs hold on to the communicators, and those to the gradients' memory. */
  model_release_captures(run->model);
  exchange_close(run->exchange);
  model_free(run->model);
  dataset_close(run->dataset);
  guard_free(run->guard);
  timing_free(run->timing);
  if (run->backend) run->backend->free(run->backend);
  if (run->lock >= 0) close(run->lock);
  free(run->origin);
}
