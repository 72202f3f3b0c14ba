#include "trainer/run/sample_sheets.h"

#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/log.h"
#include "base/signals.h"
#include "data/video/image.h"

enum { GAP = 2, TILES = 3 }; /* pixels between tiles; tiles per frame: source, output, target */

typedef struct Sheet {
  ClipShape shape;
  int frames;                              /* shown of a clip: 2 (the first and the last), or 1 */
  uint8_t *source, *target, *output_bytes; /* one clip, one clip, one frame */
  float *output;                           /* one frame */
  Image image;
} Sheet;

static void sheet_free(Sheet *sheet) {
  free(sheet->source);
  free(sheet->target);
  free(sheet->output_bytes);
  free(sheet->output);
  image_free(&sheet->image);
}

static Status sheet_new(const ClipShape *shape, int rows, Sheet *sheet, Error *error) {
  Status status = OK;
  sheet->shape = *shape;
  sheet->frames = shape->frames > 1 ? 2 : 1;
  size_t frame = (size_t)shape->target_height * (size_t)shape->target_width * 3;
  TRY(mem_bulk(clip_source_bytes(shape), "a clip", (void **)&sheet->source, error));
  TRY(mem_bulk(clip_target_bytes(shape), "a clip", (void **)&sheet->target, error));
  TRY(mem_bulk(frame, "a frame", (void **)&sheet->output_bytes, error));
  TRY(mem_bulk(frame * sizeof(float), "a frame", (void **)&sheet->output, error));
  int columns = TILES * sheet->frames;
  TRY(image_new(columns * (shape->target_width + GAP) - GAP,
                rows * (shape->target_height + GAP) - GAP, &sheet->image, error));
  memset(sheet->image.pixels, 255, (size_t)sheet->image.width * (size_t)sheet->image.height * 3);
done:
  return status;
}

static void place(Sheet *sheet, int row, int column, const uint8_t *frame) {
  size_t stride = (size_t)sheet->image.width * 3;
  size_t width = (size_t)sheet->shape.target_width * 3;
  size_t left = (size_t)column * (size_t)(sheet->shape.target_width + GAP) * 3;
  size_t top = (size_t)row * (size_t)(sheet->shape.target_height + GAP);
  for (size_t y = 0; y < (size_t)sheet->shape.target_height; y++)
    memcpy(sheet->image.pixels + (top + y) * stride + left, frame + y * width, width);
}

/* Places the first three channels of a source frame, resized to the size of the target. */
static Status place_source(Sheet *sheet, int row, int column, const uint8_t *frame, Error *error) {
  Status status = OK;
  const ClipShape *s = &sheet->shape;
  Image small = {0}, full = {0};
  TRY(image_new(s->source_width, s->source_height, &small, error));
  TRY(image_new(s->target_width, s->target_height, &full, error));
  size_t pixels = (size_t)s->source_width * (size_t)s->source_height;
  for (size_t i = 0; i < pixels; i++)
    memcpy(small.pixels + 3 * i, frame + (size_t)s->source_channels * i, 3);
  image_resize(&small, &full);
  place(sheet, row, column, full.pixels);
done:
  image_free(&small);
  image_free(&full);
  return status;
}

static Status place_clip(Sheet *sheet, Inference *inference, int row, Error *error) {
  Status status = OK;
  const ClipShape *s = &sheet->shape;
  InferenceShape shape = {s->source_height, s->source_width, s->source_channels, s->target_height,
                          s->target_width};
  size_t source_frame = clip_source_bytes(s) / (size_t)s->frames;
  size_t target_frame = clip_target_bytes(s) / (size_t)s->frames;
  TRY(inference_stream_begin(inference, &shape, error));
  for (int t = 0; t < s->frames && !signals_stop_requested(); t++) {
    const uint8_t *source = sheet->source + (size_t)t * source_frame;
    TRY(inference_stream_frame(inference, source, sheet->output, error));
    if (t != 0 && t != s->frames - 1) continue;
    int column = t == 0 ? 0 : TILES;
    frames_to_u8(sheet->output, target_frame, sheet->output_bytes);
    TRY(place_source(sheet, row, column, source, error));
    place(sheet, row, column + 1, sheet->output_bytes);
    place(sheet, row, column + 2, sheet->target + (size_t)t * target_frame);
  }
done:
  return status;
}

Status sample_sheet_write(const Dataset *dataset, Inference *inference, int clips, const char *path,
                          bool *written, Error *error) {
  Status status = OK;
  Sheet sheet = {0};
  *written = false;
  const DatasetInfo *info = dataset_info(dataset);
  int rows = clips < info->clips ? clips : (int)info->clips;
  TRY(sheet_new(&info->shape, rows, &sheet, error));
  for (int row = 0; row < rows && !signals_stop_requested(); row++) {
    Error bad = {0};
    if (dataset_read(dataset, row * info->clips / rows, sheet.source, sheet.target, &bad) == OK)
      TRY(place_clip(&sheet, inference, row, error));
    else /* data.on_corrupt applies to the loader only */
      log_warning("%s: a row is empty: %s", path, bad.message);
  }
  if (signals_stop_requested()) goto done;
  TRY(image_write_png(path, &sheet.image, error));
  *written = true;
done:
  sheet_free(&sheet);
  return status;
}
