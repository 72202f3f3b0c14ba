#include "checkpoints/safetensors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "checkpoints/internal.h"

static const struct {
  const char *name;
  size_t size;
} TYPES[] = {
    [TENSOR_F32] = {"F32", 4},   [TENSOR_BF16] = {"BF16", 2}, [TENSOR_F16] = {"F16", 2},
    [TENSOR_I64] = {"I64", 8},   [TENSOR_U8] = {"U8", 1},     [TENSOR_F64] = {"F64", 8},
    [TENSOR_I32] = {"I32", 4},   [TENSOR_I16] = {"I16", 2},   [TENSOR_I8] = {"I8", 1},
    [TENSOR_U16] = {"U16", 2},   [TENSOR_U32] = {"U32", 4},   [TENSOR_U64] = {"U64", 8},
    [TENSOR_BOOL] = {"BOOL", 1},
};
enum { TYPE_COUNT = sizeof TYPES / sizeof *TYPES };

size_t tensor_type_size(TensorType type) {
  return (int)type >= 0 && (int)type < TYPE_COUNT ? TYPES[type].size : 0;
}

const char *tensor_type_name(TensorType type) {
  return TYPES[type].name;
}

void tensor_shape_append(Text *out, const int64_t *shape, int rank) {
  text_append(out, "[");
  for (int i = 0; i < rank; i++) text_append(out, "%s%lld", i > 0 ? ", " : "", (long long)shape[i]);
  text_append(out, "]");
}

size_t named_tensor_bytes(const NamedTensor *tensor) {
  size_t bytes = tensor_type_size(tensor->type);
  for (int i = 0; i < tensor->rank; i++) bytes *= (size_t)tensor->shape[i];
  return bytes;
}

/* Formats a name from the file for an error message: truncated, without control characters. */
typedef char ShownName[124];
static const char *show(const char *name, ShownName buffer) {
  snprintf(buffer, sizeof(ShownName), "%.117s%s", name, strlen(name) > 117 ? "..." : "");
  for (char *c = buffer; *c; c++) {
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
  }
  return buffer;
}

typedef struct Entry {
  NamedTensor tensor;
  uint64_t begin, end; /* byte offsets in the data */
} Entry;

static int compare_offsets(const void *a, const void *b) {
  const Entry *left = a, *right = b;
  if (left->begin != right->begin) return left->begin < right->begin ? -1 : 1;
  if (left->end != right->end) return left->end < right->end ? -1 : 1;
  return strcmp(left->tensor.name, right->tensor.name);
}

static Status parse_type(const char *where, const json_t *object, TensorType *out, Error *error) {
  const char *name;
  Status status = json_get_string(object, where, "dtype", &name, error);
  if (status != OK) return status;
  for (int i = 0; i < TYPE_COUNT; i++) {
    if (strcmp(TYPES[i].name, name) != 0) continue;
    *out = (TensorType)i;
    return OK;
  }
  Text known = {0};
  ShownName shown;
  for (int i = 0; i < TYPE_COUNT; i++) text_append(&known, "%s%s", i ? ", " : "", TYPES[i].name);
  error_set(error, ERROR_DATA, "%s.dtype: is \"%s\"; known types: %s", where, show(name, shown),
            known.data);
  text_free(&known);
  return ERROR_DATA;
}

/* Reads an array of integers >= 0. */
static Status parse_numbers(const char *where, const char *key, const json_t *array, int64_t *out,
                            Error *error) {
  for (size_t i = 0; i < json_array_size(array); i++) {
    json_t *value = json_array_get(array, i);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
      return error_set(error, ERROR_DATA, "%s.%s[%zu]: must be an integer >= 0", where, key, i);
    out[i] = json_integer_value(value);
  }
  return OK;
}

