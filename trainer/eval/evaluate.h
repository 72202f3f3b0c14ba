/* Evaluates a checkpoint or a model file on a dataset (docs/scores.md). */
#ifndef CELFORGE_TRAINER_EVAL_EVALUATE_H
#define CELFORGE_TRAINER_EVAL_EVALUATE_H

#include "trainer/infer/open_model.h"

typedef struct EvalOptions {
  ModelChoice model;
  const char *data;      /* a dataset of sources, with or without targets */
  const char *cartoons;  /* a dataset with a target side to compare the style with, or NULL */
  const char *json;      /* path of a JSON report, or NULL */
  const char *inception; /* weights for FID and KID, or NULL */
  const char *lpips;     /* weights for LPIPS and tLP, or NULL */
  Device device;
  int threads;     /* 0: OMP_NUM_THREADS, or every core */
  int64_t clips;   /* evaluate the first `clips`; 0: all */
  bool flow;       /* compute tOF and warp error */
  bool classifier; /* train the two-sample classifier */
} EvalOptions;
/* Scores the output, the unchanged source and the output of single frames, and prints a table on
 * standard output. Without targets, scores that need one are missing; without targets and cartoons,
 * the classifier's, too. ERROR_USAGE if weights are given for a score that has nothing to
 * compare with. */
Status eval_run(const EvalOptions *options, Error *error);

#endif
