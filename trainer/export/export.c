#include "trainer/export/export.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/temporary.h"
#include "base/version.h"
#include "trainer/export/model.h"
#include "trainer/export/names.h"
#include "trainer/export/onnx_graph.h"

/* --- Weights ---------------------------------------------------------------------------------- */

static Status load_weights(ExportedModel *model, Error *error) {
  Status status = OK;
  float *flat = NULL;
  const Parameters *parameters = model->parameters;
  size_t bytes = (size_t)parameters->total * sizeof(float);
  TRY(mem_bulk(bytes, "the generator's weights", (void **)&flat, error));
  TRY(mem_bulk(bytes, "the generator's weights", (void **)&model->values, error));
  TRY(buffer_download(&parameters->master, 0, flat, parameters->total, error));
  model->tensors = mem_new((size_t)parameters->count, sizeof *model->tensors);
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    export_values(parameter, flat + parameter->offset, model->values + parameter->offset);
    model->tensors[i] = export_tensor(parameter, model->values + parameter->offset);
  }
done:
  free(flat);
  return status;
}

static void free_weights(ExportedModel *model) {
  for (int i = 0; model->tensors && i < model->parameters->count; i++)
    free((char *)model->tensors[i].name);
  free(model->tensors);
  free(model->values);
  json_decref(model->properties);
}

/* --- Properties ------------------------------------------------------------------------------- */

static void set_text(json_t *properties, const char *key, const char *text) {
  json_object_set_new(properties, key, json_string(text));
}

static void set_number(json_t *properties, const char *key, int64_t number) {
  json_object_set_new(properties, key, json_sprintf("%lld", (long long)number));
}

/* Describes how to build the network and feed it, as an object of strings. */
static json_t *model_properties(const ExportedModel *model, bool ema) {
  json_t *properties = json_object();
  set_text(properties, MODEL_KEY_VERSION, CELFORGE_VERSION);
  set_text(properties, MODEL_KEY_WEIGHTS, ema ? "running average" : "plain");
  set_number(properties, MODEL_KEY_STEP, model->step);
  set_number(properties, MODEL_KEY_SCALE, model->scale);
  set_number(properties, MODEL_KEY_CHANNELS, model->source_channels);
  set_text(properties, MODEL_KEY_RANGE, MODEL_RANGE);
  for (const char *const *key = model_config_keys(model->config); *key; key++) {
    Text value = {0};
    config_write_value(&config_schema, *key, model->config, &value);
    char *member = mem_format(MODEL_KEY_CONFIG "%s", *key);
    set_text(properties, member, value.data);
    free(member);
    text_free(&value);
  }
  return properties;
}

/* --- Files ------------------------------------------------------------------------------------ */

static Status export_safetensors(const ExportedModel *model, const char *path, Error *error) {
  Status status = OK;
  AtomicFile file = {0};
  set_text(model->properties, "format", "pt"); /* PyTorch loaders look for it */
  TRY(atomic_file_open(path, &file, error));
  TRY(safetensors_write(file.temporary, model->tensors, model->parameters->count, model->properties,
                        NULL, NULL, error));
  TRY(atomic_file_commit(&file, error));
done:
  atomic_file_abort(&file);
  return status;
}

/* Refuses to overwrite the model file, or a file of the checkpoint. */
static Status check_output(const char *input, const char *output, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  bool same, is_folder;
  TRY(path_is_same(input, output, &same, error));
  if (same) FAIL(error, ERROR_USAGE, "%s: is also the input; choose another output", output);
  TRY(path_is_folder(input, &is_folder, error));
  if (!is_folder) goto done;
  TRY(folder_list(input, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    char *path = path_join(input, names[i]);
    status = path_is_same(path, output, &same, error);
    free(path);
    if (status != OK) goto done;
    if (same)
      FAIL(error, ERROR_USAGE, "%s: is a file of the checkpoint; choose another output", output);
  }
done:
  folder_list_free(names, count);
  return status;
}

/* The name of a model file: "comic" for "models/comic.safetensors". The caller frees it. */
static char *model_name(const char *path) {
  const char *slash = strrchr(path, '/');
  char *name = mem_string(slash ? slash + 1 : path);
  size_t length = strlen(name), ending = strlen(MODEL_FILE_ENDING);
  if (length > ending && strcmp(name + length - ending, MODEL_FILE_ENDING) == 0)
    name[length - ending] = '\0';
  return name;
}

/* Completes the card with the output's name and today's date. */
static Status export_model(Inference *inference, json_t *properties, const ExportOptions *options,
                           Error *error) {
  char *name = model_name(options->output), today[16];
  ModelCard card = options->card;
  time_t now = time(NULL);
  struct tm parts;
  strftime(today, sizeof today, "%Y-%m-%d", gmtime_r(&now, &parts));
  if (!card.name) card.name = name;
  if (!card.date) card.date = today;
  Status status = export_model_file(inference, properties, &card, options->output, error);
  if (status == ERROR_USAGE) error_context(error, "%s", options->output);
  free(name);
  return status;
}

static Status export_as(ExportedModel *model, Inference *inference, const ExportOptions *options,
                        Error *error) {
  Status status = OK;
  if (options->format == EXPORT_MODEL)
    return export_model(inference, model->properties, options, error);
  TRY(load_weights(model, error));
  if (options->format == EXPORT_ONNX)
    TRY(export_onnx(model, options->stream, options->output, error));
  else
    TRY(export_safetensors(model, options->output, error));
done:
  return status;
}

Status export_run(const ExportOptions *options, Error *error) {
  Status status = OK;
  Backend *backend = NULL;
  Inference *inference = NULL;
  ExportedModel model = {0};
  const ModelDevice device = {.device = DEVICE_CPU, .threads = 1, .precision = DTYPE_F32};
  TRY(inference_open_model(&options->model, &device, &backend, &inference, error));
  TRY(check_output(inference_path(inference), options->output, error));
  model = (ExportedModel){.config = inference_config(inference),
                          .parameters = inference_parameters(inference),
                          .scale = inference_scale(inference),
                          .source_channels = inference_source_channels(inference),
                          .step = inference_step(inference)};
  model.properties = model_properties(&model, inference_is_ema(inference));
  temporary_remove_leftovers_of(options->output);
  TRY(export_as(&model, inference, options, error));
  log_info("%s: exported the generator of %s", options->output, inference_path(inference));
done:
  free_weights(&model);
  inference_free(inference);
  if (backend) backend->free(backend);
  return status;
}
