/* Declarations shared by the files of checkpoints/. */
#ifndef CELFORGE_CHECKPOINTS_INTERNAL_H
#define CELFORGE_CHECKPOINTS_INTERNAL_H

#include <stdbool.h>

#include "checkpoints/checkpoint.h"

#define CHECKPOINT_FORMAT   "celforge checkpoint"
#define CHECKPOINT_MANIFEST "manifest.json"
#define CHECKPOINT_STATE    "state.json"
#define CHECKPOINT_LATEST   "latest"
/* Version 1 was written by Celforge 0.1: its config has other keys, and its Adam counters are f32.
 */
enum { CHECKPOINT_VERSION = 2 };

/* --- safetensors.c ---------------------------------------------------------------------------- */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

#define SAFETENSORS_METADATA "__metadata__" /* the only header member that is not a tensor */
/* Bytes of the length field before the header; the maximum length of the header. */
enum { SAFETENSORS_LENGTH = 8, SAFETENSORS_MAX_HEADER = 100000000 };

/* Returns the bytes of one element; 0 for an unknown type. */
size_t tensor_type_size(TensorType type);
struct Safetensors {
  json_t *header; /* owns the names */
  NamedTensor *tensors;
  int count;
  void *bytes;       /* the content of a file that was read whole; or NULL */
  char *path;        /* of a file of which the header was read; or NULL */
  int descriptor;    /* of such a file; or -1 */
  uint64_t *offsets; /* [count] of the tensors in the file */
};
/* Parses a file of `size` bytes. Without data, `bytes` hold length field and header alone, or as
 * much as there is of them. */
Status safetensors_parse_part(const char *name, const void *bytes, size_t size, bool with_data,
                              Safetensors **out, Error *error);

/* A file as its manifest describes it. */
typedef struct ExpectedFile {
  uint64_t size;
  uint32_t crc; /* CRC-32C of the content */
} ExpectedFile;
/* Opens like safetensors_open, or, without data, like safetensors_open_header, after checking
 * length and CRC-32C of the file; ERROR_DATA if they are not as expected (NULL: not known). */
Status safetensors_open_checked(const char *path, const ExpectedFile *expected, bool with_data,
                                Safetensors **out, Error *error);

/* --- checkpoint.c ----------------------------------------------------------------------------- */

/* Opens a checkpoint like checkpoint_open and closes it, in a memory of 1 MiB. */
Status checkpoint_validate(const char *path, Error *error);

/* --- steps.c: the folders step-N in RUN/checkpoints ------------------------------------------- */

/* Returns -1 unless `name` is exactly what checkpoint_step_name(step, "") returns. */
int64_t checkpoint_step_of_name(const char *name);
/* Lists the steps of all step-N folders, ascending; caller frees. */
Status checkpoint_steps_list(const char *folder, int64_t **steps, size_t *count, Error *error);
/* Removes a checkpoint, manifest first: a removal that is cut short leaves no valid checkpoint. */
Status checkpoint_step_remove(const char *folder, int64_t step, Error *error);
/* Renames a checkpoint to step-N.old.tmp, which readers ignore, to replace it by another one of
 * this step; of such a folder that is already there the content is removed. */
#define CHECKPOINT_DISCARDED ".old.tmp"
Status checkpoint_step_discard(const char *folder, int64_t step, Error *error);
/* Renames a checkpoint to step-N.left (.left-2, ...), so that no resume finds it, and warns that
 * the run now saves step `saved_step`. */
Status checkpoint_step_set_aside(const char *folder, int64_t step, int64_t saved_step,
                                 Error *error);

/* --- snapshot.c: a copy of a checkpoint's content, and how it is written ---------------------- */

typedef struct CheckpointSnapshot {
  CheckpointContent content; /* points to the members below */
  CheckpointFile files[CHECKPOINT_MAX_FILES];
  void *data; /* of all tensors; reused by the next snapshot */
  size_t capacity;
} CheckpointSnapshot;

/* ERROR_INTERNAL for invalid content: file names, file count, reserved manifest members. */
Status checkpoint_snapshot_check(const CheckpointContent *content, Error *error);
Status checkpoint_snapshot_take(CheckpointSnapshot *snapshot, const CheckpointContent *content,
                                Error *error);
/* Frees everything except the memory for the tensors. */
void checkpoint_snapshot_clear(CheckpointSnapshot *snapshot);
void checkpoint_snapshot_free(CheckpointSnapshot *snapshot);
/* Writes and fsyncs all files, the manifest last, in the existing `folder`. */
Status checkpoint_snapshot_write(const CheckpointSnapshot *snapshot, const char *folder,
                                 Error *error);

/* --- manifest.c ------------------------------------------------------------------------------- */

/* Returns the CRC-32C over the compact, key-sorted text of all members except "crc32c". */
uint32_t checkpoint_manifest_crc(const json_t *manifest);
/* Returns whether the writer itself sets a member of this name. */
bool checkpoint_manifest_reserves(const char *key);
/* Reads the manifest of the checkpoint folder `checkpoint` and checks all members except "files".
 * ERROR_DATA if it is missing, damaged or of another format version; *other_version tells the last
 * case from the others. */
Status checkpoint_manifest_read(const char *checkpoint, json_t **out, int64_t *step,
                                bool *other_version, Error *error);
/* Fails with ERROR_DATA if any step-N folder in `folder` holds a checkpoint of another format
 * version. Damaged ones are ignored. */
Status checkpoint_refuse_other_versions(const char *folder, Error *error);

#endif
