#include "trainer/gan/pretrained.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/bulk_memory.h"
#include "checkpoints/half_float.h"

Status pretrained_open(const char *path, const char *origin, PretrainedFile *out, Error *error) {
  *out = (PretrainedFile){.path = path, .origin = origin};
  return safetensors_open_header(path, &out->tensors, error);
}

void pretrained_close(PretrainedFile *file) {
  safetensors_close(file->tensors);
  *file = (PretrainedFile){0};
}

bool pretrained_has(const PretrainedFile *file, const char *name) {
  return safetensors_find(file->tensors, name) != NULL;
}

static float number_at(TensorType type, const void *data, int64_t index) {
  if (type == TENSOR_F32) return ((const float *)data)[index];
  const uint16_t half = ((const uint16_t *)data)[index];
  return type == TENSOR_F16 ? half_to_f32(half) : bf16_to_f32(half);
}

static bool is_readable(const NamedTensor *tensor) {
  return tensor->type == TENSOR_F32 || tensor->type == TENSOR_F16 || tensor->type == TENSOR_BF16;
}

static Status find_tensor(const PretrainedFile *file, const char *name, const int64_t *shape,
                          int rank, const NamedTensor **out, Error *error) {
  Status status = OK;
  Text found = {0}, expected = {0};
  const NamedTensor *tensor = safetensors_find(file->tensors, name);
  tensor_shape_append(&expected, shape, rank);
  if (!tensor)
    FAIL(error, ERROR_DATA, "%s: tensor \"%s\" is missing, expected %s as in %s", file->path, name,
         expected.data, file->origin);
  tensor_shape_append(&found, tensor->shape, tensor->rank);
  bool fits =
      tensor->rank == rank && memcmp(tensor->shape, shape, (size_t)rank * sizeof *shape) == 0;
  if (!is_readable(tensor) || !fits)
    FAIL(error, ERROR_DATA, "%s: tensor \"%s\" is %s %s, expected F32, F16 or BF16 %s as in %s",
         file->path, name, tensor_type_name(tensor->type), found.data, expected.data, file->origin);
  *out = tensor;
done:
  text_free(&found);
  text_free(&expected);
  return status;
}

Status pretrained_values(const PretrainedFile *file, const char *name, const int64_t *shape,
                         int rank, float *out, Error *error) {
  Status status = OK;
  const NamedTensor *tensor = NULL;
  void *data = NULL;
  int64_t count = 1;
  TRY(find_tensor(file, name, shape, rank, &tensor, error));
  TRY(mem_bulk_unset(named_tensor_bytes(tensor), "a tensor", &data, error));
  TRY(safetensors_read(file->tensors, tensor, data, error));
  for (int i = 0; i < rank; i++) count *= shape[i];
  for (int64_t i = 0; i < count; i++) {
    out[i] = number_at(tensor->type, data, i);
    if (!isfinite(out[i]))
      FAIL(error, ERROR_DATA, "%s: tensor \"%s\": element %lld of %lld is not finite: %g",
           file->path, name, (long long)i, (long long)count, (double)out[i]);
  }
done:
  free(data);
  return status;
}

/* Copies [out,in,height,width] as [out,height,width,in]. */
static void move_channels_last(const float *from, int64_t outputs, int64_t inputs,
                               int64_t positions, float *to) {
  for (int64_t o = 0; o < outputs; o++, from += inputs * positions, to += inputs * positions)
    for (int64_t i = 0; i < inputs; i++)
      for (int64_t p = 0; p < positions; p++) to[p * inputs + i] = from[i * positions + p];
}

Status pretrained_parameter(const PretrainedFile *file, const char *name,
                            const Parameter *parameter, float *out, Error *error) {
  Status status = OK;
  const int64_t *dim = parameter->shape.dim;
  const int64_t shape[4] = {dim[0], dim[AXIS_C], dim[AXIS_H], dim[AXIS_W]};
  float *values = NULL;
  if (parameter->init != INIT_NORMAL)
    return pretrained_values(file, name, &dim[AXIS_C], 1, out, error);
  TRY(mem_bulk((size_t)parameter->count * sizeof *values, "a tensor", (void **)&values, error));
  TRY(pretrained_values(file, name, shape, 4, values, error));
  move_channels_last(values, shape[0], shape[1], shape[2] * shape[3], out);
done:
  free(values);
  return status;
}
