/* Options shared by the commands that use a trained generator. */
#ifndef CELFORGE_TRAINER_CLI_MODEL_OPTIONS_H
#define CELFORGE_TRAINER_CLI_MODEL_OPTIONS_H

#include "trainer/cli/options.h"

/* The options that choose a checkpoint or a model file, for commands that take both; values of
 * ModelChoice (trainer/infer/open_model.h). */
#define MODEL_CHOICE_OPTIONS(Values)                                                               \
  {"model", OPTION_TEXT, offsetof(Values, model), .value = "NAME",                                 \
   .help = "installed model (see celforge models), or path of a model file"},                      \
      {"checkpoint", OPTION_TEXT, offsetof(Values, checkpoint), .value = "PATH",                   \
       .help = "run folder (its newest checkpoint) or checkpoint folder, instead of --model"},     \
      {"allow-older", OPTION_FLAG, offsetof(Values, allow_older),                                  \
       .help = "with --checkpoint RUN: if the newest checkpoint is damaged, use an older one"},    \
  {                                                                                                \
    "plain-weights", OPTION_FLAG, offsetof(Values, plain),                                         \
        .help = "with --checkpoint: use the plain weights instead of the averaged (EMA) ones"      \
  }

/* The options that choose the device. */
#define DEVICE_OPTIONS(Values)                                                                     \
  {"device",                                                                                       \
   OPTION_TEXT,                                                                                    \
   offsetof(Values, device),                                                                       \
   .value = "DEVICE",                                                                              \
   .default_text = "auto",                                                                         \
   .help = "auto, cpu or cuda"},                                                                   \
  {                                                                                                \
    "threads", OPTION_NUMBER, offsetof(Values, threads),                                           \
        .maximum = 1024, .value = "N", .default_text = "0",                                        \
        .help = "compute threads; 0: OMP_NUM_THREADS, or all processors"                           \
  }

#endif
