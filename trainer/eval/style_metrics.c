#include "trainer/eval/style_metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static int clamp(int position, int size) {
  return position < 0 ? 0 : position < size ? position : size - 1;
}

/* Luma in thousandths of a grey level, exact. */
static int32_t *luma_plane(const uint8_t *rgb, int height, int width) {
  size_t pixels = (size_t)height * (size_t)width;
  int32_t *plane = mem_new(pixels, sizeof *plane);
  for (size_t i = 0; i < pixels; i++)
    plane[i] = 299 * rgb[3 * i] + 587 * rgb[3 * i + 1] + 114 * rgb[3 * i + 2];
  return plane;
}

/* --- Ink lines -------------------------------------------------------------------------------- */

enum { SMOOTH_RADIUS = 3, SIDE_DISTANCES = 2, DIRECTIONS = 4 };
static const double SMOOTH_DEVIATION = 0.7;
/* Steps to a side, 2 and 4 pixels away; diagonal steps are rounded to whole pixels. */
static const int STEPS[DIRECTIONS][2] = {{0, 1}, {1, 0}, {1, 1}, {1, -1}};
static const int LENGTHS[DIRECTIONS][SIDE_DISTANCES] = {{2, 4}, {2, 4}, {1, 3}, {1, 3}};

static void gaussian_weights(double weights[2 * SMOOTH_RADIUS + 1]) {
  double sum = 0;
  for (int i = -SMOOTH_RADIUS; i <= SMOOTH_RADIUS; i++)
    sum += weights[i + SMOOTH_RADIUS] = exp(-i * i / (2 * SMOOTH_DEVIATION * SMOOTH_DEVIATION));
  for (int i = 0; i <= 2 * SMOOTH_RADIUS; i++) weights[i] /= sum;
}

/* Smoothed luma in grey levels. */
static double *smooth_luma(const uint8_t *rgb, int height, int width) {
  int32_t *luma = luma_plane(rgb, height, width);
  size_t pixels = (size_t)height * (size_t)width;
  double *rows = mem_new(pixels, sizeof *rows), *smooth = mem_new(pixels, sizeof *smooth);
  double weights[2 * SMOOTH_RADIUS + 1];
  gaussian_weights(weights);
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++)
      for (int k = -SMOOTH_RADIUS; k <= SMOOTH_RADIUS; k++)
        rows[(size_t)y * (size_t)width + (size_t)x] +=
            weights[k + SMOOTH_RADIUS] / 1000 *
            luma[(size_t)y * (size_t)width + (size_t)clamp(x + k, width)];
  for (int y = 0; y < height; y++)
    for (int k = -SMOOTH_RADIUS; k <= SMOOTH_RADIUS; k++) {
      const double *from = rows + (size_t)clamp(y + k, height) * (size_t)width;
      double *to = smooth + (size_t)y * (size_t)width;
      for (int x = 0; x < width; x++) to[x] += weights[k + SMOOTH_RADIUS] * from[x];
    }
  free(luma);
  free(rows);
  return smooth;
}

/* True if both opposite sides in some direction are brighter by contrast and ratio. */
static bool is_ink(const double *smooth, int y, int x, int height, int width) {
  double here = smooth[(size_t)y * (size_t)width + (size_t)x];
  for (int d = 0; d < DIRECTIONS; d++)
    for (int i = 0; i < SIDE_DISTANCES; i++) {
      int dy = STEPS[d][0] * LENGTHS[d][i], dx = STEPS[d][1] * LENGTHS[d][i];
      double first =
          smooth[(size_t)clamp(y + dy, height) * (size_t)width + (size_t)clamp(x + dx, width)];
      double second =
          smooth[(size_t)clamp(y - dy, height) * (size_t)width + (size_t)clamp(x - dx, width)];
      double side = first < second ? first : second;
      if (side - here >= STYLE_INK_CONTRAST && here <= STYLE_INK_RATIO * side) return true;
    }
  return false;
}

enum { INK_NONE, INK_NEW, INK_KEPT }; /* states of a pixel while components are collected */

/* Collects the component of pixel `first` into `stack`; sets its pixels to INK_KEPT. */
static size_t collect_component(uint8_t *mask, int height, int width, int32_t first,
                                int32_t *stack) {
  size_t count = 1;
  stack[0] = first;
  mask[first] = INK_KEPT;
  for (size_t next = 0; next < count; next++) {
    int y = stack[next] / width, x = stack[next] % width;
    for (int j = y > 0 ? y - 1 : 0; j <= y + 1 && j < height; j++)
      for (int i = x > 0 ? x - 1 : 0; i <= x + 1 && i < width; i++) {
        int32_t at = j * width + i;
        if (mask[at] != INK_NEW) continue;
        mask[at] = INK_KEPT;
        stack[count++] = at;
      }
  }
  return count;
}

