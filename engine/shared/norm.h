/* What a norm does to one normalised element n: y = activation(gain n + bias), with
 * activation(v) = v > 0 ? v : slope v (a slope of 1 is none), and its derivative. */
#ifndef CELFORGE_ENGINE_SHARED_NORM_H
#define CELFORGE_ENGINE_SHARED_NORM_H

#include "engine/shared/shared.h"

SHARED float norm_value(float n, float gain, float bias, float slope) {
  const float v = gain * n + bias;
  return v > 0 ? v : slope * v;
}

/* The gradient in front of the activation from the one behind it. */
SHARED float norm_gradient(float n, float gain, float bias, float slope, float dy) {
  return gain * n + bias > 0 ? dy : slope * dy;
}

#endif
