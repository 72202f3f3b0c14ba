/* The state of a run's first step: weights that are drawn, or taken from another run. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "engine/parameters/spectral_norm.h"
#include "trainer/gan/checkpoint_weights.h"
#include "trainer/run/checkpoint_state.h"

static Status upload_zeros(Buffer *buffer, Error *error) {
  float *zeros = NULL;
  Status status = mem_bulk((size_t)buffer->count * sizeof *zeros, "zeros", (void **)&zeros, error);
  if (status == OK) status = buffer_upload(buffer, 0, zeros, buffer->count, error);
  free(zeros);
  return status;
}

/* Overwrites what the checkpoint holds of a flat array; *taken: so many parameters. */
static Status take_flat(const Checkpoint *from, const char *file_name, const char *prefix,
                        const Parameters *parameters, float *flat, int *taken, Error *error) {
  Status status = OK;
  char *name = NULL;
  const Safetensors *file = checkpoint_file(from, file_name);
  *taken = 0;
  for (int i = 0; file && i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    free(name);
    name = mem_format("%s%s", prefix, parameter->name);
    const NamedTensor like = parameter_tensor(parameter, name, flat);
    const NamedTensor *found = safetensors_find(file, name);
    if (!found) continue;
    TRY(checkpoint_check_tensor(from, file_name, found, &like, error));
    memcpy(flat + parameter->offset, found->data, (size_t)parameter->count * sizeof *flat);
    ++*taken;
  }
done:
  free(name);
  return status;
}

/* --- All ranks together; `from` is NULL on all but rank 0 ------------------------------------- */

static Status take_array(Comm *comm, const Checkpoint *from, const char *file_name,
                         const char *prefix, const Parameters *parameters, Buffer *buffer,
                         int *taken, Error *error) {
  Status status = OK;
  float *flat = NULL;
  size_t bytes = (size_t)buffer->count * sizeof *flat;
  status = mem_bulk(bytes, "a network's weights", (void **)&flat, error);
  if (status == OK) status = buffer_download(buffer, 0, flat, buffer->count, error);
  if (status == OK && from) {
    status = take_flat(from, file_name, prefix, parameters, flat, taken, error);
    if (status != OK) error_context(error, "run.init");
  }
  TRY(comm_agree(comm, status, error));
  TRY(comm_broadcast(comm, flat, bytes, 0, error));
  TRY(comm_agree(comm, buffer_upload(buffer, 0, flat, buffer->count, error), error));
done:
  free(flat);
  return status;
}

static void say_taken(const Checkpoint *from, const Parameters *parameters, int taken) {
  if (!from) return;
  log_info("run.init: %d of the %s's %d tensors are from %s%s", taken, parameters->network,
           parameters->count, from->path,
           taken < parameters->count ? "; the others are drawn" : "");
}

/* With spectral norm a discriminator computes by W / sigma: the same weights are another function
 * without. Of a config that this version cannot read nothing is said. */
static void warn_of_other_function(const Config *config, const Checkpoint *from) {
  Config then;
  if (checkpoint_config(from, &then, NULL) != OK) return;
  if (then.model.spectral_norm == config->model.spectral_norm) return;
  log_warning("run.init: model.spectral_norm is %s, in %s it is %s: the discriminators begin as "
              "other functions of the same weights",
              config->model.spectral_norm ? "true" : "false", from->path,
              then.model.spectral_norm ? "true" : "false");
}

static Status take_weights(Model *model, Comm *comm, const Checkpoint *from, Error *error) {
  Status status = OK, own = OK;
  Parameters *generator = model_generator(model), *discriminator = model_discriminator(model);
  int weights = 0, averages = 0;
  TRY(take_array(comm, from, GENERATOR_FILE, "", generator, &generator->master, &weights, error));
  TRY(take_array(comm, from, GENERATOR_FILE, "ema.", generator, &generator->ema, &averages, error));
  if (from && weights == 0)
    own = config_error("run.init", error, "%s/%s holds none of the tensors of this generator",
                       from->path, GENERATOR_FILE);
  TRY(comm_agree(comm, own, error));
  say_taken(from, generator, weights);
  TRY(comm_agree(comm, parameters_refresh(generator, error), error));
  if (discriminator->total == 0) goto done;
  TRY(take_array(comm, from, DISCRIMINATOR_FILE, "", discriminator, &discriminator->master,
                 &weights, error));
  say_taken(from, discriminator, weights);
  if (from && weights > 0) warn_of_other_function(model_config(model), from);
  if (discriminator->spectral) /* the weights' own, whatever the other run has */
    own = spectral_initialize(discriminator, (uint64_t)model_config(model)->run.seed, error);
  TRY(comm_agree(comm, own, error));
  TRY(comm_agree(comm, parameters_refresh(discriminator, error), error));
done:
  return status;
}

Status state_begin(Model *model, Comm *comm, const Checkpoint *from, Error *error) {
  Status status = OK;
  Parameters *networks[] = {model_generator(model), model_discriminator(model)};
  status = model_initialize(model, error);
  for (int i = 0; status == OK && i < 2; i++) {
    if (networks[i]->total == 0) continue;
    status = upload_zeros(&networks[i]->moment1, error);
    if (status == OK) status = upload_zeros(&networks[i]->moment2, error);
    if (status == OK) status = upload_zeros(&networks[i]->counters, error);
  }
  TRY(comm_agree(comm, status, error));
  if (model_config(model)->run.init[0]) TRY(take_weights(model, comm, from, error));
done:
  return status;
}
