/* The background writer of checkpoints: commit protocol and retention. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "checkpoints/internal.h"

typedef struct StepSet {
  int64_t *steps;
  size_t count, capacity;
} StepSet;

struct CheckpointWriter {
  char *folder;
  int keep;
  int64_t protected; /* step of the checkpoint never to remove; -1: none */
  pthread_t thread;
  CheckpointSnapshot snapshot; /* owned by the thread while `writing`, by the caller otherwise */

  /* Used by the thread only. */
  StepSet valid;        /* checkpoints that this writer has written or validated */
  StepSet stuck;        /* steps that could not be removed, of which it has warned */
  int64_t last_written; /* step; -1: none yet */

  pthread_mutex_t mutex; /* protects the members below */
  pthread_cond_t changed;
  bool writing, closing;
  Error failure; /* of the last write; cleared when reported */
};

/* --- The thread: commit and retention --------------------------------------------------------- */

static bool steps_hold(const StepSet *set, int64_t step) {
  for (size_t i = 0; i < set->count; i++) {
    if (set->steps[i] == step) return true;
  }
  return false;
}

static void steps_add(StepSet *set, int64_t step) {
  if (steps_hold(set, step)) return;
  MEM_PUSH_SLOT(set->steps, set->count, set->capacity);
  set->steps[set->count++] = step;
}

static void steps_drop(StepSet *set, int64_t step) {
  for (size_t i = 0; i < set->count; i++) {
    if (set->steps[i] == step) set->steps[i--] = set->steps[--set->count];
  }
}

static bool is_valid(CheckpointWriter *writer, int64_t step) {
  if (steps_hold(&writer->valid, step)) return true;
  Error error = {0};
  char *name = checkpoint_step_name(step, ""), *path = path_join(writer->folder, name);
  bool valid = checkpoint_validate(path, &error) == OK;
  if (valid)
    steps_add(&writer->valid, step);
  else
    log_warning("%s; it does not count towards checkpoint.keep", error.message);
  free(name);
  free(path);
  return valid;
}

/* Moves checkpoints of `step` and later out of the way: after a rollback, the next resume would
 * take them for the newest. */
static Status set_later_aside(CheckpointWriter *writer, int64_t step, Error *error) {
  Status status = OK;
  int64_t *steps = NULL;
  size_t count;
  TRY(checkpoint_steps_list(writer->folder, &steps, &count, error));
  for (size_t i = 0; i < count; i++) {
    if (steps[i] < step) continue;
    if (steps[i] == step && step == writer->last_written)
      TRY(checkpoint_step_discard(writer->folder, step, error));
    else
      TRY(checkpoint_step_set_aside(writer->folder, steps[i], step, error));
    steps_drop(&writer->valid, steps[i]);
  }
done:
  free(steps);
  return status;
}

/* A failure is no reason to end the run: the new checkpoint is complete, and what is left of the
 * old one is no valid checkpoint any more, or still a whole one. Network file systems refuse to
 * remove what another process reads. */
static void remove_old(CheckpointWriter *writer, int64_t step) {
  Error found = {0};
  steps_drop(&writer->valid, step);
  if (checkpoint_step_remove(writer->folder, step, &found) == OK) {
    steps_drop(&writer->stuck, step);
    return;
  }
  if (!steps_hold(&writer->stuck, step))
    log_warning(
        "%s; training continues, and the removal of this old checkpoint is tried again at each "
        "following one",
        found.message);
  steps_add(&writer->stuck, step);
}

/* Removes all checkpoints except the newest `keep` valid ones and those that the run may roll back
 * to or was resumed from. */
