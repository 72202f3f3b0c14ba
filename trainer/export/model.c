#include "trainer/export/model.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/memory.h"
#include "checkpoints/half_float.h"
#include "trainer/gan/checkpoint_weights.h"

/* The weights in F16; `tensors` point into `halves`. */
typedef struct HalfWeights {
  NamedTensor *tensors; /* [parameters->count] */
  uint16_t *halves;     /* [parameters->total] */
} HalfWeights;

static Status round_weights(const Parameters *parameters, const float *flat, HalfWeights *out,
                            Error *error) {
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    uint16_t *halves = out->halves + parameter->offset;
    for (int64_t k = 0; k < parameter->count; k++) {
      float value = flat[parameter->offset + k];
      halves[k] = half_from_f32(value);
      if (!(half_to_f32(halves[k]) >= -HALF_MAX && half_to_f32(halves[k]) <= HALF_MAX))
        return error_set(error, ERROR_USAGE,
                         "tensor \"%s\": element %" PRId64
                         " is %g, which half precision cannot hold (at most 65504); use --format "
                         "safetensors",
                         parameter->name, k, (double)value);
    }
    out->tensors[i] = parameter_tensor(parameter, parameter->name, flat);
    out->tensors[i].type = TENSOR_F16;
    out->tensors[i].data = halves;
  }
  return OK;
}

static void add_members(const Inference *inference, const ModelCard *card, json_t *properties) {
  const Config *config = inference_config(inference);
  json_object_set_new(properties, MODEL_KEY_FORMAT, json_string(MODEL_FILE_FORMAT));
  json_object_set_new(properties, MODEL_KEY_FORMAT_VERSION, json_sprintf("%d", MODEL_FILE_VERSION));
  json_object_set_new(properties, MODEL_KEY_SEED, json_sprintf("%" PRId64, config->run.seed));
  model_card_write(card, properties);
}

Status export_model_file(Inference *inference, json_t *properties, const ModelCard *card,
                         const char *path, Error *error) {
  Status status = OK;
  const Parameters *parameters = inference_parameters(inference);
  AtomicFile file = {0};
  HalfWeights weights = {0};
  float *flat = NULL;
  size_t total = (size_t)parameters->total;
  TRY(model_card_check(card, error));
  TRY(mem_bulk(total * sizeof *flat, "the generator's weights", (void **)&flat, error));
  TRY(mem_bulk(total * sizeof *weights.halves, "the generator's weights", (void **)&weights.halves,
               error));
  weights.tensors = mem_new((size_t)parameters->count, sizeof *weights.tensors);
  TRY(buffer_download(&parameters->master, 0, flat, parameters->total, error));
  TRY(round_weights(parameters, flat, &weights, error));
  add_members(inference, card, properties);
  TRY(atomic_file_open(path, &file, error));
  TRY(safetensors_write(file.temporary, weights.tensors, parameters->count, properties, NULL, NULL,
                        error));
  TRY(atomic_file_commit(&file, error));
done:
  atomic_file_abort(&file);
  free(weights.tensors);
  free(weights.halves);
  free(flat);
  return status;
}
