/* Patches of frames for the two-sample classifier (trainer/eval/style_classifier.h). */
#ifndef CELFORGE_TRAINER_EVAL_STYLE_PATCHES_H
#define CELFORGE_TRAINER_EVAL_STYLE_PATCHES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/random.h"

/* Side in pixels of a patch: 64, less in smaller frames, a multiple of 8; 0 if a side of the frame
 * is below 16. */
enum { STYLE_PATCH_SIDE = 64 };
int style_patch_side(int height, int width);

/* Square u8 RGB patches [count,side,side,3] of one size. */
typedef struct StylePatches {
  int side;
  int64_t count, capacity;
  uint8_t *pixels;
} StylePatches;
Status style_patches_new(int side, int64_t capacity, StylePatches *out, Error *error);
void style_patches_free(StylePatches *patches);
/* Adds up to `count` patches of a frame at random positions, fewer if the capacity is reached. The
 * stream (seed, number) chooses the positions: frames with equal numbers are cut at the same ones.
 * Positions without content (luma deviation below 4 grey levels) are replaced, up to 8 times. */
void style_patches_add(StylePatches *patches, const uint8_t *rgb, int height, int width, int count,
                       int64_t number);

/* Copies a patch to `out`, changed at random so that a classifier cannot decide by colour,
 * sharpness or noise alone: flips and quarter turns, sharpening or blur, brightness, saturation,
 * gains per channel, and white noise. Contrast is multiplied by exp(-0.6) to exp(most_contrast). */
void style_patch_jitter(const uint8_t *patch, int side, double most_contrast, Random *random,
                        uint8_t *out);

#endif
