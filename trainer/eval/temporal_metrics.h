/* How films move, next to each other: tOF and the warp error of clips
 * (trainer/eval/image_metrics.h), from optical flow (trainer/eval/optical_flow.h). */
#ifndef CELFORGE_TRAINER_EVAL_TEMPORAL_METRICS_H
#define CELFORGE_TRAINER_EVAL_TEMPORAL_METRICS_H

#include <stdint.h>

#include "base/error.h"

enum { COHERENCE_MAX_FILMS = 8 };

typedef struct CoherenceShape {
  int height, width;
  int films;  /* of a clip, at most COHERENCE_MAX_FILMS */
  int source; /* the film whose motion all of them are to follow */
  int target; /* the film whose motion is right */
} CoherenceShape;

/* Sums over the clips so far. */
typedef struct Coherence Coherence;
/* threads 0: OMP_NUM_THREADS, or every core. */
Status coherence_new(const CoherenceShape *shape, int threads, Coherence **out, Error *error);
void coherence_free(Coherence *coherence); /* NULL is allowed */
/* A clip of every film: films[i] u8 RGB [frames,height,width,3]. */
void coherence_add(Coherence *coherence, const uint8_t *const *films, int frames);

/* Means over all pairs of frames; NaN while there were none. tOF is against the target, in pixels;
 * the warp error is along the source's flow, over pairs that have visible pixels, and what share of
 * the pixels is visible is a mean over all pairs. */
double coherence_tof(const Coherence *coherence, int film);
double coherence_warp_error(const Coherence *coherence, int film);
double coherence_visible(const Coherence *coherence);

#endif
