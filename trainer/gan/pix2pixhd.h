/* pix2pixhd, the published generator to compare with: Wang, Liu, Zhu, Tao, Kautz, Catanzaro 2018,
 * "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs", section 3.1,
 * with the paddings, transposed convolutions and initial weights of the authors' code.
 *
 * The global generator G1 is a 7 x 7 convolution, model.downsamplings convolutions of stride 2 that
 * double the channels, model.blocks residual blocks, transposed convolutions that undo the
 * halvings, a 7 x 7 convolution and tanh. With model.local_enhancers: 1 the local enhancer G2
 * stands around it: G1, without its last convolution, sees the picture at half the size, and its
 * features are added to those of G2's own 7 x 7 and stride-2 convolution; three residual blocks, a
 * transposed convolution and the last 7 x 7 one follow. G1's parameters have the same names with
 * and without G2, whose own are below "enhancer", so that G1 can be trained first and both together
 * afterwards, as published.
 *
 * Weights begin at N(0, 0.02^2). Instance norm (model.norm: instance, the published one) has no
 * gain and no bias; rms and group have both, as in celnet. A convolution before a norm has no
 * bias: before an instance norm it would have no effect, but a gradient of rounding errors, which
 * Adam would take for one. That is all that the published parameters are more by. */
#ifndef CELFORGE_TRAINER_GAN_PIX2PIXHD_H
#define CELFORGE_TRAINER_GAN_PIX2PIXHD_H

#include "trainer/gan/layers.h"

/* What the sides of a picture must be multiples of. */
int64_t pix2pixhd_multiple(const ModelConfig *config);

/* x [N,T,H,W,C], frames that know nothing of each other; returns [N,T,H,W,3] in (-1, 1), not a
 * change of x. */
Value pix2pixhd_build(Net *net, const ModelConfig *config, Value x);

#endif
