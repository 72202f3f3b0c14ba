/* Ink lines and flat areas of a frame: where a cartoon differs from live video at first sight
 * (docs/scores.md). Frames are u8 RGB [H,W,3]; luma is Y = 0.299 R + 0.587 G + 0.114 B. Masks are
 * u8 [H,W] of 0 and 1. Positions outside of the frame take the value of its nearest pixel. */
#ifndef CELFORGE_TRAINER_EVAL_STYLE_METRICS_H
#define CELFORGE_TRAINER_EVAL_STYLE_METRICS_H

#include <stdint.h>

/* Ink: luma, smoothed by a Gaussian of deviation 0.7, is at least STYLE_INK_CONTRAST grey levels
 * below both sides of the stroke and at most STYLE_INK_RATIO of the darker one. The sides are 2 or
 * 4 pixels away, opposite each other, in one of four directions. Strokes (8-connected components)
 * of fewer than STYLE_INK_STROKE pixels are dropped. The dark side of a step edge is no ink,
 * because one of its sides is as dark. */
static const double STYLE_INK_CONTRAST = 16, STYLE_INK_RATIO = 0.65;
enum { STYLE_INK_STROKE = 8 };
/* Computes the mask of ink lines, unless `mask` is NULL; returns the number of ones. */
int64_t style_metrics_lines(const uint8_t *rgb, int height, int width, uint8_t *mask);

/* Flat: luma differs by at most STYLE_FLAT_RANGE grey levels within the 5 x 5 pixels around. */
enum { STYLE_FLAT_RANGE = 2, STYLE_FLAT_WINDOW = 5 };
/* Computes the mask of flat areas, unless `mask` is NULL; returns the number of ones. */
int64_t style_metrics_flats(const uint8_t *rgb, int height, int width, uint8_t *mask);

/* Counts of two line masks, summed over frames before a ratio is taken. A pixel is matched if the
 * other mask has a one among the 3 x 3 pixels around. */
typedef struct LineMatch {
  int64_t lines, matched;               /* of the candidate */
  int64_t target_lines, target_matched; /* of the target */
} LineMatch;
void style_metrics_match(const uint8_t *lines, const uint8_t *target, int height, int width,
                         LineMatch *sums); /* adds to *sums */
/* Ratios in [0, 1]; NaN where the denominator has no pixels. F1 is 0 if nothing matches. */
double line_match_precision(const LineMatch *sums);
double line_match_recall(const LineMatch *sums);
double line_match_f1(const LineMatch *sums);

#endif
