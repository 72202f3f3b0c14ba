/* Saving the training state: the copy in host memory that a checkpoint is written from. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "trainer/gan/checkpoint_weights.h"
#include "trainer/run/checkpoint_state.h"
#include "trainer/run/checkpoint_state_internal.h"

/* --- Tensor lists ----------------------------------------------------------------------------- */

/* A host copy of a flat array. */
typedef struct FlatCopy {
  const Buffer *buffer;
  int64_t count;
  void *values; /* [count], of the dtype of the buffer */
} FlatCopy;

/* Flat arrays, and the named tensors in them. */
typedef struct TensorList {
  int count, capacity;
  NamedTensor *tensors;
  FlatCopy *arrays; /* hold the data of `tensors` */
  int array_count, array_capacity;
} TensorList;

static void list_free(TensorList *list) {
  for (int i = 0; i < list->count; i++) free((void *)(uintptr_t)list->tensors[i].name);
  for (int i = 0; i < list->array_count; i++) free(list->arrays[i].values);
  free(list->tensors);
  free(list->arrays);
}

static Status list_add_array(TensorList *list, const Buffer *buffer, int64_t count, void **values,
                             Error *error) {
  Status status = mem_bulk((size_t)count * dtype_size(buffer->dtype),
                           "a snapshot of the training state", values, error);
  if (status != OK) return status;
  MEM_PUSH_SLOT(list->arrays, list->array_count, list->array_capacity);
  list->arrays[list->array_count++] = (FlatCopy){buffer, count, *values};
  return OK;
}

static void list_add_tensor(TensorList *list, NamedTensor tensor) {
  MEM_PUSH_SLOT(list->tensors, list->count, list->capacity);
  list->tensors[list->count++] = tensor;
}

static Status list_add_flat(TensorList *list, const Buffer *buffer, const Parameters *parameters,
                            const char *prefix, Error *error) {
  void *flat;
  Status status = list_add_array(list, buffer, buffer->count, &flat, error);
  for (int i = 0; status == OK && i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    list_add_tensor(list,
                    parameter_tensor(parameter, mem_format("%s%s", prefix, parameter->name), flat));
  }
  return status;
}

static Status list_add_counters(TensorList *list, const Parameters *parameters, Error *error) {
  void *values;
  Status status = list_add_array(list, &parameters->counters, ADAM_COUNTER_COUNT, &values, error);
  if (status == OK)
    list_add_tensor(list, (NamedTensor){.name = mem_format("%s.counters", parameters->network),
                                        .type = TENSOR_I64,
                                        .rank = 1,
                                        .shape = {ADAM_COUNTER_COUNT},
                                        .data = values});
  return status;
}

static Status list_add_moments(TensorList *list, const Parameters *parameters, Error *error) {
  Status status = OK;
  char prefix[64];
  snprintf(prefix, sizeof prefix, "%s.moment1.", parameters->network);
  TRY(list_add_flat(list, &parameters->moment1, parameters, prefix, error));
  snprintf(prefix, sizeof prefix, "%s.moment2.", parameters->network);
  TRY(list_add_flat(list, &parameters->moment2, parameters, prefix, error));
  TRY(list_add_counters(list, parameters, error));
done:
  return status;
}

/* Copies the current contents of the buffers. */
static Status list_download(TensorList *list, Error *error) {
  Status status = OK;
  for (int i = 0; i < list->array_count; i++) {
    const FlatCopy *array = &list->arrays[i];
    TRY(buffer_download(array->buffer, 0, array->values, array->count, error));
  }
done:
  return status;
}

/* --- Saving ----------------------------------------------------------------------------------- */

static Status build_state(Gan *gan, const TrainingPosition *position, json_t **out, Error *error) {
  Status status = OK;
  json_t *guard = NULL, *state = NULL;
  TRY(guard_save(position->guard, position->pending, &guard, error));
  state = json_pack("{s:I, s:I, s:I, s:O}", "step", (json_int_t)position->step, "samples",
                    (json_int_t)position->samples, "seed", (json_int_t)gan_config(gan)->run.seed,
                    "guard", guard);
  TRY(json_built(state, "state.json", error));
  if (gan_perceptual_network(gan)->total > 0)
    TRY(json_set(state, PERCEPTUAL_CHECKSUM_KEY,
                 json_integer((json_int_t)gan_perceptual_checksum(gan)), "state.json", error));
  if (gan_config(gan)->augment.mode == AUGMENT_ADAPTIVE)
    TRY(json_set(state, AUGMENT_PROBABILITY_KEY, json_real(position->augment_probability),
                 "state.json", error));
  *out = state;
  state = NULL;
done:
  json_decref(guard);
  json_decref(state);
  return status;
}

