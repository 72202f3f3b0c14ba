#include "trainer/eval/cartoons.h"

#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/progress.h"
#include "trainer/eval/style_metrics.h"

Status cartoons_open(const char *folder, Dataset **out, Error *error) {
  Status status = dataset_open(folder, out, error);
  if (status != OK || clip_has_target(&dataset_info(*out)->shape)) return status;
  dataset_close(*out);
  *out = NULL;
  return error_set(error, ERROR_USAGE,
                   "--cartoons: the clips of %s have no target side; pack cartoons with "
                   "celforge pack OUT --target VIDEO",
                   folder);
}

static void add_clip(const uint8_t *clip, const ClipShape *shape, int64_t first, int64_t frames,
                     StyleTest *test, int64_t counts[2]) {
  int height = shape->target_height, width = shape->target_width;
  size_t bytes = clip_target_bytes(shape) / (size_t)shape->frames;
  for (int t = 0; t < shape->frames; t++) {
    const uint8_t *frame = clip + (size_t)t * bytes;
    FramePosition at = {height, width, first + t, frames};
    counts[0] += style_metrics_lines(frame, height, width, NULL);
    counts[1] += style_metrics_flats(frame, height, width, NULL);
    if (test) style_test_add_cartoon(test, frame, &at);
  }
}

Status cartoons_measure(const Dataset *cartoons, StyleTest *test, CartoonShares *out,
                        Error *error) {
  Status status = OK;
  const DatasetInfo *info = dataset_info(cartoons);
  const ClipShape *shape = &info->shape;
  int64_t clips = info->clips < CARTOON_MAX_CLIPS ? info->clips : CARTOON_MAX_CLIPS;
  int64_t frames = clips * shape->frames, counts[2] = {0};
  uint8_t *clip = NULL;
  Progress *progress = progress_new("cartoons", 0, clips);
  TRY(mem_bulk(clip_target_bytes(shape), "a clip", (void **)&clip, error));
  for (int64_t i = 0; i < clips; i++) {
    TRY(dataset_read(cartoons, i * info->clips / clips, NULL, clip, error));
    add_clip(clip, shape, i * shape->frames, frames, test, counts);
    progress_update(progress, i + 1);
  }
  double pixels = (double)frames * shape->target_height * shape->target_width;
  *out = (CartoonShares){frames, (double)counts[0] / pixels, (double)counts[1] / pixels};
done:
  progress_end(progress);
  free(clip);
  return status;
}
