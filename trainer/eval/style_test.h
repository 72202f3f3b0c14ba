/* The classifier two-sample score of an evaluation: patches of sources, cartoons and candidates are
 * collected frame by frame, then the classifier (trainer/eval/style_classifier.h) is trained and
 * asked.
 *
 * A patch is taken for cartoon if its logit is above a threshold: 0, or what 5 % of the patches of
 * held-out sources exceed, if that is more. So a source does not count as a
 * cartoon only because the classifier was not trained on its scene. Every second of these patches
 * sets the threshold, the others are reported.
 *
 * The first and the last quarter of the frames of each side train the classifier; it is tested on
 * the half between, so that it has seen none of the frames that it is asked about, and joined
 * videos are on both sides of the split. Candidates come from the same half. */
#ifndef CELFORGE_TRAINER_EVAL_STYLE_TEST_H
#define CELFORGE_TRAINER_EVAL_STYLE_TEST_H

#include "engine/backend/backend.h"
#include "trainer/eval/style_patches.h"

enum {
  STYLE_TRAIN_PATCHES = 4096, /* of each class, at most */
  STYLE_TEST_PATCHES = 1024,  /* of each video, at most */
  STYLE_MAX_CANDIDATES = 4,
};

/* The frames of one video in order: its size, its number of frames, and which one is added. */
typedef struct FramePosition {
  int height, width;
  int64_t index, frames;
} FramePosition;

typedef struct StyleTest StyleTest;
/* `side` is the patches' (style_patch_side, of the smallest frames), above 0; `candidates` at most
 * STYLE_MAX_CANDIDATES. */
Status style_test_new(int side, int candidates, StyleTest **out, Error *error);
void style_test_free(StyleTest *test); /* NULL is allowed */
/* Each adds patches of a frame, u8 RGB [H,W,3]; frames that are not used are skipped. */
void style_test_add_source(StyleTest *test, const uint8_t *rgb, const FramePosition *at);
void style_test_add_cartoon(StyleTest *test, const uint8_t *rgb, const FramePosition *at);
void style_test_add_candidate(StyleTest *test, int candidate, const uint8_t *rgb,
                              const FramePosition *at);
typedef struct StyleTestResult {
  bool trained;     /* false if a side has fewer than four frames: all else is NaN */
  double accuracy;  /* mean over both classes of the share of test patches recognised */
  double threshold; /* of the logit */
  double source, cartoons, candidates[STYLE_MAX_CANDIDATES]; /* shares taken for cartoon */
} StyleTestResult;
/* `threads` prepare the patches; 0: OMP_NUM_THREADS, or every core. */
Status style_test_run(StyleTest *test, Backend *backend, int threads, StyleTestResult *out,
                      Error *error);

#endif
