#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "checkpoints/internal.h"

struct CheckpointWriter {
  char *folder;
  int keep;
  int64_t protected; /* a step; -1: none */
  pthread_t thread;
  Snapshot snapshot; /* the thread's while `writing`, the caller's otherwise */

  /* Of the thread alone. */
  int64_t *trusted; /* steps written by this writer or validated by it */
  size_t trusted_count, trusted_capacity;
  int64_t last_written; /* -1: none yet */

  pthread_mutex_t mutex; /* guards all below */
  pthread_cond_t changed;
  bool writing, closing;
  Error failure; /* of the last write, until it is reported */
};

/* --- The thread: commit and retention --------------------------------------------------------- */

static bool is_trusted(const CheckpointWriter *writer, int64_t step) {
  for (size_t i = 0; i < writer->trusted_count; i++) {
    if (writer->trusted[i] == step) return true;
  }
  return false;
}

static void trust(CheckpointWriter *writer, int64_t step) {
  if (is_trusted(writer, step)) return;
  MEM_PUSH_SLOT(writer->trusted, writer->trusted_count, writer->trusted_capacity);
  writer->trusted[writer->trusted_count++] = step;
}

static void distrust(CheckpointWriter *writer, int64_t step) {
  for (size_t i = 0; i < writer->trusted_count; i++) {
    if (writer->trusted[i] == step) writer->trusted[i--] = writer->trusted[--writer->trusted_count];
  }
}

static bool is_good(CheckpointWriter *writer, int64_t step) {
  if (is_trusted(writer, step)) return true;
  Error error = {0};
  Checkpoint *checkpoint = NULL;
  char *name = step_name(step, ""), *path = path_join(writer->folder, name);
  bool good = checkpoint_open(path, &checkpoint, &error) == OK;
  if (good)
    trust(writer, step);
  else
    log_warning("%s; it is not counted among the checkpoints to keep", error.message);
  checkpoint_close(checkpoint);
  free(name);
  free(path);
  return good;
}

/* A run that went back writes lower steps than those that lie there. Left in place they would be
 * taken for the newest by the next resume. */
static Status make_room(CheckpointWriter *writer, int64_t step, Error *error) {
  Status status = OK;
  int64_t *steps = NULL;
  size_t count;
  TRY(steps_list(writer->folder, &steps, &count, error));
  for (size_t i = 0; i < count; i++) {
    if (steps[i] < step) continue;
    if (steps[i] == step && step == writer->last_written)
      TRY(step_remove(writer->folder, step, error));
    else
      TRY(step_set_aside(writer->folder, steps[i], step, error));
    distrust(writer, steps[i]);
  }
done:
  free(steps);
  return status;
}

/* Removes what is older than the newest `keep` good ones, but for the newest good one the
 * run may go back to. */
static Status retain(CheckpointWriter *writer, Error *error) {
  Status status = OK;
  int64_t *steps = NULL;
  size_t count;
  int good = 0;
  int64_t keep_before = writer->snapshot.content.keep_before;
  bool wanted = keep_before > 0;
  TRY(steps_list(writer->folder, &steps, &count, error));
  for (size_t i = count; i-- > 0;) {
    bool before = wanted && steps[i] <= keep_before;
    if (good < writer->keep || before) {
      bool whole = is_good(writer, steps[i]);
      good += whole;
      if (before && whole) wanted = false;
    } else if (steps[i] != writer->protected) {
      distrust(writer, steps[i]);
      TRY(step_remove(writer->folder, steps[i], error));
    }
  }
done:
  free(steps);
  return status;
}

static Status write_latest(const CheckpointWriter *writer, const char *name, Error *error) {
  char *path = path_join(writer->folder, CHECKPOINT_LATEST), *line = mem_format("%s\n", name);
  Status status = atomic_file_replace(path, line, strlen(line), error);
  free(path);
  free(line);
  return status;
}

static Status write_checkpoint(CheckpointWriter *writer, Error *error) {
  Status status = OK;
  int64_t step = writer->snapshot.content.step;
  char *name = step_name(step, ""), *final = path_join(writer->folder, name);
  char *temporary = mem_format("%s.tmp", final);
  TRY(folder_remove(temporary, error));
  TRY(folder_create(temporary, error));
  TRY(snapshot_write(&writer->snapshot, temporary, error));
  TRY(make_room(writer, step, error));
  TRY(folder_commit(temporary, final, error));
  trust(writer, step);
  writer->last_written = step;
  TRY(write_latest(writer, name, error));
  TRY(retain(writer, error));
done:
  if (status != OK) {
    Error ignored;
    error_context(error, "checkpoint of step %lld", (long long)step);
    folder_remove(temporary, &ignored); /* gone already when the commit itself went well */
  }
  free(name);
  free(final);
  free(temporary);
  return status;
}

