/* The checksum of HDF5's metadata: Bob Jenkins' lookup3 hash, little-endian, initial value 0 (HDF5
 * File Format Specification 3.0, "Checksum"). */
#ifndef CELFORGE_DATA_DATASET_HDF5_CHECKSUM_H
#define CELFORGE_DATA_DATASET_HDF5_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint32_t hdf5_checksum(const void *data, size_t size);

#endif
