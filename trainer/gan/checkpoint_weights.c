#include "trainer/gan/checkpoint_weights.h"

#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/memory.h"

NamedTensor parameter_tensor(const Parameter *parameter, char *name, const float *flat) {
  NamedTensor tensor = {.name = name, .type = TENSOR_F32, .data = flat + parameter->offset};
  const int64_t *dim = parameter->shape.dim;
  bool vector = dim[0] == 1 && dim[1] == 1 && dim[2] == 1 && dim[3] == 1;
  tensor.rank = vector ? 1 : RANK;
  for (int i = 0; i < tensor.rank; i++) tensor.shape[i] = vector ? dim[AXIS_C] : dim[i];
  return tensor;
}

/* "F32 [64, 1, 7, 7, 3]" */
static void describe(const NamedTensor *tensor, Text *out) {
  text_append(out, "%s ", tensor_type_name(tensor->type));
  tensor_shape_append(out, tensor->shape, tensor->rank);
}

Status checkpoint_check_tensor(const Checkpoint *checkpoint, const char *file_name,
                               const NamedTensor *found, const NamedTensor *expected,
                               Error *error) {
  if (found->type == expected->type && found->rank == expected->rank &&
      memcmp(found->shape, expected->shape, sizeof(int64_t) * (size_t)expected->rank) == 0)
    return OK;
  Text present = {0}, needed = {0};
  describe(found, &present);
  describe(expected, &needed);
  Status status =
      error_set(error, ERROR_USAGE,
                "%s/%s: tensor \"%s\" is %s, expected %s; set model.* to the values that the "
                "checkpoint was written with",
                checkpoint->path, file_name, found->name, present.data, needed.data);
  text_free(&present);
  text_free(&needed);
  return status;
}

Status checkpoint_find_tensor(const Checkpoint *checkpoint, const char *file_name, const char *name,
                              const NamedTensor *expected, const NamedTensor **out, Error *error) {
  const Safetensors *file = checkpoint_file(checkpoint, file_name);
  *out = file ? safetensors_find(file, name) : NULL;
  if (*out) return checkpoint_check_tensor(checkpoint, file_name, *out, expected, error);
  return error_set(error, ERROR_USAGE,
                   "%s/%s: has no tensor \"%s\", which the networks of this config need",
                   checkpoint->path, file_name, name);
}

Status checkpoint_load_parameters(const Checkpoint *checkpoint, const char *file_name,
                                  const char *prefix, const Parameters *parameters, float *flat,
                                  Error *error) {
  Status status = OK;
  char *name = NULL;
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    free(name);
    name = mem_format("%s%s", prefix, parameter->name);
    NamedTensor expected = parameter_tensor(parameter, name, flat);
    const NamedTensor *found = NULL;
    TRY(checkpoint_find_tensor(checkpoint, file_name, name, &expected, &found, error));
    memcpy(flat + parameter->offset, found->data, (size_t)parameter->count * sizeof *flat);
  }
done:
  free(name);
  return status;
}

Status checkpoint_config(const Checkpoint *checkpoint, Config *config, Error *error) {
  const char *yaml = NULL;
  char *where = path_join(checkpoint->path, "manifest.json");
  Status status = json_get_string(checkpoint->manifest, where, "config", &yaml, error);
  if (status == OK) status = config_set_defaults(&config_schema, config, error);
  if (status == OK)
    status = config_parse(&config_schema, where, yaml, strlen(yaml), config, NULL, error);
  free(where);
  return status;
}

Status checkpoint_scale(const Checkpoint *checkpoint, int64_t *scale, Error *error) {
  char *where = path_join(checkpoint->path, "manifest.json");
  Status status = json_get_int(checkpoint->manifest, where, "scale", 1, 64, scale, error);
  free(where);
  return status;
}

Status checkpoint_load_generator(const Checkpoint *checkpoint, bool ema, Parameters *parameters,
                                 Error *error) {
  Status status = OK;
  float *flat = NULL;
  TRY(mem_bulk((size_t)parameters->master.count * sizeof *flat, "the generator's weights",
               (void **)&flat, error));
  TRY(checkpoint_load_parameters(checkpoint, GENERATOR_FILE, ema ? "ema." : "", parameters, flat,
                                 error));
  TRY(buffer_upload(&parameters->master, 0, flat, parameters->master.count, error));
done:
  free(flat);
  return status;
}
