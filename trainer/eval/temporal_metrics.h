/* Motion metrics of several videos of the same scene: tOF and warp error per video, averaged over
 * clips (trainer/eval/image_metrics.h), along optical flow (data/flow/optical_flow.h). */
#ifndef CELFORGE_TRAINER_EVAL_TEMPORAL_METRICS_H
#define CELFORGE_TRAINER_EVAL_TEMPORAL_METRICS_H

#include <stdint.h>

#include "base/error.h"

enum { TEMPORAL_METRICS_MAX_VIDEOS = 8 };

typedef struct TemporalMetricsOptions {
  int height, width;
  int videos; /* at most TEMPORAL_METRICS_MAX_VIDEOS */
  int source; /* index of the video along whose flow all warp errors are computed */
  int target; /* index of the video whose flow is the reference of tOF; -1: no tOF */
} TemporalMetricsOptions;

/* Running sums over the clips added so far. */
typedef struct TemporalMetrics TemporalMetrics;
/* threads 0: OMP_NUM_THREADS, or every core. */
Status temporal_metrics_new(const TemporalMetricsOptions *options, int threads,
                            TemporalMetrics **out, Error *error);
void temporal_metrics_free(TemporalMetrics *metrics); /* NULL is allowed */
/* Adds one clip of every video: clips[i] u8 RGB [frames,height,width,3]. */
void temporal_metrics_add(TemporalMetrics *metrics, const uint8_t *const *clips, int frames);

/* Means over all pairs of consecutive frames; NaN before the first pair. tOF is in pixels, and NaN
 * without a target. */
double temporal_metrics_tof(const TemporalMetrics *metrics, int video);
/* Over the pairs that have visible pixels. */
double temporal_metrics_warp_error(const TemporalMetrics *metrics, int video);
/* The fraction of pixels that are visible. */
double temporal_metrics_visible_fraction(const TemporalMetrics *metrics);

#endif
