/* Shared by the files of hdf5_reader.h. Include it only there. */
#ifndef CELFORGE_DATA_DATASET_HDF5_STRUCTURES_H
#define CELFORGE_DATA_DATASET_HDF5_STRUCTURES_H

#include <stddef.h>

#include "data/dataset/hdf5_reader.h"

enum { CHECKSUM_SIZE = 4 }; /* bytes behind each structure */

/* Takes little-endian numbers from a block. Past its end `overrun` is set, and all numbers are 0.
 */
typedef struct Cursor {
  const uint8_t *data;
  size_t size, at;
  bool overrun;
} Cursor;

uint64_t cursor_number(Cursor *cursor, int bytes);
/* Returns the next `size` bytes, or NULL past the end. */
const uint8_t *cursor_bytes(Cursor *cursor, size_t size);

/* Sets "PATH: "NAME": <format>", ERROR_DATA. */
Status hdf5_damaged(const Hdf5Reader *reader, const char *name, Error *error, const char *format,
                    ...) __attribute__((format(printf, 4, 5)));

/* Reads `size` bytes at `address`, followed in the file by their checksum, and checks it.
 * `signature` (4 letters, or NULL for none) is what they begin with. The caller frees *out. */
Status hdf5_read_block(const Hdf5Reader *reader, const char *name, const char *signature,
                       uint64_t address, size_t size, uint8_t **out, Error *error);

/* Parses a message of an object header into the object. */
Status hdf5_parse_message(const Hdf5Reader *reader, int type, Cursor message, Hdf5Object *object,
                          Error *error);
Status hdf5_parse_attribute(const Hdf5Reader *reader, Cursor message, Hdf5Object *object,
                            Error *error);
/* Reads the attributes in dense storage. */
Status hdf5_read_dense_attributes(const Hdf5Reader *reader, Hdf5Object *object, Error *error);

#endif
