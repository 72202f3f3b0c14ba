/* Warping and translation. A thread computes a few neighbouring channels of a pixel; nothing is
 * summed over threads, so results do not depend on their order.
 *
 * Traffic: x once (warping reads each pixel about four times, mostly from the caches), y once; the
 * flow once for each access of a pixel. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_MOTION_H
#define CELFORGE_ENGINE_CUDA_KERNELS_MOTION_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

typedef struct MotionLaunch {
  bool bf16;
  bool negated;                                    /* translate: by the negated offsets */
  int64_t samples, times, height, width, channels; /* of x and y */
  int64_t flow_times;                              /* warp: times or 1 */
  const void *x;
  const float *by; /* flow [samples, flow_times, height, width, 2] or offsets [samples, 2] */
  void *y;
} MotionLaunch;

Status launch_warp(const MotionLaunch *p, cudaStream_t stream, Error *error);
Status launch_translate(const MotionLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif
#endif
