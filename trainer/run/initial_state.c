/* The initial training state: weights initialised randomly, or from the checkpoint of run.init. */
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/log.h"
#include "base/memory.h"
#include "engine/parameters/spectral_norm.h"
#include "trainer/gan/checkpoint_weights.h"
#include "trainer/run/checkpoint_state.h"

static Status upload_zeros(Buffer *buffer, Error *error) {
  void *zeros = NULL;
  Status status =
      mem_bulk((size_t)buffer->count * dtype_size(buffer->dtype), "zeros", &zeros, error);
  if (status == OK) status = buffer_upload(buffer, 0, zeros, buffer->count, error);
  free(zeros);
  return status;
}

/* Copies the tensors that the checkpoint holds to `flat`; *loaded receives their number. */
static Status load_available(const Checkpoint *init, const char *file_name, const char *prefix,
                             const Parameters *parameters, float *flat, int *loaded, Error *error) {
  Status status = OK;
  char *name = NULL;
  const Safetensors *file = checkpoint_file(init, file_name);
  *loaded = 0;
  for (int i = 0; file && i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    free(name);
    name = mem_format("%s%s", prefix, parameter->name);
    const NamedTensor like = parameter_tensor(parameter, name, flat);
    const NamedTensor *found = safetensors_find(file, name);
    if (!found) continue;
    TRY(checkpoint_check_tensor(init, file_name, found, &like, error));
    memcpy(flat + parameter->offset, found->data, (size_t)parameter->count * sizeof *flat);
    ++*loaded;
  }
done:
  free(name);
  return status;
}

/* --- All ranks call these together; `init` is NULL except on rank 0 --------------------------- */

static Status initialize_array(Comm *comm, const Checkpoint *init, const char *file_name,
                               const char *prefix, const Parameters *parameters, Buffer *buffer,
                               int *loaded, Error *error) {
  Status status = OK;
  float *flat = NULL;
  size_t bytes = (size_t)buffer->count * sizeof *flat;
  status = mem_bulk(bytes, "a network's weights", (void **)&flat, error);
  if (status == OK) status = buffer_download(buffer, 0, flat, buffer->count, error);
  if (status == OK && init) {
    status = load_available(init, file_name, prefix, parameters, flat, loaded, error);
    if (status != OK) error_context(error, "run.init");
  }
  TRY(comm_agree(comm, status, error));
  TRY(comm_broadcast(comm, flat, bytes, 0, error));
  TRY(comm_agree(comm, buffer_upload(buffer, 0, flat, buffer->count, error), error));
done:
  free(flat);
  return status;
}

static void log_loaded(const Checkpoint *init, const Parameters *parameters, int loaded) {
  if (!init) return;
  log_info("run.init: %d of the %s's %d tensors are from %s%s", loaded, parameters->network,
           parameters->count, init->path,
           loaded < parameters->count ? "; the others are initialised randomly" : "");
}

/* Warns if only one of the two runs has spectral norm: it divides the weights by sigma, so the same
 * weights are another function. Silent if the config of the checkpoint cannot be read. */
static void warn_of_spectral_norm(const Config *config, const Checkpoint *init) {
  Config then;
  if (checkpoint_config(init, &then, NULL) != OK) return;
  if (then.model.spectral_norm == config->model.spectral_norm) return;
  log_warning("run.init: model.spectral_norm is %s here and %s in %s: the initial discriminators "
              "compute other functions than there",
              config->model.spectral_norm ? "true" : "false",
              then.model.spectral_norm ? "true" : "false", init->path);
}

static Status initialize_projection(Gan *gan, Comm *comm, const Checkpoint *init, Error *error) {
  Status status = OK;
  Parameters *projection = gan_network(gan, NETWORK_PROJECTION);
  int weights = 0;
  if (projection->total == 0) return OK;
  TRY(initialize_array(comm, init, PROJECTION_FILE, "", projection, &projection->master, &weights,
                       error));
  log_loaded(init, projection, weights);
  TRY(comm_agree(comm, parameters_refresh(projection, error), error));
done:
  return status;
}

static Status initialize_from_checkpoint(Gan *gan, Comm *comm, const Checkpoint *init,
                                         const ConfigSources *sources, Error *error) {
  Status status = OK, own = OK;
  Parameters *generator = gan_generator(gan), *discriminator = gan_discriminator(gan);
  int weights = 0, averages = 0;
  TRY(initialize_array(comm, init, GENERATOR_FILE, "", generator, &generator->master, &weights,
                       error));
  TRY(initialize_array(comm, init, GENERATOR_FILE, "ema.", generator, &generator->ema, &averages,
                       error));
  if (init && weights == 0)
    own = config_error(sources, "run.init", error,
                       "%s/%s holds none of the tensors of this generator", init->path,
                       GENERATOR_FILE);
  TRY(comm_agree(comm, own, error));
  log_loaded(init, generator, weights);
  TRY(comm_agree(comm, parameters_refresh(generator, error), error));
  TRY(initialize_projection(gan, comm, init, error));
  if (discriminator->total == 0) goto done;
  TRY(initialize_array(comm, init, DISCRIMINATOR_FILE, "", discriminator, &discriminator->master,
                       &weights, error));
  log_loaded(init, discriminator, weights);
  if (init && weights > 0) warn_of_spectral_norm(gan_config(gan), init);
  if (discriminator->spectral) /* belongs to the loaded weights */
    own = spectral_initialize(discriminator, (uint64_t)gan_config(gan)->run.seed, error);
  TRY(comm_agree(comm, own, error));
  TRY(comm_agree(comm, parameters_refresh(discriminator, error), error));
done:
  return status;
}

Status training_state_initialize(Gan *gan, Comm *comm, const Checkpoint *init,
                                 const ConfigSources *sources, Error *error) {
  Status status = OK;
  status = gan_initialize(gan, error);
  for (Network network = 0; status == OK && network < NETWORK_COUNT; network++) {
    Parameters *parameters = gan_network(gan, network);
    if (parameters->total == 0) continue;
    status = upload_zeros(&parameters->moment1, error);
    if (status == OK) status = upload_zeros(&parameters->moment2, error);
    if (status == OK) status = upload_zeros(&parameters->counters, error);
  }
  TRY(comm_agree(comm, status, error));
  if (gan_config(gan)->run.init[0])
    TRY(initialize_from_checkpoint(gan, comm, init, sources, error));
done:
  return status;
}
