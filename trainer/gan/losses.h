/* The losses, as functions that append them to a graph. Each returns an f32 scalar without its
 * weight; frames are [N,T,H,W,3] in [-1, 1], in the compute dtype. */
#ifndef CELFORGE_TRAINER_GAN_LOSSES_H
#define CELFORGE_TRAINER_GAN_LOSSES_H

#include "trainer/gan/networks.h"

/* mean |a - b| */
Value loss_l1(Graph *graph, Value a, Value b);
/* mean |differences of horizontal neighbours of o - b| + mean |those of vertical ones| for output o
 * and target b, so |gradient of o - gradient of b|. Where the target is flat it asks for an output
 * that is exactly flat, at lines for their full contrast, whatever the brightness. (The gradient
 * difference loss of Mathieu, Couprie, LeCun 2016, "Deep Multi-Scale Video Prediction Beyond Mean
 * Square Error", eq. 5, compares the gradients' absolute values.) */
Value loss_gradient(Graph *graph, Value output, Value target);
/* mean |(o_t - o_{t-1}) - (b_t - b_{t-1})| for output o and target b; needs at least two frames. */
Value loss_temporal(Graph *graph, Value output, Value target);
/* mean |horizontal differences| + mean |vertical differences| */
Value loss_total_variation(Graph *graph, Value output);

/* How the colours of an output o differ from those of its source s. In BT.601 luma and colour
 * differences, Y = 0.299 R + 0.587 G + 0.114 B, U = 0.492 (B - Y), V = 0.877 (R - Y), of colours in
 * [0, 1]: mean |Y_o - Y_s| of means over 8 x 8 pixels (stride 4), plus mean |U_o - U_s| + mean
 * |V_o - V_s| of pixels. Luma is compared coarsely, so that lines and flat areas are free.
 * (AnimeGAN's colour reconstruction loss, Chen, Liu, Chen 2020, has Huber losses of U and V, which
 * hardly pull at all where differences are below 0.1, and luma by pixels.) `source` may have
 * further channels, which are ignored. */
Value loss_color(Graph *graph, Value output, Value source);

/* mean |W o - m|: `output` o warped by `flow` (graph_warp), as a constant, against `moved` m, the
 * generator's output for the source that was warped alike (compound regularisation: Wang, Xu,
 * Zhang, Wang, Liu 2020, "Consistent Video Style Transfer via Relaxation and Regularization"). */
Value loss_motion_consistency(Graph *graph, Value output, Value moved, Value flow);
/* mean M |o_t - W o_{t-1}|: each frame against the frame before, as a constant, warped along the
 * source's optical flow, `flow` [N,T-1,H,W,2], where `mask` [N,T-1,H,W,1] is 1 (Lai et al. 2018,
 * "Learning Blind Video Temporal Consistency", short-term loss). Needs at least two frames. */
Value loss_flow_consistency(Graph *graph, Value output, Value flow, Value mask);

/* The discriminators' adversarial loss. Per patch, with logit r for real and f for fake:
 *   bce      softplus(-r) + softplus(f)      Goodfellow et al. 2014, eq. 1
 *   lsgan    ((r - 1)^2 + f^2) / 2           Mao et al. 2017, eq. 9 (a = 0, b = c = 1)
 *   hinge    max(0, 1 - r) + max(0, 1 + f)   Lim, Ye 2017
 *   wgan-gp  f - r                           Arjovsky, Chintala, Bottou 2017, eq. 2
 * averaged over patches, then over the image discriminators; image and video discriminators add up.
 * The batch behind `outputs` is real, then fake. With `edge_weight` above 0 a third part of the
 * same size follows, edge-smoothed targets: they count as fakes with this weight (CartoonGAN: Chen,
 * Lai, Liu 2018, eq. 2). */
Value loss_discriminator(Graph *graph, Adversarial kind, const DiscriminatorOutputs *outputs,
                         float edge_weight);
/* The mean sign of the discriminators' decisions on real clips, 1 where all patches are taken for
 * real and -1 where none is: the heuristic r_t of ADA (Karras et al. 2020, "Training Generative
 * Adversarial Networks with Limited Data", section 3). The batch behind `outputs` is `parts` parts
 * of equal size, the first of which is real. */
Value discriminator_real_sign(Graph *graph, Adversarial kind, const DiscriminatorOutputs *outputs,
                              int parts);
/* The generator's adversarial loss, averaged likewise: softplus(-f) (the non-saturating form of
 * Goodfellow et al. 2014, section 3), (f - 1)^2 / 2, or (hinge, wgan-gp) -f. */
Value loss_generator(Graph *graph, Adversarial kind, const DiscriminatorOutputs *fake);
/* R1 (Mescheder, Geiger, Nowozin 2018, eq. 9) without its factor gamma / 2: the mean over clips of
 * |dD/dtarget|^2, where D of a clip is its logits, averaged as above. `real` are the outputs for
 * `target`. */
Value loss_r1(Graph *graph, const DiscriminatorOutputs *real, Value target);
/* The gradient penalty (Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville 2017, eq. 3): the mean over
 * clips of (|dD/dmixed| - 1)^2, D as for R1, the norm taken over the whole clip. `outputs` belong
 * to `mixed`, see frames_interpolate. Where a gradient is 0, the derivative of
 * its norm is taken as 0. */
Value loss_gradient_penalty(Graph *graph, const DiscriminatorOutputs *outputs, Value mixed);
/* Interpolates per clip: output + weight * (target - output), with `weights` [N,1,1,1,1] f32. */
Value frames_interpolate(Graph *graph, Value output, Value target, Value weights);
/* Feature matching: mean |features of fake - features of real|, averaged over the layers of a head
 * and the image discriminators; image and video discriminators add up (Wang et al.
 * 2018, eq. 4, with means). */
Value loss_feature_matching(Graph *graph, const DiscriminatorOutputs *fake,
                            const DiscriminatorOutputs *real);

#endif
