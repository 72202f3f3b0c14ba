/* What a norm does to one normalised element n: y = activation(gain n + bias), with
 * activation(v) = v > 0 ? v : slope v (a slope of 1 is none), and its derivative. */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_NORM_H
#define CELFORGE_ENGINE_BACKEND_SHARED_NORM_H

#include "base/host_device.h"

HOST_DEVICE float norm_value(float n, float gain, float bias, float slope) {
  const float v = gain * n + bias;
  return v > 0 ? v : slope * v;
}

/* The gradient in front of the activation from the one behind it. */
HOST_DEVICE float norm_gradient(float n, float gain, float bias, float slope, float dy) {
  return gain * n + bias > 0 ? dy : slope * dy;
}

/* --- Padding by reflection: of `count` pixels in a row, `before` of them and more behind --------
 */

/* The pixel that is seen at `place` of the padded row, of which the first one is place 0. */
HOST_DEVICE int norm_reflected(int place, int before, int count) {
  const int away = place < before ? before - place : place - before;
  return away < count ? away : 2 * (count - 1) - away;
}

/* Pixel `i` is seen in the `padded` places of the row once to three times: as itself (0), in front
 * of the first pixel (1) and behind the last one (2). Where it is seen so, or -1. */
HOST_DEVICE int norm_seen(int way, int i, int before, int count, int padded) {
  if (way == 0) return before + i;
  if (way == 1) return i > 0 && i <= before ? before - i : -1;
  const int place = before + 2 * (count - 1) - i;
  return i < count - 1 && place < padded ? place : -1;
}

#endif
