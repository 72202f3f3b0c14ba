/* Attributes in dense storage, as earlier versions of Celforge wrote them: a version 2 B-tree of
 * one leaf, which indexes a fractal heap of one direct block (HDF5 File Format Specification 3.0,
 * sections III.A.2 and III.G). */
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/dataset/hdf5_checksum.h"
#include "data/dataset/hdf5_structures.h"

enum {
  HEAP_HEADER_SIZE = 142,
  TREE_HEADER_SIZE = 34,
  LEAF_PREFIX = 6,
  RECORD_SIZE = 17,      /* heap ID, message flags, creation order, hash of the name */
  HEAP_ID_SIZE = 8,      /* kind, offset of 5 bytes, length of 2 bytes */
  BLOCK_CHECKSUM_AT = 18 /* behind signature, version, address of the heap, offset of 5 bytes */
};

static Status read_heap_block(const Hdf5Reader *reader, const Hdf5Object *object, uint64_t address,
                              uint64_t size, uint8_t **out, Error *error) {
  Status status = OK;
  uint8_t *block = NULL;
  if (size < BLOCK_CHECKSUM_AT + 4 || size > HDF5_MAX_BLOCK || address > reader->bytes ||
      size > reader->bytes - address)
    return hdf5_damaged(reader, object->name, error,
                        "a heap block of %llu bytes at offset %llu, expected at most %d within the "
                        "file's %llu",
                        (unsigned long long)size, (unsigned long long)address, HDF5_MAX_BLOCK,
                        (unsigned long long)reader->bytes);
  block = mem_new((size_t)size, 1);
  TRY(file_pread(reader->descriptor, reader->path, block, (size_t)size, address, error));
  Cursor cursor = {block, (size_t)size, BLOCK_CHECKSUM_AT, false};
  uint32_t expected = (uint32_t)cursor_number(&cursor, 4);
  memset(block + BLOCK_CHECKSUM_AT, 0, 4); /* counts as 0 */
  if (memcmp(block, "FHDB", 4) != 0 || hdf5_checksum(block, (size_t)size) != expected) {
    status = hdf5_damaged(reader, object->name, error, "a damaged heap block at offset %llu",
                          (unsigned long long)address);
    goto done;
  }
  *out = block;
  block = NULL;
done:
  free(block);
  return status;
}

/* Reads the heap's only block. */
static Status read_heap(const Hdf5Reader *reader, const Hdf5Object *object, uint8_t **out,
                        uint64_t *size, Error *error) {
  Status status = OK;
  uint8_t *header = NULL;
  TRY(hdf5_read_block(reader, object->name, "FRHP", object->attribute_heap, HEAP_HEADER_SIZE,
                      &header, error));
  Cursor cursor = {header, HEAP_HEADER_SIZE, 5, false};
  uint64_t id_size = cursor_number(&cursor, 2), filter_size = cursor_number(&cursor, 2);
  uint64_t flags = cursor_number(&cursor, 1);
  cursor.at = 112;
  *size = cursor_number(&cursor, 8);
  cursor_number(&cursor, 8); /* largest direct block */
  uint64_t offset_bits = cursor_number(&cursor, 2);
  cursor_number(&cursor, 2); /* rows of a new indirect block */
  uint64_t root = cursor_number(&cursor, 8), rows = cursor_number(&cursor, 2);
  if (header[4] != 0 || id_size != HEAP_ID_SIZE || filter_size != 0 || !(flags & 2) ||
      offset_bits != 40 || rows != 0) {
    status = hdf5_damaged(reader, object->name, error,
                          "attributes in dense storage of another form than Celforge wrote");
    goto done;
  }
  TRY(read_heap_block(reader, object, root, *size, out, error));
done:
  free(header);
  return status;
}

/* Reads the records of the tree's only node. */
static Status read_records(const Hdf5Reader *reader, const Hdf5Object *object, uint8_t **out,
                           uint64_t *count, Error *error) {
  Status status = OK;
  uint8_t *header = NULL;
  enum { BY_NAME = 8 };
  TRY(hdf5_read_block(reader, object->name, "BTHD", object->attribute_index, TREE_HEADER_SIZE,
                      &header, error));
  Cursor cursor = {header, TREE_HEADER_SIZE, 10, false};
  uint64_t record_size = cursor_number(&cursor, 2), depth = cursor_number(&cursor, 2);
  cursor_number(&cursor, 2); /* percentages at which nodes are split and merged */
  uint64_t root = cursor_number(&cursor, 8);
  *count = cursor_number(&cursor, 2);
  if (header[4] != 0 || header[5] != BY_NAME || record_size != RECORD_SIZE || depth != 0 ||
      *count > HDF5_MAX_ENTRIES) {
    status = hdf5_damaged(reader, object->name, error,
                          "an attribute index of another form than Celforge wrote");
    goto done;
  }
  TRY(hdf5_read_block(reader, object->name, "BTLF", root,
                      LEAF_PREFIX + (size_t)*count * RECORD_SIZE, out, error));
done:
  free(header);
  return status;
}

Status hdf5_read_dense_attributes(const Hdf5Reader *reader, Hdf5Object *object, Error *error) {
  Status status = OK;
  uint8_t *block = NULL, *records = NULL;
  uint64_t size = 0, count = 0;
  TRY(read_heap(reader, object, &block, &size, error));
  TRY(read_records(reader, object, &records, &count, error));
  for (uint64_t i = 0; i < count; i++) {
    Cursor record = {records, LEAF_PREFIX + (size_t)count * RECORD_SIZE,
                     LEAF_PREFIX + (size_t)i * RECORD_SIZE, false};
    uint64_t kind = cursor_number(&record, 1), offset = cursor_number(&record, 5);
    uint64_t length = cursor_number(&record, 2);
    if (kind != 0 || offset > size || length > size - offset) {
      status = hdf5_damaged(reader, object->name, error,
                            "attribute %llu has %llu bytes at offset %llu of a heap of %llu",
                            (unsigned long long)i, (unsigned long long)length,
                            (unsigned long long)offset, (unsigned long long)size);
      goto done;
    }
    Cursor message = {block + offset, (size_t)length, 0, false};
    TRY(hdf5_parse_attribute(reader, message, object, error));
  }
done:
  free(records);
  free(block);
  return status;
}
