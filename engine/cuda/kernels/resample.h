/* Padding, resizing, average pooling and their gradients: sparse linear maps along H and W
 * (engine/backend/resample_map.h), whose tables are built once and stored on the device. Each
 * thread gathers the inputs of its outputs, in a fixed order.
 *
 * Traffic: the input once (elements that several outputs read come from the caches after the first
 * time), the addend once, the output once. Sums are f32. If every output is an input or zero, the
 * bytes are copied. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_RESAMPLE_H
#define CELFORGE_ENGINE_CUDA_KERNELS_RESAMPLE_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

/* An ResampleAxis on the device. */
typedef struct AxisTable {
  const int32_t *begin, *index;
  const float *weight;
} AxisTable;

typedef struct ResampleLaunch {
  bool copies; /* every output is an input or zero */
  bool bf16;
  const void *input;
  const void *addend; /* added to the output, has its shape; NULL: none */
  void *output;
  int64_t in[5], out[5];             /* shapes */
  int64_t shift_n, shift_t, shift_c; /* as in ResampleMap */
  AxisTable h, w;
} ResampleLaunch;

Status launch_resample(const ResampleLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
