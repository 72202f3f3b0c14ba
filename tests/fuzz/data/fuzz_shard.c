/* Opens any bytes as a shard, as dataset_open does, and reads its clips and a clip's name. The
 * mutator recomputes the checksums of HDF5's structures. */
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "data/dataset/shard.h"
#include "tests/fuzz/support/fuzz.h"

enum { MAX_CLIP_BYTES = 1 << 24 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  Dice dice = dice_new(seed);
  if (dice_chance(&dice, 32)) return LLVMFuzzerMutate(data, size, room);
  mutate_hdf5(data, size, &dice);
  return size;
}

/* Reads a clip; then again with checksums recomputed from what was read, which must be the same. */
static void read_clip(const ShardFile *file, uint32_t (*checksums)[SIDES], int64_t clip) {
  Error error = {0};
  uint8_t *sides[SIDES], *again[SIDES];
  size_t sizes[SIDES];
  for (int side = 0; side < SIDES; side++) {
    sizes[side] = clip_side_bytes(file->shape, side);
    sides[side] = calloc(sizes[side] + 1, 1);
    again[side] = calloc(sizes[side] + 1, 1);
    require(sides[side] && again[side]);
  }
  Status status = shard_read_clip(file, clip, sides, &error);
  if (status != OK) require_error(status, &error);
  for (int side = 0; side < SIDES; side++)
    checksums[clip][side] = crc32c(0, sides[side], sizes[side]);
  if (shard_read_clip(file, clip, again, &error) == OK)
    for (int side = 0; side < SIDES; side++)
      require(memcmp(sides[side], again[side], sizes[side]) == 0);
  for (int side = 0; side < SIDES; side++) {
    free(sides[side]);
    free(again[side]);
  }
}

static void read_clips(const char *path, int descriptor, const Shard *shard) {
  Error error = {0};
  ClipName name;
  const ClipShape *shape = &shard->header.shape;
  ShardFile file = {path, descriptor, shape, &shard->layout,
                    (const uint32_t(*)[SIDES])shard->checksums};
  bool small = clip_source_bytes(shape) + clip_target_bytes(shape) <= MAX_CLIP_BYTES;
  for (int64_t i = 0; small && i < shard->header.clips && i < 4; i++)
    read_clip(&file, shard->checksums, i);
  if (shard_clip_name(path, shard->header.clips - 1, &name, &error) == OK)
    require(memchr(name.id, 0, sizeof name.id) && memchr(name.origin, 0, sizeof name.origin));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  Shard shard;
  int descriptor;
  const char *path = scratch_file(".h5", data, size, &descriptor);
  Status status = shard_inspect(path, true, &shard, &error);
  if (status == OK)
    read_clips(path, descriptor, &shard);
  else
    require_error(status, &error);
  shard_free(&shard);
  return 0;
}
