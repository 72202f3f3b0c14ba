#include "data/dataset/hdf5_structures.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/dataset/hdf5_checksum.h"

uint64_t cursor_number(Cursor *cursor, int bytes) {
  uint64_t number = 0;
  const uint8_t *from = cursor_bytes(cursor, (size_t)bytes);
  for (int i = 0; from && i < bytes; i++) number |= (uint64_t)from[i] << (8 * i);
  return number;
}

const uint8_t *cursor_bytes(Cursor *cursor, size_t size) {
  if (cursor->overrun || size > cursor->size - cursor->at) {
    cursor->overrun = true;
    return NULL;
  }
  cursor->at += size;
  return cursor->data + cursor->at - size;
}

Status hdf5_damaged(const Hdf5Reader *reader, const char *name, Error *error, const char *format,
                    ...) {
  char what[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  return error_set(error, ERROR_DATA, "%s: \"%s\": %s", reader->path, name, what);
}

/* --- Blocks ----------------------------------------------------------------------------------- */

Status hdf5_read_block(const Hdf5Reader *reader, const char *name, const char *signature,
                       uint64_t address, size_t size, uint8_t **out, Error *error) {
  Status status = OK;
  *out = NULL;
  if (size > HDF5_MAX_BLOCK || address > reader->bytes ||
      size + CHECKSUM_SIZE > reader->bytes - address)
    return hdf5_damaged(
        reader, name, error, "%zu bytes at offset %llu, expected at most %d within the file's %llu",
        size, (unsigned long long)address, HDF5_MAX_BLOCK, (unsigned long long)reader->bytes);
  uint8_t *block = mem_new(size + CHECKSUM_SIZE, 1);
  TRY(file_pread(reader->descriptor, reader->path, block, size + CHECKSUM_SIZE, address, error));
  if (signature && (size < 4 || memcmp(block, signature, 4) != 0)) {
    status = hdf5_damaged(reader, name, error, "no %s block at offset %llu", signature,
                          (unsigned long long)address);
    goto done;
  }
  Cursor stored = {block, size + CHECKSUM_SIZE, size, false};
  uint32_t found = hdf5_checksum(block, size), expected = (uint32_t)cursor_number(&stored, 4);
  if (found != expected) {
    status = hdf5_damaged(reader, name, error,
                          "checksum of %zu bytes at offset %llu is %08x, "
                          "expected %08x",
                          size, (unsigned long long)address, found, expected);
    goto done;
  }
  *out = block;
  block = NULL;
done:
  free(block);
  return status;
}

/* --- Objects ---------------------------------------------------------------------------------- */

const Hdf5Attribute *hdf5_find_attribute(const Hdf5Object *object, const char *name) {
  for (int i = 0; i < object->attribute_count; i++)
    if (strcmp(object->attributes[i].name, name) == 0) return &object->attributes[i];
  return NULL;
}

const Hdf5Link *hdf5_find_link(const Hdf5Object *object, const char *name) {
  for (int i = 0; i < object->link_count; i++)
    if (strcmp(object->links[i].name, name) == 0) return &object->links[i];
  return NULL;
}
