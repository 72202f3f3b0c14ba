/* The training run: the loop is train_steps, at the end. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "data/loader.h"
#include "trainer/commands.h"
#include "trainer/progress.h"
#include "trainer/samples.h"
#include "trainer/state.h"

typedef struct Run {
  const Config *config;
  Comm *comm;
  int rank, world_size, micro_batches; /* micro-batches of this rank */
  Backend *backend;
  Dataset *dataset;
  Loader *loader;
  Model *model;
  Collectives collectives;
  int64_t step;  /* steps done */
  bool diverged; /* this rank may fail while others go on: then they must be told */
  /* rank 0 alone: */
  int lock;
  CheckpointWriter *checkpoints;
  MetricsLog *metrics;
  Progress *progress;
  Inference *sampler;
  MetricsRecord record; /* the last one written */
  struct {
    double at, data, comm;
    int64_t step;
  } mark; /* clocks at the last record */
} Run;

/* --- Signals: a first one asks for a checkpoint and the end, a second one ends at once -------- */

static volatile sig_atomic_t stop_signal;

static void on_signal(int number) {
  if (stop_signal) _exit(128 + number);
  stop_signal = number;
}

static void catch_signals(void) {
  static const int SIGNALS[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++)
    sigaction(SIGNALS[i], &action, NULL);
}

/* The same answer on every rank. */
static Status agree_to_stop(Run *run, bool *stop, Error *error) {
  int64_t flag = stop_signal;
  Status status = comm_all_reduce(run->comm, &flag, 1, COMM_I64, COMM_MAX, error);
  *stop = flag != 0;
  return status;
}

/* --- The engine's collectives, by comm -------------------------------------------------------- */

static Status average_start(void *context, void *data, int64_t count, DType dtype, void *stream,
                            Error *error) {
  (void)stream;
  return comm_average_start(context, data, count, dtype == DTYPE_BF16 ? COMM_BF16 : COMM_F32,
                            error);
}

static Status average_wait(void *context, void *stream, Error *error) {
  (void)stream;
  return comm_average_wait(context, error);
}

/* --- Set-up ----------------------------------------------------------------------------------- */

static int threads_per_rank(const Run *run) {
  if (run->config->train.threads > 0) return (int)run->config->train.threads;
  if (getenv("OMP_NUM_THREADS")) return 0;
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  int share = (int)(cores / comm_local_size(run->comm));
  return share > 0 ? share : 1;
}

static Status open_device(Run *run, Error *error) {
  if (run->config->train.device == DEVICE_CUDA)
    return config_error("train.device", error,
                        "this build has no CUDA backend; allowed: cpu, auto");
  return backend_cpu_new(threads_per_rank(run), &run->backend, error);
}

static Status open_data(Run *run, Error *error) {
  const Config *config = run->config;
  return dataset_open(config->data.path, &run->dataset, error);
}

static Status open_loader(Run *run, Error *error) {
  const Config *config = run->config;
  int ahead = (int)config->data.ahead;
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
      .batches_ahead = ahead > run->micro_batches ? ahead : run->micro_batches + 1,
      .on_corrupt = (OnCorrupt)config->data.on_corrupt,
      .timeout = config->comm.timeout,
  };
  loader_close(run->loader);
  run->loader = NULL;
  return loader_open(run->dataset, &options, run->step, &run->loader, error);
}

static Status plan_model(Run *run, Error *error) {
  run->collectives = (Collectives){
      .context = run->comm, .all_reduce_start = average_start, .all_reduce_wait = average_wait};
  ModelOptions options = {.shape = loader_shape(run->loader),
                          .micro_batches = run->micro_batches,
                          .world_size = run->world_size,
                          .collectives = &run->collectives};
  return model_plan(run->config, run->backend, &options, &run->model, error);
}

/* Everything that can be wrong with config and data is found here, before a byte is written. */
static Status set_up(Run *run, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  TRY(config_check(config, run->world_size, error));
  run->micro_batches =
      (int)(config->train.global_batch / config->train.micro_batch / run->world_size);
  TRY(open_device(run, error));
  TRY(open_data(run, error));
  TRY(open_loader(run, error));
  TRY(plan_model(run, error));
done:
  return comm_agree(run->comm, status, error);
}

