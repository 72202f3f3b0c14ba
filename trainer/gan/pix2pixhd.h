/* pix2pixHD's generator, as a published baseline: Wang, Liu, Zhu, Tao, Kautz, Catanzaro 2018,
 * "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs", section 3.1,
 * with the paddings, transposed convolutions and initial weights of the authors' code.
 *
 * The global generator G1 is a 7 x 7 convolution, model.downsamplings convolutions of stride 2 that
 * double the channels, model.blocks residual blocks, as many transposed convolutions back to full
 * resolution, a 7 x 7 convolution and tanh. With model.local_enhancers: 1 the local enhancer G2 is
 * put around it: G1, without its last convolution, sees the frame at half the resolution, and its
 * features are added to those of G2's own 7 x 7 and stride-2 convolutions; three residual blocks, a
 * transposed convolution and a 7 x 7 convolution follow. G1's parameters have the same names with
 * and without G2, and G2's are below "enhancer", so that G1 can be trained first and both together
 * afterwards (run.init), as published.
 *
 * Weights are initialised from N(0, 0.02^2). Instance norm (model.norm: instance, as published) has
 * no gain and no bias; rms and group have both, as in celnet. The one difference to the published
 * parameters: a convolution before a norm has no bias. Before instance norm a bias has no effect,
 * but its gradient is rounding noise, which Adam would scale up to full steps. */
#ifndef CELFORGE_TRAINER_GAN_PIX2PIXHD_H
#define CELFORGE_TRAINER_GAN_PIX2PIXHD_H

#include "trainer/gan/layers.h"

/* Returns the number that height and width must be multiples of. */
int64_t pix2pixhd_multiple(const ModelConfig *config);

/* Appends the generator on x [N,T,H,W,C], frame by frame; returns [N,T,H,W,3] in (-1, 1), without
 * a skip connection from x. */
Value pix2pixhd_build(Net *net, const ModelConfig *config, Value x);

#endif
