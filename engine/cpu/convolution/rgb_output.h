/* The convolution from features to an RGB frame, kernel width 7, 3 output channels, in f32, without
 * a width fold. Vectors run over the input channels, so no lane is idle although the output has few
 * channels:
 *
 *   forward: vectors of 8 pixels x 3 channels are summed over the kernel, then over their lanes;
 *   backward of the weights: vectors of 7 columns x 3 channels are summed over the pixels of a row.
 *
 * Stride 1, no padding, input channels a multiple of 16. */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_RGB_OUTPUT_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_RGB_OUTPUT_H

#include "engine/cpu/convolution/onednn.h"

/* True for such a convolution on a processor whose vectors have 16 lanes. */
bool rgb_output_supports(ConvPass pass, DType dtype, const ConvGeometry *g);

/* Bytes, a multiple of 64. */
size_t rgb_output_workspace(ConvPass pass, const ConvGeometry *g, int threads);

/* `bias` may be NULL. */
void rgb_output_forward(const ConvGeometry *g, const float *x, const float *w, const float *bias,
                        Activation activation, float slope, float *y, int threads);
void rgb_output_backward_weights(const ConvGeometry *g, const float *x, const float *dy, float *dw,
                                 void *workspace, int threads);

#endif