static Status parse_shape(const char *where, const json_t *object, NamedTensor *tensor,
                          uint64_t *bytes, Error *error) {
  Status status = OK;
  json_t *shape;
  TRY(json_get_array(object, where, "shape", &shape, error));
  if (json_array_size(shape) > TENSOR_MAX_RANK)
    FAIL(error, ERROR_DATA, "%s.shape: has %zu dimensions; at most %d are supported", where,
         json_array_size(shape), TENSOR_MAX_RANK);
  tensor->rank = (int)json_array_size(shape);
  TRY(parse_numbers(where, "shape", shape, tensor->shape, error));
  *bytes = tensor_type_size(tensor->type);
  for (int i = 0; i < tensor->rank; i++) {
    if (__builtin_mul_overflow(*bytes, (uint64_t)tensor->shape[i], bytes))
      FAIL(error, ERROR_DATA, "%s.shape: the size in bytes exceeds 64 bits", where);
  }
done:
  return status;
}

static Status parse_entry(const char *where, const json_t *object, Entry *entry, Error *error) {
  Status status = OK;
  uint64_t bytes = 0;
  int64_t range[2] = {0};
  json_t *offsets;
  if (!json_is_object(object))
    FAIL(error, ERROR_DATA, "%s: must be an object with dtype, shape and data_offsets", where);
  TRY(parse_type(where, object, &entry->tensor.type, error));
  TRY(parse_shape(where, object, &entry->tensor, &bytes, error));
  TRY(json_get_array(object, where, "data_offsets", &offsets, error));
  if (json_array_size(offsets) != 2)
    FAIL(error, ERROR_DATA, "%s.data_offsets: has %zu numbers; must be [begin, end]", where,
         json_array_size(offsets));
  TRY(parse_numbers(where, "data_offsets", offsets, range, error));
  if (json_object_size(object) != 3)
    FAIL(error, ERROR_DATA, "%s: has members other than dtype, shape and data_offsets", where);
  entry->begin = (uint64_t)range[0];
  entry->end = (uint64_t)range[1];
  if (entry->end < entry->begin || entry->end - entry->begin != bytes)
    FAIL(error, ERROR_DATA,
         "%s.data_offsets: [%llu, %llu] for %llu bytes of %s: length and shape disagree", where,
         (unsigned long long)entry->begin, (unsigned long long)entry->end,
         (unsigned long long)bytes, tensor_type_name(entry->tensor.type));
done:
  return status;
}

static Status check_metadata(const char *name, const json_t *metadata, Error *error) {
  const char *key;
  json_t *value;
  ShownName shown;
  if (!json_is_object(metadata))
    return error_set(error, ERROR_DATA, "%s: %s: must be an object of strings", name,
                     SAFETENSORS_METADATA);
  json_object_foreach((json_t *)metadata, key, value) {
    if (!json_is_string(value))
      return error_set(error, ERROR_DATA, "%s: %s.%s: must be a string", name, SAFETENSORS_METADATA,
                       show(key, shown));
  }
  return OK;
}

static Status parse_entries(const char *name, json_t *header, Entry *entries, int *count,
                            Error *error) {
  const char *key;
  json_t *value;
  ShownName shown;
  json_object_foreach(header, key, value) {
    Status status;
    if (strcmp(key, SAFETENSORS_METADATA) == 0) {
      status = check_metadata(name, value, error);
    } else {
      char *where = mem_format("%s: \"%s\"", name, show(key, shown));
      Entry *entry = &entries[(*count)++];
      entry->tensor.name = key;
      status = parse_entry(where, value, entry, error);
      free(where);
    }
    if (status != OK) return status;
  }
  return OK;
}

/* The tensors, sorted by offset, must cover the data without gaps, overlaps or trailing bytes. */
static Status check_cover(const char *name, const Entry *entries, int count, uint64_t data_bytes,
                          Error *error) {
  uint64_t covered = 0;
  ShownName shown;
  for (int i = 0; i < count; i++) {
    if (entries[i].begin != covered)
      return error_set(error, ERROR_DATA,
                       "%s: \"%s\" begins at byte %llu of the data, not at %llu: %s", name,
                       show(entries[i].tensor.name, shown), (unsigned long long)entries[i].begin,
                       (unsigned long long)covered,
                       entries[i].begin > covered ? "there is a gap" : "tensors overlap");
    covered = entries[i].end;
  }
  if (covered != data_bytes)
    return error_set(error, ERROR_DATA, "%s: has %llu bytes of data; its header describes %llu",
                     name, (unsigned long long)data_bytes, (unsigned long long)covered);
  return OK;
}

