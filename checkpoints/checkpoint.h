/* Checkpoints: folders that are complete or absent, written by a background thread.
 *
 *   RUN/checkpoints/step-00012000/   *.safetensors, state.json, manifest.json
 *   RUN/checkpoints/latest           one line: the name of the newest checkpoint
 *
 * The commit protocol has four steps:
 *
 *   1. Write and fsync all files in step-N.tmp; manifest.json (size and CRC-32C of each file) last.
 *   2. Rename the folder to step-N and fsync its parent.
 *   3. Replace `latest` atomically.
 *   4. Remove old checkpoints, manifest first. At least two valid ones always remain, and so does
 *      the one that the run was resumed from. One that cannot be removed is reported once, as a
 *      warning, and tried again after the next checkpoint.
 *
 * A process killed at any moment leaves a complete checkpoint or a folder that readers ignore.
 *
 * The manifest holds a format version. A checkpoint of another version is never skipped as if it
 * were damaged: every function below that meets one fails with ERROR_DATA and names both versions,
 * so that no run starts over, or overwrites it, without notice. */
#ifndef CELFORGE_CHECKPOINTS_CHECKPOINT_H
#define CELFORGE_CHECKPOINTS_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/text.h"
#include "checkpoints/safetensors.h"

/* The largest step of a checkpoint, as of train.steps; steps times clips per step fit int64_t. */
#define CHECKPOINT_MAX_STEP ((int64_t)1000000000000)
enum {
  CHECKPOINT_MAX_FILES = 8,
  CHECKPOINT_WAIT_SECONDS = 1800, /* how long submit and close wait for the previous write */
};

/* One tensor file of a checkpoint. `name` ends in ".safetensors". */
typedef struct CheckpointFile {
  const char *name; /* "generator.safetensors" */
  const NamedTensor *tensors;
  int tensor_count;
} CheckpointFile;

typedef struct CheckpointContent {
  int64_t step;
  const CheckpointFile *files;
  int file_count;
  const json_t *state;    /* becomes state.json */
  const json_t *manifest; /* further members of manifest.json: dataset uuid, config; or NULL */
  /* If above 0, retention also keeps the newest valid checkpoint of at most this step, because the
   * run may have to roll back to it. */
  int64_t rollback_step;
} CheckpointContent;

/* --- Writing ---------------------------------------------------------------------------------- */
typedef struct CheckpointWriter CheckpointWriter;

/* Opens a writer for `folder`, RUN/checkpoints, which is created if missing; leftovers of killed
 * writes (*.tmp) are removed. The writer keeps the newest `keep` (at least 2) valid checkpoints and
 * never removes `protected` ("step-00012000", or NULL), from which the run was resumed and which is
 * assumed to be valid. Checkpoints from earlier processes are validated before they count. Fails
 * with ERROR_DATA if the folder holds a checkpoint of another format version. */
Status checkpoint_writer_open(const char *folder, int keep, const char *protected,
                              CheckpointWriter **out, Error *error);
/* Copies the content (the caller waits for one memory copy) and returns; a thread writes the copy.
 * If the previous checkpoint is still being written, waits for it first. A failed write is reported
 * once, by the next call on the writer (that submit then writes nothing), and leaves older
 * checkpoints untouched.
 * Existing checkpoints of this step or a later one come from before a rollback. They are renamed to
 * step-N.left, with a warning, so that a resume does not take them for the newest. If the last
 * checkpoint that this writer wrote is of the same step, it is replaced instead. */
Status checkpoint_writer_submit(CheckpointWriter *writer, const CheckpointContent *content,
                                Error *error);
/* Returns the failure of the last write if it has not been reported yet. Does not wait. */
Status checkpoint_writer_check(CheckpointWriter *writer, Error *error);
/* Waits at most `timeout` seconds until no write is in progress; ERROR_IO after that. */
Status checkpoint_writer_wait(CheckpointWriter *writer, double timeout, Error *error);
/* Waits at most CHECKPOINT_WAIT_SECONDS for the last write, then frees the writer. A thread that
 * hangs in a write for longer is detached, and its memory is not freed. NULL is allowed. */
Status checkpoint_writer_close(CheckpointWriter *writer, Error *error);

/* --- Reading ---------------------------------------------------------------------------------- */

/* The name of the checkpoint of `step`, followed by `suffix`: "step-00012000". Caller frees. */
char *checkpoint_step_name(int64_t step, const char *suffix);

typedef struct Checkpoint {
  char *path; /* the checkpoint's folder */
  int64_t step;
  json_t *state, *manifest;
  int file_count;
  char *names[CHECKPOINT_MAX_FILES];
  Safetensors *files[CHECKPOINT_MAX_FILES];
} Checkpoint;

/* Opens one checkpoint folder and validates its manifest, and the sizes, checksums and headers of
 * its files, all of which it reads into memory. ERROR_DATA if any of them is wrong; ERROR_IO, which
 * says nothing about the content, if a file cannot be read. */
Status checkpoint_open(const char *path, Checkpoint **out, Error *error);
void checkpoint_close(Checkpoint *checkpoint); /* NULL is allowed */
/* Returns NULL if the checkpoint has no file of this name. */
const Safetensors *checkpoint_file(const Checkpoint *checkpoint, const char *name);

typedef struct CheckpointOptions {
  /* If the newest checkpoint of a run is damaged, logs the reason and takes the newest valid one.
   */
  bool allow_older;
  const char *advice; /* what to do if it is damaged and no older one is allowed; ends the error */
  /* The tensor file whose data are needed; "": none; NULL: all. The other files are validated, too,
   * but are not kept in memory: their tensors have no data (safetensors_read reads it). */
  const char *needed_file;
} CheckpointOptions;

/* Opens the newest checkpoint in RUN/checkpoints. `options` may be NULL (all zero). Returns OK with
 * *out NULL if there is no checkpoint at all. ERROR_DATA, naming the file, if the newest is damaged
 * (or all are, if older ones are allowed), or if one is of another format version. An older one is
 * never taken because of any other error, such as ERROR_IO: the newest may be whole. */
Status checkpoint_open_latest(const char *checkpoints_folder, const CheckpointOptions *options,
                              Checkpoint **out, Error *error);
/* Does the same among the checkpoints of at most `step` steps. */
Status checkpoint_open_up_to(const char *checkpoints_folder, int64_t step,
                             const CheckpointOptions *options, Checkpoint **out, Error *error);

/* Opens a path given as --checkpoint or --resume: a run folder or its checkpoints folder (both mean
 * the newest checkpoint), or the folder of one checkpoint. ERROR_IO if the path is missing,
 * ERROR_DATA if it holds no valid checkpoint. */
Status checkpoint_open_path(const char *path, const CheckpointOptions *options, Checkpoint **out,
                            Error *error);

/* Appends a description for people: step, files, tensors, sizes, config, dataset. */
Status checkpoint_describe(const char *path, const CheckpointOptions *options, Text *out,
                           Error *error);

#endif
