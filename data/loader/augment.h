/* Random augmentation: a range of frames, a crop at the same place in source and target, and a
 * horizontal flip. */
#ifndef CELFORGE_DATA_LOADER_AUGMENT_H
#define CELFORGE_DATA_LOADER_AUGMENT_H

#include "data/dataset/dataset.h"

typedef struct AugmentPlan {
  ClipShape clip, out; /* shapes before and after; one side may be absent */
  int step_y, step_x;  /* crop offsets are multiples of these, in pixels of the target */
  bool flip;
} AugmentPlan;

/* Plans augmentation for clips of one shape. 0 as `frames`, `crop_height` or `crop_width` (in the
 * target) keeps all. Crop offsets are multiples of `crop_multiple`, and of the ratio of target to
 * source size, so that they are whole pixels in the source. If one side is absent, the crop is in
 * pixels of the other. ERROR_USAGE if the crop or frames do not fit the clips. */
Status augment_plan(const ClipShape *clip, int frames, int crop_height, int crop_width,
                    int crop_multiple, bool flip, AugmentPlan *out, Error *error);
/* True if every sample is its clip, unchanged. */
bool augment_is_identity(const AugmentPlan *plan);

/* The parameters for one sample. */
typedef struct Augment {
  int frame; /* the first */
  int target_y, target_x;
  int source_y, source_x;
  bool flip;
} Augment;

/* Draws the parameters from Philox keyed by (seed, sample). */
Augment augment_draw(const AugmentPlan *plan, uint64_t seed, int64_t sample);
/* The same for the targets of unpaired data: independent of the source's. */
Augment augment_draw_target(const AugmentPlan *plan, uint64_t seed, int64_t sample);

/* Copies the part of a clip (THWC, shape plan->clip) into `source` and `target` (shape plan->out);
 * the pointers of an absent side are ignored. */
void augment_copy(const AugmentPlan *plan, const Augment *augment, const uint8_t *clip_source,
                  const uint8_t *clip_target, uint8_t *source, uint8_t *target);

#endif
