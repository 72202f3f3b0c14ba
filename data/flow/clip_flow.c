#include "data/flow/clip_flow.h"

#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "data/flow/optical_flow.h"
#include "data/flow/visibility.h"

struct ClipFlow {
  int height, width;
  size_t pixels;
  Flow *estimator;
  FlowPyramid *previous, *current; /* of the frames t and t+1 */
  uint8_t *rgb, *grey, *visible;
  float *opposite; /* the flow from frame t to t+1 */
};

static Status set_up(ClipFlow *c, Error *error) {
  Status status = OK;
  static const char what[] = "optical flow";
  TRY(flow_new(c->height, c->width, 1, &c->estimator, error));
  TRY(flow_pyramid_new(c->estimator, &c->previous, error));
  TRY(flow_pyramid_new(c->estimator, &c->current, error));
  TRY(mem_bulk(3 * c->pixels, what, (void **)&c->rgb, error));
  TRY(mem_bulk(c->pixels, what, (void **)&c->grey, error));
  TRY(mem_bulk(c->pixels, what, (void **)&c->visible, error));
  TRY(mem_bulk(2 * c->pixels * sizeof *c->opposite, what, (void **)&c->opposite, error));
done:
  return status;
}

Status clip_flow_new(int height, int width, ClipFlow **out, Error *error) {
  ClipFlow *c = mem_new(1, sizeof *c);
  *c = (ClipFlow){.height = height, .width = width, .pixels = (size_t)height * (size_t)width};
  Status status = set_up(c, error);
  if (status != OK) {
    clip_flow_free(c);
    c = NULL;
  }
  *out = c;
  return status;
}

void clip_flow_free(ClipFlow *c) {
  if (!c) return;
  flow_pyramid_free(c->previous);
  flow_pyramid_free(c->current);
  flow_free(c->estimator);
  free(c->rgb);
  free(c->grey);
  free(c->visible);
  free(c->opposite);
  free(c);
}

/* Expands a frame into c->current; the one before becomes c->previous. */
static void expand(ClipFlow *c, const uint8_t *frame, int channels) {
  FlowPyramid *oldest = c->previous;
  c->previous = c->current;
  c->current = oldest;
  if (channels != 3) {
    for (size_t i = 0; i < c->pixels; i++)
      for (size_t k = 0; k < 3; k++) c->rgb[3 * i + k] = frame[(size_t)channels * i + k];
    frame = c->rgb;
  }
  flow_grey(frame, (int64_t)c->pixels, c->grey);
  flow_expand(c->estimator, c->grey, c->current);
}

void clip_flow_compute(ClipFlow *c, const uint8_t *clip, int frames, int channels, float *flow,
                       float *mask) {
  for (int t = 0; t < frames; t++) {
    expand(c, clip + c->pixels * (size_t)channels * (size_t)t, channels);
    if (t == 0) continue;
    flow_between(c->estimator, c->current, c->previous, flow);
    flow_between(c->estimator, c->previous, c->current, c->opposite);
    flow_visibility(flow, c->opposite, c->height, c->width, c->visible);
    for (size_t i = 0; i < c->pixels; i++) mask[i] = c->visible[i];
    flow += 2 * c->pixels;
    mask += c->pixels;
  }
}
