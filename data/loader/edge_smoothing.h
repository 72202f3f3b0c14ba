/* Blurs the edges of a drawing: the negative examples of the edge-promoting adversarial loss, by
 * which a discriminator learns that a cartoon has clear edges (Chen, Lai, Liu: "CartoonGAN:
 * Generative Adversarial Networks for Photo Cartoonization", CVPR 2018).
 *
 *   edges     Canny (1986) on grey as OpenCV's Canny(grey, 100, 200): Sobel 3 x 3 with the border
 *             repeated, |dx| + |dy|, non-maximum suppression in four directions, hysteresis
 *   region    the edges, dilated by 5 x 5 pixels
 *   blur      Gaussian of 5 x 5 pixels with OpenCV's weights for deviation 0, [1 4 6 4 1] / 16, the
 *             border reflected without its edge; rounded to nearest, and stored in the region alone
 *
 * All arithmetic is in whole numbers: results equal OpenCV's. */
#ifndef CELFORGE_DATA_LOADER_EDGE_SMOOTHING_H
#define CELFORGE_DATA_LOADER_EDGE_SMOOTHING_H

#include <stdint.h>

#include "base/error.h"

/* Work memory for frames of one size, for one thread at a time. */
typedef struct EdgeSmoother EdgeSmoother;
Status edge_smoother_new(int height, int width, EdgeSmoother **out, Error *error);
void edge_smoother_free(EdgeSmoother *smoother); /* NULL is allowed */

/* Writes the frame `rgb`, u8 [height,width,3], with its edges blurred to `out`, of the same shape.
 */
void edge_smoother_apply(EdgeSmoother *smoother, const uint8_t *rgb, uint8_t *out);

#endif
