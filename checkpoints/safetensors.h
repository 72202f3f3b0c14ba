/* safetensors files: named arrays behind a JSON header, read without copying the whole file first.
 *
 * Format: u64 little-endian header length, that many bytes of JSON (space-padded to a multiple of
 * 8), then the data. https://github.com/huggingface/safetensors (format specification in its
 * README). A reader here accepts a file only if lengths, offsets, dtypes, shapes and names are
 * consistent to the last byte: no gaps, no overlaps, no duplicate keys, no trailing bytes. */
#ifndef CELFORGE_CHECKPOINTS_SAFETENSORS_H
#define CELFORGE_CHECKPOINTS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/text.h"

typedef enum TensorType {
  TENSOR_F32,
  TENSOR_BF16,
  TENSOR_F16,
  TENSOR_I64,
  TENSOR_U8,
  TENSOR_F64,
  TENSOR_I32,
  TENSOR_I16,
  TENSOR_I8,
  TENSOR_U16,
  TENSOR_U32,
  TENSOR_U64,
  TENSOR_BOOL
} TensorType;

enum { TENSOR_MAX_RANK = 8 };

typedef struct NamedTensor {
  const char *name;
  TensorType type;
  int rank;
  int64_t shape[TENSOR_MAX_RANK];
  const void *data; /* row-major, little-endian; of a foreign file perhaps not aligned */
} NamedTensor;

const char *tensor_type_name(TensorType type); /* "F32" */
/* Appends "[64, 1, 7, 7, 3]". */
void tensor_shape_append(Text *out, const int64_t *shape, int rank);
/* Product of shape and type; 0 for an empty tensor. */
size_t named_tensor_bytes(const NamedTensor *tensor);

/* Writes and fsyncs `path` (not atomic by itself: checkpoints are committed as folders; give a
 * temporary name). Tensors are written widest type first, then by name. `metadata` is an object of
 * strings, or NULL. `crc` (may be NULL) receives the CRC32C and `size` (likewise) the length of the
 * whole file. */
Status safetensors_write(const char *path, const NamedTensor *tensors, int count,
                         const json_t *metadata, uint32_t *crc, uint64_t *size, Error *error);

typedef struct Safetensors Safetensors;
/* Maps the file; nobody may shorten it while it is open. ERROR_IO where it cannot be read,
 * ERROR_DATA naming tensor and member where the content is wrong. */
Status safetensors_open(const char *path, Safetensors **out, Error *error);
/* As safetensors_open, from memory that must outlive it; `name` stands for the file in errors. */
Status safetensors_parse(const char *name, const void *bytes, size_t size, Safetensors **out,
                         Error *error);
void safetensors_close(Safetensors *file);
int safetensors_count(const Safetensors *file);
/* In file order; data points into the mapping. */
const NamedTensor *safetensors_tensor(const Safetensors *file, int index);
/* NULL when there is none of that name. */
const NamedTensor *safetensors_find(const Safetensors *file, const char *name);

#endif
