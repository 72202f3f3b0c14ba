/* Scores of a checkpoint on a dataset (docs/scores.md). */
#ifndef CELFORGE_TRAINER_EVAL_EVALUATE_H
#define CELFORGE_TRAINER_EVAL_EVALUATE_H

#include "trainer/config/config.h"

typedef struct EvalOptions {
  const char *checkpoint, *data, *json; /* json: NULL or a path */
  bool ema;                             /* as above, like device and threads */
  Device device;
  int threads;
  int64_t clips; /* 0: all */
  bool flow;     /* tOF and warp error as well */
} EvalOptions;
/* Scores (docs/scores.md): of the output, the untouched source, each frame translated alone. A
 * table on standard output. */
Status eval_run(const EvalOptions *options, Error *error);

#endif
