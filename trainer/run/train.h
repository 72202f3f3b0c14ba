/* The training run, from an open config to its last checkpoint. */
#ifndef CELFORGE_TRAINER_RUN_TRAIN_H
#define CELFORGE_TRAINER_RUN_TRAIN_H

#include "trainer/config/config.h"

typedef struct TrainOptions {
  const char *resume; /* "none", "auto", or a path */
  bool plan;          /* print the plan and stop */
} TrainOptions;
/* The training run (trainer/run/loop.c). STOPPED after a signal, with a checkpoint saved. argc and
 * argv are what MPI wants to see. */
Status train_run(const Config *config, const TrainOptions *options, int *argc, char ***argv,
                 Error *error);

#endif
