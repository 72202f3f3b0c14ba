/* Reads any bytes as a file of weights that others have trained (VGG, Inception, LPIPS), with the
 * names and ranks of those networks but shapes of a few numbers: whole files have megabytes. A
 * tensor is rejected with a message, or every number is finite and in the right place. */
#include <math.h>
#include <string.h>

#include "tests/fuzz/support/fuzz.h"
#include "trainer/gan/pretrained.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {
      "\"F32\"",
      "\"F16\"",
      "\"BF16\"",
      "\"I64\"",
      "[2,3,2,2]",
      "[2]",
      "[1,2,1,1]",
      "[0,0]",
      "\"features.0.bias\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}",
      NULL};
  Dice dice = dice_new(seed);
  return mutate_safetensors(data, size, room, WORDS, &dice);
}

static bool all_finite(const float *values, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (!isfinite(values[i])) return false;
  return true;
}

static void read_parameter(const PretrainedFile *file, const char *name, Shape shape,
                           InitKind init) {
  enum { MAX_NUMBERS = 64 };
  float values[MAX_NUMBERS], raw[MAX_NUMBERS];
  char label[64];
  Error error = {0};
  Parameter parameter = {.name = label, .shape = shape, .init = init, .count = shape_count(shape)};
  strncpy(label, name, sizeof label - 1);
  label[sizeof label - 1] = '\0';
  require(parameter.count <= MAX_NUMBERS);
  Status status = pretrained_parameter(file, name, &parameter, values, &error);
  if (status != OK) {
    require(status == ERROR_DATA && strstr(error.message, name));
    return;
  }
  require(pretrained_has(file, name) && all_finite(values, (size_t)parameter.count));
  if (init != INIT_NORMAL) return;
  const int64_t *d = shape.dim, in_file[4] = {d[0], d[AXIS_C], d[AXIS_H], d[AXIS_W]};
  require(pretrained_values(file, name, in_file, 4, raw, &error) == OK);
  for (int64_t o = 0, k = 0; o < d[0]; o++)
    for (int64_t i = 0; i < d[AXIS_C]; i++)
      for (int64_t p = 0; p < d[AXIS_H] * d[AXIS_W]; p++, k++)
        require(values[(o * d[AXIS_H] * d[AXIS_W] + p) * d[AXIS_C] + i] == raw[k]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  PretrainedFile file = {.path = "weights", .origin = "a network"};
  Error error = {0};
  float row[4];
  const int64_t row_shape[4] = {1, 2, 1, 1};
  Status status = safetensors_parse("weights", data, size, &file.tensors, &error);
  if (status != OK) {
    require_error(status, &error);
    return 0;
  }
  read_parameter(&file, "features.0.weight", shape_make(2, 1, 2, 2, 3), INIT_NORMAL);
  read_parameter(&file, "features.0.bias", shape_make(1, 1, 1, 1, 2), INIT_ZERO);
  read_parameter(&file, "Conv2d_1a_3x3.bn.running_var", shape_make(1, 1, 1, 1, 3), INIT_ONE);
  if (pretrained_values(&file, "lin0.model.1.weight", row_shape, 4, row, &error) == OK)
    require(all_finite(row, 2));
  pretrained_close(&file);
  return 0;
}
