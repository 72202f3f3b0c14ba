/* Checkpoints: folders that are whole or absent, written by a thread in the background.
 *
 *   RUN/checkpoints/step-00012000/   *.safetensors, state.json, manifest.json
 *   RUN/checkpoints/latest           one line: the newest one's name
 *
 * Commit: everything is written into step-N.tmp and fsynced, manifest.json (size and CRC32C of
 * every file) last; then the folder is renamed and its parent fsynced; then `latest` is replaced;
 * then retention removes old ones (their manifest first), never fewer than two good ones, never the
 * one being resumed from. Whatever a kill leaves behind is either whole or not taken for a
 * checkpoint. */
#ifndef CELFORGE_CHECKPOINTS_CHECKPOINT_H
#define CELFORGE_CHECKPOINTS_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/text.h"
#include "checkpoints/safetensors.h"

enum {
  CHECKPOINT_MAX_FILES = 8,
  CHECKPOINT_WAIT_SECONDS = 1800, /* for the write before: submit and close give up after it */
};

/* One file of a checkpoint; `name` ends in ".safetensors". While a snapshot is being written its
 * tensors' data are the snapshot's own copies. */
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
  const json_t *manifest; /* further members of manifest.json: dataset uuid, config, build */
  /* Above 0: retention spares the newest good checkpoint of at most so many steps, however many
   * newer ones there are, since the run may have to go back to it. */
  int64_t keep_before;
} CheckpointContent;

/* --- Writing ---------------------------------------------------------------------------------- */
typedef struct CheckpointWriter CheckpointWriter;

/* `folder` is RUN/checkpoints; made when missing, leftovers (*.tmp) removed. Keeps the newest
 * `keep` (at least 2) good ones and never removes `protected` ("step-00012000", or NULL): the one
 * the run was resumed from, which is taken to be good. Others that this writer has not written are
 * validated before they count. */
Status checkpoint_writer_open(const char *folder, int keep, const char *protected,
                              CheckpointWriter **out, Error *error);
/* Copies the content aside (the stall: one memory copy) and returns while a thread writes it. When
 * the one before is still being written, waits for it first. A failed write is reported once, by
 * the next call (a submit then takes nothing), and leaves older checkpoints alone.
 * Checkpoints of this step or a later one that lie there belong to a course the run has left (it
 * went back to an older one): they are renamed to step-N.left, with a warning, lest a resume take
 * them for the newest; only this writer's own last one, of the same step, is replaced. */
Status checkpoint_writer_submit(CheckpointWriter *writer, const CheckpointContent *content,
                                Error *error);
/* The failure of the last write, if it has ended and has not been reported; waits for nothing. */
Status checkpoint_writer_check(CheckpointWriter *writer, Error *error);
/* Waits until nothing is being written, at most `timeout` seconds. */
Status checkpoint_writer_wait(CheckpointWriter *writer, double timeout, Error *error);
/* Waits at most CHECKPOINT_WAIT_SECONDS, then frees; a thread that hangs in a write longer than
 * that is left behind with what it uses. */
Status checkpoint_writer_close(CheckpointWriter *writer, Error *error);

/* --- Reading ---------------------------------------------------------------------------------- */
typedef struct Checkpoint {
  char *path; /* the checkpoint's folder */
  int64_t step;
  json_t *state, *manifest;
  int file_count;
  char *names[CHECKPOINT_MAX_FILES];
  Safetensors *files[CHECKPOINT_MAX_FILES];
} Checkpoint;

/* Opens one checkpoint folder, validating manifest, sizes, checksums, headers. ERROR_DATA
 * otherwise. */
Status checkpoint_open(const char *path, Checkpoint **out, Error *error);
void checkpoint_close(Checkpoint *checkpoint);
const Safetensors *checkpoint_file(const Checkpoint *checkpoint, const char *name);

/* The newest valid one in RUN/checkpoints. One that does not validate is named in the log with the
 * reason and the one before is tried. *out is NULL (and OK returned) where there is none at all;
 * ERROR_DATA where there are some and all are bad. */
Status checkpoint_open_latest(const char *checkpoints_folder, Checkpoint **out, Error *error);
/* The same among those of at most `step` steps. */
Status checkpoint_open_before(const char *checkpoints_folder, int64_t step, Checkpoint **out,
                              Error *error);

/* What users give as --checkpoint or --resume PATH: a run's folder (its newest good one), its
 * checkpoints folder, or one checkpoint's folder. Missing or bad is an error. */
Status checkpoint_open_path(const char *path, Checkpoint **out, Error *error);

/* What a person wants to know of a checkpoint: step, files, tensors, sizes, config, dataset. */
Status checkpoint_describe(const char *path, Text *out, Error *error);

#endif
