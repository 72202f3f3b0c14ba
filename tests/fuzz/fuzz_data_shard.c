/* Opens any bytes as a shard, as dataset_open does, and reads its clips and a clip's name. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "data/dataset/shard.h"

/* Called by LeakSanitizer: HDF5 1.10 leaks memory when it reads a damaged file. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
  return "leak:libhdf5";
}

/* HDF5 needs a file with a path; this one is in memory and reused for every input. */
static char path[] = "/dev/shm/celforge-fuzz-XXXXXX";
static int descriptor = -1;

static void remove_file(void) {
  unlink(path);
}

static void read_clips(const Shard *shard) {
  Error error;
  ClipName name;
  uint8_t *sides[SIDES];
  for (int side = 0; side < SIDES; side++)
    sides[side] = malloc(clip_side_bytes(&shard->header.shape, side));
  ShardFile file = {path, descriptor, &shard->header.shape, &shard->layout,
                    (const uint32_t(*)[SIDES])shard->checksums};
  for (int64_t i = 0; i < shard->header.clips && i < 4; i++)
    shard_read_clip(&file, i, sides, &error);
  shard_clip_name(path, shard->header.clips - 1, &name, &error);
  for (int side = 0; side < SIDES; side++) free(sides[side]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error;
  Shard shard;
  if (descriptor < 0) {
    descriptor = mkstemp(path);
    if (descriptor < 0 || atexit(remove_file) != 0) abort();
  }
  if (ftruncate(descriptor, 0) != 0 || pwrite(descriptor, data, size, 0) != (ssize_t)size) abort();
  if (shard_inspect(path, true, &shard, &error) == OK) read_clips(&shard);
  shard_free(&shard);
  return 0;
}
