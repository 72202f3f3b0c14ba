/* The guided filter with the picture itself as the guide, an edge-preserving smoothing (He, Sun,
 * Tang 2013, "Guided Image Filtering", equations 5, 6 and 8 with p = I). */
#ifndef CELFORGE_TRAINER_GAN_GUIDED_FILTER_H
#define CELFORGE_TRAINER_GAN_GUIDED_FILTER_H

#include "engine/graph/graph.h"

/* Filters each channel of `frames` [N,T,H,W,C]: with the mean m and the variance v of windows of
 * (2 radius + 1)^2 pixels, and a = v / (v + epsilon),
 *
 *   y = mean(a) x + mean((1 - a) m)
 *
 * where mean is over the same windows; at the border, over their pixels inside the frame. Texture
 * of a variance far below epsilon becomes flat, edges of a variance far above it stay. Computed in
 * f32; the result has the dtype of `frames`. */
Value guided_filter(Graph *graph, Value frames, int radius, float epsilon);

#endif