/* Drops short strokes; leaves a mask of 0 and 1 and returns the number of ones. */
static int64_t drop_short_strokes(uint8_t *mask, int height, int width) {
  int32_t pixels = height * width;
  int32_t *stack = mem_new((size_t)pixels, sizeof *stack);
  int64_t kept = 0;
  for (int32_t i = 0; i < pixels; i++) {
    if (mask[i] != INK_NEW) continue;
    size_t count = collect_component(mask, height, width, i, stack);
    if (count >= STYLE_INK_STROKE) {
      kept += (int64_t)count;
    } else {
      for (size_t k = 0; k < count; k++) mask[stack[k]] = INK_NONE;
    }
  }
  for (int32_t i = 0; i < pixels; i++) mask[i] = mask[i] == INK_KEPT;
  free(stack);
  return kept;
}

int64_t style_metrics_lines(const uint8_t *rgb, int height, int width, uint8_t *mask) {
  double *smooth = smooth_luma(rgb, height, width);
  uint8_t *own = mask ? NULL : mem_new((size_t)height * (size_t)width, 1);
  uint8_t *ink = mask ? mask : own;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++)
      ink[(size_t)y * (size_t)width + (size_t)x] =
          is_ink(smooth, y, x, height, width) ? INK_NEW : INK_NONE;
  int64_t count = drop_short_strokes(ink, height, width);
  free(smooth);
  free(own);
  return count;
}

/* --- Flat areas ------------------------------------------------------------------------------- */

typedef struct Range {
  int32_t low, high;
} Range;

static Range range_join(Range a, Range b) {
  return (Range){a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
}

int64_t style_metrics_flats(const uint8_t *rgb, int height, int width, uint8_t *mask) {
  enum { RADIUS = STYLE_FLAT_WINDOW / 2 };
  int32_t *luma = luma_plane(rgb, height, width);
  Range *rows = mem_new((size_t)height * (size_t)width, sizeof *rows);
  int64_t count = 0;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
      const int32_t *row = luma + (size_t)y * (size_t)width;
      Range range = {row[x], row[x]};
      for (int k = -RADIUS; k <= RADIUS; k++) {
        int32_t value = row[clamp(x + k, width)];
        range = range_join(range, (Range){value, value});
      }
      rows[(size_t)y * (size_t)width + (size_t)x] = range;
    }
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
      Range range = rows[(size_t)y * (size_t)width + (size_t)x];
      for (int k = -RADIUS; k <= RADIUS; k++)
        range = range_join(range, rows[(size_t)clamp(y + k, height) * (size_t)width + (size_t)x]);
      bool flat = range.high - range.low <= 1000 * STYLE_FLAT_RANGE;
      if (mask) mask[(size_t)y * (size_t)width + (size_t)x] = flat;
      count += flat;
    }
  free(luma);
  free(rows);
  return count;
}

/* --- Agreement of lines ----------------------------------------------------------------------- */

static bool has_neighbour(const uint8_t *mask, int y, int x, int height, int width) {
  for (int j = y > 0 ? y - 1 : 0; j <= y + 1 && j < height; j++)
    for (int i = x > 0 ? x - 1 : 0; i <= x + 1 && i < width; i++)
      if (mask[(size_t)j * (size_t)width + (size_t)i]) return true;
  return false;
}

void style_metrics_match(const uint8_t *lines, const uint8_t *target, int height, int width,
                         LineMatch *sums) {
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
      size_t at = (size_t)y * (size_t)width + (size_t)x;
      if (lines[at]) {
        sums->lines++;
        sums->matched += has_neighbour(target, y, x, height, width);
      }
      if (target[at]) {
        sums->target_lines++;
        sums->target_matched += has_neighbour(lines, y, x, height, width);
      }
    }
}

static double ratio(int64_t part, int64_t whole) {
  return whole > 0 ? (double)part / (double)whole : (double)NAN;
}

double line_match_precision(const LineMatch *sums) {
  return ratio(sums->matched, sums->lines);
}

double line_match_recall(const LineMatch *sums) {
  return ratio(sums->target_matched, sums->target_lines);
}

double line_match_f1(const LineMatch *sums) {
  if (sums->lines == 0 && sums->target_lines == 0) return (double)NAN;
  double precision = sums->lines > 0 ? line_match_precision(sums) : 0;
  double recall = sums->target_lines > 0 ? line_match_recall(sums) : 0;
  return precision + recall > 0 ? 2 * precision * recall / (precision + recall) : 0;
}
