#include "support_loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/memory.h"
#include "support_dataset.h"

LoaderOptions plain_options(void) {
  return (LoaderOptions){.seed = 11,
                         .global_batch = 8,
                         .micro_batch = 2,
                         .world_size = 1,
                         .threads = 3,
                         .prefetch_batches = 4,
                         .timeout = 20};
}

Batch *next_batch(Loader *loader) {
  Error error;
  Batch *batch = NULL;
  if (loader_next(loader, &batch, &error) != OK) fail_msg("%s", error.message);
  return batch;
}

/* The reference for crops and flips, one value at a time. */
static uint8_t expected_pixel(const ClipShape *clip, int side, const uint8_t *bytes, int t, int y,
                              int x, int c) {
  int height = side ? clip->target_height : clip->source_height;
  int width = side ? clip->target_width : clip->source_width;
  int channels = side ? 3 : clip->source_channels;
  return bytes[((t * height + y) * width + x) * channels + c];
}

void assert_sample_side(const ClipShape *clip, const ClipShape *shape, const Augment *augment,
                        int side, int64_t index, const uint8_t *found) {
  size_t size = side ? clip_target_bytes(clip) : clip_source_bytes(clip);
  uint8_t *bytes = mem_new(size, 1);
  clip_bytes(index, side, bytes, size);
  int height = side ? shape->target_height : shape->source_height;
  int width = side ? shape->target_width : shape->source_width;
  int channels = side ? 3 : shape->source_channels;
  int top = side ? augment->target_y : augment->source_y;
  int left = side ? augment->target_x : augment->source_x;
  for (int t = 0; t < shape->frames; t++)
    for (int y = 0; y < height; y++)
      for (int x = 0; x < width; x++)
        for (int c = 0; c < channels; c++) {
          int from = augment->flip ? width - 1 - x : x;
          uint8_t expected =
              expected_pixel(clip, side, bytes, augment->frame + t, top + y, left + from, c);
          if (*found++ != expected)
            fail_msg("clip %lld, side %d: t %d y %d x %d c %d", (long long)index, side, t, y, x, c);
        }
  free(bytes);
}
