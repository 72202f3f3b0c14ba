/* The losses, as functions that append them to a graph. Each returns an f32 scalar without its
 * weight; frames are [N,T,H,W,3] in [-1, 1], in the compute dtype. */
#ifndef CELFORGE_TRAINER_GAN_LOSSES_H
#define CELFORGE_TRAINER_GAN_LOSSES_H

#include "trainer/gan/networks.h"

/* mean |a - b| */
Value loss_l1(Graph *graph, Value a, Value b);
/* mean |(o_t - o_{t-1}) - (b_t - b_{t-1})| for output o and target b; needs at least two frames. */
Value loss_temporal(Graph *graph, Value output, Value target);
/* mean |horizontal differences| + mean |vertical differences| */
Value loss_total_variation(Graph *graph, Value output);

/* The discriminators' adversarial loss. Per patch, with logit r for real and f for fake:
 *   bce      softplus(-r) + softplus(f)      Goodfellow et al. 2014, eq. 1
 *   lsgan    ((r - 1)^2 + f^2) / 2           Mao et al. 2017, eq. 9 (a = 0, b = c = 1)
 *   hinge    max(0, 1 - r) + max(0, 1 + f)   Lim, Ye 2017
 *   wgan-gp  f - r                           Arjovsky, Chintala, Bottou 2017, eq. 2
 * averaged over patches, then over the scales of the image discriminator; image and video
 * discriminators add up. The first half of the batch behind `outputs` is real, the second fake. */
Value loss_discriminator(Graph *graph, Adversarial kind, const DiscriminatorOutputs *outputs);
/* The generator's adversarial loss, averaged likewise: softplus(-f) (the non-saturating form of
 * Goodfellow et al. 2014, section 3), (f - 1)^2 / 2, or (hinge, wgan-gp) -f. */
Value loss_generator(Graph *graph, Adversarial kind, const DiscriminatorOutputs *fake);
/* R1 (Mescheder, Geiger, Nowozin 2018, eq. 9) without its factor gamma / 2: the mean over clips of
 * |dD/dtarget|^2, where D of a clip is its logits, averaged as above. `real` are the outputs for
 * pairs of source and `target`. */
Value loss_r1(Graph *graph, const DiscriminatorOutputs *real, Value target);
/* The gradient penalty (Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, eq. 3): the mean over
 * clips of (|dD/dmixed| - 1)^2, D as for R1, the norm taken over the whole clip. `outputs` belong
 * to pairs of source and `mixed`, see frames_interpolate. Where a gradient is 0, the derivative of
 * its norm is taken as 0. */
Value loss_gradient_penalty(Graph *graph, const DiscriminatorOutputs *outputs, Value mixed);
/* Interpolates per clip: output + weight * (target - output), with `weights` [N,1,1,1,1] f32. */
Value frames_interpolate(Graph *graph, Value output, Value target, Value weights);
/* Feature matching: mean |features of fake - features of real|, averaged over the layers of a head
 * and the scales of the image discriminator; image and video discriminators add up (Wang et al.
 * 2018, eq. 4, with means). */
Value loss_feature_matching(Graph *graph, const DiscriminatorOutputs *fake,
                            const DiscriminatorOutputs *real);

#endif
