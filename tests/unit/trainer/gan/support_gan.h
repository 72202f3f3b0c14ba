/* A small GAN on the CPU with two synthetic clips, for tests of whole training steps. All functions
 * fail the test on an error. */
#ifndef CELFORGE_TESTS_UNIT_TRAINER_GAN_SUPPORT_GAN_H
#define CELFORGE_TESTS_UNIT_TRAINER_GAN_SUPPORT_GAN_H

#include "trainer/gan/gan.h"

enum { FRAMES = 3, SIDE = 32, PIXELS = SIDE * SIDE, CLIP_BYTES = FRAMES * PIXELS * 3, CLIPS = 2 };

/* Everything that unpaired training has but the losses on VGG19, which need a file of weights. */
#define UNPAIRED                                                                                   \
  "data.target_path=cartoons", "model.conditional=false", "model.image_scales=1",                  \
      "model.grey_view=true", "model.smooth_view=true", "model.blocks=2", "model.refinements=1",   \
      "model.tones=8", "loss.l1=0", "loss.temporal=0", "loss.patch_nce=1",                         \
      "loss.patch_nce_flip=true", "loss.color=8", "loss.identity=2", "loss.edge_negatives=0.5",    \
      "loss.motion_consistency=2", "loss.flow_consistency=2", "augment.mode=fixed",                \
      "augment.probability=0.5"

extern Backend *backend;
extern Error error;

/* Set-up and tear-down of a group of tests: open and close `backend`. */
int open_backend(void **state);
int close_backend(void **state);

/* A config of small networks with these changes, "key=value", up to NULL. */
Config small_config(const char *const *assignments);
/* An initialised GAN for samples of FRAMES frames of SIDE x SIDE pixels. */
Gan *make_gan(const Config *config, int micro_batches);

/* Two clips: a smooth moving pattern, and the same pattern in two tones as the target. */
void make_clips(uint8_t *source, uint8_t *target);
/* The batch of the clips from `first` on, with what the loader adds to them for unpaired training:
 * targets whose neighbouring pixels are averaged, and a steady motion that is reliable in the left
 * half of the frames. Stays valid until the next test. */
MicroBatch batch_of(const uint8_t *source, const uint8_t *target, int first,
                    const int64_t *samples);

/* Runs step `number` with the schedule's controls. */
void run_step(Gan *gan, int64_t number, const MicroBatch *batches);
StepResult result_of(Gan *gan, int ago);
/* Fails unless every metric that the step computed is finite, and no other is. */
void check_metrics(const StepResult *result);

/* The elements of an f32 buffer. The caller frees them. */
float *download(const Buffer *buffer);
/* Fails if an element of the buffers differs by more than `tolerance`. */
void assert_close(const Buffer *a, const Buffer *b, double tolerance);

/* Three steps on both clips in one micro-batch, and in two: metrics and moments must agree. */
void compare_micro_batches(const Config *whole, const Config *halves);
/* Two steps with and without train.recompute: equal bytes, an arena of at most `share` of the size.
 */
void compare_recompute(const Config *config, double share);

#endif
