/* Reading safetensors files: whole, or the header and then single tensors. */
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/crc32c.h"
#include "base/files.h"
#include "base/memory.h"
#include "checkpoints/internal.h"

enum { CHUNK_BYTES = 1 << 20 };

/* Fails if `size` is not what the manifest of a checkpoint says; `expected` may be NULL. */
static Status check_size(const char *path, uint64_t size, const ExpectedFile *expected,
                         Error *error) {
  if (!expected || size == expected->size) return OK;
  return error_set(error, ERROR_DATA, "%s: has %llu bytes; its manifest says %llu", path,
                   (unsigned long long)size, (unsigned long long)expected->size);
}

static Status check_crc(const char *path, uint32_t crc, const ExpectedFile *expected,
                        Error *error) {
  if (!expected || crc == expected->crc) return OK;
  return error_set(error, ERROR_DATA,
                   "%s: CRC-32C is %08x; its manifest says %08x: the content has changed", path,
                   crc, expected->crc);
}

/* Reads the whole file into memory. */
static Status read_all(int descriptor, const char *path, uint64_t size,
                       const ExpectedFile *expected, void **out, Error *error) {
  Status status = OK;
  void *bytes = NULL;
  uint32_t crc = 0;
  TRY(mem_bulk_unset(size, path, &bytes, error));
  for (uint64_t at = 0; at < size; at += CHUNK_BYTES) {
    const size_t length = size - at < CHUNK_BYTES ? size - at : CHUNK_BYTES;
    char *chunk = (char *)bytes + at;
    TRY(file_pread(descriptor, path, chunk, length, at, error));
    if (expected) crc = crc32c(crc, chunk, length); /* while it is in the processor's cache */
  }
  TRY(check_crc(path, crc, expected, error));
  *out = bytes;
  bytes = NULL;
done:
  free(bytes);
  return status;
}

/* Reads length field and header; less of a file that is shorter or has a length that is refused. */
static Status read_header(int descriptor, const char *path, uint64_t size, void **out,
                          Error *error) {
  Status status = OK;
  uint64_t length = 0;
  const size_t field = size < SAFETENSORS_LENGTH ? size : SAFETENSORS_LENGTH;
  TRY(file_pread(descriptor, path, &length, field, 0, error));
  const bool is_whole = length <= SAFETENSORS_MAX_HEADER && field + length <= size;
  const size_t rest = is_whole ? length : 0;
  TRY(mem_bulk_unset(field + rest, path, out, error));
  memcpy(*out, &length, field); /* not read again: it could have become longer */
  TRY(file_pread(descriptor, path, (char *)*out + field, rest, field, error));
done:
  return status;
}

/* Checks the whole file in pieces. */
static Status check_content(int descriptor, const char *path, uint64_t size,
                            const ExpectedFile *expected, Error *error) {
  Status status = OK;
  void *chunk = NULL;
  uint32_t crc = 0;
  TRY(mem_bulk_unset(CHUNK_BYTES, path, &chunk, error));
  for (uint64_t at = 0; at < size; at += CHUNK_BYTES) {
    const size_t length = size - at < CHUNK_BYTES ? size - at : CHUNK_BYTES;
    TRY(file_pread(descriptor, path, chunk, length, at, error));
    crc = crc32c(crc, chunk, length);
  }
  TRY(check_crc(path, crc, expected, error));
done:
  free(chunk);
  return status;
}

Status safetensors_open_checked(const char *path, const ExpectedFile *expected, bool with_data,
                                Safetensors **out, Error *error) {
  Status status = OK;
  int descriptor = -1;
  uint64_t size;
  void *bytes = NULL;
  *out = NULL;
  TRY(file_open_regular(path, &descriptor, &size, error));
  TRY(check_size(path, size, expected, error));
  if (with_data) {
    TRY(read_all(descriptor, path, size, expected, &bytes, error));
  } else {
    if (expected) TRY(check_content(descriptor, path, size, expected, error));
    TRY(read_header(descriptor, path, size, &bytes, error));
  }
  TRY(safetensors_parse_part(path, bytes, size, with_data, out, error));
  if (with_data) {
    (*out)->bytes = bytes;
    bytes = NULL;
  } else {
    (*out)->path = mem_string(path);
    (*out)->descriptor = descriptor;
    descriptor = -1;
  }
done:
  free(bytes);
  file_close(&descriptor);
  return status;
}

Status safetensors_open(const char *path, Safetensors **out, Error *error) {
  return safetensors_open_checked(path, NULL, true, out, error);
}

Status safetensors_open_header(const char *path, Safetensors **out, Error *error) {
  return safetensors_open_checked(path, NULL, false, out, error);
}

Status safetensors_read(const Safetensors *file, const NamedTensor *tensor, void *data,
                        Error *error) {
  const size_t bytes = named_tensor_bytes(tensor);
  if (file->descriptor >= 0)
    return file_pread(file->descriptor, file->path, data, bytes,
                      file->offsets[tensor - file->tensors], error);
  if (bytes > 0) memcpy(data, tensor->data, bytes);
  return OK;
}
