/* Opens the generator that a command line names, from a checkpoint or from a model file. */
#ifndef CELFORGE_TRAINER_INFER_OPEN_MODEL_H
#define CELFORGE_TRAINER_INFER_OPEN_MODEL_H

#include "trainer/infer/inference.h"

typedef struct ModelChoice {
  const char *checkpoint; /* run or checkpoint folder, or NULL */
  const char *model;      /* model file, or name of an installed model (model_search.h), or NULL */
  bool allow_older;       /* if the newest checkpoint of a run is damaged, use an older one */
  bool ema;               /* the checkpoint's EMA weights, not the plain ones */
} ModelChoice;

typedef struct ModelDevice {
  Device device;
  int threads;     /* 0: OMP_NUM_THREADS, or every core */
  DType precision; /* compute dtype, f32 or bf16 */
} ModelDevice;

/* Fails with ERROR_USAGE unless exactly one of checkpoint and model is given, and plain weights
 * and older checkpoints only of a checkpoint; the message lists the installed models. */
Status model_choice_check(const ModelChoice *choice, Error *error);

/* Checks the choice, finds the model, opens the device and loads the weights. Free *out with
 * inference_free, then *backend with its own free. */
Status inference_open_model(const ModelChoice *choice, const ModelDevice *device, Backend **backend,
                            Inference **out, Error *error);

#endif