/* --- Rank 0's files --------------------------------------------------------------------------- */

static char *checkpoints_folder(const Run *run) {
  return path_join(run->config->run.dir, "checkpoints");
}

/* Two runs in one folder would overwrite each other. */
static Status lock_folder(Run *run, Error *error) {
  Status status = OK;
  char *path = path_join(run->config->run.dir, "lock");
  TRY(folder_create(run->config->run.dir, error));
  run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (run->lock < 0) {
    status = error_errno(error, errno, "%s", path);
    goto done;
  }
  if (flock(run->lock, LOCK_EX | LOCK_NB) != 0)
    FAIL(error, ERROR_USAGE, "%s: another run is using this folder; choose another run.dir",
         run->config->run.dir);
done:
  free(path);
  return status;
}

/* The checkpoint to go on from, or NULL for a run that starts. */
static Status choose_checkpoint(Run *run, const char *resume, Checkpoint **out, Error *error) {
  Status status = OK;
  char *folder = checkpoints_folder(run);
  *out = NULL;
  if (strcmp(resume, "auto") == 0) {
    if (path_is_folder(folder)) TRY(checkpoint_open_latest(folder, out, error));
  } else if (strcmp(resume, "none") != 0) {
    TRY(checkpoint_open_path(resume, out, error));
  } else if (path_exists(folder)) {
    FAIL(error, ERROR_USAGE,
         "%s: holds the checkpoints of an earlier run; go on with --resume auto, or choose another "
         "run.dir",
         run->config->run.dir);
  }
done:
  free(folder);
  return status;
}

static Status write_config(Run *run, Error *error) {
  Text text = {0};
  char *path = path_join(run->config->run.dir, "config.yaml");
  config_write(&config_schema, run->config, true, &text);
  Status status = atomic_file_replace(path, text.data, text.length, error);
  free(path);
  text_free(&text);
  return status;
}

static Status open_outputs(Run *run, const Checkpoint *checkpoint, int64_t lines, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  char *folder = checkpoints_folder(run), *samples = path_join(config->run.dir, "samples");
  const char *from = checkpoint ? strrchr(checkpoint->path, '/') : NULL;
  TRY(write_config(run, error));
  TRY(folder_create(samples, error));
  TRY(checkpoint_writer_open(folder, (int)config->checkpoint.keep, from ? from + 1 : NULL,
                             &run->checkpoints, error));
  TRY(metrics_open(config->run.dir, lines, &run->metrics, error));
  TRY(inference_of_parameters(config, model_generator(run->model), READ_EMA, run->backend,
                              &run->sampler, error));
  run->progress = progress_new("train", run->step, config->train.steps);
done:
  free(folder);
  free(samples);
  return status;
}

/* Allocates, initialises or resumes, and opens what rank 0 writes. */
static Status begin(Run *run, const char *resume, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  bool resumed = false;
  ResumePoint point = {0};
  if (run->rank == 0) {
    status = lock_folder(run, error);
    if (status == OK) status = choose_checkpoint(run, resume, &checkpoint, error);
    resumed = checkpoint != NULL;
  }
  TRY(comm_agree(run->comm, status, error));
  TRY(comm_broadcast(run->comm, &resumed, sizeof resumed, 0, error));
  status = model_allocate(run->model, error);
  if (status == OK && !resumed) status = model_initialize(run->model, error);
  TRY(comm_agree(run->comm, status, error));
  if (resumed) {
    TRY(state_restore(run->model, run->comm, checkpoint, dataset_info(run->dataset)->uuid, &point,
                      error));
    run->step = point.step;
    if (checkpoint)
      log_info("resuming from %s at step %lld", checkpoint->path, (long long)point.step);
    status = open_loader(run, error);
  }
  if (status == OK && run->rank == 0) status = open_outputs(run, checkpoint, point.lines, error);
  TRY(comm_agree(run->comm, status, error));
done:
  checkpoint_close(checkpoint);
  return status;
}

static void mark_now(Run *run) {
  run->mark.at = clock_seconds();
  run->mark.data = loader_stats(run->loader).seconds_waiting;
  run->mark.comm = comm_stats(run->comm).seconds_waiting;
  run->mark.step = run->step;
}

