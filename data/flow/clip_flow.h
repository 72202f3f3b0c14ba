/* The optical flow between the consecutive frames of a clip, for a temporal loss along it
 * (data/flow/optical_flow.h), with a mask of the pixels where it is reliable
 * (data/flow/visibility.h). */
#ifndef CELFORGE_DATA_FLOW_CLIP_FLOW_H
#define CELFORGE_DATA_FLOW_CLIP_FLOW_H

#include <stdint.h>

#include "base/error.h"

/* Work memory for clips of one size, for one thread at a time; starts no threads. */
typedef struct ClipFlow ClipFlow;
Status clip_flow_new(int height, int width, ClipFlow **out, Error *error);
void clip_flow_free(ClipFlow *clip_flow); /* NULL is allowed */

/* Computes the flow from each frame t+1 of `clip`, u8 [frames,height,width,channels] with RGB in
 * the first three channels, back to frame t. `flow`, f32 [frames-1,height,width,2], in pixels:
 * frame t sampled at (x + flow[0], y + flow[1]) gives frame t+1 at (x, y). `mask`, f32
 * [frames-1,height,width,1], is 1 where flow and opposite flow agree and there is no motion
 * boundary, else 0. */
void clip_flow_compute(ClipFlow *clip_flow, const uint8_t *clip, int frames, int channels,
                       float *flow, float *mask);

#endif
