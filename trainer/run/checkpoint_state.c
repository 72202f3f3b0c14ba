/* Restoring the training state from a checkpoint. */
#include "trainer/run/checkpoint_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer/gan/checkpoint_weights.h"
#include "trainer/run/augment_control.h"
#include "trainer/run/checkpoint_state_internal.h"

/* --- Networks --------------------------------------------------------------------------------- */

typedef struct Restoring {
  Comm *comm;
  const Checkpoint *checkpoint;
  float *flat; /* one flat array; as long as the longest */
} Restoring;

/* All ranks call the functions below together; `checkpoint` is NULL except on rank 0. A failure of
 * one rank is agreed on at once: otherwise the others would wait for it in the next collective. */

static Status restore_flat(const Restoring *from, const char *file_name, const char *prefix,
                           const Parameters *parameters, Buffer *buffer, Error *error) {
  Status status = OK;
  size_t bytes = (size_t)buffer->count * sizeof *from->flat;
  memset(from->flat, 0, bytes); /* including the padding between parameters */
  if (from->checkpoint)
    status = checkpoint_load_parameters(from->checkpoint, file_name, prefix, parameters, from->flat,
                                        error);
  TRY(comm_agree(from->comm, status, error));
  TRY(comm_broadcast(from->comm, from->flat, bytes, 0, error));
  TRY(comm_agree(from->comm, buffer_upload(buffer, 0, from->flat, buffer->count, error), error));
done:
  return status;
}

static Status restore_counters(const Restoring *from, Parameters *parameters, Error *error) {
  Status status = OK;
  Comm *comm = from->comm;
  AdamCounters values = {0};
  char *name = mem_format("%s.counters", parameters->network);
  NamedTensor like = {.type = TENSOR_I64, .rank = 1, .shape = {ADAM_COUNTER_COUNT}};
  const NamedTensor *found = NULL;
  if (from->checkpoint)
    status = checkpoint_find_tensor(from->checkpoint, OPTIMIZER_FILE, name, &like, &found, error);
  if (found) memcpy(&values, found->data, sizeof values);
  TRY(comm_agree(comm, status, error));
  TRY(comm_broadcast(comm, &values, sizeof values, 0, error));
  TRY(comm_agree(comm, buffer_upload(&parameters->counters, 0, &values, ADAM_COUNTER_COUNT, error),
                 error));
done:
  free(name);
  return status;
}

static Status restore_network(const Restoring *from, const char *file_name, Parameters *parameters,
                              Error *error) {
  Status status = OK;
  char *first = mem_format("%s.moment1.", parameters->network);
  char *second = mem_format("%s.moment2.", parameters->network);
  Parameters *spectral = parameters->spectral;
  TRY(restore_flat(from, file_name, "", parameters, &parameters->master, error));
  TRY(restore_flat(from, OPTIMIZER_FILE, first, parameters, &parameters->moment1, error));
  TRY(restore_flat(from, OPTIMIZER_FILE, second, parameters, &parameters->moment2, error));
  TRY(restore_counters(from, parameters, error));
  if (spectral) TRY(restore_flat(from, file_name, "", spectral, &spectral->master, error));
  TRY(comm_agree(from->comm, parameters_refresh(parameters, error), error));
done:
  free(first);
  free(second);
  return status;
}

static int64_t longest_array(const Parameters *parameters) {
  int64_t most = parameters->master.count;
  int64_t own = parameters->spectral ? parameters->spectral->master.count : 0;
  return own > most ? own : most;
}

const char *network_file(Network network) {
  static const char *const FILES[NETWORK_COUNT] = {
      [NETWORK_GENERATOR] = GENERATOR_FILE,
      [NETWORK_DISCRIMINATOR] = DISCRIMINATOR_FILE,
      [NETWORK_PROJECTION] = PROJECTION_FILE,
  };
  return FILES[network];
}

