/* Shared by the files of checkpoints/. */
#ifndef CELFORGE_CHECKPOINTS_INTERNAL_H
#define CELFORGE_CHECKPOINTS_INTERNAL_H

#include <stdbool.h>

#include "checkpoints/checkpoint.h"

#define CHECKPOINT_FORMAT   "celforge checkpoint"
#define CHECKPOINT_MANIFEST "manifest.json"
#define CHECKPOINT_STATE    "state.json"
#define CHECKPOINT_LATEST   "latest"
enum { CHECKPOINT_VERSION = 1 };

/* --- safetensors.c ---------------------------------------------------------------------------- */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

#define SAFETENSORS_METADATA "__metadata__" /* the one member of the header that is no tensor */
/* Bytes of the number before the header, and the most that the header may have. */
enum { SAFETENSORS_LENGTH = 8, SAFETENSORS_MAX_HEADER = 100000000 };

/* Bytes of one element; 0 for an unknown type. */
size_t tensor_type_size(TensorType type);
/* As safetensors_open, but first holds length and CRC32C of the file against what is expected. */
Status safetensors_open_checked(const char *path, uint64_t size, uint32_t crc, Safetensors **out,
                                Error *error);

/* --- steps.c: the folders step-N in RUN/checkpoints ------------------------------------------- */

/* "step-00012000", with `suffix` behind it; caller frees. */
char *step_name(int64_t step, const char *suffix);
/* -1 when `name` is not exactly what step_name gives. */
int64_t step_of_name(const char *name);
/* The steps there are, ascending; caller frees. */
Status steps_list(const char *folder, int64_t **steps, size_t *count, Error *error);
/* Removes one, its manifest first, so that what a kill leaves is not taken for a checkpoint. */
Status step_remove(const char *folder, int64_t step, Error *error);
/* Renames one to step-N.left, or .left-2 and so on: whole, but out of the run's course. */
Status step_set_aside(const char *folder, int64_t step, int64_t in_favour_of, Error *error);

/* --- snapshot.c: content copied aside, and written -------------------------------------------- */

typedef struct Snapshot {
  CheckpointContent content; /* points to what follows */
  CheckpointFile files[CHECKPOINT_MAX_FILES];
  void *data; /* every tensor's, kept from one snapshot to the next */
  size_t capacity;
} Snapshot;

/* ERROR_INTERNAL for content that could not be written: names, ranks, reserved members. */
Status snapshot_check(const CheckpointContent *content, Error *error);
Status snapshot_take(Snapshot *snapshot, const CheckpointContent *content, Error *error);
/* Frees all but the memory for the tensors. */
void snapshot_clear(Snapshot *snapshot);
void snapshot_free(Snapshot *snapshot);
/* Writes every file and the manifest, fsynced, into the existing folder. */
Status snapshot_write(const Snapshot *snapshot, const char *folder, Error *error);

/* --- manifest.c ------------------------------------------------------------------------------- */

/* Over the canonical text of all members but "crc32c". */
uint32_t checkpoint_manifest_crc(const json_t *manifest);
/* Whether the commit protocol itself writes a member of this name. */
bool checkpoint_manifest_reserves(const char *key);
/* Reads and checks it, all but what it says about the files. ERROR_DATA when missing or wrong. */
Status checkpoint_manifest_read(const char *checkpoint, json_t **out, int64_t *step, Error *error);

#endif
