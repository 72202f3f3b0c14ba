/* The positions that warping and translation read, for every backend. */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_MOTION_H
#define CELFORGE_ENGINE_BACKEND_SHARED_MOTION_H

#include <math.h>
#include <stdbool.h>

#include "base/host_device.h"

/* The longest side of a frame: f32 represents all whole numbers up to it. */
enum { MOTION_MAX_SIDE = 1 << 24 };

/* The sample at `pixel` + `shift` along an axis, clamped to the axis:
 * (1 - part) x[lower] + part x[upper]. */
typedef struct WarpPosition {
  int lower, upper;
  float part;
} WarpPosition;

/* The shift is clamped before it is split, so that large ones do not overflow and the part keeps
 * all its digits. NaN reads pixel 0. */
HOST_DEVICE WarpPosition warp_position(int pixel, float shift, int count) {
  const float least = (float)-pixel, most = (float)(count - 1 - pixel);
  const float raised = shift > least ? shift : least;
  const float inside = raised < most ? raised : most;
  const float whole = floorf(inside);
  WarpPosition position;
  position.lower = pixel + (int)whole;
  position.upper = position.lower < count - 1 ? position.lower + 1 : position.lower;
  position.part = inside - whole;
  return position;
}

/* The interpolation of the four neighbours, along the row first. */
HOST_DEVICE float warp_value(float upper_left, float upper_right, float lower_left,
                             float lower_right, float part_w, float part_h) {
  const float top = upper_left + part_w * (upper_right - upper_left);
  const float bottom = lower_left + part_w * (lower_right - lower_left);
  return top + part_h * (bottom - top);
}

/* An offset in whole pixels, halves rounded away from 0, so that the negated offset moves back. NaN
 * and very large offsets move everything out of the frame. */
HOST_DEVICE int translate_pixels(float offset, bool negated) {
  const float most = 1073741824.0f; /* 2^30, more than a side */
  const float raised = offset > -most ? offset : -most;
  const int pixels = (int)roundf(raised < most ? raised : most);
  return negated ? -pixels : pixels;
}

#endif