static Status restore_networks(Gan *gan, Comm *comm, const Checkpoint *checkpoint, Error *error) {
  Status status = OK;
  Parameters *generator = gan_generator(gan);
  int64_t most = 0;
  Restoring from = {.comm = comm, .checkpoint = checkpoint};
  for (Network network = 0; network < NETWORK_COUNT; network++) {
    int64_t own = longest_array(gan_network(gan, network));
    if (own > most) most = own;
  }
  status =
      mem_bulk((size_t)most * sizeof *from.flat, "a network's weights", (void **)&from.flat, error);
  TRY(comm_agree(comm, status, error));
  for (Network network = 0; network < NETWORK_COUNT; network++) {
    Parameters *parameters = gan_network(gan, network);
    if (parameters->total > 0)
      TRY(restore_network(&from, network_file(network), parameters, error));
  }
  TRY(restore_flat(&from, GENERATOR_FILE, "ema.", generator, &generator->ema, error));
done:
  free(from.flat);
  return status;
}

DataIdentity data_identity(const Dataset *dataset, const Dataset *targets) {
  return (DataIdentity){.uuid = dataset_info(dataset)->uuid,
                        .target_uuid = targets ? dataset_info(targets)->uuid : NULL};
}

/* --- Checks against the config ---------------------------------------------------------------- */

Config config_without_paths(const Config *config) {
  Config copy = *config;
  copy.run.dir[0] = '\0';
  copy.data.path[0] = '\0';
  /* Whether there is one decides which keys are allowed, so something has to stay. */
  if (config_is_unpaired(config))
    snprintf(copy.data.target_path, sizeof copy.data.target_path, "targets");
  copy.loss.perceptual_weights[0] = '\0';
  return copy;
}

static Status check_same_int(const ConfigSources *sources, const char *key, int64_t now,
                             int64_t then, Error *error) {
  if (now == then) return OK;
  return config_error(
      sources, key, error,
      "cannot change from %lld to %lld in a resumed run; start a new one, or set it back",
      (long long)then, (long long)now);
}

/* Appends the differences between two configs: "train.steps is 20, was 10; ...". */
static void append_changes(const Config *now, const Config *then, Text *out) {
  Text ours = {0}, theirs = {0};
  for (size_t i = 0; i < config_schema.count; i++) {
    const char *key = config_schema.keys[i].key;
    text_clear(&ours);
    text_clear(&theirs);
    config_write_value(&config_schema, key, now, &ours);
    config_write_value(&config_schema, key, then, &theirs);
    if (strcmp(ours.data, theirs.data) == 0) continue;
    text_append(out, "%s%s is %s, was %s", out->length > 0 ? "; " : "", key, ours.data,
                theirs.data);
  }
  text_free(&ours);
  text_free(&theirs);
}

/* Compares a dataset's uuid with the one that the checkpoint was trained on. */
static Status check_dataset(const Checkpoint *checkpoint, const char *key, const char *path,
                            const char *uuid, Error *error) {
  const char *then = NULL;
  Status status = json_get_string(checkpoint->manifest, checkpoint->path, key, &then, error);
  if (status != OK || strcmp(then, uuid) == 0) return status;
  return error_set(
      error, ERROR_USAGE,
      "%s: was trained on dataset %s, but %s holds dataset %s; resuming would mix them",
      checkpoint->path, then, path, uuid);
}

static Status check_datasets(const Config *now, const Checkpoint *checkpoint,
                             const DataIdentity *data, Error *error) {
  bool is_unpaired = data->target_uuid != NULL;
  bool was_unpaired = json_object_get(checkpoint->manifest, TARGET_UUID_KEY) != NULL;
  if (is_unpaired != was_unpaired)
    return error_set(error, ERROR_USAGE,
                     "%s: was trained on %s data, but this config has %s (data.target_path); "
                     "resuming would mix them",
                     checkpoint->path, was_unpaired ? "unpaired" : "paired",
                     is_unpaired ? "unpaired" : "pairs");
  Status status = check_dataset(checkpoint, "dataset_uuid", now->data.path, data->uuid, error);
  if (status != OK || !is_unpaired) return status;
  return check_dataset(checkpoint, TARGET_UUID_KEY, now->data.target_path, data->target_uuid,
                       error);
}

/* The probability that the checkpoint holds; the initial one if it holds none, or if this run does
 * not adapt it. All ranks call it. */
