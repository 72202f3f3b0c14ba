/* RMS, instance and group norm, forward (with activation and residual) and backward.
 *
 * Traffic for tensors of B bytes (everything else is small beside them):
 *   RMS forward                 read x, [residual], write y           2 B (3 B with a residual)
 *   RMS backward                read x, dy, write dx                  3 B, sums dgain, dbias too
 *   instance, group, forward    read x for the statistics, then as
 *                               RMS forward; the second read hits L2
 *                               if a frame fits                       3 B (4 B)
 *   instance, group, backward   read x; read x, dy; read x, dy,
 *                               write dx                              6 B
 * RMS norm of more channels than fit in a warp's registers (32 lanes of NORM_MAX_LANE_ACCESSES
 * accesses) takes one block per pixel, and reads x and dy again for dgain and dbias: 5 B.
 * If y has reflect padding, border pixels are computed again; if dy has, their gradients are added.
 *
 * Sums are f32, in an order that depends on the shapes alone (RMS: and on the number of
 * multiprocessors): partial sums of fixed chunks of the tensor in the workspace, then their sums.
 * Instance and group statistics are means and sums of squared deviations, updated as in Welford
 * (1962) and merged as in Chan, Golub and LeVeque (1979), which loses no digits when the mean is
 * large beside the deviation. */
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
  NORM_MAX_CHUNKS = 1024,     /* instance and group norm: of all frames together */
  NORM_MAX_LANE_ACCESSES = 4, /* RMS norm: accesses of one lane to one pixel */
};

/* In comments below, "RMS" and "instance" say which norm a field belongs to; "instance" includes
 * group norm. */
typedef struct NormLaunch {
  bool bf16;              /* x, residual, y, dy, dx; else f32 */
  bool vectorized;        /* 16-byte accesses: channels and addresses are multiples of 16 bytes */
  int64_t frames, pixels; /* N * T, H * W */
  int height, width;
  bool padded; /* as in NormArguments; RMS only */
  NormFrame outer, residual_outer;
  int64_t channels, groups;
  float epsilon, slope;     /* activation v > 0 ? v : slope * v; slope 1: none */
  const float *gain, *bias; /* [C]; NULL: 1 and 0 */
  const void *x, *residual; /* residual NULL: none */
  void *y;
  const void *dy; /* NULL: forward */
  void *dx;
  float *dgain, *dbias; /* [C]; NULL: not computed */
  /* RMS: largest grid, a whole number of waves for 1, 2, 3, 4 or 6 resident blocks per
   * multiprocessor, since a partial wave takes as long as a full one. */
  int64_t blocks;
  int64_t chunks;       /* RMS: of the tensor; instance: of each frame */
  int64_t chunk_length; /* instance: pixels per chunk; the last one of a frame may be shorter */
  float *partials;      /* RMS: [chunks, 2, C], NULL without dgain and dbias; instance:
                         * [frames, chunks, 2, C] */
  float *statistics;    /* RMS: [frames * pixels], 1 / rms; instance: [frames, 2, C], mean and
                         * 1 / std */
  float *means; /* instance backward: [frames, 2, C], means of h and of h n (h = gain dy, n =
                   normalised x) */
} NormLaunch;

/* Backward if dy is given, else forward. */
Status launch_rms_norm(const NormLaunch *p, cudaStream_t stream, Error *error);
Status launch_instance_norm(const NormLaunch *p, cudaStream_t stream, Error *error);
/* launch_rms_norm for many channels; without the sums of partials. */
Status launch_rms_norm_wide(const NormLaunch *p, cudaStream_t stream, Error *error);
/* Sums `rows` rows of partials to dgain and dbias. */
Status launch_norm_parameter_gradients(const NormLaunch *p, int64_t rows, cudaStream_t stream,
                                       Error *error);

#ifdef __cplusplus
}
#endif

#endif