/* Returns the first of the consecutive skipped steps, before which the run may have to roll back; 0
 * if the last step was good. */
static int64_t first_skipped_step(const TrainingPosition *position) {
  int64_t first, count = guard_consecutive_skips(position->guard, &first);
  if (!outcome_was_skipped(position->pending)) return 0;
  return count > 0 ? first : position->pending->step;
}

struct TrainingSnapshot {
  Gan *gan;
  TensorList networks[NETWORK_COUNT], optimizer;
  CheckpointFile files[NETWORK_COUNT + 1];
  CheckpointContent content;
};

static void list_file(TrainingSnapshot *snapshot, const char *name, const TensorList *list) {
  snapshot->files[snapshot->content.file_count++] =
      (CheckpointFile){name, list->tensors, list->count};
}

static Status list_network(TrainingSnapshot *snapshot, Network network, Error *error) {
  Status status = OK;
  const Parameters *parameters = gan_network(snapshot->gan, network);
  const Parameters *spectral = parameters->spectral;
  TensorList *list = &snapshot->networks[network];
  if (parameters->total == 0) return OK;
  TRY(list_add_flat(list, &parameters->master, parameters, "", error));
  if (network == NETWORK_GENERATOR)
    TRY(list_add_flat(list, &parameters->ema, parameters, "ema.", error));
  if (spectral) TRY(list_add_flat(list, &spectral->master, spectral, "", error));
  TRY(list_add_moments(&snapshot->optimizer, parameters, error));
  list_file(snapshot, network_file(network), list);
done:
  return status;
}

Status training_snapshot_new(Gan *gan, TrainingSnapshot **out, Error *error) {
  Status status = OK;
  TrainingSnapshot *snapshot = mem_new(1, sizeof *snapshot);
  *out = NULL;
  snapshot->gan = gan;
  snapshot->content.files = snapshot->files;
  for (Network network = 0; network < NETWORK_COUNT; network++)
    TRY(list_network(snapshot, network, error));
  list_file(snapshot, OPTIMIZER_FILE, &snapshot->optimizer);
  *out = snapshot;
  snapshot = NULL;
done:
  training_snapshot_free(snapshot);
  return status;
}

static void clear_position(TrainingSnapshot *snapshot) {
  json_decref((json_t *)snapshot->content.state);
  json_decref((json_t *)snapshot->content.manifest);
  snapshot->content.state = snapshot->content.manifest = NULL;
}

Status training_snapshot_take(TrainingSnapshot *snapshot, const TrainingPosition *position,
                              Error *error) {
  Status status = OK;
  const Config *config = gan_config(snapshot->gan);
  ClipShape shape = gan_clip_shape(snapshot->gan);
  CheckpointContent *content = &snapshot->content;
  Text text = {0};
  json_t *state = NULL, *manifest = NULL;
  clear_position(snapshot);
  const Config saved = config_without_paths(config);
  config_write(&config_schema, &saved, false, &text);
  content->step = position->step;
  content->rollback_step = first_skipped_step(position);
  TRY(build_state(snapshot->gan, position, &state, error));
  content->state = state;
  manifest = json_pack("{s:s, s:s, s:I}", "dataset_uuid", position->data.uuid, "config", text.data,
                       "scale", (json_int_t)(shape.target_height / shape.source_height));
  content->manifest = manifest;
  TRY(json_built(manifest, "manifest.json", error));
  if (position->data.target_uuid)
    TRY(json_set(manifest, TARGET_UUID_KEY, json_string(position->data.target_uuid),
                 "manifest.json", error));
  for (int i = 0; i < NETWORK_COUNT; i++) TRY(list_download(&snapshot->networks[i], error));
  TRY(list_download(&snapshot->optimizer, error));
done:
  text_free(&text);
  return status;
}

Status training_snapshot_submit(const TrainingSnapshot *snapshot, CheckpointWriter *writer,
                                Error *error) {
  return checkpoint_writer_submit(writer, &snapshot->content, error);
}

void training_snapshot_free(TrainingSnapshot *snapshot) {
  if (!snapshot) return;
  for (int i = 0; i < NETWORK_COUNT; i++) list_free(&snapshot->networks[i]);
  list_free(&snapshot->optimizer);
  clear_position(snapshot);
  free(snapshot);
}
