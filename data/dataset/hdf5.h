/* What the files that call HDF5 share. Include it from nowhere else. */
#ifndef CELFORGE_DATA_DATASET_HDF5_H
#define CELFORGE_DATA_DATASET_HDF5_H

#include <hdf5.h>

#include "data/dataset/shard_reader.h"

#define SHARD_FORMAT "celforge-shard"
#define SHARD_COLOR  "rgb24"
#define SHARD_LAYOUT "NTHWC"
enum { SHARD_SCHEMA_VERSION = 1, DEFLATE_LEVEL = 1 };

/* Every public function that calls HDF5 stands between these two: one thread at a time (not every
 * HDF5 is built for more), its own printing of errors off. They nest. */
void hdf5_enter(void);
void hdf5_leave(void);

/* "PATH: <format>: <HDF5's own reason>". */
Status hdf5_error(Error *error, Status code, const char *path, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* How shards are opened: no locks, closing the file closes what was opened in it. Negative on
 * failure, like HDF5's own. */
hid_t hdf5_file_access(void);

#endif
