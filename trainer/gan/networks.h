/* The networks, as functions that append them to a graph.
 *
 * Frames are NTHWC in [-1, 1]. Group norms have groups of 16 channels, or one of all where 16 does
 * not divide them; leaky ReLUs a slope of 0.2. Convolutions are initialised from N(0, 2 / fan-in)
 * (He, Zhang, Ren, Sun 2015), celnet's head at a tenth of that, so training starts near the
 * identity; pix2pixhd's as published. */
#ifndef CELFORGE_TRAINER_GAN_NETWORKS_H
#define CELFORGE_TRAINER_GAN_NETWORKS_H

#include "engine/parameters/parameters.h"
#include "trainer/config/config.h"

/* What layers remember of the frames before, for translating frame by frame. */
typedef struct StreamState {
  int count, capacity;
  /* In the dtype computed in: of a temporal convolution the two frames that it saw, [1,2,H,W,C], of
   * a recurrent layer its state, [1,1,H,W,C]. Zeros: before the first frame. */
  Buffer **buffers;
} StreamState;

Status stream_state_allocate(StreamState *state, Backend *backend, Error *error);
Status stream_state_reset(StreamState *state, Error *error); /* to before the first frame */
void stream_state_free(StreamState *state);

/* Frames u8 [N,T,H,W,C] to [-1, 1] in `dtype`. */
Value frames_normalize(Graph *graph, Value frames, DType dtype);

/* Bilinear to the target's size; the same value where it has that size already. */
Value frames_enlarge(Graph *graph, Value frames, int64_t height, int64_t width);

/* `film` is [N,T,H,W,3k] in the dtype to compute in, at the output's size; `noise`
 * [N,T,H,W,noise_channels] f32, or NO_VALUE without noise channels. Returns [N,T,H,W,3] in film's
 * dtype. Sides that generator_multiple does not divide are reflected at their ends, and cut.
 *
 * model.generator: pix2pixhd is described in trainer/gan/pix2pixhd.h. celnet is a causal encoder
 * and decoder with residual blocks between, whose output is added to the first three source
 * channels. Time enters it by model.temporal: conv3d, causal 3-tap convolutions in the stem and the
 * blocks; or convgru, a convolutional GRU behind the encoder (Ballas, Yao, Pal, Courville 2016),
 * whose state is added to what it reads:
 *
 *   z = sigmoid(Wz x + Uz h);  r = sigmoid(Wr x + Ur h);  n = tanh(Wn x + r * (Un h))
 *   h = n + z * (h - n);       y = x + h                  (the gates' order: z, r, n)
 *
 * With `stream` not NULL, N and T are 1 and layers take what they remember from it (and leave it
 * there); its buffers are described on the first build and must be allocated before the program
 * runs. */
Value generator_build(Graph *graph, Parameters *parameters, ParameterSource source,
                      const ModelConfig *config, Value film, Value noise, StreamState *stream);

/* What the generator halves sides by in all: at the lowest resolution a side of that length is one
 * pixel. A picture of GENERATOR_ROOM times that has room for all its paddings. */
int64_t generator_multiple(const ModelConfig *config);
enum { GENERATOR_ROOM = 8 };

enum { DISCRIMINATOR_MAX_HEADS = 5, DISCRIMINATOR_MAX_FEATURES = 8 };

/* One head: the logits of each patch and the activations before them. */
typedef struct Verdict {
  Value logits;
  int feature_count;
  Value features[DISCRIMINATOR_MAX_FEATURES];
} Verdict;

typedef struct Verdicts {
  int count;
  Verdict heads[DISCRIMINATOR_MAX_HEADS];
  int image_count; /* the first so many are scales of the image discriminator; the rest is video */
} Verdicts;

/* Conditional PatchGANs (Isola et al. 2017; multi-scale: Wang et al. 2018) on frames and on the
 * clip: `pair` [N,T,H,W,3k+3] is source and candidate along the channels. With model.spectral_norm
 * the caller has attached it to `parameters` (engine/parameters/spectral_norm.h). */
void discriminators_build(Graph *graph, Parameters *parameters, const ModelConfig *config,
                          Value pair, Verdicts *verdicts);

#endif
