/* The subcommands, without their command lines: what `celforge NAME` does once options are known.
 */
#ifndef CELFORGE_TRAINER_COMMANDS_H
#define CELFORGE_TRAINER_COMMANDS_H

#include "trainer/config.h"

typedef struct TrainOptions {
  const char *resume; /* "none", "auto", or a path */
  bool plan;          /* print the plan and stop */
} TrainOptions;
/* The training run (trainer/train.c). STOPPED after a signal, with a checkpoint saved. argc and
 * argv are what MPI wants to see. */
Status train_run(const Config *config, const TrainOptions *options, int *argc, char ***argv,
                 Error *error);

typedef struct TranslateOptions {
  const char *checkpoint, *input, *output;
  bool ema; /* default true */
  int threads;
  const char *codec; /* NULL: H.264 */
  int quality;
} TranslateOptions;
/* Video, picture or frame folder to the same; frame by frame, constant memory, sound and timing
 * kept. */
Status translate_run(const TranslateOptions *options, Error *error);

typedef struct EvalOptions {
  const char *checkpoint, *data, *json; /* json: NULL or a path */
  bool ema;
  int threads;
  int64_t clips; /* 0: all */
} EvalOptions;
/* Scores against the targets: the output, the untouched source, each frame translated alone. A
 * table on standard output. */
Status eval_run(const EvalOptions *options, Error *error);

/* Prints what PATH is: a shard, a dataset, a checkpoint, a run. */
Status info_run(const char *path, Error *error);

#endif
