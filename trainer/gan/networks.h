/* The generator and the discriminators, as functions that append them to a graph.
 *
 * Frames are [N,T,H,W,C] in [-1, 1]. Group norm has groups of 16 channels, or one group of all
 * channels where 16 does not divide them; leaky ReLU has a slope of 0.2. Convolutions are
 * initialised from N(0, 2 / fan-in) (He, Zhang, Ren, Sun 2015). celnet begins near the identity:
 * its head, and without norms the last convolution of each residual block, have a tenth of that
 * deviation; for its tone curve see trainer/gan/tone_curve.h. pix2pixhd is initialised as
 * published.
 */
#ifndef CELFORGE_TRAINER_GAN_NETWORKS_H
#define CELFORGE_TRAINER_GAN_NETWORKS_H

#include "engine/parameters/parameters.h"
#include "trainer/config/config.h"

/* The recurrent state of the temporal layers when a clip is translated frame by frame. */
typedef struct StreamState {
  int count, capacity;
  /* One per temporal layer, in the compute dtype: the previous two input frames [1,2,H,W,C] of a
   * causal convolution, or the hidden state [1,1,H,W,C] of a GRU. Zeros before the first frame. */
  Buffer **buffers;
} StreamState;

Status stream_state_allocate(StreamState *state, Backend *backend, Error *error);
Status stream_state_reset(StreamState *state, Error *error); /* sets all buffers to zero */
void stream_state_free(StreamState *state);

/* Converts frames u8 [N,T,H,W,C] to [-1, 1] in `dtype`. */
Value frames_normalize(Graph *graph, Value frames, DType dtype);

/* Returns channel `index` of frames, [N,T,H,W,1]. */
Value frames_channel(Graph *graph, Value frames, int index);

/* Upsamples bilinearly to `height` x `width`; returns `frames` itself if it has that size. */
Value frames_upsample(Graph *graph, Value frames, int64_t height, int64_t width);

/* Appends the generator. `source` is [N,T,H,W,3k], k stacked inputs, in the compute dtype and at
 * the output's size; `noise` [N,T,H,W,noise_channels] f32, or NO_VALUE without noise channels.
 * Returns [N,T,H,W,3] in the dtype of `source`. Sides that are not multiples of generator_multiple
 * are padded by reflection, and the output is cropped.
 *
 * model.generator: pix2pixhd is described in trainer/gan/pix2pixhd.h. celnet is a causal
 * encoder-decoder with residual blocks at a quarter of the resolution, and model.refinements of
 * them at full resolution behind the decoder; its output is added to the first three source
 * channels. model.temporal: conv3d uses causal 3-tap convolutions over time in the stem and the
 * blocks; convgru puts a convolutional GRU behind the encoder (Ballas, Yao, Pal, Courville 2016),
 * with a skip connection around it:
 *
 *   z = sigmoid(Wz x + Uz h);  r = sigmoid(Wr x + Ur h);  n = tanh(Wn x + r * (Un h))
 *   h = n + z * (h - n);       y = x + h                  (order of the gates: z, r, n)
 *
 * With `stream` not NULL, N and T must be 1, and temporal layers read and write their state in its
 * buffers, which the first build describes; allocate them before the program runs. */
Value generator_build(Graph *graph, Parameters *parameters, ParameterSource weights,
                      const ModelConfig *config, Value source, Value noise, StreamState *stream);

/* Features of the generator's encoder, on which PatchNCE compares source and output: the network's
 * input, the activations behind the stem and both downsamplings, and those in the middle of the
 * residual blocks; each [N,T,h,w,C] in the compute dtype. */
enum { GENERATOR_FEATURES = 5 };
typedef struct GeneratorFeatures {
  Value layers[GENERATOR_FEATURES];
} GeneratorFeatures;

/* generator_build for whole clips that also returns the features of `source`. celnet only. */
Value generator_build_with_features(Graph *graph, Parameters *parameters, const ModelConfig *config,
                                    Value source, Value noise, GeneratorFeatures *features);
/* Appends celnet's encoder alone, up to the middle of the residual blocks. */
void generator_encode(Graph *graph, Parameters *parameters, const ModelConfig *config, Value source,
                      Value noise, GeneratorFeatures *features);

/* The input channels of the generator's first layer beside those of the source. */
int64_t generator_extra_channels(const ModelConfig *config);

/* The generator's total downsampling factor: a side of that length is one pixel at the lowest
 * resolution. Sides of GENERATOR_MIN_MULTIPLES times that are large enough for all its paddings. */
int64_t generator_multiple(const ModelConfig *config);
enum { GENERATOR_MIN_MULTIPLES = 8 };

enum { DISCRIMINATOR_MAX_HEADS = 7, DISCRIMINATOR_MAX_FEATURES = 8 };

/* The output of one PatchGAN: a logit per patch, and the activations of the layers before. */
typedef struct DiscriminatorOutput {
  Value logits;
  int feature_count;
  Value features[DISCRIMINATOR_MAX_FEATURES];
} DiscriminatorOutput;

typedef struct DiscriminatorOutputs {
  int count;
  DiscriminatorOutput heads[DISCRIMINATOR_MAX_HEADS];
  int image_count; /* the first `image_count` heads see single frames, the rest see clips */
} DiscriminatorOutputs;

/* The input of the discriminators, in the compute dtype. */
typedef struct DiscriminatorInput {
  Value candidate;    /* [N,T,H,W,3]: a target or an output */
  Value source;       /* [N,T,H,W,3k], concatenated to the candidate; NO_VALUE: not conditional */
  Value grey_weights; /* [N,1,1,1,3] f32, see frames_grey; NO_VALUE without model.grey_view */
} DiscriminatorInput;

/* Appends the PatchGANs (Isola et al. 2017; multi-scale: Wang et al. 2018) on frames and on clips.
 * Views (White-box Cartoonization: Wang, Yu 2020) are further image discriminators, of the first
 * scale: model.grey_view on frames_grey of the candidate, model.smooth_view on the candidate after
 * a guided filter (trainer/gan/guided_filter.h) of radius 5 and epsilon 0.2. With
 * model.spectral_norm the caller has attached it to `parameters`
 * (engine/parameters/spectral_norm.h). */
void discriminators_build(Graph *graph, Parameters *parameters, const ModelConfig *config,
                          const DiscriminatorInput *input, DiscriminatorOutputs *outputs);

/* Returns [N,T,H,W,1], the sum of the channels of `frames` [N,T,H,W,3] weighted per clip with
 * `weights` [N,1,1,1,3] f32. */
Value frames_grey(Graph *graph, Value frames, Value weights);
#endif