static Status check_lengths(const char *name, const char *bytes, size_t size, uint64_t *length,
                            Error *error) {
  if (size < SAFETENSORS_LENGTH)
    return error_set(error, ERROR_DATA, "%s: has %zu bytes; a safetensors file has 8 or more", name,
                     size);
  memcpy(length, bytes, SAFETENSORS_LENGTH);
  if (*length > SAFETENSORS_MAX_HEADER)
    return error_set(error, ERROR_DATA,
                     "%s: not a safetensors file: its first 8 bytes give a header of %llu bytes, "
                     "at most %d are allowed",
                     name, (unsigned long long)*length, SAFETENSORS_MAX_HEADER);
  if (*length > size - SAFETENSORS_LENGTH)
    return error_set(error, ERROR_DATA,
                     "%s: ends inside its header: the header has %llu bytes, the file %zu", name,
                     (unsigned long long)*length, size - SAFETENSORS_LENGTH);
  if (*length == 0 || bytes[SAFETENSORS_LENGTH] != '{')
    return error_set(error, ERROR_DATA, "%s: its header does not begin with {", name);
  return OK;
}

Status safetensors_parse_part(const char *name, const void *bytes, size_t size, bool with_data,
                              Safetensors **out, Error *error) {
  Status status = OK;
  Entry *entries = NULL;
  uint64_t length = 0;
  int count = 0;
  Safetensors *file = mem_new(1, sizeof *file);
  file->descriptor = -1;
  *out = NULL;
  TRY(check_lengths(name, bytes, size, &length, error));
  const char *text = (const char *)bytes + SAFETENSORS_LENGTH, *data = text + length;
  TRY(json_parse(name, text, length, &file->header, error));
  entries = mem_new(json_object_size(file->header) + 1, sizeof *entries);
  TRY(parse_entries(name, file->header, entries, &count, error));
  qsort(entries, (size_t)count, sizeof *entries, compare_offsets);
  TRY(check_cover(name, entries, count, size - SAFETENSORS_LENGTH - length, error));
  file->tensors = mem_new((size_t)count + 1, sizeof *file->tensors);
  file->offsets = mem_new((size_t)count + 1, sizeof *file->offsets);
  file->count = count;
  for (int i = 0; i < count; i++) {
    file->tensors[i] = entries[i].tensor;
    file->tensors[i].data = with_data ? data + entries[i].begin : NULL;
    file->offsets[i] = SAFETENSORS_LENGTH + length + entries[i].begin;
  }
  *out = file;
  file = NULL;
done:
  free(entries);
  safetensors_close(file);
  return status;
}

Status safetensors_parse(const char *name, const void *bytes, size_t size, Safetensors **out,
                         Error *error) {
  return safetensors_parse_part(name, bytes, size, true, out, error);
}

void safetensors_close(Safetensors *file) {
  if (!file) return;
  file_close(&file->descriptor);
  free(file->path);
  free(file->bytes);
  free(file->offsets);
  json_decref(file->header);
  free(file->tensors);
  free(file);
}

int safetensors_count(const Safetensors *file) {
  return file->count;
}

const NamedTensor *safetensors_tensor(const Safetensors *file, int index) {
  return index >= 0 && index < file->count ? &file->tensors[index] : NULL;
}

const NamedTensor *safetensors_find(const Safetensors *file, const char *name) {
  for (int i = 0; i < file->count; i++) {
    if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
  }
  return NULL;
}

const json_t *safetensors_metadata(const Safetensors *file) {
  return json_object_get(file->header, SAFETENSORS_METADATA);
}
