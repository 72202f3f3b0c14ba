/* The convolution that makes an image of features, 7 taps wide, to 3 channels: in f32 without a
 * fold. The lanes go over the input's channels, so that none idles although the output has few:
 *
 *   forward: 8 pixels x 3 channels of vectors are summed over all taps, then over their lanes;
 *   backward of the weights: 7 taps x 3 channels of vectors are summed over a row's pixels.
 *
 * Stride 1, no padding, input channels a multiple of 16. */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_RGB_OUTPUT_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_RGB_OUTPUT_H

#include "engine/cpu/convolution/onednn.h"

/* Whether this is such a convolution, and the processor's vectors have 16 lanes. */
bool image_head_fits(ConvPass pass, DType dtype, const ConvGeometry *g);

/* Bytes, a multiple of 64. */
size_t image_head_workspace(ConvPass pass, const ConvGeometry *g, int threads);

/* `bias` may be NULL. */
void image_head_forward(const ConvGeometry *g, const float *x, const float *w, const float *bias,
                        Activation activation, float slope, float *y, int threads);
void image_head_backward_weights(const ConvGeometry *g, const float *x, const float *dy, float *dw,
                                 void *workspace, int threads);

#endif
