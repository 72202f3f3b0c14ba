/* Opens any bytes as a model file and loads its generator, as translate does: rejected with a
 * message that names the file, or a frame can be translated. Files come from strangers. */
#include <string.h>

#include "tests/fuzz/support/fuzz.h"
#include "trainer/gan/device.h"
#include "trainer/infer/inference.h"

static const char NAME[] = "model.safetensors";

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {"\"celforge-model\"",
                                      "\"running average\"",
                                      "\"plain\"",
                                      "\"-1 1\"",
                                      "\"pix2pixhd\"",
                                      "\"celnet\"",
                                      "\"convgru\"",
                                      "\"conv3d\"",
                                      "\"none\"",
                                      "\"true\"",
                                      "\"1000\"",
                                      "\"9223372036854775807\"",
                                      "\"64\"",
                                      "\"2026-11-30\"",
                                      "\"F16\"",
                                      "\"180-360\"",
                                      NULL};
  Dice dice = dice_new(seed);
  return mutate_safetensors(data, size, room, WORDS, &dice);
}

static void load(const ModelFile *file) {
  static Backend *backend;
  Error error = {0};
  Inference *inference = NULL;
  if (!backend) require(device_open_default(DEVICE_CPU, 1, &backend, &error) == OK);
  Status status = inference_from_model_file(file, DTYPE_F32, backend, &inference, &error);
  if (status == OK)
    require(inference_source_channels(inference) == file->source_channels);
  else
    require_error(status, &error);
  inference_free(inference);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  ModelFile *file = NULL;
  Status status = model_file_parse(NAME, data, size, &file, &error);
  if (status != OK) {
    require(!file && status == ERROR_DATA);
    require(strncmp(error.message, NAME, sizeof NAME - 1) == 0);
    return 0;
  }
  load(file);
  model_file_close(file);
  return 0;
}