/* --- What happens between steps --------------------------------------------------------------- */

/* The mean over ranks of this rank's numbers, and how the time went, as a line of metrics. */
static Status record_metrics(Run *run, const StepControls *controls, Error *error) {
  Status status = OK;
  MetricsRecord *record = &run->record;
  StepResult result;
  TRY(model_result(run->model, 0, &result, error));
  double *values = result.metrics;
  TRY(comm_all_reduce(run->comm, values, METRIC_COUNT, COMM_F64, COMM_SUM, error));
  double seconds = clock_seconds() - run->mark.at;
  double steps = (double)(run->step - run->mark.step);
  *record = (MetricsRecord){
      .step = run->step,
      .seconds_per_step = seconds / steps,
      .clips_per_second = steps * (double)run->config->train.global_batch / seconds,
      .gflops = steps * model_cost(run->model).flops * run->world_size / seconds / 1e9,
      .generator_rate = (double)controls->generator_rate,
      .discriminator_rate = (double)controls->discriminator_rate,
      .wait_data = (loader_stats(run->loader).seconds_waiting - run->mark.data) / seconds,
      .wait_comm = (comm_stats(run->comm).seconds_waiting - run->mark.comm) / seconds,
      .skipped_generator = result.generator.skipped,
      .skipped_discriminator = result.discriminator.skipped,
      .corrupt = loader_stats(run->loader).corrupt,
  };
  for (int i = 0; i < METRIC_COUNT; i++) record->values[i] = values[i] / run->world_size;
  if (run->metrics) TRY(metrics_write(run->metrics, record, error));
  mark_now(run);
done:
  return status;
}

/* A step whose gradients were not finite changed nothing; says so, with the place, and gives up
 * after guard.max_skips in a row. Every rank saw the same reduced gradients, so all decide alike.
 */
static Status check_skips(Run *run, Error *error) {
  Status status = OK;
  StepResult result;
  TRY(model_result(run->model, 0, &result, error));
  const ModelCounters *generator = &result.generator, *discriminator = &result.discriminator;
  bool of_discriminator = discriminator->skipped_in_a_row > 0;
  if (generator->skipped_in_a_row == 0 && !of_discriminator) goto done;
  const Parameters *network =
      of_discriminator ? model_discriminator(run->model) : model_generator(run->model);
  const char *layer = parameters_first_bad_gradient(network, error);
  const char *loss = model_first_bad_loss(&result);
  int64_t in_a_row =
      of_discriminator ? discriminator->skipped_in_a_row : generator->skipped_in_a_row;
  if (run->rank == 0)
    log_warning("step %lld skipped: the %s's gradient is not finite, first in %s (%s)",
                (long long)run->step, network->network, layer ? layer : "its norm",
                loss ? loss : "every loss was finite");
  if (in_a_row >= run->config->guard.max_skips)
    FAIL(
        error, ERROR_INTERNAL,
        "%lld updates in a row had gradients that are not finite (guard.max_skips: %lld); the last "
        "checkpoint is good",
        (long long)in_a_row, (long long)run->config->guard.max_skips);
done:
  return status;
}

static Status write_sample_sheet(Run *run, Error *error) {
  char name[32];
  snprintf(name, sizeof name, "samples/step-%08lld.png", (long long)run->step);
  char *path = path_join(run->config->run.dir, name);
  Status status =
      samples_write(run->dataset, run->sampler, (int)run->config->samples.clips, path, error);
  free(path);
  return status;
}

static bool is_due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

static Status save_checkpoint(Run *run, Error *error) {
  if (run->rank != 0) return OK;
  return state_save(run->model, run->step, dataset_info(run->dataset)->uuid,
                    metrics_lines(run->metrics), run->checkpoints, error);
}

/* A run that is stopped saves its state and nothing else: its other files are to be those of one
 * left alone. */
