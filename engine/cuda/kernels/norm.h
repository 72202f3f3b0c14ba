/* RMS, instance and group norm, forward (with activation and residual) and backward.
 *
 * Bytes moved, for tensors of B bytes; everything else is small beside them:
 *   rms forward      read x, [residual], write y             2 B (3 B with a residual)
 *   rms backward     read x, dy, write dx                    3 B; sums of dgain, dbias on the way
 *   frames forward   read x for the statistics, then as rms  3 B (4 B): the second read is the L2
 *                                                            cache's where a frame fits into it
 *   frames backward  read x; read x, dy; read x, dy, write dx       6 B
 * RMS over more channels than a warp keeps in registers (MOST_SLOTS accesses of a lane) takes a
 * block for each pixel and a second reading of x and dy for dgain and dbias: 5 B.
 * Where y is padded, pixels at its sides are computed again; where dy is, they are added up.
 *
 * Sums are f32, in an order that depends on shapes alone (rms: and on the number of the GPU's
 * multiprocessors): partial sums of fixed pieces of the tensor in the workspace, then their sums.
 * Statistics of frames are means and sums of squared deviations, updated as Welford (1962) and
 * merged as Chan, Golub and LeVeque (1979) do, so a mean that is large beside the deviation costs
 * no digits. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_NORM_H
#define CELFORGE_ENGINE_CUDA_KERNELS_NORM_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#include "base/error.h"
#include "engine/backend/op_arguments.h"

enum {
  NORM_THREADS = 256,
  NORM_MOST_PIECES = 1024, /* of all frames together */
  NORM_MOST_SLOTS = 4,     /* accesses of one lane to a pixel of RMS norm */
};

typedef struct NormLaunch {
  bool bf16;              /* x, residual, y, dy, dx; else f32 */
  int64_t frames, pixels; /* N * T, H * W */
  int height, width;
  bool padded; /* as in NormTask; rms alone */
  NormFrame outer, residual_outer;
  int64_t channels, groups;
  float epsilon, slope;     /* v > 0 ? v : slope * v; 1 is no activation */
  const float *gain, *bias; /* C; NULL: 1 and 0 */
  const void *x, *residual; /* residual NULL: none */
  void *y;
  const void *dy; /* NULL: forward */
  void *dx;
  float *dgain, *dbias; /* C; NULL where not wanted */
  /* rms, of a grid at most: whole rounds of the multiprocessors, whether 1, 2, 3, 4 or 6 blocks are
   * resident on each, since a round that is not full costs as much as one that is */
  int64_t blocks;
  /* rms: how many partial sums; frames: how many pieces a frame is cut into */
  int64_t pieces, piece_length; /* frames: pixels of a piece, but for the last one of a frame */
  /* [rms: pieces; frames: frames, pieces][2, C]; rms: NULL where neither dgain nor dbias is wanted
   */
  float *partials;
  float *statistics; /* rms: [pixels of all frames] 1 / rms; frames: [frames][2, C] mean, 1 / std */
  float *means;      /* frames, backward: [frames][2, C], of h and of h n */
} NormLaunch;

/* Whether 16 bytes move at once: whole pixels of them, and tensors that begin at such. */
bool norm_in_vectors(const NormLaunch *p);

/* Backward where dy is given. */
Status launch_norm_pixels(const NormLaunch *p, cudaStream_t stream, Error *error);
Status launch_norm_frames(const NormLaunch *p, cudaStream_t stream, Error *error);
/* The part of launch_norm_pixels for more channels; in `vectors` of 16 bytes. */
Status launch_norm_wide(const NormLaunch *p, bool vectors, cudaStream_t stream, Error *error);
/* dgain and dbias from `rows` rows of partials. */
Status launch_norm_parameters(const NormLaunch *p, int64_t rows, cudaStream_t stream, Error *error);

#ifdef __cplusplus
}
#endif

#endif
