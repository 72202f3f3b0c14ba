/* Bicubic resizing with antialiasing, as Pillow resizes floating-point images: the cubic kernel of
 * Keys (1981) with a = -0.5, widened by the reduction, centres of pixels at half-integers, weights
 * normalised where the border cuts them; first all rows, then all columns. Parmar, Zhang, Zhu ("On
 * Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022) show how much FID
 * depends on it. */
#ifndef CELFORGE_TRAINER_EVAL_BICUBIC_RESIZE_H
#define CELFORGE_TRAINER_EVAL_BICUBIC_RESIZE_H

#include <stdint.h>

#include "base/error.h"

/* Resizes u8 RGB [height,width,3] to `out` f32 [side,side,3], clamped to [0, 255] and not rounded.
 */
Status bicubic_resize(const uint8_t *rgb, int height, int width, int side, float *out,
                      Error *error);

#endif