static Status between_steps(Run *run, const StepControls *controls, bool stop, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  bool last = run->step == config->train.steps;
  TRY(check_skips(run, error));
  if (last || is_due(run->step, config->metrics.every)) TRY(record_metrics(run, controls, error));
  if (run->rank == 0) {
    progress_update(run->progress, run->step, &run->record);
    if (config->samples.every > 0 && (last || is_due(run->step, config->samples.every)))
      TRY(write_sample_sheet(run, error));
  }
  if (last || stop || is_due(run->step, config->checkpoint.every)) TRY(save_checkpoint(run, error));
done:
  return status;
}

/* --- The loop --------------------------------------------------------------------------------- */

static Status one_step(Run *run, const StepControls *controls, Error *error) {
  Status status = OK;
  int count = 0;
  Batch **batches = mem_new((size_t)run->micro_batches, sizeof(Batch *));
  MicroBatch *micro = mem_new((size_t)run->micro_batches, sizeof *micro);
  for (; count < run->micro_batches; count++) {
    TRY(loader_next(run->loader, &batches[count], error));
    const Batch *batch = batches[count];
    micro[count] = (MicroBatch){batch->source, batch->target, batch->samples};
  }
  TRY(model_step(run->model, controls, micro, error));
done:
  for (int i = 0; i < count; i++) loader_release(run->loader, batches[i]);
  free(micro);
  free(batches);
  return status;
}

static Status train_steps(Run *run, Error *error) {
  Status status = OK;
  run->diverged = run->world_size > 1;
  const Config *config = run->config;
  bool stop = false;
  mark_now(run);
  while (run->step < config->train.steps && !stop) {
    StepControls controls = schedule_at(config, run->step);
    TRY(one_step(run, &controls, error));
    run->step++;
    TRY(agree_to_stop(run, &stop, error));
    TRY(between_steps(run, &controls, stop, error));
  }
  if (stop && run->step < config->train.steps) {
    status = error_set(error, STOPPED,
                       "stopped by a signal after step %lld of %lld; go on with --resume auto",
                       (long long)run->step, (long long)config->train.steps);
  }
  run->diverged = false;
done:
  return status;
}

static void tear_down(Run *run) {
  progress_end(run->progress);
  inference_free(run->sampler);
  metrics_close(run->metrics);
  loader_close(run->loader);
  model_free(run->model);
  dataset_close(run->dataset);
  if (run->backend) run->backend->free(run->backend);
  if (run->lock >= 0) close(run->lock);
}

/* The last checkpoint must be on disk before the run says how it ended. */
static Status close_checkpoints(Run *run, Status status, Error *error) {
  Error late = {0};
  if (!run->checkpoints) return status;
  Status closed = checkpoint_writer_close(run->checkpoints, &late);
  run->checkpoints = NULL;
  if (closed == OK || (status != OK && status != STOPPED)) return status;
  *error = late;
  return closed;
}

static void print_plan(const Run *run) {
  Text text = {0};
  model_print(run->model, &text);
  if (run->rank == 0) fputs(text.data, stdout);
  text_free(&text);
}

Status train_run(const Config *config, const TrainOptions *options, int *argc, char ***argv,
                 Error *error) {
  Status status = OK;
  Run run = {.config = config, .lock = -1};
  CommOptions group = {.timeout = config->comm.timeout,
                       .reproducible = config->comm.reduce == COMM_REDUCE_REPRODUCIBLE,
                       .bf16_gradients = config->comm.gradients == PRECISION_BF16,
                       .overlap = config->comm.overlap};
  TRY(comm_open(argc, argv, &group, &run.comm, error));
  run.rank = comm_rank(run.comm);
  run.world_size = comm_size(run.comm);
  log_set_rank(run.rank, run.world_size);
  catch_signals();
  TRY(set_up(&run, error));
  if (options->plan) {
    print_plan(&run);
    goto done;
  }
  TRY(begin(&run, options->resume, error));
  log_info("training on %s, %d rank%s", run.backend->describe(run.backend), run.world_size,
           run.world_size > 1 ? "s" : "");
  status = train_steps(&run, error);
done:
  status = close_checkpoints(&run, status, error);
  if (run.diverged && status != OK) {
    log_error("%s", error->message);
    comm_abort(run.comm, (int)status);
  }
  tear_down(&run);
  comm_close(run.comm);
  if (run.rank > 0) error->message[0] = '\0'; /* all ranks agreed on it: one says it */
  return status;
}
