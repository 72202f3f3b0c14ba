/* Which part of a clip a sample takes, and the copy that cuts it out: a run of frames, a crop at
 * the same place of source and target, a left-right flip. */
#ifndef CELFORGE_DATA_LOADER_AUGMENT_H
#define CELFORGE_DATA_LOADER_AUGMENT_H

#include "data/dataset/dataset.h"

/* What may be drawn; every sample has the shape `out`. */
typedef struct AugmentPlan {
  ClipShape clip, out;
  int step_y, step_x; /* offsets are multiples of these, in pixels of the target */
  bool flip;
} AugmentPlan;

/* `frames`, `crop_height` and `crop_width` (of the target) 0: all. Offsets are multiples of
 * `crop_multiple`, and fall on whole pixels of the source where its size differs. ERROR_USAGE. */
Status augment_plan(const ClipShape *clip, int frames, int crop_height, int crop_width,
                    int crop_multiple, bool flip, AugmentPlan *out, Error *error);
/* True where every sample is its clip, unchanged. */
bool augment_is_whole(const AugmentPlan *plan);

typedef struct Augment {
  int frame; /* the first */
  int target_y, target_x;
  int source_y, source_x;
  bool flip;
} Augment;

/* A function of (seed, sample) alone. */
Augment augment_draw(const AugmentPlan *plan, uint64_t seed, int64_t sample);

/* From clip.THWC to out.THWC. */
void augment_copy(const AugmentPlan *plan, const Augment *augment, const uint8_t *clip_source,
                  const uint8_t *clip_target, uint8_t *source, uint8_t *target);

#endif
