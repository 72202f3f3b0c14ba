/* The files of a run in run.dir, which rank 0 reads and writes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/temporary.h"
#include "trainer/run/run.h"
#include "trainer/run/status_line.h"

static char *checkpoints_folder(const Run *run) {
  return path_join(run->config->run.dir, "checkpoints");
}

/* Parallel file systems are often mounted without locks. */
static bool cannot_lock(int errnum) {
  return errnum == ENOSYS || errnum == ENOLCK || errnum == EOPNOTSUPP;
}

/* The run appends to or overwrites these by name. Folders of checkpoints and samples may be links,
 * to a larger disk: their files are written under temporary names and renamed, which replaces a
 * link. */
static Status refuse_links(const char *folder, Error *error) {
  static const char *const NAMES[] = {"lock", "metrics.jsonl", "tensorboard", "ranks"};
  Status status = OK;
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES && status == OK; i++) {
    char *path = path_join(folder, NAMES[i]);
    status = path_refuse_link(path, error);
    free(path);
  }
  return status;
}

Status run_lock_folder(Run *run, Error *error) {
  Status status = OK;
  char *path = path_join(run->config->run.dir, "lock");
  TRY(folder_create(run->config->run.dir, error));
  TRY(refuse_links(run->config->run.dir, error));
  run->lock = file_open(path, O_RDWR | O_CREAT | O_NOFOLLOW);
  if (run->lock < 0) {
    status = error_errno(error, errno, "%s: cannot open or create", path);
    goto done;
  }
  int result;
  do result = flock(run->lock, LOCK_EX | LOCK_NB);
  while (result != 0 && errno == EINTR);
  if (result == 0) goto done;
  if (errno == EWOULDBLOCK)
    FAIL(error, ERROR_USAGE,
         "%s: another process is training in this folder (ranks/0.json names host and pid); stop "
         "it or choose another run.dir",
         run->config->run.dir);
  if (cannot_lock(errno))
    log_warning("%s: this file system has no locks: make sure that no other run uses this folder",
                path);
  else
    status = error_errno(error, errno, "%s: cannot lock", path);
done:
  free(path);
  return status;
}

/* --- Choosing a checkpoint -------------------------------------------------------------------- */

/* Fails unless the folder is empty, as a run that ended before its first checkpoint leaves it. */
static Status refuse_earlier_run(const Run *run, const char *folder, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  bool exists;
  TRY(path_exists(folder, &exists, error));
  if (exists) TRY(folder_list(folder, &names, &count, error));
  if (count > 0)
    FAIL(error, ERROR_USAGE,
         "%s: contains checkpoints of an earlier run; continue it with --resume auto, or choose "
         "another run.dir",
         run->config->run.dir);
done:
  folder_list_free(names, count);
  return status;
}

/* A damaged checkpoint costs the steps since the one before, not the run. */
static const CheckpointOptions RESUME_OPTIONS = {.allow_older = true};

Status run_open_resume_checkpoint(Run *run, const char *resume, Checkpoint **out, Error *error) {
  Status status = OK;
  char *folder = checkpoints_folder(run);
  *out = NULL;
  if (strcmp(resume, "auto") == 0) {
    TRY(checkpoint_open_latest(folder, &RESUME_OPTIONS, out, error));
  } else if (strcmp(resume, "none") != 0) {
    TRY(checkpoint_open_path(resume, &RESUME_OPTIONS, out, error));
    run->external_checkpoint = mem_string((*out)->path);
  } else {
    TRY(refuse_earlier_run(run, folder, error));
  }
done:
  free(folder);
  return status;
}

