/* safetensors files: named tensors after a JSON header.
 *
 * Files are read, not memory-mapped: a page of a mapping that cannot be read, or that is behind the
 * end of a file that was truncated, would kill the process with SIGBUS.
 *
 * Format: header length (u64, little-endian), the header (JSON, space-padded to a multiple of 8
 * bytes), then the data. Specification: README of https://github.com/huggingface/safetensors.
 * The reader accepts a file only if lengths, offsets, dtypes, shapes and names are consistent to
 * the last byte: no gaps, no overlaps, no duplicate keys, no trailing bytes. */
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
  const void *data; /* row-major, little-endian; may be unaligned in files of other programs;
                       NULL if only the header was read */
} NamedTensor;

/* Returns the name used in the header: "F32". */
const char *tensor_type_name(TensorType type);
/* Appends "[64, 1, 7, 7, 3]". */
void tensor_shape_append(Text *out, const int64_t *shape, int rank);
/* Returns element count times element size; 0 for an empty tensor. */
size_t named_tensor_bytes(const NamedTensor *tensor);

/* Writes and fsyncs `path`. The write is not atomic: pass a temporary name (checkpoints are
 * committed as whole folders). Tensors are written widest type first, then by name. `metadata` is
 * an object of strings, or NULL. `crc` receives the CRC-32C and `size` the length of the whole
 * file; both may be NULL. ERROR_IO; ERROR_INTERNAL for invalid tensors. */
Status safetensors_write(const char *path, const NamedTensor *tensors, int count,
                         const json_t *metadata, uint32_t *crc, uint64_t *size, Error *error);

typedef struct Safetensors Safetensors;
/* Reads the whole file into memory. ERROR_IO if it cannot be read, ERROR_DATA, with tensor and
 * member, if the content is invalid, or if the file is truncated meanwhile. */
Status safetensors_open(const char *path, Safetensors **out, Error *error);
/* Reads the header only and keeps the file open: tensors have no data, safetensors_read reads it.
 */
Status safetensors_open_header(const char *path, Safetensors **out, Error *error);
/* Copies the data of a tensor of `file` to `data` [named_tensor_bytes(tensor)]. Errors as above. */
Status safetensors_read(const Safetensors *file, const NamedTensor *tensor, void *data,
                        Error *error);
/* Opens from memory, which must outlive *out; `name` names the file in errors. */
Status safetensors_parse(const char *name, const void *bytes, size_t size, Safetensors **out,
                         Error *error);
void safetensors_close(Safetensors *file); /* NULL is allowed */
int safetensors_count(const Safetensors *file);
/* Tensors are in file order; their data belong to `file`. NULL if `index` is out of range. */
const NamedTensor *safetensors_tensor(const Safetensors *file, int index);
/* Returns NULL if no tensor has this name. */
const NamedTensor *safetensors_find(const Safetensors *file, const char *name);
/* Returns the header's metadata, an object of strings that belongs to the file, or NULL. */
const json_t *safetensors_metadata(const Safetensors *file);

#endif
