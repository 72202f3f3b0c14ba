/* A training run, from a loaded config to its last checkpoint. */
#ifndef CELFORGE_TRAINER_RUN_TRAIN_H
#define CELFORGE_TRAINER_RUN_TRAIN_H

#include "trainer/config/config.h"

typedef struct TrainOptions {
  const char *resume;           /* "none", "auto", or a path */
  bool plan;                    /* print the execution plan and return */
  const ConfigSources *sources; /* where the config's keys were set, for errors; or NULL */
} TrainOptions;

/* Runs the training; all ranks call it (trainer/run/loop.c). argc and argv are those of main,
 * passed on to MPI. STOPPED after a signal, with a checkpoint saved; other errors as in
 * base/error.h, the same on every rank or reported before the others are aborted. */
Status train_run(const Config *config, const TrainOptions *options, int *argc, char ***argv,
                 Error *error);

#endif
