/* Padding, resizing, average pooling and their transposes: sparse maps along H and W
 * (engine/backend/resample_map.h), whose tables are made once and lie on the device. Every output
 * is gathered, so nothing is added twice and no order varies.
 *
 * Bytes moved: the input once (an element that several outputs read comes from the caches after the
 * first), the addend, which is added in f32, and the output once. Where every output is an input or
 * zero the bytes are copied as they are. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_RESAMPLE_H
#define CELFORGE_ENGINE_CUDA_KERNELS_RESAMPLE_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

/* An AxisMap on the device. */
typedef struct AxisTable {
  const int32_t *begin, *index;
  const float *weight;
} AxisTable;

typedef struct SeparableLaunch {
  bool copies; /* no output is a sum */
  bool bf16;
  const void *input;
  const void *addend; /* of the output's shape; NULL: none */
  void *output;
  int64_t in[5], out[5];             /* shapes */
  int64_t shift_n, shift_t, shift_c; /* an output plane reads the input plane of number + shift */
  AxisTable h, w;
} SeparableLaunch;

Status launch_separable(const SeparableLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
