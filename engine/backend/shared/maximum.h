/* Which of several numbers is the largest: of equal ones the first, and a NaN is larger than any
 * number (as in PyTorch's max_pool2d, where of several NaNs the last one is it). */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_MAXIMUM_H
#define CELFORGE_ENGINE_BACKEND_SHARED_MAXIMUM_H

#include <stdbool.h>

#include "base/host_device.h"

/* Whether a number takes the place of the largest one before it. */
HOST_DEVICE bool shared_is_larger(float value, float largest) {
  return value > largest || value != value;
}

#endif
