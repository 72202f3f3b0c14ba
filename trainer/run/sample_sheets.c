#include "trainer/run/sample_sheets.h"

#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/log.h"
#include "base/signals.h"
#include "data/video/image.h"

enum { GAP = 2, TILES = 3 }; /* pixels between tiles; tiles per frame: source, output, target */

typedef struct Sheet {
  const Dataset *dataset, *targets; /* targets: NULL for pairs */
  ClipShape shape;                  /* of the sources */
  Image output;                     /* one frame, as the generator returns it */
  int target_height, target_width, target_frames;
  int enlarge;              /* pixels of the sheet per pixel of an output */
  int frames;               /* shown of a clip: 2 (the first and the last), or 1 */
  uint8_t *source, *target; /* one clip each */
  float *values;            /* of one output frame, in [-1, 1] */
  Image image;
} Sheet;

static void sheet_free(Sheet *sheet) {
  free(sheet->source);
  free(sheet->target);
  free(sheet->values);
  image_free(&sheet->output);
  image_free(&sheet->image);
}

static Status sheet_new(const Dataset *dataset, const Dataset *targets, int rows, Sheet *sheet,
                        Error *error) {
  Status status = OK;
  const ClipShape *shape = &dataset_info(dataset)->shape;
  const ClipShape *target = targets ? &dataset_info(targets)->shape : shape;
  int height = targets ? shape->source_height : shape->target_height;
  int width = targets ? shape->source_width : shape->target_width;
  *sheet = (Sheet){.dataset = dataset,
                   .targets = targets,
                   .shape = *shape,
                   .target_height = target->target_height,
                   .target_width = target->target_width,
                   .target_frames = target->frames,
                   .enlarge = (SAMPLE_MIN_WIDTH + width - 1) / width,
                   .frames = shape->frames > 1 ? 2 : 1};
  TRY(mem_bulk(clip_source_bytes(shape), "a clip", (void **)&sheet->source, error));
  TRY(mem_bulk(clip_target_bytes(target), "a clip", (void **)&sheet->target, error));
  TRY(image_new(width, height, &sheet->output, error));
  TRY(mem_bulk((size_t)height * (size_t)width * 3 * sizeof(float), "a frame",
               (void **)&sheet->values, error));
  int columns = TILES * sheet->frames;
  TRY(image_new(columns * (width * sheet->enlarge + GAP) - GAP,
                rows * (height * sheet->enlarge + GAP) - GAP, &sheet->image, error));
  memset(sheet->image.pixels, 255, (size_t)sheet->image.width * (size_t)sheet->image.height * 3);
done:
  return status;
}

/* --- Tiles ------------------------------------------------------------------------------------ */

/* Places a picture of the output's size, enlarged without smoothing. */
static void place(Sheet *sheet, int row, int column, const Image *tile) {
  int scale = sheet->enlarge, left = column * (tile->width * scale + GAP);
  int top = row * (tile->height * scale + GAP);
  for (int y = 0; y < tile->height * scale; y++) {
    const uint8_t *from = tile->pixels + (size_t)(y / scale) * (size_t)tile->width * 3;
    uint8_t *to =
        sheet->image.pixels + 3 * ((size_t)(top + y) * (size_t)sheet->image.width + (size_t)left);
    for (int x = 0; x < tile->width * scale; x++, to += 3) memcpy(to, from + 3 * (x / scale), 3);
  }
}

/* Places the first three of a frame's channels, resized to the size of the output. */
static Status place_frame(Sheet *sheet, int row, int column, const uint8_t *frame, int height,
                          int width, int channels, Error *error) {
  Status status = OK;
  Image own = {0}, resized = {0};
  TRY(image_new(width, height, &own, error));
  TRY(image_new(sheet->output.width, sheet->output.height, &resized, error));
  size_t pixels = (size_t)width * (size_t)height;
  for (size_t i = 0; i < pixels; i++) memcpy(own.pixels + 3 * i, frame + (size_t)channels * i, 3);
  image_resize(&own, &resized);
  place(sheet, row, column, &resized);
done:
  image_free(&own);
  image_free(&resized);
  return status;
}

static Status place_source(Sheet *sheet, int row, int column, const uint8_t *frame, Error *error) {
  const ClipShape *s = &sheet->shape;
  return place_frame(sheet, row, column, frame, s->source_height, s->source_width,
                     s->source_channels, error);
}

/* Places the first frame of the target clip, or its last one. */
static Status place_target(Sheet *sheet, int row, int column, bool last, Error *error) {
  size_t bytes = (size_t)sheet->target_height * (size_t)sheet->target_width * 3;
  const uint8_t *frame = sheet->target + (last ? (size_t)sheet->target_frames - 1 : 0) * bytes;
  return place_frame(sheet, row, column, frame, sheet->target_height, sheet->target_width, 3,
                     error);
}

/* --- Rows ------------------------------------------------------------------------------------- */

static Status place_clip(Sheet *sheet, Inference *inference, int row, Error *error) {
  Status status = OK;
  const ClipShape *s = &sheet->shape;
  InferenceShape shape = {s->source_height, s->source_width, s->source_channels,
                          sheet->output.height, sheet->output.width};
  size_t source_frame = clip_source_bytes(s) / (size_t)s->frames;
  size_t output_values = (size_t)sheet->output.height * (size_t)sheet->output.width * 3;
  TRY(inference_stream_begin(inference, &shape, error));
  for (int t = 0; t < s->frames && !signals_stop_requested(); t++) {
    const uint8_t *source = sheet->source + (size_t)t * source_frame;
    TRY(inference_stream_frame(inference, source, sheet->values, error));
    if (t != 0 && t != s->frames - 1) continue;
    int column = t == 0 ? 0 : TILES;
    frames_to_u8(sheet->values, output_values, sheet->output.pixels);
    TRY(place_source(sheet, row, column, source, error));
    place(sheet, row, column + 1, &sheet->output);
    TRY(place_target(sheet, row, column + 2, t > 0, error));
  }
done:
  return status;
}

/* Reads the clips of a row, which are spread evenly over their datasets. */
static Status read_row(const Sheet *sheet, int row, int rows, Error *error) {
  int64_t clips = dataset_info(sheet->dataset)->clips;
  if (!sheet->targets)
    return dataset_read(sheet->dataset, row * clips / rows, sheet->source, sheet->target, error);
  Status status = dataset_read(sheet->dataset, row * clips / rows, sheet->source, NULL, error);
  if (status != OK) return status;
  clips = dataset_info(sheet->targets)->clips;
  return dataset_read(sheet->targets, row * clips / rows, NULL, sheet->target, error);
}

Status sample_sheet_write(const Dataset *dataset, const Dataset *targets, Inference *inference,
                          int clips, const char *path, bool *written, Error *error) {
  Status status = OK;
  Sheet sheet = {0};
  *written = false;
  int64_t available = dataset_info(dataset)->clips;
  int rows = clips < available ? clips : (int)available;
  TRY(sheet_new(dataset, targets, rows, &sheet, error));
  for (int row = 0; row < rows && !signals_stop_requested(); row++) {
    Error bad = {0};
    Status found = read_row(&sheet, row, rows, &bad);
    if (found == OK)
      TRY(place_clip(&sheet, inference, row, error));
    else if (found == ERROR_DATA) /* data.on_corrupt applies to the loader only */
      log_warning("%s: a row is empty: %s", path, bad.message);
    else
      FAIL(error, found, "%s: %s", path, bad.message);
  }
  if (signals_stop_requested()) goto done;
  TRY(image_write_png(path, &sheet.image, error));
  *written = true;
done:
  sheet_free(&sheet);
  return status;
}
