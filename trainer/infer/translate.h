/* Translates videos, pictures and frame folders with a trained generator. */
#ifndef CELFORGE_TRAINER_INFER_TRANSLATE_H
#define CELFORGE_TRAINER_INFER_TRANSLATE_H

#include "engine/graph/tensor.h"
#include "trainer/config/config.h"

typedef struct TranslateOptions {
  const char *checkpoint, *input, *output;
  const char *const *further; /* [further_count] more inputs, for a generator of stacked inputs */
  int further_count;
  bool ema; /* use the EMA weights, not the plain ones */
  Device device;
  DType precision;   /* compute dtype, f32 or bf16 */
  int threads;       /* 0: OMP_NUM_THREADS, or every core */
  const char *codec; /* name of an FFmpeg encoder; NULL: H.264 */
  int quality;       /* constant rate factor (CRF), 0 (best) to 63 */
} TranslateOptions;
/* Translates the input to an output of the same kind (video, picture, frame folder), frame by frame
 * in constant memory; audio and timestamps are those of the first input. STOPPED after a signal,
 * without an output. */
Status translate_run(const TranslateOptions *options, Error *error);

#endif
