/* Dense optical flow by polynomial expansion, coarse to fine (Farneback: "Two-Frame Motion
 * Estimation Based on Polynomial Expansion", SCIA 2003), in f32.
 *
 * Pyramid, windows and borders are those of OpenCV's
 * calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0), which TecoGAN's tOF is defined by
 * (Chu, Xie, Mayer, Leal-Taixe, Thuerey: "Learning Temporal Coherence via Self-Supervision for
 * GAN-based Video Generation", TOG 2020), and so are the results, but for rounding:
 *
 *   levels      the picture and up to three halvings of it, while both sides keep 32 pixels; each
 *               is the whole picture smoothed (Gaussian of deviation (scale - 1) / 2) and sampled
 *   expansion   a quadratic around every pixel, fitted over 11 x 11 pixels, Gaussian of 1.2
 *   iterations  three a level, each averaging its equations over 15 x 15 pixels
 *
 * The result does not depend on the number of threads. */
#ifndef CELFORGE_TRAINER_EVAL_OPTICAL_FLOW_H
#define CELFORGE_TRAINER_EVAL_OPTICAL_FLOW_H

#include <stdint.h>

#include "base/error.h"

/* Whatever is needed for pictures of one size. */
typedef struct Flow Flow;
/* Sides of at least 1. threads 0: OMP_NUM_THREADS, or every core. */
Status flow_new(int height, int width, int threads, Flow **out, Error *error);
void flow_free(Flow *flow); /* NULL is allowed */

/* A picture expanded in quadratics on every level: about 27 bytes a pixel. */
typedef struct FlowPicture FlowPicture;
Status flow_picture_new(const Flow *flow, FlowPicture **out, Error *error);
void flow_picture_free(FlowPicture *picture); /* NULL is allowed */

/* grey u8 [height,width]. */
void flow_expand(Flow *flow, const uint8_t *grey, FlowPicture *out);
/* out f32 [height,width,2]: what lies at (x, y) in `a` lies at (x + out[0], y + out[1]) in `b`. */
void flow_between(Flow *flow, const FlowPicture *a, const FlowPicture *b, float *out);

#endif
