/* A file driver for libhdf5 that writes through a descriptor and keeps errno. */
#ifndef CELFORGE_DATA_DATASET_HDF5_DRIVER_H
#define CELFORGE_DATA_DATASET_HDF5_DRIVER_H

#include <hdf5.h>

/* Makes files that are created with `access` be written through a duplicate of `descriptor`, which
 * must be open for reading and writing; their path does not matter.
 *
 * libhdf5 forgets errno, keeps data that it could not write, and cannot close a file on a full
 * disk: H5Fclose fails and leaves the file half closed, and every further call on it may crash. So
 * this driver stores the errno of the first system call that failed in *errnum, which must outlive
 * the file, and from then on reports success for writes and does none. The file is then worthless,
 * but libhdf5 closes it like any other. Check *errnum after each step, and after H5Fclose. Setting
 * it stops all writes to a file that is not wanted any more. Negative on failure. */
herr_t hdf5_driver_select(hid_t access, int descriptor, int *errnum);

#endif
