#include "engine/graph/tensor.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/backend.h"

Shape shape_make(int64_t n, int64_t t, int64_t h, int64_t w, int64_t c) {
  return (Shape){{n, t, h, w, c}};
}

Shape shape_vector(int64_t c) {
  return shape_make(1, 1, 1, 1, c);
}

Shape shape_scalar(void) {
  return shape_vector(1);
}

bool shape_is_countable(Shape shape) {
  int64_t count = 1;
  for (int axis = 0; axis < RANK; axis++) {
    if (shape.dim[axis] < 1) return false;
    if (__builtin_mul_overflow(count, shape.dim[axis], &count)) return false;
  }
  return count < INT64_C(1) << 59;
}

int64_t shape_count(Shape shape) {
  int64_t count = 1;
  for (int axis = 0; axis < RANK; axis++) count *= shape.dim[axis];
  return count;
}

bool shape_equal(Shape a, Shape b) {
  for (int axis = 0; axis < RANK; axis++) {
    if (a.dim[axis] != b.dim[axis]) return false;
  }
  return true;
}

char *shape_text(Shape shape, char text[SHAPE_TEXT_SIZE]) {
  const int64_t *dim = shape.dim;
  snprintf(text, SHAPE_TEXT_SIZE, "[%lld,%lld,%lld,%lld,%lld]", (long long)dim[0],
           (long long)dim[1], (long long)dim[2], (long long)dim[3], (long long)dim[4]);
  return text;
}

size_t dtype_size(DType dtype) {
  static const size_t sizes[] = {
      [DTYPE_F32] = 4, [DTYPE_BF16] = 2, [DTYPE_U8] = 1, [DTYPE_I64] = 8};
  return sizes[dtype];
}

const char *dtype_name(DType dtype) {
  static const char *const names[] = {
      [DTYPE_F32] = "f32", [DTYPE_BF16] = "bf16", [DTYPE_U8] = "u8", [DTYPE_I64] = "i64"};
  return names[dtype];
}

bool dtype_is_float(DType dtype) {
  return dtype == DTYPE_F32 || dtype == DTYPE_BF16;
}

Buffer buffer_describe(const char *name, DType dtype, int64_t count) {
  return (Buffer){.name = name, .dtype = dtype, .count = count};
}

/* Backends allocate memory without initialising it. */
static Status fill_with_zeros(Buffer *buffer, size_t bytes, Error *error) {
  Status status = OK;
  enum { CHUNK = 1 << 18 };
  char *zeros = mem_new(1, CHUNK);
  for (size_t done_bytes = 0; done_bytes < bytes; done_bytes += CHUNK) {
    size_t chunk = bytes - done_bytes < CHUNK ? bytes - done_bytes : CHUNK;
    TRY(buffer->backend->upload(buffer->backend, (char *)buffer->data + done_bytes, zeros, chunk,
                                error));
  }
done:
  free(zeros);
  return status;
}

Status buffer_allocate(Buffer *buffer, Backend *backend, Error *error) {
  if (buffer->data != NULL)
    return error_set(error, ERROR_INTERNAL, "buffer %s is already allocated", buffer->name);
  if (buffer->count < 1)
    return error_set(error, ERROR_INTERNAL, "buffer %s: %lld elements, expected at least 1",
                     buffer->name, (long long)buffer->count);
  Status status = OK;
  size_t bytes = (size_t)buffer->count * dtype_size(buffer->dtype);
  TRY(backend->allocate(backend, bytes, buffer->name, &buffer->data, error));
  buffer->backend = backend;
  buffer->version++;
  TRY(fill_with_zeros(buffer, bytes, error));
done:
  if (status != OK) buffer_free(buffer);
  return status;
}

void buffer_free(Buffer *buffer) {
  if (buffer->data != NULL) buffer->backend->release(buffer->backend, buffer->data);
  buffer->data = NULL;
  buffer->backend = NULL;
}

static Status check_range(const Buffer *buffer, const char *what, int64_t offset, int64_t count,
                          Error *error) {
  if (buffer->data == NULL)
    return error_set(error, ERROR_INTERNAL, "buffer %s: %s before it is allocated", buffer->name,
                     what);
  if (offset < 0 || count < 0 || offset > buffer->count || count > buffer->count - offset)
    return error_set(error, ERROR_INTERNAL,
                     "buffer %s: %s of %lld elements at %lld, but it holds %lld", buffer->name,
                     what, (long long)count, (long long)offset, (long long)buffer->count);
  return OK;
}

Status buffer_upload(Buffer *buffer, int64_t offset, const void *source, int64_t count,
                     Error *error) {
  Status status = OK;
  size_t size = dtype_size(buffer->dtype);
  TRY(check_range(buffer, "upload", offset, count, error));
  buffer->version++;
  TRY(buffer->backend->upload(buffer->backend, (char *)buffer->data + (size_t)offset * size, source,
                              (size_t)count * size, error));
done:
  return status;
}

Status buffer_download(const Buffer *buffer, int64_t offset, void *destination, int64_t count,
                       Error *error) {
  Status status = OK;
  size_t size = dtype_size(buffer->dtype);
  TRY(check_range(buffer, "download", offset, count, error));
  TRY(buffer->backend->download(buffer->backend, destination,
                                (const char *)buffer->data + (size_t)offset * size,
                                (size_t)count * size, error));
done:
  return status;
}
