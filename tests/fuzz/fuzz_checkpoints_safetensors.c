/* Parses arbitrary bytes as a safetensors file: rejected with a message, or consistent to the last
 * byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoints/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  Safetensors *file = NULL;
  Status status = safetensors_parse("input", data, size, &file, &error);
  if (status != OK) {
    if (status != ERROR_DATA || error.status != status || error.message[0] == '\0' || file) abort();
    return 0;
  }
  size_t total = 0;
  for (int i = 0; i < safetensors_count(file); i++) {
    const NamedTensor *tensor = safetensors_tensor(file, i);
    size_t bytes = named_tensor_bytes(tensor);
    const volatile uint8_t *first = tensor->data;
    if (bytes > 0)
      (void)(first[0] + first[bytes - 1]); /* a sanitizer reports reads out of bounds */
    if (safetensors_find(file, tensor->name) != tensor) abort();
    total += bytes;
  }
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)safetensors_metadata(file), key, value) {
    if (!json_is_string(value) || json_string_length(value) > size) abort();
  }
  uint64_t header;
  memcpy(&header, data, sizeof header);
  if (total + header + sizeof header != size) abort();
  safetensors_close(file);
  return 0;
}
