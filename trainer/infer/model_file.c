#include "trainer/infer/model_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "base/version.h"
#include "checkpoints/half_float.h"
#include "trainer/gan/checkpoint_weights.h"

const char *const *model_config_keys(const Config *config) {
  static const char *const CELNET[] = {"model.generator",   "model.channels",
                                       "model.blocks",      "model.temporal",
                                       "model.norm",        "model.noise_channels",
                                       "model.refinements", "model.smooth_base",
                                       "model.tones",       NULL};
  static const char *const PIX2PIXHD[] = {"model.generator",
                                          "model.channels",
                                          "model.blocks",
                                          "model.temporal",
                                          "model.norm",
                                          "model.noise_channels",
                                          "model.downsamplings",
                                          "model.local_enhancers",
                                          NULL};
  return config->model.generator == GENERATOR_PIX2PIXHD ? PIX2PIXHD : CELNET;
}

/* --- Metadata --------------------------------------------------------------------------------- */

/* Turns the error of a check on the metadata's content into one about the file. */
static Status invalid_metadata(const ModelFile *file, Error *error) {
  return error_set(error, ERROR_DATA, "%s: metadata: %s", file->path, error->message);
}

/* Checks that all texts can be printed, also by the error messages below. */
static Status check_texts(const ModelFile *file, const json_t *metadata, Error *error) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)metadata, key, value) {
    if (model_text_check("name of a member", key, error) != OK ||
        model_text_check(key, json_string_value(value), error) != OK)
      return invalid_metadata(file, error);
  }
  return OK;
}

static Status get_text(const ModelFile *file, const json_t *metadata, const char *key,
                       const char **out, Error *error) {
  *out = json_string_value(json_object_get(metadata, key));
  if (*out) return OK;
  return error_set(error, ERROR_DATA, "%s: its metadata lack \"%s\"", file->path, key);
}

/* Reads decimal digits in [minimum, maximum]. */
static Status get_number(const ModelFile *file, const json_t *metadata, const char *key,
                         int64_t minimum, int64_t maximum, int64_t *out, Error *error) {
  const char *text;
  Status status = get_text(file, metadata, key, &text, error);
  if (status != OK) return status;
  size_t digits = strspn(text, "0123456789");
  bool number = digits > 0 && digits < 19 && text[digits] == '\0';
  *out = number ? strtoll(text, NULL, 10) : -1;
  if (number && *out >= minimum && *out <= maximum) return OK;
  return error_set(error, ERROR_DATA,
                   "%s: metadata \"%s\" is \"%.40s\"; allowed: %" PRId64 " to %" PRId64, file->path,
                   key, text, minimum, maximum);
}

/* Keys that files of earlier versions lack; their default is what those versions did. */
static bool may_be_absent(const char *key) {
  return strcmp(key, "model.tones") == 0;
}

/* Assigns the config key "model.norm" from the metadata's "celforge.model.norm". */
static Status assign_key(ModelFile *file, const json_t *metadata, const char *key, Error *error) {
  Status status = OK;
  const char *text;
  char *member = mem_format(MODEL_KEY_CONFIG "%s", key), *assignment = NULL;
  if (may_be_absent(key) && !json_object_get(metadata, member)) goto done;
  TRY(get_text(file, metadata, member, &text, error));
  assignment = mem_format("%s=%.100s", key, text);
  if (config_assign(&config_schema, assignment, &file->config, NULL, error) != OK)
    status = invalid_metadata(file, error);
done:
  free(assignment);
  free(member);
  return status;
}

static Status read_config(ModelFile *file, const json_t *metadata, Error *error) {
  Status status = OK;
  TRY(config_set_defaults(&config_schema, &file->config, error));
  TRY(assign_key(file, metadata, "model.generator", error)); /* decides which keys there are */
  for (const char *const *key = model_config_keys(&file->config); *key; key++)
    TRY(assign_key(file, metadata, *key, error));
  TRY(get_number(file, metadata, MODEL_KEY_SEED, 0, INT64_MAX, &file->config.run.seed, error));
  if (config_check(&file->config, NULL, 1, error) != OK) status = invalid_metadata(file, error);
done:
  return status;
}

