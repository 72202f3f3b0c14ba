/* The losses, as functions that append them to a graph. Each returns an f32 scalar; frames are
 * [N,T,H,W,3] in [-1, 1], in the dtype that is computed in; weights are the caller's. */
#ifndef CELFORGE_TRAINER_GAN_LOSSES_H
#define CELFORGE_TRAINER_GAN_LOSSES_H

#include "trainer/gan/networks.h"

/* mean |a - b| */
Value loss_l1(Graph *graph, Value a, Value b);
/* mean |(o_t - o_{t-1}) - (b_t - b_{t-1})|; the clip must have two frames. */
Value loss_temporal(Graph *graph, Value output, Value target);
/* mean |horizontal differences| + mean |vertical differences| */
Value loss_total_variation(Graph *graph, Value output);

/* What the discriminators minimise. Per patch, with logit r for real and f for fake:
 *   bce    softplus(-r) + softplus(f)      Goodfellow et al. 2014, eq. 1
 *   lsgan  ((r - 1)^2 + f^2) / 2           Mao et al. 2017, eq. 9 (a = 0, b = c = 1)
 *   hinge  max(0, 1 - r) + max(0, 1 + f)   Lim, Ye 2017
 *   wgan-gp  f - r                         Arjovsky, Chintala, Bottou 2017, eq. 2
 * averaged over patches, then over the scales of the image discriminator; image and video add up.
 * `both` are verdicts on a batch whose first half is real. */
Value loss_discriminator(Graph *graph, Adversarial game, const Verdicts *both);
/* What the generator minimises, averaged likewise: softplus(-f) (the non-saturating form of
 * Goodfellow et al. 2014, section 3), (f - 1)^2 / 2, or (hinge, wgan-gp) -f. */
Value loss_generator(Graph *graph, Adversarial game, const Verdicts *fake);
/* R1 (Mescheder, Geiger, Nowozin 2018, eq. 9), without its weight of gamma / 2: the mean over clips
 * of |dD/dtarget|^2, where a clip's D is its logits, averaged as above. `real` are the verdicts on
 * pairs of film and `target`. */
Value loss_r1(Graph *graph, const Verdicts *real, Value target);
/* The gradient penalty (Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, eq. 3), without its
 * weight: the mean over clips of (|dD/dbetween| - 1)^2, D as for R1 and the norm over all of a
 * clip. `verdicts` are those on pairs of film and `between`, see frames_between. Where a gradient
 * is 0 the derivative of its norm is taken as 0. */
Value loss_gradient_penalty(Graph *graph, const Verdicts *verdicts, Value between);
/* Of each clip a point on the line from output to target: output + share * (target - output), with
 * `share` [N,1,1,1,1] f32. */
Value frames_between(Graph *graph, Value output, Value target, Value share);
/* mean |features of fake - of real|, averaged over the layers of a head and the scales of the image
 * discriminator; image and video add up (Wang et al. 2018, eq. 4, with means). */
Value loss_feature_matching(Graph *graph, const Verdicts *fake, const Verdicts *real);

#endif
