/* The rows of an evaluation's report, from the sums of its scores. */
#ifndef CELFORGE_TRAINER_EVAL_SCORE_ROWS_H
#define CELFORGE_TRAINER_EVAL_SCORE_ROWS_H

#include "trainer/eval/cartoons.h"
#include "trainer/eval/clip_scores.h"
#include "trainer/eval/inception_scores.h"
#include "trainer/eval/lpips_scores.h"
#include "trainer/eval/report.h"
#include "trainer/eval/style_test.h"
#include "trainer/eval/temporal_metrics.h"

typedef struct ScoreInputs {
  const ClipScores *clips;
  const TemporalMetrics *motion;    /* NULL: no optical flow */
  const CartoonShares *cartoons;    /* NULL: no dataset of cartoons */
  const StyleTestResult *style;     /* NULL: no classifier. Candidates are videos, by number. */
  const InceptionResult *inception; /* NULL: no FID and KID */
  const LpipsScores *lpips;         /* NULL: no LPIPS and tLP */
  int threads;
} ScoreInputs;

/* Adds all scores to `report`; computes the sliced Wasserstein distances. */
Status score_rows_add(const ScoreInputs *inputs, Report *report, Error *error);

#endif
