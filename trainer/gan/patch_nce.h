/* PatchNCE (Park, Efros, Zhang, Zhu 2020, "Contrastive Learning for Unpaired Image-to-Image
 * Translation", section 3.2): a patch of the output should resemble the source's patch at the same
 * position more than the source's other patches, in the feature space of the generator's own
 * encoder. */
#ifndef CELFORGE_TRAINER_GAN_PATCH_NCE_H
#define CELFORGE_TRAINER_GAN_PATCH_NCE_H

#include "trainer/gan/networks.h"

enum { PATCH_NCE_GRID = 16, PATCH_NCE_CHANNELS = 256 };

/* Appends the loss; returns an f32 scalar. Of each of the features, up to 16 x 16 positions of each
 * frame (nearest-neighbour sampling) go through a projection of two 1 x 1 convolutions of 256
 * channels with a ReLU between them, and are scaled to unit length, x / (16 sqrt(mean x^2 + 1e-4)):
 * queries q from `output`, keys k from `source`. The loss of a query at position i is
 *
 *   -log(exp(q_i k_i / temperature) / sum over j of exp(q_i k_j / temperature))
 *
 * with j over the positions of the same frame; averaged over positions, frames, clips and features.
 * Gradients flow through q alone. `projection` receives the projections' parameters on first use.
 */
Value loss_patch_nce(Graph *graph, Parameters *projection, const GeneratorFeatures *output,
                     const GeneratorFeatures *source, float temperature);

/* Flip equivariance (the same authors' FastCUT, section C.1 of the supplement): the keys of a
 * mirrored clip come from the features of its mirrored source, mirrored back, so that the encoder
 * learns features that do not depend on the orientation.
 *
 * Returns x [N,T,H,W,C] with the columns of some clips in reverse order: of those for which
 * `mirrored` f32 [N,1,1,1,1] is 1, not 0. `columns` [1,1,1,W,1] f32 hold 0, 1, 2 ... Has no
 * derivative. With strides, features of a mirrored clip that are mirrored back are aligned with
 * those of the clip to within less than one position. */
Value patch_nce_mirror(Graph *graph, Value x, Value mirrored, Value columns);

#endif
