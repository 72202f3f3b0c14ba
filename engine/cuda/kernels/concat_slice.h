/* Concatenation and slices: boxes copied from tensor to tensor in the widest accesses their rows
 * allow. Bytes moved: each output element is read once and written once. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_CONCAT_SLICE_H
#define CELFORGE_ENGINE_CUDA_KERNELS_CONCAT_SLICE_H

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

enum { MOVEMENT_MOST_COPIES = 8, MOVEMENT_MOST_LEVELS = 4 };

/* Rows of contiguous bytes; see engine/backend/strided_copy.h. */
typedef struct RowsCopy {
  char *to; /* the first row */
  const char *from;
  int64_t rows, row; /* how many, and bytes of one */
  int levels;        /* loops over rows, innermost first */
  int64_t length[MOVEMENT_MOST_LEVELS];
  int64_t to_step[MOVEMENT_MOST_LEVELS], from_step[MOVEMENT_MOST_LEVELS]; /* bytes */
} RowsCopy;

typedef struct MovementLaunch {
  int count;
  RowsCopy copies[MOVEMENT_MOST_COPIES];
} MovementLaunch;

Status launch_movement(const MovementLaunch *p, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
