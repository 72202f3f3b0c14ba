#include "trainer/gan/device_memory.h"

#include "trainer/gan/internal.h"

/* --- Needs ------------------------------------------------------------------------------------ */

static size_t bytes_of(const Buffer *buffer) {
  return (size_t)buffer->count * dtype_size(buffer->dtype);
}

/* The size of what parameters_allocate allocates for training. */
static size_t parameter_bytes(const Parameters *parameters, bool with_ema) {
  size_t bytes = bytes_of(&parameters->master) + bytes_of(&parameters->gradient) +
                 bytes_of(&parameters->moment1) + bytes_of(&parameters->moment2) +
                 bytes_of(&parameters->counters) + bytes_of(&parameters->squared_norms);
  if (with_ema) bytes += bytes_of(&parameters->ema);
  if (parameters_have_compute(parameters)) bytes += bytes_of(&parameters->compute);
  if (parameters->spectral) bytes += bytes_of(&parameters->spectral->master);
  return bytes;
}

/* The same for a frozen network. */
static size_t frozen_bytes(const Parameters *parameters) {
  size_t bytes = bytes_of(&parameters->master);
  if (parameters_have_compute(parameters)) bytes += bytes_of(&parameters->compute);
  return bytes;
}

static size_t accumulation_bytes(const AccumulationTree *tree) {
  size_t bytes = 0;
  for (int k = 0; k < tree->levels; k++) bytes += bytes_of(&tree->partial_sums[k]);
  return bytes;
}

static size_t batch_bytes(const Gan *gan) {
  const Buffer *inputs[GAN_MAX_INPUT_BUFFERS];
  size_t bytes = bytes_of(&gan->controls) + bytes_of(&gan->metrics);
  gan_input_buffers(gan, inputs);
  for (int i = 0; inputs[i]; i++) bytes += bytes_of(inputs[i]);
  return bytes;
}

Status device_memory_needs(const Gan *gan, DeviceMemoryNeeds *out, Error *error) {
  Status status = OK;
  DeviceMemory device = {0};
  Backend *backend = gan->backend;
  if (backend->memory) TRY(backend->memory(backend, &device, error));
  *out = (DeviceMemoryNeeds){
      .arena = arena_bytes(gan->arena),
      .parameters = parameter_bytes(&gan->generator, true) +
                    (gan->adversarial ? parameter_bytes(&gan->discriminator, false) : 0) +
                    (gan->projection.total > 0 ? parameter_bytes(&gan->projection, false) : 0) +
                    frozen_bytes(&gan->perceptual),
      .accumulation = accumulation_bytes(&gan->generator_accumulation) +
                      accumulation_bytes(&gan->discriminator_accumulation) +
                      accumulation_bytes(&gan->projection_accumulation),
      .batches = batch_bytes(gan),
      .staging = device.staging,
  };
  out->total = out->arena + out->parameters + out->accumulation + out->batches + out->staging;
done:
  return status;
}

/* --- As text ---------------------------------------------------------------------------------- */

static void append_line(Text *out, const char *name, size_t bytes) {
  if (bytes == 0) return;
  text_append(out, "  %-38s ", name);
  text_append_size(out, (double)bytes);
  text_append(out, "\n");
}

static void append_exact(Text *out, const char *name, size_t bytes) {
  text_append(out, "  %-38s ", name);
  text_append_size(out, (double)bytes);
  text_append(out, " (%zu bytes)\n", bytes);
}

static Status append_fit(const Gan *gan, size_t total, Text *out, Error *error) {
  Status status = OK;
  DeviceMemory device;
  TRY(gan->backend->memory(gan->backend, &device, error));
  append_exact(out, "free on the device now", device.free);
  append_exact(out, "of", device.total);
  text_append(out, "  %s\n", total <= device.free ? "it fits" : "it does not fit");
done:
  return status;
}

Status device_memory_print(const Gan *gan, Text *out, Error *error) {
  Status status = OK;
  DeviceMemoryNeeds memory;
  TRY(device_memory_needs(gan, &memory, error));
  text_append(out, "\nmemory of the device\n");
  append_line(out, "arena: values and workspaces", memory.arena);
  append_line(out, "parameters and their state", memory.parameters);
  append_line(out, "gradient accumulation", memory.accumulation);
  append_line(out, "batches, controls, metrics", memory.batches);
  append_line(out, "staging buffers", memory.staging);
  append_exact(out, "in all", memory.total);
  if (gan->backend->memory) TRY(append_fit(gan, memory.total, out, error));
done:
  return status;
}

