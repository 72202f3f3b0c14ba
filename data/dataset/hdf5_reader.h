/* Reads the HDF5 structures that shards consist of, without libhdf5.
 *
 * Shards may come from strangers, and libhdf5 crashes on some damaged files although all their
 * checksums are right. This reader knows only what shard_writer.c writes, all of it with checksums
 * (HDF5 File Format Specification 3.0): superblock version 3; object headers version 2 with hard
 * links; scalar attributes in the header; arrays of integers and fixed-size texts; contiguous
 * storage, or deflated chunks with a single-chunk or fixed-array index. Anything else is ERROR_DATA
 * and named in the message: soft and external links, dense storage of links, external and virtual
 * arrays, other filters, types of variable length, shared messages. Attributes in dense storage are
 * read in the one form that earlier versions of Celforge wrote (data/dataset/hdf5_dense.c).
 *
 * Nothing is read without a limit: blocks are at most HDF5_MAX_BLOCK bytes, and counts are compared
 * with the file's size. ERROR_IO, with the text of errno, if the operating system cannot read. */
#ifndef CELFORGE_DATA_DATASET_HDF5_READER_H
#define CELFORGE_DATA_DATASET_HDF5_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum {
  HDF5_MAX_BLOCK = 65536, /* bytes */
  HDF5_MAX_HEADER_BLOCKS = 16,
  HDF5_MAX_RANK = 5,
  HDF5_MAX_ENTRIES = 32, /* attributes, or links, of an object */
  HDF5_NAME_SIZE = 32,
  HDF5_VALUE_SIZE = 64,
};
static const uint64_t HDF5_NO_ADDRESS = UINT64_MAX;

typedef struct Hdf5Reader {
  const char *path; /* for messages; not owned */
  int descriptor;
  uint64_t bytes; /* of the file */
  uint64_t root;  /* address of the root group */
} Hdf5Reader;

/* Opens a regular file and checks its superblock. Call hdf5_reader_close also after a failure, on a
 * reader that was {.descriptor = -1} before. */
Status hdf5_reader_open(const char *path, Hdf5Reader *out, Error *error);
void hdf5_reader_close(Hdf5Reader *reader);

typedef enum Hdf5Class { HDF5_UNSIGNED, HDF5_SIGNED, HDF5_TEXT } Hdf5Class; /* little-endian */

typedef struct Hdf5Type {
  Hdf5Class class;
  uint32_t size; /* bytes; of a text: its room */
} Hdf5Type;

typedef struct Hdf5Space {
  int rank; /* 0: scalar */
  uint64_t dims[HDF5_MAX_RANK];
} Hdf5Space;

typedef enum Hdf5Storage {
  HDF5_CONTIGUOUS,
  HDF5_SINGLE_CHUNK,
  HDF5_FIXED_ARRAY, /* of chunks */
} Hdf5Storage;

typedef struct Hdf5Layout {
  Hdf5Storage storage;
  uint64_t address;              /* of the data or the index; or HDF5_NO_ADDRESS */
  uint64_t size;                 /* of the contiguous data or the single chunk, in the file */
  uint64_t chunk[HDF5_MAX_RANK]; /* shape of a chunk */
} Hdf5Layout;

typedef struct Hdf5Attribute {
  char name[HDF5_NAME_SIZE];
  Hdf5Type type;
  uint8_t value[HDF5_VALUE_SIZE + 1]; /* followed by zeros; all 0 if it has more bytes */
} Hdf5Attribute;

typedef struct Hdf5Link {
  char name[HDF5_NAME_SIZE];
  uint64_t address;
} Hdf5Link;

/* The contents of an object header. */
typedef struct Hdf5Object {
  const char *name; /* for messages; not owned */
  bool is_group, has_space, has_type, has_layout, has_deflate;
  Hdf5Space space;
  Hdf5Type type;
  Hdf5Layout layout;
  Hdf5Attribute attributes[HDF5_MAX_ENTRIES];
  Hdf5Link links[HDF5_MAX_ENTRIES];
  int attribute_count, link_count;
  uint64_t attribute_heap, attribute_index; /* of dense storage, or HDF5_NO_ADDRESS */
} Hdf5Object;

/* Reads the object header at `address`. */
Status hdf5_read_object(const Hdf5Reader *reader, uint64_t address, const char *name,
                        Hdf5Object *out, Error *error);
/* Return NULL if there is none. */
const Hdf5Attribute *hdf5_find_attribute(const Hdf5Object *object, const char *name);
const Hdf5Link *hdf5_find_link(const Hdf5Object *object, const char *name);

/* Reads where the chunks of an array of shape [count, ...] are that has one chunk for each index of
 * its first dimension: addresses[count] and sizes[count], in the file. */
Status hdf5_read_chunks(const Hdf5Reader *reader, const Hdf5Object *array, uint64_t *addresses,
                        uint64_t *sizes, Error *error);

#endif
