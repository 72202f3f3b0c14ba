/* FID and KID of an evaluation: features of all frames are collected, then compared with those of a
 * reference. Frames are resized to 299 x 299 pixels (trainer/eval/bicubic_resize.h) and enter the
 * network as (v - 128) / 128, as in clean-fid (Parmar, Zhang, Zhu 2022). */
#ifndef CELFORGE_TRAINER_EVAL_INCEPTION_SCORES_H
#define CELFORGE_TRAINER_EVAL_INCEPTION_SCORES_H

#include "engine/backend/backend.h"
#include "trainer/eval/report.h"
#include "trainer/eval/style_test.h"

/* The number of frames below which FID is reported with a warning: fewer than features. */
enum { FID_MIN_FRAMES = 2048 };

typedef struct InceptionScores InceptionScores;
/* Errors are those of inception_new. */
Status inception_scores_new(Backend *backend, const char *path, InceptionScores **out,
                            Error *error);
void inception_scores_free(InceptionScores *scores); /* NULL is allowed */
/* Adds a frame, u8 RGB [H,W,3], to the video of `column`. The first frame of a video reserves
 * memory for at->frames. */
Status inception_scores_add(InceptionScores *scores, ReportColumn column, const uint8_t *rgb,
                            const FramePosition *at, Error *error);

typedef struct InceptionResult {
  ReportColumn reference;
  int64_t frames[REPORT_COLUMNS];                  /* 0: no such video */
  double fid[REPORT_COLUMNS], kid[REPORT_COLUMNS]; /* NaN where undefined */
} InceptionResult;
/* Compares every video with that of `reference`. Uses `threads` threads (0: OMP_NUM_THREADS, or
 * every core); the distances do not depend on their number. */
Status inception_scores_run(InceptionScores *scores, ReportColumn reference, int threads,
                            InceptionResult *out, Error *error);

#endif