static Status restore_augment_probability(const Config *config, Comm *comm,
                                          const Checkpoint *checkpoint, double *out, Error *error) {
  Status status = OK;
  *out = augment_control_initial(config);
  if (checkpoint && config->augment.mode == AUGMENT_ADAPTIVE &&
      json_object_get(checkpoint->state, AUGMENT_PROBABILITY_KEY))
    status =
        json_get_double(checkpoint->state, checkpoint->path, AUGMENT_PROBABILITY_KEY, out, error);
  if (status == OK && !(*out >= 0 && *out <= 1))
    status = error_set(error, ERROR_DATA,
                       "%s/state.json: " AUGMENT_PROBABILITY_KEY " is %g, expected 0 to 1",
                       checkpoint->path, *out);
  TRY(comm_agree(comm, status, error));
  TRY(comm_broadcast(comm, out, sizeof *out, 0, error));
done:
  return status;
}

/* Rejects changes of keys that a run must keep, and logs other changes. */
static Status check_config(const Config *now, const ConfigSources *sources,
                           const Checkpoint *checkpoint, const DataIdentity *data, Error *error) {
  Status status = OK;
  Config then;
  Text changes = {0};
  TRY(checkpoint_config(checkpoint, &then, error));
  TRY(check_same_int(sources, "run.seed", now->run.seed, then.run.seed, error));
  TRY(check_same_int(sources, "train.global_batch", now->train.global_batch,
                     then.train.global_batch, error));
  if (now->model.spectral_norm != then.model.spectral_norm)
    TRY(config_error(
        sources, "model.spectral_norm", error,
        "cannot change from %s to %s in a resumed run; start a new one, or set it back",
        then.model.spectral_norm ? "true" : "false", now->model.spectral_norm ? "true" : "false"));
  TRY(check_datasets(now, checkpoint, data, error));
  const Config own = config_without_paths(now), saved = config_without_paths(&then);
  append_changes(&own, &saved, &changes);
  if (changes.length > 0)
    log_warning("%s: the config has changed since this checkpoint was written: %s",
                checkpoint->path, changes.data);
done:
  text_free(&changes);
  return status;
}

static bool has_parameter(const Parameters *parameters, const char *name) {
  if (parameters_find(parameters, name)) return true;
  return parameters->spectral && parameters_find(parameters->spectral, name);
}

/* Rejects tensors that no network of this config has: a removed layer would be lost silently. */
static Status check_no_extra_tensors(const Parameters *parameters, const Checkpoint *checkpoint,
                                     const char *file_name, Error *error) {
  static const char EMA_PREFIX[] = "ema.";
  const size_t length = sizeof EMA_PREFIX - 1;
  const Safetensors *file = checkpoint_file(checkpoint, file_name);
  for (int i = 0; file && parameters->total > 0 && i < safetensors_count(file); i++) {
    const char *name = safetensors_tensor(file, i)->name;
    if (!has_parameter(parameters, strncmp(name, EMA_PREFIX, length) == 0 ? name + length : name))
      return error_set(error, ERROR_USAGE,
                       "%s/%s: has tensor \"%s\", which the networks of this config lack; set "
                       "model.* to the values that the checkpoint was written with",
                       checkpoint->path, file_name, name);
  }
  return OK;
}

/* Rejects a loss whose networks the checkpoint lacks: there are no weights or moments to resume. */
static Status check_has_network(Gan *gan, Network network, const ConfigSources *sources,
                                const Checkpoint *checkpoint, Error *error) {
  static const char *const KEYS[NETWORK_COUNT] = {
      [NETWORK_DISCRIMINATOR] = "loss.adversarial_weight",
      [NETWORK_PROJECTION] = "loss.patch_nce",
  };
  const char *file_name = network_file(network);
  bool has_network = checkpoint_file(checkpoint, file_name) != NULL;
  if (!KEYS[network] || has_network || gan_network(gan, network)->total == 0) return OK;
  return config_error(sources, KEYS[network], error,
                      "cannot be switched on in a resumed run: %s has no %s; set it to 0, or "
                      "start a new run from these weights with run.init: %s",
                      checkpoint->path, file_name, checkpoint->path);
}

