/* The generator at work: a whole clip at once, or frame by frame with cached state. Both give the
 * same pixels. Programs are planned for a size on first use and kept. */
#ifndef CELFORGE_TRAINER_INFER_INFERENCE_H
#define CELFORGE_TRAINER_INFER_INFERENCE_H

#include "checkpoints/checkpoint.h"
#include "engine/program/program.h"
#include "trainer/gan/networks.h"

typedef struct Inference Inference;

/* From a model in training: reads its parameters at every call (EMA or master). `config` is copied,
 * parameters and backend outlive it. */
Inference *inference_of_parameters(const Config *config, Parameters *parameters,
                                   ParameterSource source, Backend *backend);
/* From a checkpoint, which may be closed afterwards. `ema` false: the plain weights. `precision` is
 * what is computed in, DTYPE_F32 or DTYPE_BF16: ERROR_USAGE where the backend has none. */
Status inference_of_checkpoint(const Checkpoint *checkpoint, bool ema, DType precision,
                               Backend *backend, Inference **out, Error *error);
void inference_free(Inference *inference);
/* Of a checkpoint's model: how many times larger than its source the output is. */
int64_t inference_scale(const Inference *inference);
/* What the generator reads: 3 for each stacked input. */
int64_t inference_source_channels(const Inference *inference);
/* The generator's config and weights, the inference's own. */
const Config *inference_config(const Inference *inference);
Parameters *inference_parameters(Inference *inference);

typedef struct InferenceShape {
  int64_t frames, source_height, source_width, source_channels;
  int64_t height, width; /* of the output; a smaller source is enlarged */
} InferenceShape;
/* `source` u8 [frames, source_height, source_width, source_channels], `output` f32 [frames, height,
 * width, 3] in about [-1, 1] (not clamped). `first_frame` keys the noise, where the model has any.
 */
Status inference_clip(Inference *inference, const InferenceShape *shape, const uint8_t *source,
                      int64_t first_frame, float *output, Error *error);

/* The same frame by frame: shape->frames is 1. inference_stream_begin forgets the frames before. */
Status inference_stream_begin(Inference *inference, const InferenceShape *shape, Error *error);
Status inference_stream_frame(Inference *inference, const uint8_t *source, float *output,
                              Error *error);
/* Of a frame of the stream that was begun. */
ProgramCost inference_stream_cost(const Inference *inference);

/* [-1, 1] to 0..255, clamped, rounded to nearest. */
void frames_to_u8(const float *frames, size_t count, uint8_t *out);

#endif
