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

/* Where the frames of the cartoons go; pointers may be NULL. */
typedef struct Sums {
  StyleTest *test;
  InceptionScores *inception;
  int64_t line_pixels, flat_pixels;
} Sums;

static Status add_clip(const uint8_t *clip, const ClipShape *shape, int64_t first, int64_t frames,
                       Sums *sums, Error *error) {
  Status status = OK;
  int height = shape->target_height, width = shape->target_width;
  size_t bytes = clip_target_bytes(shape) / (size_t)shape->frames;
  for (int t = 0; t < shape->frames; t++) {
    const uint8_t *frame = clip + (size_t)t * bytes;
    FramePosition at = {height, width, first + t, frames};
    sums->line_pixels += style_metrics_lines(frame, height, width, NULL);
    sums->flat_pixels += style_metrics_flats(frame, height, width, NULL);
    if (sums->test) style_test_add_cartoon(sums->test, frame, &at);
    if (sums->inception)
      TRY(inception_scores_add(sums->inception, COLUMN_CARTOONS, frame, &at, error));
  }
done:
  return status;
}

Status cartoons_measure(const Dataset *cartoons, StyleTest *test, InceptionScores *inception,
                        CartoonShares *out, Error *error) {
  Status status = OK;
  const DatasetInfo *info = dataset_info(cartoons);
  const ClipShape *shape = &info->shape;
  int64_t clips = info->clips < CARTOON_MAX_CLIPS ? info->clips : CARTOON_MAX_CLIPS;
  int64_t frames = clips * shape->frames;
  Sums sums = {.test = test, .inception = inception};
  uint8_t *clip = NULL;
  Progress *progress = progress_new("cartoons", 0, clips);
  TRY(mem_bulk(clip_target_bytes(shape), "a clip", (void **)&clip, error));
  for (int64_t i = 0; i < clips; i++) {
    TRY(dataset_read(cartoons, i * info->clips / clips, NULL, clip, error));
    TRY(add_clip(clip, shape, i * shape->frames, frames, &sums, error));
    progress_update(progress, i + 1);
  }
  double pixels = (double)frames * shape->target_height * shape->target_width;
  *out =
      (CartoonShares){frames, (double)sums.line_pixels / pixels, (double)sums.flat_pixels / pixels};
done:
  progress_end(progress);
  free(clip);
  return status;
}
