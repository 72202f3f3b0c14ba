/* An open shard that shard_inspect.c reads through HDF5, and its attributes. Callers hold
 * hdf5_lock. */
#ifndef CELFORGE_DATA_DATASET_INSPECTION_H
#define CELFORGE_DATA_DATASET_INSPECTION_H

#include "data/dataset/hdf5.h"

typedef struct Inspection {
  const char *path;
  hid_t file, group; /* group: "clips" */
  uint64_t bytes;    /* of the file */
} Inspection;

enum { INSPECTION_TEXT_SIZE = 64 };

/* Opens shard_file->path and the group; `file` and `group` must be H5I_INVALID_HID before.
 * ERROR_DATA if the file is not HDF5 or has a superblock version without metadata checksums. The
 * caller closes it, also after a failure. */
Status inspection_open(Inspection *shard_file, Error *error);
void inspection_close(Inspection *shard_file); /* also closes the objects in it */

/* Requires an object `name` in the group `place`. Rejects soft and external links, which could lead
 * to another file. */
Status inspection_require_hard_link(const Inspection *shard_file, hid_t place, const char *name,
                                    Error *error);

/* Read an attribute of the file; ERROR_DATA if it is missing or not as required. */
Status inspection_read_text(const Inspection *shard_file, const char *name,
                            char out[INSPECTION_TEXT_SIZE], Error *error);
Status inspection_require_text(const Inspection *shard_file, const char *name, const char *expected,
                               Error *error);
/* Reads a number from `minimum` to `maximum`. */
Status inspection_read_number(const Inspection *shard_file, const char *name, int64_t minimum,
                              int64_t maximum, int64_t *out, Error *error);

#endif
