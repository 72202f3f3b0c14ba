/* Where a pixel of RMS norm lies in tensors that are padded by reflection (NormTask in
 * engine/backend/op_arguments.h). For the kernels of norm_pixels.cu and norm_wide.cu. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_NORM_PADDING_H
#define CELFORGE_ENGINE_CUDA_KERNELS_NORM_PADDING_H

#include "engine/backend/shared/norm.h"
#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/norm.h"
#include "engine/cuda/kernels/vector.h"

/* A pixel's frame, and where it is in it; or so far from one pixel to another. */
struct Spot {
  int frame, row, column;

  __device__ int64_t in(const NormFrame &outer) const {
    return (frame * outer.height + outer.top + row) * outer.width + outer.left + column;
  }
};

struct RowLaunch {
  NormLaunch norm;
  int64_t pixels;        /* of all frames of y; backward, of x */
  int rows, columns;     /* of one of these frames */
  Divisor height, width; /* the same */
  Spot step;             /* from a thread's pixel to its next */
  float of_mean;         /* 1 / channels */

  explicit RowLaunch(const NormLaunch &p)
      : norm(p), rows(p.dy ? p.height : static_cast<int>(p.outer.height)),
        columns(p.dy ? p.width : static_cast<int>(p.outer.width)), height(divisor_of(rows)),
        width(divisor_of(columns)), step(), of_mean(1.0f / static_cast<float>(p.channels)) {
    pixels = p.frames * rows * columns;
  }
  /* A grid whose blocks take so many pixels in a turn, of which a thread takes `at_once`. */
  dim3 grid(int64_t pixels_of_turn, int at_once) {
    const int64_t all = (pixels + pixels_of_turn - 1) / pixels_of_turn;
    const int64_t blocks = all < norm.blocks ? all : norm.blocks;
    step_by(blocks * pixels_of_turn / at_once);
    return dim3(static_cast<unsigned>(blocks));
  }
  void step_by(int64_t count) {
    step = {static_cast<int>(count / columns / rows), static_cast<int>(count / columns % rows),
            static_cast<int>(count % columns)};
  }
};

/* Where a thread begins: below 2^31, as grids are small. */
__device__ inline Spot first_spot(const RowLaunch &p, int64_t pixel) {
  uint32_t rest = static_cast<uint32_t>(pixel);
  const int column = static_cast<int>(take_rest(rest, p.width));
  const int row = static_cast<int>(take_rest(rest, p.height));
  return {static_cast<int>(rest), row, column};
}

/* A step further, without a division: there may be more pixels than 32 bits count. */
__device__ inline Spot next_spot(const RowLaunch &p, Spot spot) {
  spot.column += p.step.column;
  const bool wraps = spot.column >= p.columns;
  spot.column -= wraps ? p.columns : 0;
  spot.row += p.step.row + wraps;
  const bool ends = spot.row >= p.rows;
  spot.row -= ends ? p.rows : 0;
  spot.frame += p.step.frame + ends;
  return spot;
}

/* Forward: the pixels of x and of the residual for a pixel of y. */
struct Sources {
  int64_t x, residual;

  __device__ Sources(const NormLaunch &p, Spot spot) {
    spot.row = norm_reflected(spot.row, static_cast<int>(p.outer.top), p.height);
    spot.column = norm_reflected(spot.column, static_cast<int>(p.outer.left), p.width);
    x = (static_cast<int64_t>(spot.frame) * p.height + spot.row) * p.width + spot.column;
    residual = spot.in(p.residual_outer);
  }
};

/* Backward: whether the padding may show the pixel of x a second time. */
__device__ inline bool near_sides(const NormLaunch &p, const Spot &spot) {
  const int top = static_cast<int>(p.outer.top), left = static_cast<int>(p.outer.left);
  const int below = static_cast<int>(p.outer.height) - top - p.height;
  const int right = static_cast<int>(p.outer.width) - left - p.width;
  const int last_row = p.height - 1, last_column = p.width - 1;
  return (spot.row > 0 && spot.row <= top) ||
         (spot.row < last_row && spot.row >= last_row - below) ||
         (spot.column > 0 && spot.column <= left) ||
         (spot.column < last_column && spot.column >= last_column - right);
}

/* Adds the N channels of dy from `channel` in all places that show the pixel but its own. */
template <typename T, int N>
__device__ inline void add_seen(const NormLaunch &p, const Spot &spot, int64_t channel,
                                float *sum) {
#pragma unroll 1
  for (int down = 0; down < 3; down++) {
    const int row = norm_seen(down, spot.row, static_cast<int>(p.outer.top), p.height,
                              static_cast<int>(p.outer.height));
#pragma unroll 1
    for (int across = row < 0 ? 3 : down == 0; across < 3; across++) {
      const int column = norm_seen(across, spot.column, static_cast<int>(p.outer.left), p.width,
                                   static_cast<int>(p.outer.width));
      if (column < 0) continue;
      const int64_t at = (spot.frame * p.outer.height + row) * p.outer.width + column;
      float dy[N];
      floats_load<T, N>(static_cast<const T *>(p.dy) + at * p.channels + channel, dy);
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += dy[i];
    }
  }
}

#endif
