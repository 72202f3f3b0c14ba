/* Shared by the files that call libhdf5, which only writes shards: shard_writer.c and
 * hdf5_driver.c. Include it only there. */
#ifndef CELFORGE_DATA_DATASET_HDF5_H
#define CELFORGE_DATA_DATASET_HDF5_H

#include <hdf5.h>

#include "data/dataset/shard_reader.h"

enum { DEFLATE_LEVEL = 1 };

/* Every public function that calls HDF5 does so between these two. They serialise all threads (HDF5
 * may be built without thread safety) and turn HDF5's own error printing off. Recursive. */
void hdf5_lock(void);
void hdf5_unlock(void);

/* Sets "PATH: <format>: <HDF5's innermost error>" and returns `code`. */
Status hdf5_error(Error *error, Status code, const char *path, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Returns the access properties that shards are created with: 1.10 format, closing the file closes
 * all objects in it, and the driver of data/dataset/hdf5_driver.h. The caller closes it; negative
 * on failure. */
hid_t hdf5_file_access(int descriptor, int *errnum);

#endif
