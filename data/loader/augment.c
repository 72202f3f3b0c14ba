#include "data/loader/augment.h"

#include <string.h>

#include "base/random.h"

enum { LARGEST_MULTIPLE = 4096 };

static int greatest_common_divisor(int a, int b) {
  while (b != 0) {
    int rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/* Height and width in whose pixels the crop is given: the target's, or those of the only side. */
static int reference_height(const ClipShape *clip) {
  return clip_has_target(clip) ? clip->target_height : clip->source_height;
}

static int reference_width(const ClipShape *clip) {
  return clip_has_target(clip) ? clip->target_width : clip->source_width;
}

/* Plans one axis: the step of crop offsets, and the crop in pixels of the source. */
static Status plan_edge(const char *edge, int target, int source, int crop, int crop_multiple,
                        int *step, Error *error) {
  if (crop > target)
    return error_set(error, ERROR_USAGE, "the crop's %s is %d; the clips have only %d", edge, crop,
                     target);
  int unit = target / greatest_common_divisor(target, source);
  if (crop % unit != 0)
    return error_set(error, ERROR_USAGE,
                     "the crop's %s is %d; expected a multiple of %d, because the targets have %d "
                     "pixels and the sources %d",
                     edge, crop, unit, target, source);
  *step = unit / greatest_common_divisor(unit, crop_multiple) * crop_multiple;
  return OK;
}

/* Sets height and width of the sides that the clips have to those of the crop. */
static void set_out_sides(const ClipShape *clip, int height, int width, ClipShape *out) {
  if (clip_has_source(clip)) {
    out->source_height = (int)((int64_t)height * clip->source_height / reference_height(clip));
    out->source_width = (int)((int64_t)width * clip->source_width / reference_width(clip));
  }
  if (clip_has_target(clip)) {
    out->target_height = height;
    out->target_width = width;
  }
}

Status augment_plan(const ClipShape *clip, int frames, int crop_height, int crop_width,
                    int crop_multiple, bool flip, AugmentPlan *out, Error *error) {
  Status status = OK;
  int multiple = crop_multiple < 1 ? 1 : crop_multiple;
  if (frames < 0 || crop_height < 0 || crop_width < 0)
    FAIL(error, ERROR_USAGE, "%d frames, crop %dx%d; expected no negative number", frames,
         crop_width, crop_height);
  if (frames > clip->frames)
    FAIL(error, ERROR_USAGE, "data.frames is %d; the clips have only %d", frames, clip->frames);
  if (multiple > LARGEST_MULTIPLE)
    FAIL(error, ERROR_USAGE, "the multiple of crop offsets is %d; expected 1 to %d", multiple,
         LARGEST_MULTIPLE);
  *out = (AugmentPlan){.clip = *clip, .out = *clip, .flip = flip};
  if (frames > 0) out->out.frames = frames;
  int height = reference_height(clip), width = reference_width(clip);
  if (crop_height == 0) crop_height = height;
  if (crop_width == 0) crop_width = width;
  TRY(plan_edge("height", height, clip_has_source(clip) ? clip->source_height : height, crop_height,
                multiple, &out->step_y, error));
  TRY(plan_edge("width", width, clip_has_source(clip) ? clip->source_width : width, crop_width,
                multiple, &out->step_x, error));
  set_out_sides(clip, crop_height, crop_width, &out->out);
done:
  return status;
}

bool augment_is_identity(const AugmentPlan *plan) {
  return !plan->flip && memcmp(&plan->clip, &plan->out, sizeof plan->clip) == 0;
}

/* Draws one of 0, step, 2 step, ... such that `part` fits into `whole`. */
static int draw_offset(Random *random, int whole, int part, int step) {
  return step * (int)random_below(random, (uint64_t)((whole - part) / step) + 1);
}

static Augment draw(const AugmentPlan *plan, Random random) {
  const ClipShape *clip = &plan->clip, *out = &plan->out;
  int height = reference_height(clip), width = reference_width(clip);
  Augment augment = {0};
  augment.frame = draw_offset(&random, clip->frames, out->frames, 1);
  augment.target_y = draw_offset(&random, height, reference_height(out), plan->step_y);
  augment.target_x = draw_offset(&random, width, reference_width(out), plan->step_x);
  augment.source_y = (int)((int64_t)augment.target_y * clip->source_height / height);
  augment.source_x = (int)((int64_t)augment.target_x * clip->source_width / width);
  augment.flip = plan->flip && random_below(&random, 2) == 1;
  return augment;
}

Augment augment_draw(const AugmentPlan *plan, uint64_t seed, int64_t sample) {
  return draw(plan, random_stream(seed, RANDOM_AUGMENT, (uint64_t)sample, 0));
}

Augment augment_draw_target(const AugmentPlan *plan, uint64_t seed, int64_t sample) {
  return draw(plan, random_stream(seed, RANDOM_AUGMENT_TARGET, (uint64_t)sample, 0));
}

/* Copies a row in reverse order of its pixels. */
static void flip_row(const uint8_t *restrict from, uint8_t *restrict to, int width, int channels) {
  const uint8_t *pixel = from + (size_t)width * (size_t)channels;
  if (channels == 3) {
    for (int x = 0; x < width; x++, to += 3) {
      pixel -= 3;
      to[0] = pixel[0];
      to[1] = pixel[1];
      to[2] = pixel[2];
    }
    return;
  }
  for (int x = 0; x < width; x++, to += channels) {
    pixel -= channels;
    memcpy(to, pixel, (size_t)channels);
  }
}

typedef struct Crop {
  int frames, height, width, channels; /* after cropping */
  int clip_height, clip_width;
  int frame, y, x;
  bool flip;
} Crop;

static void copy_crop(const Crop *crop, const uint8_t *clip, uint8_t *out) {
  size_t pixel = (size_t)crop->channels, row = (size_t)crop->width * pixel;
  size_t clip_row = (size_t)crop->clip_width * pixel;
  size_t clip_frame = (size_t)crop->clip_height * clip_row;
  for (int t = 0; t < crop->frames; t++) {
    const uint8_t *from = clip + (size_t)(crop->frame + t) * clip_frame +
                          (size_t)crop->y * clip_row + (size_t)crop->x * pixel;
    for (int y = 0; y < crop->height; y++, from += clip_row, out += row) {
      if (crop->flip)
        flip_row(from, out, crop->width, crop->channels);
      else
        memcpy(out, from, row);
    }
  }
}

void augment_copy(const AugmentPlan *plan, const Augment *augment, const uint8_t *clip_source,
                  const uint8_t *clip_target, uint8_t *source, uint8_t *target) {
  const ClipShape *clip = &plan->clip, *out = &plan->out;
  Crop source_crop = {out->frames,          out->source_height,  out->source_width,
                      out->source_channels, clip->source_height, clip->source_width,
                      augment->frame,       augment->source_y,   augment->source_x,
                      augment->flip};
  Crop target_crop = {out->frames,         out->target_height, out->target_width, 3,
                      clip->target_height, clip->target_width, augment->frame,    augment->target_y,
                      augment->target_x,   augment->flip};
  if (clip_has_source(clip)) copy_crop(&source_crop, clip_source, source);
  if (clip_has_target(clip)) copy_crop(&target_crop, clip_target, target);
}
