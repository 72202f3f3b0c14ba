#include "trainer/export/export.h"

#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/version.h"
#include "trainer/export/names.h"
#include "trainer/export/onnx_graph.h"
#include "trainer/gan/device.h"

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
  static const char *const KEYS[] = {
      "model.generator",     "model.channels",       "model.blocks",
      "model.temporal",      "model.norm",           "model.noise_channels",
      "model.downsamplings", "model.local_enhancers"}; /* the last two only for pix2pixhd */
  size_t count = sizeof KEYS / sizeof *KEYS;
  if (model->config->model.generator != GENERATOR_PIX2PIXHD) count -= 2;
  json_t *properties = json_object();
  set_text(properties, "celforge.version", CELFORGE_VERSION);
  set_text(properties, "celforge.weights", ema ? "running average" : "plain");
  set_number(properties, "celforge.step", model->step);
  set_number(properties, "celforge.scale", model->scale);
  set_number(properties, "celforge.source_channels", model->source_channels);
  set_text(properties, "celforge.range", "-1 1");
  for (size_t i = 0; i < count; i++) {
    Text value = {0};
    config_write_value(&config_schema, KEYS[i], model->config, &value);
    char *key = mem_format("celforge.%s", KEYS[i]);
    set_text(properties, key, value.data);
    free(key);
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

/* Refuses to overwrite a file of the checkpoint. */
static Status check_output(const Checkpoint *checkpoint, const char *output, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  TRY(folder_list(checkpoint->path, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    char *path = path_join(checkpoint->path, names[i]);
    bool same = path_is_same(path, output);
    free(path);
    if (same)
      FAIL(error, ERROR_USAGE, "%s: is a file of the checkpoint; choose another output", output);
  }
done:
  folder_list_free(names, count);
  return status;
}

Status export_run(const ExportOptions *options, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  Backend *backend = NULL;
  Inference *inference = NULL;
  ExportedModel model = {0};
  TRY(checkpoint_open_path(options->checkpoint, &checkpoint, error));
  TRY(check_output(checkpoint, options->output, error));
  TRY(device_open_default(DEVICE_CPU, 1, &backend, error));
  TRY(inference_from_checkpoint(checkpoint, options->ema, DTYPE_F32, backend, &inference, error));
  model = (ExportedModel){.config = inference_config(inference),
                          .parameters = inference_parameters(inference),
                          .scale = inference_scale(inference),
                          .source_channels = inference_source_channels(inference),
                          .step = checkpoint->step};
  model.properties = model_properties(&model, options->ema);
  TRY(load_weights(&model, error));
  if (options->format == EXPORT_ONNX)
    TRY(export_onnx(&model, options->stream, options->output, error));
  else
    TRY(export_safetensors(&model, options->output, error));
  log_info("%s: exported the generator of %s", options->output, checkpoint->path);
done:
  free_weights(&model);
  inference_free(inference);
  if (backend) backend->free(backend);
  checkpoint_close(checkpoint);
  return status;
}