static Status apply_retention(CheckpointWriter *writer, Error *error) {
  Status status = OK;
  int64_t *steps = NULL;
  size_t count;
  int kept = 0;
  int64_t rollback_step = writer->snapshot.content.rollback_step;
  bool needs_target = rollback_step > 0; /* a checkpoint to roll back to */
  TRY(checkpoint_steps_list(writer->folder, &steps, &count, error));
  for (size_t i = count; i-- > 0;) {
    bool may_be_target = needs_target && steps[i] <= rollback_step;
    if (kept < writer->keep || may_be_target) {
      bool valid = is_valid(writer, steps[i]);
      kept += valid;
      if (may_be_target && valid) needs_target = false;
    } else if (steps[i] != writer->protected) {
      remove_old(writer, steps[i]);
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

/* Removes the checkpoint that the one of `step` has replaced, if any. */
static void remove_discarded(const CheckpointWriter *writer, int64_t step) {
  Error found = {0};
  char *name = checkpoint_step_name(step, CHECKPOINT_DISCARDED);
  char *path = path_join(writer->folder, name);
  if (folder_remove(path, &found) != OK)
    log_warning("%s; this replaced checkpoint stays until the next start", found.message);
  free(name);
  free(path);
}

static Status write_checkpoint(CheckpointWriter *writer, Error *error) {
  Status status = OK;
  int64_t step = writer->snapshot.content.step;
  char *name = checkpoint_step_name(step, ""), *final = path_join(writer->folder, name);
  char *temporary = mem_format("%s.tmp", final);
  Error found = {0};
  TRY(folder_remove(temporary, error));
  TRY(folder_create(temporary, error));
  TRY(checkpoint_snapshot_write(&writer->snapshot, temporary, error));
  TRY(set_later_aside(writer, step, error));
  TRY(folder_commit(temporary, final, error));
  steps_add(&writer->valid, step);
  writer->last_written = step;
  TRY(write_latest(writer, name, error));
  remove_discarded(writer, step);
  if (apply_retention(writer, &found) != OK)
    log_warning("%s; old checkpoints are removed after the next one", found.message);
done:
  if (status != OK) {
    Error ignored;
    error_context(error, "checkpoint of step %lld", (long long)step);
    folder_remove(temporary, &ignored); /* does not exist if the commit succeeded */
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
    checkpoint_snapshot_clear(&writer->snapshot);
    pthread_mutex_lock(&writer->mutex);
    if (status != OK) writer->failure = error;
    writer->writing = false;
    pthread_cond_broadcast(&writer->changed);
  }
  pthread_mutex_unlock(&writer->mutex);
  return NULL;
}

/* --- The calling thread ----------------------------------------------------------------------- */

/* Removes a file or folder, if it is there. */
static Status remove_path(const char *path, Error *error) {
  if (file_unlink(path) == 0 || errno == ENOENT) return OK;
  if (errno == EISDIR || errno == EPERM) return folder_remove(path, error);
  return error_errno(error, errno, "%s: cannot remove", path);
}

/* Removes the temporary files of killed processes. Failures are warnings, because readers ignore
 * these files. */
static Status remove_leftovers(const char *folder, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  TRY(folder_list(folder, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    Error found = {0};
    size_t length = strlen(names[i]);
    if (length < 4 || strcmp(names[i] + length - 4, ".tmp") != 0) continue;
    char *path = path_join(folder, names[i]);
    if (remove_path(path, &found) != OK)
      log_warning("%s; this leftover of a killed process stays until the next start",
                  found.message);
    free(path);
  }
done:
  folder_list_free(names, count);
  return status;
}

/* Names the newest checkpoint in `latest`: a process that ended between the rename of a checkpoint
 * and that of `latest` has left the name of an older one. */
static Status renew_latest(const CheckpointWriter *writer, Error *error) {
  Status status = OK;
  int64_t *steps = NULL;
  size_t count;
  TRY(checkpoint_steps_list(writer->folder, &steps, &count, error));
  if (count > 0) {
    char *name = checkpoint_step_name(steps[count - 1], "");
    status = write_latest(writer, name, error);
    free(name);
  }
done:
  free(steps);
  return status;
}

static void free_writer(CheckpointWriter *writer) {
  pthread_cond_destroy(&writer->changed);
  pthread_mutex_destroy(&writer->mutex);
  checkpoint_snapshot_free(&writer->snapshot);
  free(writer->valid.steps);
  free(writer->stuck.steps);
  free(writer->folder);
  free(writer);
}

Status checkpoint_writer_open(const char *folder, int keep, const char *protected,
                              CheckpointWriter **out, Error *error) {
  Status status = OK;
  CheckpointWriter *writer = mem_new(1, sizeof *writer);
  writer->folder = mem_string(folder);
  writer->keep = keep;
  writer->protected = protected ? checkpoint_step_of_name(protected) : -1;
  writer->last_written = -1;
  pthread_mutex_init(&writer->mutex, NULL);
  condition_init(&writer->changed);
  *out = NULL;
  if (keep < 2) FAIL(error, ERROR_USAGE, "%s: keep is %d; must be at least 2", folder, keep);
  if (protected && writer->protected < 0)
    FAIL(error, ERROR_INTERNAL, "%s: \"%s\" is not a checkpoint name", folder, protected);
  TRY(folder_create(folder, error));
  TRY(checkpoint_refuse_other_versions(folder, error));
  TRY(remove_leftovers(folder, error));
  TRY(renew_latest(writer, error));
  if (writer->protected >= 0) steps_add(&writer->valid, writer->protected);
  TRY(thread_start(&writer->thread, "checkpoints", run, writer, error));
  *out = writer;
  writer = NULL;
done:
  if (writer) free_writer(writer);
  return status;
}

/* Returns and clears the failure of the last write. The mutex is held. */
static Status take_failure(CheckpointWriter *writer, Error *error) {
  Error failure = writer->failure;
  writer->failure = (Error){0};
  return failure.status == OK ? OK : error_set(error, failure.status, "%s", failure.message);
}

/* Waits until no write is in progress. The mutex is held. */
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
  TRY(checkpoint_snapshot_check(content, error));
  pthread_mutex_lock(&writer->mutex);
  status = wait_idle(writer, CHECKPOINT_WAIT_SECONDS, error);
  pthread_mutex_unlock(&writer->mutex);
  if (status != OK) goto done;
  TRY(checkpoint_snapshot_take(&writer->snapshot, content, error));
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