/* --- Settings that would fit ------------------------------------------------------------------ */

/* The search for settings that compute the same step of a rank in less memory. */
typedef struct Search {
  Backend *backend;
  const Config *config;
  GanOptions options;
  size_t free;     /* on the device */
  size_t smallest; /* need of all settings tried */
  Text found;
} Search;

/* The memory needed with these settings; 0 where they cannot be planned. */
static size_t planned_bytes(const Search *search, int64_t micro_batch, bool recompute) {
  Config config = *search->config;
  GanOptions options = search->options;
  Gan *gan = NULL;
  DeviceMemoryNeeds memory = {0};
  options.micro_batches =
      (int)(search->options.micro_batches * config.train.micro_batch / micro_batch);
  config.train.micro_batch = micro_batch;
  config.train.recompute = recompute;
  if (gan_plan(&config, search->backend, &options, &gan, NULL) != OK) return 0;
  if (device_memory_needs(gan, &memory, NULL) != OK) memory.total = 0;
  gan_free(gan);
  return memory.total;
}

/* Appends the settings to `found` if they fit. */
static bool try_settings(Search *search, int64_t micro_batch, bool recompute) {
  bool is_smaller = micro_batch < search->config->train.micro_batch;
  size_t bytes = planned_bytes(search, micro_batch, recompute);
  if (bytes == 0) return false;
  if (search->smallest == 0 || bytes < search->smallest) search->smallest = bytes;
  if (bytes > search->free) return false;
  text_append(&search->found, "%s", search->found.length > 0 ? "; " : "");
  if (is_smaller) text_append(&search->found, "train.micro_batch: %lld", (long long)micro_batch);
  if (is_smaller && recompute) text_append(&search->found, " with ");
  if (recompute) text_append(&search->found, "train.recompute: true");
  text_append(&search->found, " needs ");
  text_append_size(&search->found, (double)bytes);
  return true;
}

/* Finds the largest micro-batch, smaller than the present one, that fits. */
static bool try_micro_batches(Search *search, bool recompute) {
  int64_t now = search->config->train.micro_batch;
  for (int64_t micro_batch = now - 1; micro_batch > 0; micro_batch--)
    if (now % micro_batch == 0 && try_settings(search, micro_batch, recompute)) return true;
  return false;
}

static void search_settings(Search *search) {
  bool recompute = search->config->train.recompute;
  bool found = try_micro_batches(search, recompute);
  if (recompute) return;
  if (try_settings(search, search->config->train.micro_batch, true)) found = true;
  if (!found) try_micro_batches(search, true);
}

static Status add_suggestions(Search *search, size_t needed, Error *error) {
  Text text = {0};
  Error first = error ? *error : (Error){.status = ERROR_INTERNAL};
  search_settings(search);
  text_append(&text, "; the training needs ");
  text_append_size(&text, (double)needed);
  text_append(&text, " in total, ");
  text_append_size(&text, (double)search->free);
  text_append(&text, " are free; ");
  if (search->found.length > 0) {
    text_append(&text, "what would fit: %s", search->found.data);
  } else {
    text_append(&text, "no train.micro_batch fits, with train.recompute or without");
    if (search->smallest > 0) {
      text_append(&text, " (the smallest needs ");
      text_append_size(&text, (double)search->smallest);
      text_append(&text, ")");
    }
    text_append(&text, "; take smaller crops (data.crop_*) or fewer channels (model.*)");
  }
  Status status = error_set(error, first.status, "%s%s", first.message, text.data);
  text_free(&text);
  text_free(&search->found);
  return status;
}

Status device_memory_allocate(Gan **gan, Error *error) {
  DeviceMemoryNeeds memory = {0};
  DeviceMemory device = {0};
  Backend *backend = (*gan)->backend;
  Search search = {.backend = backend, .config = (*gan)->config, .options = (*gan)->options};
  Status status = gan_allocate(*gan, error);
  if (status == OK || !backend->memory) return status;
  if (device_memory_needs(*gan, &memory, NULL) != OK) return status;
  /* Planning may benchmark on the device, which needs the memory that is allocated now. */
  gan_free(*gan);
  *gan = NULL;
  if (backend->memory(backend, &device, NULL) != OK || memory.total <= device.free) return status;
  search.free = device.free;
  return add_suggestions(&search, memory.total, error);
}
