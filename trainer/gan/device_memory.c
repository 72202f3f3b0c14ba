#include "trainer/gan/device_memory.h"

#include "trainer/gan/internal.h"

/* --- What a model takes ----------------------------------------------------------------------- */

static size_t bytes_of(const Buffer *buffer) {
  return (size_t)buffer->count * dtype_size(buffer->dtype);
}

/* As parameters_allocate takes them. */
static size_t parameter_bytes(const Parameters *parameters, bool with_ema) {
  size_t bytes = bytes_of(&parameters->master) + bytes_of(&parameters->gradient) +
                 bytes_of(&parameters->moment1) + bytes_of(&parameters->moment2) +
                 bytes_of(&parameters->counters) + bytes_of(&parameters->squares);
  if (with_ema) bytes += bytes_of(&parameters->ema);
  if (parameters_have_compute(parameters)) bytes += bytes_of(&parameters->compute);
  if (parameters->spectral) bytes += bytes_of(&parameters->spectral->master);
  return bytes;
}

/* The same of a network that is not trained. */
static size_t fixed_bytes(const Parameters *parameters) {
  size_t bytes = bytes_of(&parameters->master);
  if (parameters_have_compute(parameters)) bytes += bytes_of(&parameters->compute);
  return bytes;
}

static size_t carry_bytes(const Carries *carries) {
  size_t bytes = 0;
  for (int k = 0; k < carries->count; k++) bytes += bytes_of(&carries->sums[k]);
  return bytes;
}

Status model_memory(const Model *model, ModelMemory *out, Error *error) {
  Status status = OK;
  DeviceMemory device = {0};
  Backend *backend = model->backend;
  if (backend->memory) TRY(backend->memory(backend, &device, error));
  *out = (ModelMemory){
      .arena = arena_bytes(model->arena),
      .parameters = parameter_bytes(&model->generator, true) +
                    (model->adversarial ? parameter_bytes(&model->discriminator, false) : 0) +
                    fixed_bytes(&model->perceptual),
      .carries =
          carry_bytes(&model->generator_carries) + carry_bytes(&model->discriminator_carries),
      .batches = bytes_of(&model->source) + bytes_of(&model->target) + bytes_of(&model->noise) +
                 bytes_of(&model->shares) + bytes_of(&model->controls) + bytes_of(&model->metrics),
      .staging = device.staging,
  };
  out->total = out->arena + out->parameters + out->carries + out->batches + out->staging;
done:
  return status;
}

/* --- In words --------------------------------------------------------------------------------- */

static void append_line(Text *out, const char *name, size_t bytes) {
  if (bytes == 0) return;
  text_append(out, "  %-38s ", name);
  text_append_bytes_size(out, (double)bytes);
  text_append(out, "\n");
}

static void append_exact(Text *out, const char *name, size_t bytes) {
  text_append(out, "  %-38s ", name);
  text_append_bytes_size(out, (double)bytes);
  text_append(out, " (%zu bytes)\n", bytes);
}

static Status append_fit(const Model *model, size_t total, Text *out, Error *error) {
  Status status = OK;
  DeviceMemory device;
  TRY(model->backend->memory(model->backend, &device, error));
  append_exact(out, "free on the device now", device.free);
  append_exact(out, "of", device.total);
  text_append(out, "  %s\n", total <= device.free ? "it fits" : "it does not fit");
done:
  return status;
}

Status memory_print(const Model *model, Text *out, Error *error) {
  Status status = OK;
  ModelMemory memory;
  TRY(model_memory(model, &memory, error));
  text_append(out, "\nmemory of the device\n");
  append_line(out, "arena: values and workspaces", memory.arena);
  append_line(out, "parameters and their state", memory.parameters);
  append_line(out, "gradients of micro-batches", memory.carries);
  append_line(out, "batches, controls, metrics", memory.batches);
  append_line(out, "staging of copies", memory.staging);
  append_exact(out, "in all", memory.total);
  if (model->backend->memory) TRY(append_fit(model, memory.total, out, error));
done:
  return status;
}

/* --- What would fit --------------------------------------------------------------------------- */