Status run_open_rollback_checkpoint(Run *run, int64_t step, Checkpoint **out, Error *error) {
  Status status = OK;
  char *folder = checkpoints_folder(run);
  TRY(checkpoint_writer_wait(run->checkpoints, run->config->comm.checkpoint_timeout, error));
  TRY(checkpoint_open_up_to(folder, step, &RESUME_OPTIONS, out, error));
  if (!*out && run->external_checkpoint) TRY(checkpoint_open(run->external_checkpoint, out, error));
done:
  free(folder);
  return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

static Status write_config(Run *run, Error *error) {
  Text text = {0};
  char *path = path_join(run->config->run.dir, "config.yaml");
  config_write(&config_schema, run->config, true, &text);
  Status status = atomic_file_replace(path, text.data, text.length, error);
  free(path);
  text_free(&text);
  return status;
}

static void append_details(const void *record, Text *line) {
  status_line_append(record, line);
}

Status run_reopen_metrics(Run *run, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  metrics_log_close(run->metrics);
  tensorboard_close(run->tensorboard);
  progress_end(run->progress);
  run->metrics = NULL;
  run->tensorboard = NULL;
  run->record = (MetricsRecord){0};
  run->progress = progress_new("train", run->step, config->train.steps);
  progress_set_details(run->progress, append_details, &run->record);
  TRY(metrics_log_open(config->run.dir, run->step, &run->metrics, error));
  if (config->metrics.tensorboard)
    TRY(tensorboard_open(config->run.dir, run->step, &run->tensorboard, error));
done:
  return status;
}

Status run_write_metrics(Run *run, Error *error) {
  Status status = OK;
  TRY(metrics_log_write(run->metrics, &run->record, error));
  if (run->tensorboard) TRY(tensorboard_write(run->tensorboard, &run->record, error));
done:
  return status;
}

/* Sets *out to the name of `checkpoint` if it is in the folder of this run, else NULL. Caller
 * frees. */
static Status own_name(const char *folder, const Checkpoint *checkpoint, char **out, Error *error) {
  bool same;
  char *name = checkpoint_step_name(checkpoint->step, "");
  char *path = path_join(folder, name);
  Status status = path_is_same(checkpoint->path, path, &same, error);
  free(path);
  *out = same ? name : NULL;
  if (!same) free(name);
  return status;
}

Status run_open_outputs(Run *run, const Checkpoint *checkpoint, Error *error) {
  Status status = OK;
  const Config *config = run->config;
  char *folder = checkpoints_folder(run), *samples = path_join(config->run.dir, "samples");
  char *from = NULL;
  if (checkpoint) TRY(own_name(folder, checkpoint, &from, error));
  TRY(checkpoint_writer_open(folder, (int)config->checkpoint.keep, from, &run->checkpoints, error));
  TRY(write_config(run, error));
  TRY(folder_create(samples, error));
  temporary_remove_leftovers(samples, NULL);
  temporary_remove_leftovers(config->run.dir, NULL);
  run->sample_inference =
      inference_from_parameters(config, gan_generator(run->gan), READ_EMA, run->backend);
  TRY(run_reopen_metrics(run, error));
done:
  free(from);
  free(folder);
  free(samples);
  return status;
}

Status run_take_snapshot(Run *run, Error *error) {
  Status status = OK;
  int64_t count;
  const int64_t *skipped_batches = guard_skipped_batches(run->guard, &count);
  TrainingPosition position = {
      .step = run->step,
      .samples = shuffle_batch_of_step(run->step, skipped_batches, count) *
                 run->config->train.global_batch,
      .data = data_identity(run->dataset, run->target_dataset),
      .augment_probability = run->augment_probability,
      .guard = run->guard,
      .pending = &run->recent_steps[0].outcome,
  };
  /* A run that resumes from this checkpoint continues these files. */
  TRY(metrics_log_sync(run->metrics, error));
  if (run->tensorboard) TRY(tensorboard_sync(run->tensorboard, error));
  if (!run->snapshot) TRY(training_snapshot_new(run->gan, &run->snapshot, error));
  TRY(training_snapshot_take(run->snapshot, &position, error));
done:
  return status;
}

/* RUN/samples/step-00012000.png; caller frees. */
static char *sample_sheet_path(const Run *run) {
  char *name = checkpoint_step_name(run->step, ".png");
  char *path = mem_format("%s/samples/%s", run->config->run.dir, name);
  free(name);
  return path;
}

Status run_write_sample_sheet(Run *run, Error *error) {
  Status status = OK;
  bool written;
  char *path = sample_sheet_path(run);
  TRY(sample_sheet_write(run->dataset, run->target_dataset, run->sample_inference,
                         (int)run->config->samples.clips, path, &written, error));
  if (written && run->tensorboard)
    TRY(tensorboard_write_sheet(run->tensorboard, run->step, path, error));
done:
  free(path);
  return status;
}

Status run_write_missed_sample_sheet(Run *run, Error *error) {
  Status status = OK;
  int64_t every = run->config->samples.every;
  char *path = sample_sheet_path(run);
  bool exists = true;
  if (every > 0 && run->step > 0 && run->step % every == 0) TRY(path_exists(path, &exists, error));
  if (!exists) TRY(run_write_sample_sheet(run, error));
done:
  free(path);
  return status;
}
