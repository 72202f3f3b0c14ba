/* The writer of safetensors files. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "checkpoints/internal.h"

enum { CHUNK_BYTES = 4 << 20 };

/* Widest type first, so that every tensor is aligned to its type; then by name. */
static int compare_for_writing(const void *a, const void *b) {
  const NamedTensor *const *left = a, *const *right = b;
  size_t left_size = tensor_type_size((*left)->type), right_size = tensor_type_size((*right)->type);
  if (left_size != right_size) return left_size < right_size ? 1 : -1;
  return strcmp((*left)->name, (*right)->name);
}

/* The caller must pass valid tensors, hence ERROR_INTERNAL. */
static Status check_tensor(const char *path, const NamedTensor *tensor, Error *error) {
  const char *name = tensor->name ? tensor->name : "(null)";
  if (!tensor->name || strcmp(name, SAFETENSORS_METADATA) == 0)
    return error_set(error, ERROR_INTERNAL, "%s: a tensor cannot be named %s", path, name);
  if (tensor_type_size(tensor->type) == 0)
    return error_set(error, ERROR_INTERNAL, "%s: tensor \"%s\": unknown type %d", path, name,
                     (int)tensor->type);
  if (tensor->rank < 0 || tensor->rank > TENSOR_MAX_RANK)
    return error_set(error, ERROR_INTERNAL, "%s: tensor \"%s\": rank %d; allowed: 0 to %d", path,
                     name, tensor->rank, TENSOR_MAX_RANK);
  size_t bytes = tensor_type_size(tensor->type);
  for (int i = 0; i < tensor->rank; i++) {
    if (tensor->shape[i] < 0 || __builtin_mul_overflow(bytes, (size_t)tensor->shape[i], &bytes))
      return error_set(error, ERROR_INTERNAL, "%s: tensor \"%s\": dimension %d is %lld", path, name,
                       i, (long long)tensor->shape[i]);
  }
  if (bytes > 0 && !tensor->data)
    return error_set(error, ERROR_INTERNAL, "%s: tensor \"%s\": has no data", path, name);
  return OK;
}

static json_t *describe_tensor(const NamedTensor *tensor, uint64_t begin, uint64_t end) {
  json_t *shape = json_array();
  for (int i = 0; i < tensor->rank; i++)
    json_array_append_new(shape, json_integer(tensor->shape[i]));
  return json_pack("{s:s, s:o, s:[I,I]}", "dtype", tensor_type_name(tensor->type), "shape", shape,
                   "data_offsets", (json_int_t)begin, (json_int_t)end);
}

/* Builds the length field and the padded JSON header. */
static Status make_header(const char *path, const NamedTensor *const *sorted, int count,
                          const json_t *metadata, Text *out, Error *error) {
  Status status = OK;
  char *dump = NULL;
  json_t *header = json_object();
  uint64_t offset = 0;
  if (metadata) TRY(json_set(header, SAFETENSORS_METADATA, json_deep_copy(metadata), path, error));
  for (int i = 0; i < count; i++) {
    uint64_t end = offset + named_tensor_bytes(sorted[i]);
    if (json_object_get(header, sorted[i]->name))
      FAIL(error, ERROR_INTERNAL, "%s: two tensors are named \"%s\"", path, sorted[i]->name);
    if (json_object_set_new(header, sorted[i]->name, describe_tensor(sorted[i], offset, end)) != 0)
      FAIL(error, ERROR_INTERNAL, "%s: the name of tensor %d is not UTF-8", path, i);
    offset = end;
  }
  dump = json_dumps(header, JSON_COMPACT);
  if (!dump) FAIL(error, ERROR_INTERNAL, "%s: the header is not valid JSON", path);
  uint64_t length = (strlen(dump) + 7) / 8 * 8;
  if (length > SAFETENSORS_MAX_HEADER)
    FAIL(error, ERROR_INTERNAL, "%s: its header has %llu bytes; at most %d are allowed", path,
         (unsigned long long)length, SAFETENSORS_MAX_HEADER);
  text_append_bytes(out, &length, SAFETENSORS_LENGTH);
  text_append_bytes(out, dump, strlen(dump));
  while (out->length < SAFETENSORS_LENGTH + length) text_append_bytes(out, " ", 1);
done:
  free(dump);
  json_decref(header);
  return status;
}

/* Writes in chunks that are still in the CPU cache after the checksum has read them. */
static Status write_with_checksum(int descriptor, const char *path, const void *data, size_t size,
                                  uint32_t *crc, uint64_t *total, Error *error) {
  const char *bytes = data;
  *total += size;
  while (size > 0) {
    size_t length = size < CHUNK_BYTES ? size : CHUNK_BYTES;
    *crc = crc32c(*crc, bytes, length);
    Status status = file_write(descriptor, path, bytes, length, error);
    if (status != OK) return status;
    bytes += length;
    size -= length;
  }
  return OK;
}

Status safetensors_write(const char *path, const NamedTensor *tensors, int count,
                         const json_t *metadata, uint32_t *crc, uint64_t *size, Error *error) {
  Status status = OK;
  Text header = {0};
  int descriptor = -1;
  uint32_t sum = 0;
  uint64_t total = 0;
  const NamedTensor **sorted = mem_new((size_t)count + 1, sizeof *sorted);
  for (int i = 0; i < count; i++) {
    TRY(check_tensor(path, &tensors[i], error));
    sorted[i] = &tensors[i];
  }
  qsort(sorted, (size_t)count, sizeof *sorted, compare_for_writing);
  TRY(make_header(path, sorted, count, metadata, &header, error));

  descriptor = file_open(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (descriptor < 0) {
    status = error_errno(error, errno, "%s: cannot create", path);
    goto done;
  }
  TRY(write_with_checksum(descriptor, path, header.data, header.length, &sum, &total, error));
  for (int i = 0; i < count; i++)
    TRY(write_with_checksum(descriptor, path, sorted[i]->data, named_tensor_bytes(sorted[i]), &sum,
                            &total, error));
  if (file_flush(descriptor) != 0) status = error_errno(error, errno, "%s: cannot flush", path);
done:
  if (descriptor >= 0) {
    if (file_close(&descriptor) != 0 && status == OK)
      status = error_errno(error, errno, "%s: cannot close", path);
    if (status != OK) file_unlink(path);
  }
  if (status == OK && crc) *crc = sum;
  if (status == OK && size) *size = total;
  text_free(&header);
  free(sorted);
  return status;
}
