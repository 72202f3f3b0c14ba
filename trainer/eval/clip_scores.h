/* Scores of clips that need neither optical flow nor a network: sums over the clips added so far,
 * for several videos of the same scene. */
#ifndef CELFORGE_TRAINER_EVAL_CLIP_SCORES_H
#define CELFORGE_TRAINER_EVAL_CLIP_SCORES_H

#include <stdbool.h>

#include "base/error.h"
#include "trainer/eval/content_metrics.h"
#include "trainer/eval/sliced_wasserstein.h"
#include "trainer/eval/style_metrics.h"

/* The candidates that are compared with the target, and the target. */
typedef enum Video {
  VIDEO_INPUT,  /* the source, upsampled to the output's size */
  VIDEO_OUTPUT, /* the clip, translated frame by frame */
  VIDEO_FRAME,  /* each frame translated by itself, without state from earlier frames */
  VIDEO_CANDIDATES,
  VIDEO_TARGET = VIDEO_CANDIDATES,
  VIDEO_COUNT,
} Video;

/* Sums of one video. */
typedef struct VideoSums {
  int64_t line_pixels, flat_pixels;
  LineMatch lines;                      /* against the target's */
  double squared_error, ssim, temporal; /* against the target; frames, frames, pairs */
  double structure, flicker;            /* against the source; frames, triples of frames */
  ColorShift color;                     /* against the source; frames */
} VideoSums;

typedef struct ClipScores {
  int height, width;
  bool has_target;
  int64_t total_frames; /* that will be added */
  int64_t frames, pairs, triples;
  VideoSums videos[VIDEO_COUNT];
  PatchSet
      *patches[VIDEO_COUNT];   /* of input, output and target; NULL in frames that are too small */
  uint8_t *lines[VIDEO_COUNT]; /* masks of one frame */
  double *cells[VIDEO_COUNT][3]; /* of the last three frames */
} ClipScores;

/* For `total_frames` frames of this size in all. */
Status clip_scores_new(int height, int width, bool has_target, int64_t total_frames,
                       ClipScores *out, Error *error);
void clip_scores_free(ClipScores *scores);
/* Adds a clip of every video: clips[i] u8 RGB [frames,height,width,3]; clips[VIDEO_TARGET] is not
 * read without a target. */
Status clip_scores_add(ClipScores *scores, uint8_t *const *clips, int frames, Error *error);

#endif
