/* The order of max pooling: the first of equal maxima wins, and a NaN is larger than any number,
 * the last of several NaNs being the maximum (PyTorch's max_pool2d). */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_MAXIMUM_H
#define CELFORGE_ENGINE_BACKEND_SHARED_MAXIMUM_H

#include <stdbool.h>

#include "base/host_device.h"

/* True if `value` replaces `largest`, the maximum of the values before it. */
HOST_DEVICE bool replaces_maximum(float value, float largest) {
  return value > largest || value != value;
}

#endif
