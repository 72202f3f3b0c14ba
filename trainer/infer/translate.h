/* Translates videos, pictures and frame folders with a trained generator. */
#ifndef CELFORGE_TRAINER_INFER_TRANSLATE_H
#define CELFORGE_TRAINER_INFER_TRANSLATE_H

#include "trainer/infer/open_model.h"

typedef struct TranslateOptions {
  ModelChoice model;
  ModelDevice device;
  const char *input, *output;
  const char *const *further; /* [further_count] more inputs, for a generator of stacked inputs */
  int further_count;
  const char *codec; /* name of an FFmpeg encoder; NULL: H.264 */
  int quality;       /* constant rate factor (CRF), 0 (best) to 63 */
} TranslateOptions;
/* Translates the input to an output of the same kind (video, picture, frame folder), frame by frame
 * in constant memory; audio and timestamps are those of the first input. STOPPED after a signal,
 * without an output. */
Status translate_run(const TranslateOptions *options, Error *error);

#endif
