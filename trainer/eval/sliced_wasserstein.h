/* Sliced Wasserstein distance between the Laplacian-pyramid patches of two sets of frames (Karras,
 * Aila, Laine, Lehtinen: "Progressive Growing of GANs for Improved Quality, Stability, and
 * Variation", ICLR 2018, section 5; Rabin, Peyre, Delon, Bernot 2011).
 *
 *   pyramid     Burt, Adelson 1983: binomial 5 x 5 filter, borders mirrored without repeating the
 *               edge, odd sides rounded up; levels down to a smaller side of at least 16 pixels, of
 *               which the last is the low-pass image. Values 0 to 255.
 *   descriptor  7 x 7 pixels x 3 channels; SWD_PATCHES per frame and level, at random positions.
 *               Each channel is normalised to mean 0 and deviation 1 over its set and level.
 *   distance    mean over SWD_DIRECTIONS random unit vectors of the mean absolute difference of the
 *               sorted projections, times 1000.
 *
 * Differences to the paper: 128 patches of each of at most SWD_MAX_FRAMES frames (16384 images
 * there), and sets that are compared use the same positions, so that equal sets have distance 0.
 * Positions and directions are Philox numbers of fixed seeds. */
#ifndef CELFORGE_TRAINER_EVAL_SLICED_WASSERSTEIN_H
#define CELFORGE_TRAINER_EVAL_SLICED_WASSERSTEIN_H

#include <stdint.h>

#include "base/error.h"

enum {
  SWD_PATCH = 7,
  SWD_PATCHES = 128,
  SWD_DIRECTIONS = 512,
  SWD_MAX_FRAMES = 128,
  SWD_MIN_SIDE = 16,
  SWD_MAX_LEVELS = 12,
};

/* The descriptors of one set of frames of one size. */
typedef struct PatchSet PatchSet;
/* For at most `frames` frames. ERROR_INTERNAL if memory is short. */
Status patch_set_new(int height, int width, int64_t frames, PatchSet **out, Error *error);
void patch_set_free(PatchSet *set); /* NULL is allowed */
/* Levels of the pyramid, finest first; 0 if the smaller side is below SWD_MIN_SIDE. */
int swd_levels(int height, int width);
/* Adds a frame, u8 RGB [H,W,3], at the positions of frame number `number`. ERROR_INTERNAL if the
 * set is full. */
Status patch_set_add(PatchSet *set, const uint8_t *rgb, int64_t number, Error *error);

/* Computes the distance of each level, out[swd_levels]. Both sets have the same frame size and
 * number of frames, at least one. Normalises the descriptors of both in place. Uses `threads`
 * threads (0: OMP_NUM_THREADS, or every core); the result does not depend on their number. */
Status swd_distance(PatchSet *a, PatchSet *b, int threads, double *out, Error *error);

#endif
