/* Parses any bytes as a dataset's manifest. */
#include <stddef.h>
#include <stdint.h>

#include "data/dataset/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error;
  Manifest manifest;
  if (manifest_parse("manifest.json", (const char *)data, size, &manifest, &error) == OK)
    manifest_free(&manifest);
  return 0;
}
