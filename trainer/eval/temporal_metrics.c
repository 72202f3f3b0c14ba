#include "trainer/eval/temporal_metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "data/flow/optical_flow.h"
#include "data/flow/visibility.h"
#include "trainer/eval/image_metrics.h"

/* A video: the expansions of its previous and its current frame, and its sums. */
typedef struct Video {
  FlowPyramid *previous, *current;
  double endpoint_error, warp_error; /* sums over pairs */
} Video;

struct TemporalMetrics {
  TemporalMetricsOptions options;
  size_t pixels;
  Flow *flow;
  Video videos[TEMPORAL_METRICS_MAX_VIDEOS];
  int64_t pairs, visible_pairs; /* all; those with visible pixels */
  double visible_fraction;      /* sum over pairs */
  uint8_t *grey, *visible;
  float *forward, *backward, *target, *other; /* flows: the source's, the target's, another's */
};

static Status set_up(TemporalMetrics *m, int threads, Error *error) {
  Status status = OK;
  static const char what[] = "optical flow";
  size_t flow = 2 * m->pixels * sizeof(float);
  TRY(flow_new(m->options.height, m->options.width, threads, &m->flow, error));
  for (int i = 0; i < m->options.videos; i++) {
    TRY(flow_pyramid_new(m->flow, &m->videos[i].previous, error));
    TRY(flow_pyramid_new(m->flow, &m->videos[i].current, error));
  }
  TRY(mem_bulk(m->pixels, what, (void **)&m->grey, error));
  TRY(mem_bulk(m->pixels, what, (void **)&m->visible, error));
  TRY(mem_bulk(flow, what, (void **)&m->forward, error));
  TRY(mem_bulk(flow, what, (void **)&m->backward, error));
  TRY(mem_bulk(flow, what, (void **)&m->target, error));
  TRY(mem_bulk(flow, what, (void **)&m->other, error));
done:
  return status;
}

Status temporal_metrics_new(const TemporalMetricsOptions *options, int threads,
                            TemporalMetrics **out, Error *error) {
  TemporalMetrics *m = mem_new(1, sizeof *m);
  m->options = *options;
  m->pixels = (size_t)options->height * (size_t)options->width;
  Status status = set_up(m, threads, error);
  if (status != OK) temporal_metrics_free(m);
  *out = status == OK ? m : NULL;
  return status;
}

void temporal_metrics_free(TemporalMetrics *m) {
  if (!m) return;
  for (int i = 0; i < m->options.videos; i++) {
    flow_pyramid_free(m->videos[i].previous);
    flow_pyramid_free(m->videos[i].current);
  }
  flow_free(m->flow);
  free(m->grey);
  free(m->visible);
  free(m->forward);
  free(m->backward);
  free(m->target);
  free(m->other);
  free(m);
}

/* --- Adding clips ----------------------------------------------------------------------------- */

static void expand(TemporalMetrics *m, Video *video, const uint8_t *frame) {
  FlowPyramid *oldest = video->previous;
  video->previous = video->current;
  video->current = oldest;
  flow_grey(frame, (int64_t)m->pixels, m->grey);
  flow_expand(m->flow, m->grey, video->current);
}

/* The flow of a video between its last two frames; those of source and target are ready. */
static const float *flow_of(TemporalMetrics *m, int video) {
  if (video == m->options.source) return m->forward;
  if (video == m->options.target) return m->target;
  flow_between(m->flow, m->videos[video].previous, m->videos[video].current, m->other);
  return m->other;
}

/* `frames`: the current frame of each video, preceded in memory by the previous one. */
static void score_pair(TemporalMetrics *m, const uint8_t *const *frames) {
  const Video *source = &m->videos[m->options.source];
  bool has_target = m->options.target >= 0;
  int height = m->options.height, width = m->options.width;
  flow_between(m->flow, source->previous, source->current, m->forward);
  flow_between(m->flow, source->current, source->previous, m->backward);
  if (has_target) {
    const Video *target = &m->videos[m->options.target];
    flow_between(m->flow, target->previous, target->current, m->target);
  }
  int64_t visible = flow_visibility(m->forward, m->backward, height, width, m->visible);
  for (int i = 0; i < m->options.videos; i++) {
    Video *video = &m->videos[i];
    if (has_target)
      video->endpoint_error +=
          image_metrics_endpoint_error(flow_of(m, i), m->target, (int64_t)m->pixels);
    video->warp_error += image_metrics_warp_error(frames[i] - 3 * m->pixels, frames[i], m->forward,
                                                  m->visible, height, width);
  }
  m->pairs++;
  m->visible_pairs += visible > 0;
  m->visible_fraction += (double)visible / (double)m->pixels;
}

void temporal_metrics_add(TemporalMetrics *m, const uint8_t *const *clips, int frames) {
  for (int t = 0; t < frames; t++) {
    const uint8_t *now[TEMPORAL_METRICS_MAX_VIDEOS];
    for (int i = 0; i < m->options.videos; i++) {
      now[i] = clips[i] + 3 * m->pixels * (size_t)t;
      expand(m, &m->videos[i], now[i]);
    }
    if (t > 0) score_pair(m, now);
  }
}

/* --- Results ---------------------------------------------------------------------------------- */

static double mean(double sum, int64_t count) {
  return count > 0 ? sum / (double)count : (double)NAN;
}

double temporal_metrics_tof(const TemporalMetrics *m, int video) {
  if (m->options.target < 0) return (double)NAN;
  return mean(m->videos[video].endpoint_error, m->pairs);
}

double temporal_metrics_warp_error(const TemporalMetrics *m, int video) {
  return mean(m->videos[video].warp_error, m->visible_pairs);
}

double temporal_metrics_visible_fraction(const TemporalMetrics *m) {
  return mean(m->visible_fraction, m->pairs);
}