static void *run(void *argument) {
  CheckpointWriter *writer = argument;
  pthread_mutex_lock(&writer->mutex);
  for (;;) {
    while (!writer->writing && !writer->closing)
      pthread_cond_wait(&writer->changed, &writer->mutex);
    if (!writer->writing) break;
    pthread_mutex_unlock(&writer->mutex);
    Error error = {0};
    Status status = write_checkpoint(writer, &error);
    snapshot_clear(&writer->snapshot);
    pthread_mutex_lock(&writer->mutex);
    if (status != OK) writer->failure = error;
    writer->writing = false;
    pthread_cond_broadcast(&writer->changed);
  }
  pthread_mutex_unlock(&writer->mutex);
  return NULL;
}

/* --- The caller's side ------------------------------------------------------------------------ */

/* What a killed process has left. */
static Status remove_leftovers(const char *folder, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  TRY(folder_list(folder, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    size_t length = strlen(names[i]);
    if (length < 4 || strcmp(names[i] + length - 4, ".tmp") != 0) continue;
    char *path = path_join(folder, names[i]);
    if (path_is_folder(path))
      status = folder_remove(path, error);
    else if (unlink(path) != 0 && errno != ENOENT)
      status = error_errno(error, errno, "%s: cannot remove", path);
    free(path);
    if (status != OK) goto done;
  }
done:
  folder_list_free(names, count);
  return status;
}

static void free_writer(CheckpointWriter *writer) {
  pthread_cond_destroy(&writer->changed);
  pthread_mutex_destroy(&writer->mutex);
  snapshot_free(&writer->snapshot);
  free(writer->trusted);
  free(writer->folder);
  free(writer);
}

Status checkpoint_writer_open(const char *folder, int keep, const char *protected,
                              CheckpointWriter **out, Error *error) {
  Status status = OK;
  CheckpointWriter *writer = mem_new(1, sizeof *writer);
  writer->folder = mem_string(folder);
  writer->keep = keep;
  writer->protected = protected ? step_of_name(protected) : -1;
  writer->last_written = -1;
  pthread_mutex_init(&writer->mutex, NULL);
  condition_init(&writer->changed);
  *out = NULL;
  if (keep < 2)
    FAIL(error, ERROR_USAGE, "%s: %d checkpoints to keep; must be 2 or more", folder, keep);
  if (protected && writer->protected < 0)
    FAIL(error, ERROR_INTERNAL, "%s: \"%s\" is not a checkpoint's name", folder, protected);
  TRY(folder_create(folder, error));
  TRY(remove_leftovers(folder, error));
  if (writer->protected >= 0) trust(writer, writer->protected); /* the run was resumed from it */
  TRY(thread_start(&writer->thread, "checkpoints", run, writer, error));
  *out = writer;
  writer = NULL;
done:
  if (writer) free_writer(writer);
  return status;
}

/* With the mutex held: takes over the failure there may be. */
static Status take_failure(CheckpointWriter *writer, Error *error) {
  Error failure = writer->failure;
  writer->failure = (Error){0};
  return failure.status == OK ? OK : error_set(error, failure.status, "%s", failure.message);
}

/* With the mutex held: waits until nothing is written. */
static Status wait_idle(CheckpointWriter *writer, double timeout, Error *error) {
  double deadline = clock_seconds() + timeout;
  bool in_time = true;
  while (writer->writing && in_time)
    in_time = condition_wait_until(&writer->changed, &writer->mutex, deadline);
  if (writer->writing)
    return error_set(error, ERROR_IO, "%s: a checkpoint is still being written after %.1f s",
                     writer->folder, timeout);
  return take_failure(writer, error);
}

Status checkpoint_writer_check(CheckpointWriter *writer, Error *error) {
  pthread_mutex_lock(&writer->mutex);
  Status status = writer->writing ? OK : take_failure(writer, error);
  pthread_mutex_unlock(&writer->mutex);
  return status;
}

Status checkpoint_writer_submit(CheckpointWriter *writer, const CheckpointContent *content,
                                Error *error) {
  Status status = OK;
  TRY(snapshot_check(content, error));
  pthread_mutex_lock(&writer->mutex);
  status = wait_idle(writer, CHECKPOINT_WAIT_SECONDS, error);
  pthread_mutex_unlock(&writer->mutex);
  if (status != OK) goto done;
  TRY(snapshot_take(&writer->snapshot, content, error));
  pthread_mutex_lock(&writer->mutex);
  writer->writing = true;
  pthread_cond_broadcast(&writer->changed);
  pthread_mutex_unlock(&writer->mutex);
done:
  return status;
}

Status checkpoint_writer_wait(CheckpointWriter *writer, double timeout, Error *error) {
  pthread_mutex_lock(&writer->mutex);
  Status status = wait_idle(writer, timeout, error);
  pthread_mutex_unlock(&writer->mutex);
  return status;
}

Status checkpoint_writer_close(CheckpointWriter *writer, Error *error) {
  if (!writer) return OK;
  pthread_mutex_lock(&writer->mutex);
  Status status = wait_idle(writer, CHECKPOINT_WAIT_SECONDS, error);
  bool stuck = writer->writing;
  writer->closing = true;
  pthread_cond_broadcast(&writer->changed);
  pthread_mutex_unlock(&writer->mutex);
  if (stuck) { /* the thread still uses it */
    pthread_detach(writer->thread);
    return status;
  }
  pthread_join(writer->thread, NULL);
  free_writer(writer);
  return status;
}
