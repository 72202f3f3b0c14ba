/* The cartoons that the style of an evaluation is compared with: the target side of a dataset. */
#ifndef CELFORGE_TRAINER_EVAL_CARTOONS_H
#define CELFORGE_TRAINER_EVAL_CARTOONS_H

#include "data/dataset/dataset.h"
#include "trainer/eval/inception_scores.h"
#include "trainer/eval/style_test.h"

enum { CARTOON_MAX_CLIPS = 256 };

/* Opens the dataset `folder`. ERROR_USAGE if its clips have no target side. */
Status cartoons_open(const char *folder, Dataset **out, Error *error);

typedef struct CartoonShares {
  int64_t frames;
  double lines, flats; /* shares of pixels, in [0, 1] */
} CartoonShares;
/* Reads at most CARTOON_MAX_CLIPS clips, spread evenly; adds their frames to `test` and `inception`
 * (each may be NULL). */
Status cartoons_measure(const Dataset *cartoons, StyleTest *test, InceptionScores *inception,
                        CartoonShares *out, Error *error);

#endif