/* Members that are neither known nor of the card are rejected: they would be ignored silently. */
static Status check_keys(const ModelFile *file, const json_t *metadata, Error *error) {
  static const char *const KNOWN[] = {
      MODEL_KEY_FORMAT,   MODEL_KEY_FORMAT_VERSION, MODEL_KEY_VERSION,
      MODEL_KEY_WEIGHTS,  MODEL_KEY_STEP,           MODEL_KEY_SCALE,
      MODEL_KEY_CHANNELS, MODEL_KEY_RANGE,          MODEL_KEY_SEED};
  const size_t prefix = strlen(MODEL_KEY_CONFIG);
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)metadata, key, value) {
    bool known = model_card_has_key(key);
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
      known = known || strcmp(key, KNOWN[i]) == 0;
    for (const char *const *k = model_config_keys(&file->config); *k; k++)
      known =
          known || (strncmp(key, MODEL_KEY_CONFIG, prefix) == 0 && strcmp(key + prefix, *k) == 0);
    if (!known)
      return error_set(error, ERROR_DATA, "%s: unknown metadata \"%.60s\"", file->path, key);
  }
  return OK;
}

static Status check_format(const ModelFile *file, const json_t *metadata, Error *error) {
  Status status = OK;
  int64_t version;
  const char *format = json_string_value(json_object_get(metadata, MODEL_KEY_FORMAT));
  if (!format || strcmp(format, MODEL_FILE_FORMAT) != 0)
    FAIL(error, ERROR_DATA,
         "%s: is a safetensors file, but no model file: its metadata's \"" MODEL_KEY_FORMAT
         "\" is %s%.40s%s, expected \"" MODEL_FILE_FORMAT "\"; `celforge export --format model` "
         "writes model files",
         file->path, format ? "\"" : "", format ? format : "missing", format ? "\"" : "");
  TRY(get_number(file, metadata, MODEL_KEY_FORMAT_VERSION, 1, 1000000, &version, error));
  if (version != MODEL_FILE_VERSION)
    FAIL(error, ERROR_DATA,
         "%s: has version %" PRId64 " of the format; this Celforge (%s) reads %d", file->path,
         version, CELFORGE_VERSION, MODEL_FILE_VERSION);
done:
  return status;
}

static Status read_card(ModelFile *file, const json_t *metadata, Error *error) {
  model_card_read(metadata, &file->card);
  if (model_card_check(&file->card, error) == OK) return OK;
  return invalid_metadata(file, error);
}

