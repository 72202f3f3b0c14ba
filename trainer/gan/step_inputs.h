/* The random numbers that a step needs beside its clips: noise, augmentation, synthetic motion ...
 * Each is a buffer that is filled on the host before the step, from Philox keyed by (run.seed,
 * number of the sample), so that it depends neither on the rank nor on the world size. */
#ifndef CELFORGE_TRAINER_GAN_STEP_INPUTS_H
#define CELFORGE_TRAINER_GAN_STEP_INPUTS_H

#include "engine/graph/graph.h"
#include "trainer/gan/gan.h"

/* The parts of a discriminator's batch, each with draws of its own. */
typedef enum Part { PART_REAL, PART_FAKE, PART_EDGES, PART_COUNT } Part;

typedef enum StepInput {
  INPUT_NOISE,         /* [N,T,H,W,noise_channels]: Gaussian noise of the generator */
  INPUT_INTERPOLATION, /* [N,1,1,1,1]: weights of the gradient penalty, uniform in [0, 1) */
  INPUT_AUGMENTATION,  /* [PART_COUNT][N,1,1,1,DRAW_VALUES]: trainer/gan/diff_augment.h */
  INPUT_GREY,          /* [PART_COUNT][N,1,1,1,3]: weights of the grey view */
  INPUT_MOTION,        /* [N,1,H,W,2]: flow of loss.motion_consistency, in pixels */
  INPUT_MOTION_NOISE,  /* [N,1,H,W,1]: noise that it adds to the moved source */
  INPUT_MIRROR,        /* [N,1,1,1,1]: loss.patch_nce_flip, 1 or 0 with probability 1/2 */
  INPUT_COUNT,
} StepInput;

/* Describes the buffers. Buffers that this config does not need are empty. */
void step_inputs_describe(const Gan *gan, Buffer inputs[INPUT_COUNT]);
/* Fills and uploads the buffers for one micro-batch; `samples` are the global numbers of its
 * clips, `augment_probability` is that of INPUT_AUGMENTATION. */
Status step_inputs_upload(Gan *gan, const int64_t *samples, double augment_probability,
                          Error *error);

#endif
