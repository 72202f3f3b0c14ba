/* Translates videos, pictures and frame folders with a trained generator. */
#ifndef CELFORGE_TRAINER_INFER_TRANSLATE_H
#define CELFORGE_TRAINER_INFER_TRANSLATE_H

#include "engine/graph/tensor.h"
#include "trainer/config/config.h"

typedef struct TranslateOptions {
  const char *checkpoint, *input, *output;
  const char *const *further; /* [further_count] inputs, of a model that reads several */
  int further_count;
  bool ema; /* the averaged weights, else the plain ones */
  Device device;
  DType precision;   /* computed in: f32 or bf16 */
  int threads;       /* 0: OMP_NUM_THREADS, or every core */
  const char *codec; /* FFmpeg's name of an encoder; NULL: H.264 */
  int quality;       /* constant rate factor, 0 (best) to 63 */
} TranslateOptions;
/* Video, picture or frame folder to the same; frame by frame, constant memory, sound and timing
 * (the first input's) kept. STOPPED after a signal, with nothing left. */
Status translate_run(const TranslateOptions *options, Error *error);

#endif
