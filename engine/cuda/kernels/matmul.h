/* Batched matrix products. A block computes a tile of the result from tiles of both operands in
 * shared memory; products and sums are f32. Where a result has few tiles and long sums (Gram
 * matrices), the sums are cut into parts, computed by different blocks and added in order by a
 * second kernel. The number of parts depends on the shape alone, so results do not depend on the
 * device.
 *
 * Traffic: each operand once for every MATMUL_TILE rows or columns of the result, mostly from the
 * L2 cache; the result once, and with parts 8 bytes for each element and part. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_MATMUL_H
#define CELFORGE_ENGINE_CUDA_KERNELS_MATMUL_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"

enum { MATMUL_TILE = 64 }; /* rows and columns */

typedef struct MatmulLaunch {
  bool bf16; /* a and b; else f32 */
  bool transpose_a, transpose_b;
  int64_t batch, rows, columns, terms; /* as in MatmulArguments */
  int64_t parts, part_terms;           /* of each sum; matmul_parts */
  const void *a, *b;
  float *y;
  float *partials; /* workspace [batch, parts, rows, columns]; unused with one part */
} MatmulLaunch;

/* Sets parts and part_terms from the shape. The workspace is 0 or parts * batch * rows * columns
 * floats. */
void matmul_parts(MatmulLaunch *launch);
Status launch_matmul(const MatmulLaunch *launch, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif
#endif