static Status read_metadata(ModelFile *file, Error *error) {
  Status status = OK;
  const char *text;
  const json_t *metadata = safetensors_metadata(file->tensors);
  TRY(check_texts(file, metadata, error));
  TRY(check_format(file, metadata, error));
  TRY(read_config(file, metadata, error));
  TRY(check_keys(file, metadata, error));
  TRY(get_number(file, metadata, MODEL_KEY_SCALE, 1, 64, &file->scale, error));
  TRY(get_number(file, metadata, MODEL_KEY_CHANNELS, 3, 3 * 64, &file->source_channels, error));
  if (file->source_channels % 3 != 0)
    FAIL(error, ERROR_DATA,
         "%s: metadata \"" MODEL_KEY_CHANNELS "\" is %" PRId64 ", expected a multiple of 3",
         file->path, file->source_channels);
  TRY(get_number(file, metadata, MODEL_KEY_STEP, 0, INT64_MAX, &file->step, error));
  TRY(get_text(file, metadata, MODEL_KEY_WEIGHTS, &text, error));
  file->ema = strcmp(text, "running average") == 0;
  if (!file->ema && strcmp(text, "plain") != 0)
    FAIL(error, ERROR_DATA,
         "%s: metadata \"" MODEL_KEY_WEIGHTS "\" is \"%.40s\"; allowed: running average, plain",
         file->path, text);
  TRY(get_text(file, metadata, MODEL_KEY_RANGE, &text, error));
  if (strcmp(text, MODEL_RANGE) != 0)
    FAIL(error, ERROR_DATA, "%s: metadata \"" MODEL_KEY_RANGE "\" is \"%.40s\", expected \"%s\"",
         file->path, text, MODEL_RANGE);
  TRY(read_card(file, metadata, error));
done:
  return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

/* Takes over `tensors`. */
static Status model_file_new(const char *name, Safetensors *tensors, uint64_t bytes,
                             ModelFile **out, Error *error) {
  ModelFile *file = mem_new(1, sizeof *file);
  file->path = mem_string(name);
  file->tensors = tensors;
  file->bytes = bytes;
  Status status = read_metadata(file, error);
  *out = status == OK ? file : NULL;
  if (status != OK) model_file_close(file);
  return status;
}

Status model_file_open(const char *path, ModelFile **out, Error *error) {
  Status status = OK;
  Safetensors *tensors = NULL;
  struct stat info = {0};
  *out = NULL;
  TRY(safetensors_open(path, &tensors, error));
  (void)stat(path, &info); /* the size is for display */
  TRY(model_file_new(path, tensors, (uint64_t)info.st_size, out, error));
done:
  return status;
}

Status model_file_parse(const char *name, const void *bytes, size_t size, ModelFile **out,
                        Error *error) {
  Status status = OK;
  Safetensors *tensors = NULL;
  *out = NULL;
  TRY(safetensors_parse(name, bytes, size, &tensors, error));
  TRY(model_file_new(name, tensors, size, out, error));
done:
  return status;
}

void model_file_close(ModelFile *file) {
  if (!file) return;
  safetensors_close(file->tensors);
  free(file->path);
  free(file);
}

/* --- Weights ---------------------------------------------------------------------------------- */

static Status check_tensor(const ModelFile *file, const Parameter *parameter, Error *error) {
  const float none = 0; /* only type and shape are compared */
  Parameter alone = *parameter;
  alone.offset = 0;
  NamedTensor expected = parameter_tensor(&alone, parameter->name, &none);
  expected.type = TENSOR_F16;
  const NamedTensor *found = safetensors_find(file->tensors, parameter->name);
  if (!found)
    return error_set(error, ERROR_DATA, "%s: has no tensor \"%s\", which its config needs",
                     file->path, parameter->name);
  if (found->type == expected.type && found->rank == expected.rank &&
      memcmp(found->shape, expected.shape, sizeof(int64_t) * (size_t)expected.rank) == 0)
    return OK;
  Text shapes = {0};
  text_append(&shapes, "%s ", tensor_type_name(found->type));
  tensor_shape_append(&shapes, found->shape, found->rank);
  text_append(&shapes, ", expected F16 ");
  tensor_shape_append(&shapes, expected.shape, expected.rank);
  Status status = error_set(error, ERROR_DATA, "%s: tensor \"%s\" is %s", file->path,
                            parameter->name, shapes.data);
  text_free(&shapes);
  return status;
}

Status model_file_check_tensors(const ModelFile *file, const Parameters *parameters, Error *error) {
  for (int i = 0; i < parameters->count; i++) {
    Status status = check_tensor(file, &parameters->items[i], error);
    if (status != OK) return status;
  }
  for (int i = 0; i < safetensors_count(file->tensors); i++) {
    const char *name = safetensors_tensor(file->tensors, i)->name;
    if (parameters_find(parameters, name)) continue;
    bool printable = model_text_check("name", name, error) == OK;
    return error_set(error, ERROR_DATA, "%s: tensor \"%.60s\" does not belong to its config",
                     file->path, printable ? name : "?");
  }
  return OK;
}

static Status read_tensor(const ModelFile *file, const Parameter *parameter, float *out,
                          Error *error) {
  const char *data = safetensors_find(file->tensors, parameter->name)->data;
  for (int64_t i = 0; i < parameter->count; i++) {
    uint16_t half;
    memcpy(&half, data + 2 * i, sizeof half); /* the file's data may be unaligned */
    out[i] = half_to_f32(half);
    if (!(out[i] >= -HALF_MAX && out[i] <= HALF_MAX))
      return error_set(error, ERROR_DATA, "%s: tensor \"%s\": element %" PRId64 " is %g",
                       file->path, parameter->name, i, (double)out[i]);
  }
  return OK;
}

Status model_file_load(const ModelFile *file, Parameters *parameters, Error *error) {
  Status status = OK;
  float *flat = NULL;
  int64_t count = parameters->master.count;
  TRY(mem_bulk((size_t)count * sizeof *flat, "the generator's weights", (void **)&flat, error));
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    TRY(read_tensor(file, parameter, flat + parameter->offset, error));
  }
  TRY(buffer_upload(&parameters->master, 0, flat, count, error));
done:
  free(flat);
  return status;
}