/* loss.perceptual may be switched on or off by a resumed run, but its weights must not change. */
static Status check_perceptual(Gan *gan, const ConfigSources *sources, const Checkpoint *checkpoint,
                               Error *error) {
  int64_t saved = 0;
  uint32_t own = gan_perceptual_checksum(gan);
  if (gan_perceptual_network(gan)->total == 0) return OK;
  if (!json_object_get(checkpoint->state, PERCEPTUAL_CHECKSUM_KEY)) return OK;
  Status status = json_get_int(checkpoint->state, checkpoint->path, PERCEPTUAL_CHECKSUM_KEY, 0,
                               UINT32_MAX, &saved, error);
  if (status != OK || saved == (int64_t)own) return status;
  return config_error(sources, "loss.perceptual_weights", error,
                      "%s holds weights of CRC-32C %08x, but %s was trained with those of %08x; "
                      "resuming would mix them",
                      gan_config(gan)->loss.perceptual_weights, own, checkpoint->path,
                      (unsigned)saved);
}

/* --- Guard, and all of it --------------------------------------------------------------------- */

/* Broadcasts the text of "guard" in state.json; *length is 0 if there is none. Caller frees. */
static Status share_guard(Comm *comm, const Checkpoint *checkpoint, char **text, uint64_t *length,
                          Error *error) {
  Status status = OK;
  const json_t *saved = checkpoint ? json_object_get(checkpoint->state, "guard") : NULL;
  *text = saved ? json_dumps(saved, JSON_COMPACT) : NULL;
  *length = *text ? strlen(*text) : 0;
  TRY(comm_broadcast(comm, length, sizeof *length, 0, error));
  if (!*text) *text = mem_new(*length + 1, 1);
  TRY(comm_broadcast(comm, *text, *length, 0, error));
done:
  return status;
}

static Status restore_guard(GradientGuard *guard, Comm *comm, const Checkpoint *checkpoint,
                            bool rolling_back, StepOutcome *pending, Error *error) {
  static const char where[] = "state.json: guard";
  Status status = OK;
  char *text = NULL;
  uint64_t length = 0;
  json_t *saved = NULL;
  TRY(share_guard(comm, checkpoint, &text, &length, error));
  if (length > 0) status = json_parse(where, text, length, &saved, error);
  if (status == OK) status = guard_restore(guard, saved, where, rolling_back, pending, error);
  if (status != OK && checkpoint) error_context(error, "%s", checkpoint->path);
  status = comm_agree(comm, status, error);
done:
  json_decref(saved);
  free(text);
  return status;
}

/* Reads the steps done, which the manifest states, too. */
static Status read_step(const Checkpoint *checkpoint, int64_t *out, Error *error) {
  Status status =
      json_get_int(checkpoint->state, checkpoint->path, "step", 0, CHECKPOINT_MAX_STEP, out, error);
  if (status != OK || *out == checkpoint->step) return status;
  return error_set(error, ERROR_DATA, "%s/state.json: step is %lld, but manifest.json says %lld",
                   checkpoint->path, (long long)*out, (long long)checkpoint->step);
}

Status training_state_restore(Gan *gan, GradientGuard *guard, Comm *comm,
                              const Checkpoint *checkpoint, const DataIdentity *data,
                              const ConfigSources *sources, bool rolling_back, ResumePoint *point,
                              Error *error) {
  Status status = OK;
  *point = (ResumePoint){.pending.step = -1};
  if (checkpoint) {
    status = check_config(gan_config(gan), sources, checkpoint, data, error);
    if (status == OK) status = check_perceptual(gan, sources, checkpoint, error);
    for (Network network = 0; status == OK && network < NETWORK_COUNT; network++) {
      status = check_has_network(gan, network, sources, checkpoint, error);
      if (status == OK)
        status = check_no_extra_tensors(gan_network(gan, network), checkpoint,
                                        network_file(network), error);
    }
    if (status == OK) status = read_step(checkpoint, &point->step, error);
  }
  TRY(comm_agree(comm, status, error));
  TRY(comm_broadcast(comm, &point->step, sizeof point->step, 0, error));
  TRY(restore_guard(guard, comm, checkpoint, rolling_back, &point->pending, error));
  TRY(restore_augment_probability(gan_config(gan), comm, checkpoint, &point->augment_probability,
                                  error));
  TRY(restore_networks(gan, comm, checkpoint, error));
done:
  return status;
}
