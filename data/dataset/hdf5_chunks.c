/* The index of an array's chunks (HDF5 File Format Specification 3.0, section VII.D, "Fixed
 * Array").
 */
#include <stdlib.h>

#include "data/dataset/hdf5_structures.h"

enum {
  CLIENT_FILTERED = 1, /* elements have the size of their chunk */
  HEADER_SIZE = 24,
  PREFIX_SIZE = 14,   /* of the data block */
  MAX_PAGE_BITS = 11, /* HDF5 writes 10 */
};

typedef struct FixedArray {
  uint64_t element_size, page_elements, count, address; /* address: of the data block */
} FixedArray;

static Status read_header(const Hdf5Reader *reader, const Hdf5Object *array, FixedArray *out,
                          Error *error) {
  uint8_t *block = NULL;
  Status status = hdf5_read_block(reader, array->name, "FAHD", array->layout.address, HEADER_SIZE,
                                  &block, error);
  if (status != OK) return status;
  out->page_elements = 1;
  Cursor cursor = {block, HEADER_SIZE, 4, false};
  uint64_t version = cursor_number(&cursor, 1), client = cursor_number(&cursor, 1);
  out->element_size = cursor_number(&cursor, 1);
  uint64_t page_bits = cursor_number(&cursor, 1);
  out->count = cursor_number(&cursor, 8);
  out->address = cursor_number(&cursor, 8);
  if (version != 0 || client != CLIENT_FILTERED || out->element_size < 8 + 1 + 4 ||
      out->element_size > 8 + 8 + 4 || page_bits < 1 || page_bits > MAX_PAGE_BITS ||
      out->count != array->space.dims[0])
    status = hdf5_damaged(reader, array->name, error,
                          "chunk index of %llu entries of %llu bytes, expected %llu of 13 to 20",
                          (unsigned long long)out->count, (unsigned long long)out->element_size,
                          (unsigned long long)array->space.dims[0]);
  else
    out->page_elements <<= page_bits;
  free(block);
  return status;
}

static Status read_elements(const Hdf5Reader *reader, const Hdf5Object *array,
                            const FixedArray *index, Cursor cursor, uint64_t first, uint64_t count,
                            uint64_t *addresses, uint64_t *sizes, Error *error) {
  for (uint64_t i = first; i < first + count; i++) {
    addresses[i] = cursor_number(&cursor, 8);
    sizes[i] = cursor_number(&cursor, (int)index->element_size - 8 - 4);
    uint64_t skipped_filters = cursor_number(&cursor, 4);
    if (cursor.overrun || addresses[i] == HDF5_NO_ADDRESS || skipped_filters != 0)
      return hdf5_damaged(reader, array->name, error, "clip %llu has no chunk",
                          (unsigned long long)i);
  }
  return OK;
}

/* With more entries than a page holds, the data block has a bitmap of the pages in use, and the
 * pages follow it, each with a checksum. */
static Status read_pages(const Hdf5Reader *reader, const Hdf5Object *array, const FixedArray *index,
                         uint64_t *addresses, uint64_t *sizes, Error *error) {
  Status status = OK;
  uint8_t *block = NULL;
  uint64_t pages = (index->count - 1) / index->page_elements + 1;
  uint64_t at = PREFIX_SIZE + (pages + 7) / 8;
  TRY(hdf5_read_block(reader, array->name, "FADB", index->address, (size_t)at, &block, error));
  at += index->address + CHECKSUM_SIZE;
  for (uint64_t first = 0; first < index->count; first += index->page_elements) {
    uint64_t left = index->count - first;
    uint64_t count = left < index->page_elements ? left : index->page_elements;
    size_t size = (size_t)(count * index->element_size);
    free(block);
    TRY(hdf5_read_block(reader, array->name, NULL, at, size, &block, error));
    TRY(read_elements(reader, array, index, (Cursor){block, size, 0, false}, first, count,
                      addresses, sizes, error));
    at += size + CHECKSUM_SIZE;
  }
done:
  free(block);
  return status;
}

static Status read_fixed_array(const Hdf5Reader *reader, const Hdf5Object *array,
                               uint64_t *addresses, uint64_t *sizes, Error *error) {
  Status status = OK;
  FixedArray index = {0};
  uint8_t *block = NULL;
  TRY(read_header(reader, array, &index, error));
  if (index.count > index.page_elements) {
    TRY(read_pages(reader, array, &index, addresses, sizes, error));
    goto done;
  }
  size_t size = PREFIX_SIZE + (size_t)(index.count * index.element_size);
  TRY(hdf5_read_block(reader, array->name, "FADB", index.address, size, &block, error));
  TRY(read_elements(reader, array, &index, (Cursor){block, size, PREFIX_SIZE, false}, 0,
                    index.count, addresses, sizes, error));
done:
  free(block);
  return status;
}

Status hdf5_read_chunks(const Hdf5Reader *reader, const Hdf5Object *array, uint64_t *addresses,
                        uint64_t *sizes, Error *error) {
  const Hdf5Layout *layout = &array->layout;
  if (layout->storage == HDF5_FIXED_ARRAY)
    return read_fixed_array(reader, array, addresses, sizes, error);
  if (layout->storage != HDF5_SINGLE_CHUNK || array->space.dims[0] != 1 ||
      layout->address == HDF5_NO_ADDRESS)
    return hdf5_damaged(reader, array->name, error, "expected a chunk for each clip");
  addresses[0] = layout->address;
  sizes[0] = layout->size;
  return OK;
}
