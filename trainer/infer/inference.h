/* Runs the generator frame by frame. Temporal layers keep their state from frame to frame, so the
 * output equals that of the whole clip at once, in constant memory. */
#ifndef CELFORGE_TRAINER_INFER_INFERENCE_H
#define CELFORGE_TRAINER_INFER_INFERENCE_H

#include "checkpoints/checkpoint.h"
#include "engine/program/program.h"
#include "trainer/gan/networks.h"
#include "trainer/infer/model_file.h"

typedef struct Inference Inference;

/* For a GAN in training: reads its weights (averaged or plain) at every frame. `config` is copied;
 * `parameters` and `backend` must outlive the result. */
Inference *inference_from_parameters(const Config *config, Parameters *parameters,
                                     ParameterSource source, Backend *backend);
/* For a checkpoint, which may be closed afterwards: its averaged (EMA) weights, or the plain ones.
 * `precision` is the compute dtype, DTYPE_F32 or DTYPE_BF16; ERROR_USAGE if the backend does not
 * support it. */
Status inference_from_checkpoint(const Checkpoint *checkpoint, bool ema, DType precision,
                                 Backend *backend, Inference **out, Error *error);
/* The same for a model file, whose F16 weights become f32 (or bf16) without further change.
 * ERROR_DATA if the tensors do not fit the model's config. */
Status inference_from_model_file(const ModelFile *file, DType precision, Backend *backend,
                                 Inference **out, Error *error);
void inference_free(Inference *inference); /* NULL is allowed */
/* Where the weights come from: the checkpoint's folder or the model file, the training steps behind
 * them, and whether they are EMA weights. NULL, 0 and false for a GAN in training. */
const char *inference_path(const Inference *inference);
int64_t inference_step(const Inference *inference);
bool inference_is_ema(const Inference *inference);
/* Returns the ratio of the output's size to the source's. */
int64_t inference_scale(const Inference *inference);
/* Returns the channels of a source frame: 3 for each stacked input. */
int64_t inference_source_channels(const Inference *inference);
/* The generator's config and weights, owned by the inference. */
const Config *inference_config(const Inference *inference);
Parameters *inference_parameters(Inference *inference);

typedef struct InferenceShape {
  int64_t source_height, source_width, source_channels;
  int64_t height, width; /* of the output; a smaller source is upsampled to it */
} InferenceShape;

/* Begins a clip: resets the state of the temporal layers. Plans the program unless the last clip
 * had the same shape. ERROR_USAGE if the frames are too small for the generator. */
Status inference_stream_begin(Inference *inference, const InferenceShape *shape, Error *error);
/* Translates the next frame: `source` u8 [source_height, source_width, source_channels], `output`
 * f32 [height, width, 3] in about [-1, 1], not clamped. */
Status inference_stream_frame(Inference *inference, const uint8_t *source, float *output,
                              Error *error);
/* Returns the cost of one frame of the clip that was begun. */
ProgramCost inference_stream_cost(const Inference *inference);

/* Converts [-1, 1] to 0..255, clamped and rounded to nearest. */
void frames_to_u8(const float *frames, size_t count, uint8_t *out);

#endif
