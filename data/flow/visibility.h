/* The pixels whose optical flow is reliable, and the bilinear sampling position at the end of a
 * flow vector. Flows are f32 [height,width,2], from flow_between (data/flow/optical_flow.h). */
#ifndef CELFORGE_DATA_FLOW_VISIBILITY_H
#define CELFORGE_DATA_FLOW_VISIBILITY_H

#include <stddef.h>
#include <stdint.h>

/* The four pixels around a position and their bilinear weights. */
typedef struct FlowEndpoint {
  size_t at[4]; /* indices into [height,width] */
  double weights[4];
} FlowEndpoint;

/* Returns the position (x, y) + flow(x, y), clamped to the image. */
FlowEndpoint flow_endpoint(const float *flow, int y, int x, int height, int width);

/* Computes the mask of pixels with a reliable flow (Ruder, Dosovitskiy, Brox: "Artistic Style
 * Transfer for Videos", GCPR 2016): `visible` [height,width] is 0 for disocclusions, where forward
 * flow f and backward flow b at its endpoint do not cancel, |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5,
 * and for motion boundaries, |grad f|^2 > 0.01 |f|^2 + 0.002; else 1. Returns the number of ones.
 */
int64_t flow_visibility(const float *forward, const float *backward, int height, int width,
                        uint8_t *visible);

#endif
