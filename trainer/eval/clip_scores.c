#include "trainer/eval/clip_scores.h"

#include <stdlib.h>

#include "base/bulk_memory.h"
#include "trainer/eval/image_metrics.h"

static int video_count(const ClipScores *s) {
  return s->has_target ? VIDEO_COUNT : VIDEO_CANDIDATES;
}

/* Single frames are left to the other scores: their patches are nearly those of the output. */
static bool has_patches(const ClipScores *s, Video video) {
  return s->has_target && video != VIDEO_FRAME && swd_levels(s->height, s->width) > 0;
}

static int64_t patch_frames(const ClipScores *s) {
  return s->total_frames < SWD_MAX_FRAMES ? s->total_frames : SWD_MAX_FRAMES;
}

Status clip_scores_new(int height, int width, bool has_target, int64_t total_frames,
                       ClipScores *out, Error *error) {
  Status status = OK;
  size_t pixels = (size_t)height * (size_t)width;
  size_t cells = 3 * content_metrics_cell_count(height, width) * sizeof(double);
  *out = (ClipScores){
      .height = height, .width = width, .has_target = has_target, .total_frames = total_frames};
  for (Video video = 0; (int)video < video_count(out); video++) {
    TRY(mem_bulk(pixels, "a mask of lines", (void **)&out->lines[video], error));
    for (int i = 0; i < 3; i++)
      TRY(mem_bulk(cells, "colours of a frame", (void **)&out->cells[video][i], error));
    if (has_patches(out, video))
      TRY(patch_set_new(height, width, patch_frames(out), &out->patches[video], error));
  }
done:
  if (status != OK) clip_scores_free(out);
  return status;
}

void clip_scores_free(ClipScores *s) {
  for (int video = 0; video < VIDEO_COUNT; video++) {
    free(s->lines[video]);
    for (int i = 0; i < 3; i++) free(s->cells[video][i]);
    patch_set_free(s->patches[video]);
  }
  *s = (ClipScores){0};
}

/* --- Adding ----------------------------------------------------------------------------------- */

static size_t frame_bytes(const ClipScores *s) {
  return (size_t)s->height * (size_t)s->width * 3;
}

static void add_style(ClipScores *s, Video video, const uint8_t *frame) {
  VideoSums *sums = &s->videos[video];
  sums->line_pixels += style_metrics_lines(frame, s->height, s->width, s->lines[video]);
  sums->flat_pixels += style_metrics_flats(frame, s->height, s->width, NULL);
  if (s->has_target && video != VIDEO_TARGET)
    style_metrics_match(s->lines[video], s->lines[VIDEO_TARGET], s->height, s->width, &sums->lines);
}

static void add_content(ClipScores *s, Video video, const uint8_t *frame, const uint8_t *source,
                        int t) {
  VideoSums *sums = &s->videos[video];
  size_t cells = content_metrics_cell_count(s->height, s->width);
  double *now = s->cells[video][t % 3];
  content_metrics_cells(frame, s->height, s->width, now);
  if (t >= 2)
    sums->flicker += content_metrics_flicker(s->cells[video][(t + 1) % 3],
                                             s->cells[video][(t + 2) % 3], now, cells);
  if (video == VIDEO_INPUT) return;
  sums->structure += content_metrics_structure(source, frame, s->height, s->width);
  ColorShift shift = content_metrics_color_shift(s->cells[VIDEO_INPUT][t % 3], now, cells);
  sums->color.delta_e += shift.delta_e;
  for (int c = 0; c < 3; c++) sums->color.lab[c] += shift.lab[c];
}

static void add_similarity(ClipScores *s, Video video, const uint8_t *frame, const uint8_t *target,
                           int t) {
  VideoSums *sums = &s->videos[video];
  int64_t pixels = (int64_t)s->height * s->width;
  size_t bytes = frame_bytes(s);
  sums->squared_error += image_metrics_luma_mse(frame, target, pixels);
  sums->ssim += image_metrics_ssim(frame, target, s->height, s->width);
  if (t > 0)
    sums->temporal +=
        image_metrics_temporal_error(frame - bytes, frame, target - bytes, target, pixels);
}

/* Patches of at most SWD_MAX_FRAMES frames, spread evenly. */
static Status add_patches(ClipScores *s, Video video, const uint8_t *frame, Error *error) {
  int64_t used = patch_frames(s), total = s->total_frames;
  if (!s->patches[video] || (s->frames + 1) * used / total == s->frames * used / total) return OK;
  return patch_set_add(s->patches[video], frame, s->frames, error);
}

/* The target is first: its lines are what the others' are compared with. */
static Status add_frame(ClipScores *s, uint8_t *const *clips, int t, Error *error) {
  Status status = OK;
  size_t offset = (size_t)t * frame_bytes(s);
  const uint8_t *source = clips[VIDEO_INPUT] + offset;
  if (s->has_target) add_style(s, VIDEO_TARGET, clips[VIDEO_TARGET] + offset);
  for (Video video = 0; (int)video < video_count(s); video++) {
    const uint8_t *frame = clips[video] + offset;
    add_content(s, video, frame, source, t);
    TRY(add_patches(s, video, frame, error));
    if (video == VIDEO_TARGET) continue;
    add_style(s, video, frame);
    if (s->has_target) add_similarity(s, video, frame, clips[VIDEO_TARGET] + offset, t);
  }
  s->frames++;
  s->pairs += t >= 1;
  s->triples += t >= 2;
done:
  return status;
}

Status clip_scores_add(ClipScores *s, uint8_t *const *clips, int frames, Error *error) {
  Status status = OK;
  for (int t = 0; t < frames; t++) TRY(add_frame(s, clips, t, error));
done:
  return status;
}
