/* Parses any bytes as a dataset's manifest: rejected with a message, or all its numbers agree. */
#include <string.h>

#include "data/dataset/manifest.h"
#include "tests/fuzz/support/fuzz.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {"\"celforge-dataset\"",
                                      "\"none\"",
                                      "\"deflate\"",
                                      "\"25/1\"",
                                      "\"0/1\"",
                                      "\"1/0\"",
                                      "\"shard-00001.h5\"",
                                      "[16,16,3]",
                                      "[65536,65536,12]",
                                      "\"dataset_uuid\":\"86d755b3-fbf2-84ab-bd9d-86d929326b2f\"",
                                      "\"shard\":1",
                                      "\"source_offsets\":[2048,2100]",
                                      "\"source_sizes\":[52,53]",
                                      "3",
                                      NULL};
  Dice dice = dice_new(seed);
  return mutate_json(data, size, room, WORDS, &dice);
}

/* Every clip lies in its file, and the sums are those of the shards. */
static void check(const Manifest *manifest) {
  Error error;
  int64_t clips = 0;
  const ClipShape *shape = &manifest->info.shape;
  require(clip_shape_check("manifest", shape, ERROR_DATA, &error) == OK);
  require(manifest->info.shards > 0 && manifest->maker && strlen(manifest->info.uuid) == 36);
  for (int i = 0; i < manifest->info.shards; i++) {
    const ShardLayout *layout = &manifest->shards[i].layout;
    clips += layout->clips;
    for (int side = 0; side < SIDES; side++) {
      bool listed = layout->chunks[side] != NULL;
      require(listed == (manifest->info.deflated && clip_has_side(shape, side)));
      for (int64_t c = 0; listed && c < layout->clips; c++) {
        ClipExtent extent = layout->chunks[side][c];
        require(extent.size <= layout->bytes && extent.offset <= layout->bytes - extent.size);
      }
      if (!listed && clip_has_side(shape, side))
        require(layout->offset[side] + (uint64_t)layout->clips * clip_side_bytes(shape, side) <=
                layout->bytes);
    }
  }
  require(clips == manifest->info.clips);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  Manifest manifest;
  Status status = manifest_parse("manifest.json", (const char *)data, size, &manifest, &error);
  if (status != OK) {
    require(status == ERROR_DATA);
    require_error(status, &error);
    return 0;
  }
  check(&manifest);
  manifest_free(&manifest);
  return 0;
}
