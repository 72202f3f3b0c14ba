/* LPIPS and tLP of an evaluation. LPIPS is the mean distance of frames to the target's. tLP (Chu,
 * Xie, Mayer, Leal-Taixe, Thuerey: "Learning Temporal Coherence via Self-Supervision for GAN-based
 * Video Generation", 2020) compares the distances of neighbouring frames: the mean of
 * |LPIPS(o_t-1, o_t) - LPIPS(y_t-1, y_t)|, video o against target y. */
#ifndef CELFORGE_TRAINER_EVAL_LPIPS_SCORES_H
#define CELFORGE_TRAINER_EVAL_LPIPS_SCORES_H

#include "engine/backend/backend.h"
#include "trainer/eval/clip_scores.h"

typedef struct LpipsScores LpipsScores;
/* For videos of height x width pixels, with a target. Errors are those of lpips_new. */
Status lpips_scores_new(Backend *backend, const char *path, int height, int width,
                        LpipsScores **out, Error *error);
void lpips_scores_free(LpipsScores *scores); /* NULL is allowed */
/* Adds a clip of every video: clips[i] u8 RGB [frames,H,W,3]. */
Status lpips_scores_add(LpipsScores *scores, uint8_t *const *clips, int frames, Error *error);

const char *lpips_scores_network(const LpipsScores *scores); /* "AlexNet", "VGG16" */
/* Of a candidate; NaN without frames, or without neighbouring frames. */
double lpips_scores_lpips(const LpipsScores *scores, Video video);
double lpips_scores_tlp(const LpipsScores *scores, Video video);

#endif
