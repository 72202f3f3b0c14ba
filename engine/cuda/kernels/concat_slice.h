/* Concatenation and slices: strided copies between tensors, in the widest accesses that the
 * alignment of their rows allows. Traffic: each output element is read once and written once. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_CONCAT_SLICE_H
#define CELFORGE_ENGINE_CUDA_KERNELS_CONCAT_SLICE_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

enum { CONCAT_SLICE_MAX_COPIES = 8, CONCAT_SLICE_MAX_LEVELS = 4 };

/* A StridedCopy (engine/backend/strided_copy.h) with addresses. */
typedef struct ConcatSliceCopy {
  char *to; /* the first row */
  const char *from;
  int64_t rows, row; /* number of rows; bytes per row */
  int levels;        /* loops over rows, innermost first */
  int64_t length[CONCAT_SLICE_MAX_LEVELS];
  int64_t to_step[CONCAT_SLICE_MAX_LEVELS], from_step[CONCAT_SLICE_MAX_LEVELS]; /* bytes */
} ConcatSliceCopy;

typedef struct ConcatSliceLaunch {
  int count;
  ConcatSliceCopy copies[CONCAT_SLICE_MAX_COPIES];
} ConcatSliceLaunch;

/* Runs all copies in one kernel. */
Status launch_concat_slice(const ConcatSliceLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