/* What a rank has to compute a step, however it divides it. */
typedef struct Search {
  Backend *backend;
  const Config *config;
  ModelOptions options;
  size_t free, least; /* of the device; the least that any change needs */
  Text found;
} Search;

/* How much the model would take with these settings; 0 where it cannot be planned. */
static size_t planned_bytes(const Search *search, int64_t micro_batch, bool recompute) {
  Config config = *search->config;
  ModelOptions options = search->options;
  Model *model = NULL;
  ModelMemory memory = {0};
  options.micro_batches =
      (int)(search->options.micro_batches * config.train.micro_batch / micro_batch);
  config.train.micro_batch = micro_batch;
  config.train.recompute = recompute;
  if (model_plan(&config, search->backend, &options, &model, NULL) != OK) return 0;
  if (model_memory(model, &memory, NULL) != OK) memory.total = 0;
  model_free(model);
  return memory.total;
}

/* Appends the settings where they fit. */
static bool try_settings(Search *search, int64_t micro_batch, bool recompute) {
  bool is_smaller = micro_batch < search->config->train.micro_batch;
  size_t bytes = planned_bytes(search, micro_batch, recompute);
  if (bytes == 0) return false;
  if (search->least == 0 || bytes < search->least) search->least = bytes;
  if (bytes > search->free) return false;
  text_append(&search->found, "%s", search->found.length > 0 ? "; " : "");
  if (is_smaller) text_append(&search->found, "train.micro_batch: %lld", (long long)micro_batch);
  if (is_smaller && recompute) text_append(&search->found, " with ");
  if (recompute) text_append(&search->found, "train.recompute: true");
  text_append(&search->found, " needs ");
  text_append_bytes_size(&search->found, (double)bytes);
  return true;
}

/* The largest smaller micro-batch that fits. */
static bool try_micro_batches(Search *search, bool recompute) {
  int64_t now = search->config->train.micro_batch;
  for (int64_t micro_batch = now - 1; micro_batch > 0; micro_batch--)
    if (now % micro_batch == 0 && try_settings(search, micro_batch, recompute)) return true;
  return false;
}

static void look_for_settings(Search *search) {
  bool recompute = search->config->train.recompute;
  bool found = try_micro_batches(search, recompute);
  if (recompute) return;
  if (try_settings(search, search->config->train.micro_batch, true)) found = true;
  if (!found) try_micro_batches(search, true);
}

static Status say_what_fits(Search *search, size_t needed, Error *error) {
  Text text = {0};
  Error first = error ? *error : (Error){.status = ERROR_INTERNAL};
  look_for_settings(search);
  text_append(&text, "; the model needs ");
  text_append_bytes_size(&text, (double)needed);
  text_append(&text, " in all, ");
  text_append_bytes_size(&text, (double)search->free);
  text_append(&text, " are free without it; ");
  if (search->found.length > 0) {
    text_append(&text, "what would fit: %s", search->found.data);
  } else {
    text_append(&text, "no train.micro_batch fits, with train.recompute or without");
    if (search->least > 0) {
      text_append(&text, " (the least needs ");
      text_append_bytes_size(&text, (double)search->least);
      text_append(&text, ")");
    }
    text_append(&text, "; take smaller crops (data.crop_*) or fewer channels (model.*)");
  }
  Status status = error_set(error, first.status, "%s%s", first.message, text.data);
  text_free(&text);
  text_free(&search->found);
  return status;
}

Status memory_allocate(Model **model, Error *error) {
  ModelMemory memory = {0};
  DeviceMemory device = {0};
  Backend *backend = (*model)->backend;
  Search search = {.backend = backend, .config = (*model)->config, .options = (*model)->options};
  Status status = model_allocate(*model, error);
  if (status == OK || !backend->memory) return status;
  if (model_memory(*model, &memory, NULL) != OK) return status;
  /* Planning may measure on the device, which needs what was taken before the failure. */
  model_free(*model);
  *model = NULL;
  if (backend->memory(backend, &device, NULL) != OK || memory.total <= device.free) return status;
  search.free = device.free;
  return say_what_fits(&search, memory.total, error);
}
