/* Parses arbitrary bytes as a safetensors file: rejected with a message, or consistent to the last
 * byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoints/safetensors.h"
#include "tests/fuzz/support/fuzz.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {"\"F32\"",
                                      "\"BF16\"",
                                      "\"BOOL\"",
                                      "\"F4\"",
                                      "[8]",
                                      "[0]",
                                      "[2,2]",
                                      "[0,8]",
                                      "[1,1,1,1,1,1,1,1]",
                                      "\"dtype\":\"U8\"",
                                      "\"__metadata__\":{}",
                                      NULL};
  Dice dice = dice_new(seed);
  return mutate_safetensors(data, size, room, WORDS, &dice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  Safetensors *file = NULL;
  Status status = safetensors_parse("input", data, size, &file, &error);
  if (status != OK) {
    require(status == ERROR_DATA && !file);
    require_error(status, &error);
    return 0;
  }
  size_t total = 0;
  for (int i = 0; i < safetensors_count(file); i++) {
    const NamedTensor *tensor = safetensors_tensor(file, i);
    size_t bytes = named_tensor_bytes(tensor);
    const volatile uint8_t *first = tensor->data;
    if (bytes > 0)
      (void)(first[0] + first[bytes - 1]); /* a sanitizer reports reads out of bounds */
    require(safetensors_find(file, tensor->name) == tensor);
    total += bytes;
  }
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)safetensors_metadata(file), key, value) {
    require(json_is_string(value) && json_string_length(value) <= size);
  }
  uint64_t header;
  memcpy(&header, data, sizeof header);
  require(total + header + sizeof header == size);
  safetensors_close(file);
  return 0;
}
