/* Dense optical flow by polynomial expansion, coarse to fine (Farneback: "Two-Frame Motion
 * Estimation Based on Polynomial Expansion", SCIA 2003), in f32.
 *
 * Pyramid, windows and borders are those of OpenCV's
 * calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0), by which TecoGAN's tOF is defined
 * (Chu, Xie, Mayer, Leal-Taixe, Thuerey: "Learning Temporal Coherence via Self-Supervision
 * for GAN-based Video Generation", TOG 2020); results agree up to rounding:
 *
 *   levels      the image and up to three halvings, while both sides keep 32 pixels; each level is
 *               the full image smoothed (Gaussian of deviation (scale - 1) / 2) and resampled
 *   expansion   a quadratic polynomial around every pixel, fitted over 11 x 11 pixels, Gaussian 1.2
 *   iterations  three per level, averaging the normal equations over 15 x 15 pixels
 *
 * The result does not depend on the number of threads. */
#ifndef CELFORGE_DATA_FLOW_OPTICAL_FLOW_H
#define CELFORGE_DATA_FLOW_OPTICAL_FLOW_H

#include <stdint.h>

#include "base/error.h"

/* The estimator for images of one size: settings and work memory. */
typedef struct Flow Flow;
/* Sides of at least 1. threads 0: OMP_NUM_THREADS, or every core. */
Status flow_new(int height, int width, int threads, Flow **out, Error *error);
void flow_free(Flow *flow); /* NULL is allowed */

/* The polynomial expansion of an image on all levels, about 27 bytes per pixel. */
typedef struct FlowPyramid FlowPyramid;
Status flow_pyramid_new(const Flow *flow, FlowPyramid **out, Error *error);
void flow_pyramid_free(FlowPyramid *pyramid); /* NULL is allowed */

/* Converts u8 RGB to luma in whole grey levels, Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, full
 * range), rounded exactly like OpenCV's cvtColor(RGB2GRAY): the input of the optical flow. */
void flow_grey(const uint8_t *rgb, int64_t pixels, uint8_t *grey);

/* Expands the image `grey`, u8 [height,width]. */
void flow_expand(Flow *flow, const uint8_t *grey, FlowPyramid *out);
/* Estimates the flow from a to b, out f32 [height,width,2]: pixel (x, y) of `a` is found at
 * (x + out[0], y + out[1]) in `b`. */
void flow_between(Flow *flow, const FlowPyramid *a, const FlowPyramid *b, float *out);

#endif
