/* The last step of a norm for one normalised element n, y = activation(gain n + bias) with
 * activation(v) = v > 0 ? v : slope v (slope 1: no activation), and its derivative. */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_NORM_H
#define CELFORGE_ENGINE_BACKEND_SHARED_NORM_H

#include "base/host_device.h"

HOST_DEVICE float norm_value(float n, float gain, float bias, float slope) {
  const float v = gain * n + bias;
  return v > 0 ? v : slope * v;
}

/* The gradient before the activation, from dy after it. */
HOST_DEVICE float norm_gradient(float n, float gain, float bias, float slope, float dy) {
  return gain * n + bias > 0 ? dy : slope * dy;
}

/* --- Reflect padding of a row of `count` pixels, `before` pixels on its left ------------------ */

/* The pixel that position `position` of the padded row shows. */
HOST_DEVICE int reflected_pixel(int position, int before, int count) {
  const int away = position < before ? before - position : position - before;
  return away < count ? away : 2 * (count - 1) - away;
}

/* The position in a padded row of `padded` pixels of a copy of pixel `i`, -1 if there is none. Copy
 * 0 is the pixel itself, copy 1 its reflection on the left, copy 2 the one on the right. */
HOST_DEVICE int pixel_copy_position(int copy, int i, int before, int count, int padded) {
  if (copy == 0) return before + i;
  if (copy == 1) return i > 0 && i <= before ? before - i : -1;
  const int position = before + 2 * (count - 1) - i;
  return i < count - 1 && position < padded ? position : -1;
}

#endif
