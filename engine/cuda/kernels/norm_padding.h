/* Pixel positions of RMS norm in tensors with reflect padding (NormArguments in
 * engine/backend/op_arguments.h). For the kernels of rms_norm.cu and rms_norm_wide.cu. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_NORM_PADDING_H
#define CELFORGE_ENGINE_CUDA_KERNELS_NORM_PADDING_H

#include "engine/backend/shared/norm.h"
#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/norm.h"
#include "engine/cuda/kernels/vector.h"

/* The position of a pixel, or the distance between two. */
struct Position {
  int frame, row, column;

  /* The index of the pixel in a tensor whose frames are padded to `outer`. */
  __device__ int64_t in(const NormFrame &outer) const {
    return (frame * outer.height + outer.top + row) * outer.width + outer.left + column;
  }
};

struct RmsParameters {
  NormLaunch norm;
  int64_t pixels;            /* of all frames of y; backward: of x */
  int rows, columns;         /* of one of these frames */
  FastDivisor height, width; /* divide by rows and columns */
  Position step;             /* from a thread's pixel to its next */
  float inverse_channels;    /* 1 / channels */

  explicit RmsParameters(const NormLaunch &p)
      : norm(p), rows(p.dy ? p.height : static_cast<int>(p.outer.height)),
        columns(p.dy ? p.width : static_cast<int>(p.outer.width)), height(fast_divisor(rows)),
        width(fast_divisor(columns)), step(),
        inverse_channels(1.0f / static_cast<float>(p.channels)) {
    pixels = p.frames * rows * columns;
  }
  /* The grid for blocks that process `per_iteration` pixels per loop iteration, `per_thread` of
   * them by each thread. Sets `step`. */
  dim3 grid(int64_t per_iteration, int per_thread) {
    const int64_t all = (pixels + per_iteration - 1) / per_iteration;
    const int64_t blocks = all < norm.blocks ? all : norm.blocks;
    step_by(blocks * per_iteration / per_thread);
    return dim3(static_cast<unsigned>(blocks));
  }
  void step_by(int64_t count) {
    step = {static_cast<int>(count / columns / rows), static_cast<int>(count / columns % rows),
            static_cast<int>(count % columns)};
  }
};

/* The position of a thread's first pixel, whose index is below 2^31 since grids are small. */
__device__ inline Position first_position(const RmsParameters &p, int64_t pixel) {
  uint32_t rest = static_cast<uint32_t>(pixel);
  const int column = static_cast<int>(take_remainder(rest, p.width));
  const int row = static_cast<int>(take_remainder(rest, p.height));
  return {static_cast<int>(rest), row, column};
}

/* The position one step further, without a division: indices may exceed 32 bits. */
__device__ inline Position next_position(const RmsParameters &p, Position position) {
  position.column += p.step.column;
  const bool wraps = position.column >= p.columns;
  position.column -= wraps ? p.columns : 0;
  position.row += p.step.row + wraps;
  const bool ends = position.row >= p.rows;
  position.row -= ends ? p.rows : 0;
  position.frame += p.step.frame + ends;
  return position;
}

/* Forward: the indices of the pixels of x and of the residual for a pixel of y. */
struct SourcePixels {
  int64_t x, residual;

  __device__ SourcePixels(const NormLaunch &p, Position position) {
    position.row = reflected_pixel(position.row, static_cast<int>(p.outer.top), p.height);
    position.column = reflected_pixel(position.column, static_cast<int>(p.outer.left), p.width);
    x = (static_cast<int64_t>(position.frame) * p.height + position.row) * p.width +
        position.column;
    residual = position.in(p.residual_outer);
  }
};

/* Backward: true if the padding of dy may contain a copy of the pixel of x. */
__device__ inline bool may_be_reflected(const NormLaunch &p, const Position &position) {
  const int top = static_cast<int>(p.outer.top), left = static_cast<int>(p.outer.left);
  const int below = static_cast<int>(p.outer.height) - top - p.height;
  const int right = static_cast<int>(p.outer.width) - left - p.width;
  const int last_row = p.height - 1, last_column = p.width - 1;
  return (position.row > 0 && position.row <= top) ||
         (position.row < last_row && position.row >= last_row - below) ||
         (position.column > 0 && position.column <= left) ||
         (position.column < last_column && position.column >= last_column - right);
}

/* Adds to `sum` N channels of dy from `channel` at all copies of the pixel in the padding. */
template <typename T, int N>
__device__ inline void add_reflected(const NormLaunch &p, const Position &position, int64_t channel,
                                     float *sum) {
#pragma unroll 1
  for (int down = 0; down < 3; down++) {
    const int row = pixel_copy_position(down, position.row, static_cast<int>(p.outer.top), p.height,
                                        static_cast<int>(p.outer.height));
#pragma unroll 1
    for (int across = row < 0 ? 3 : down == 0; across < 3; across++) {
      const int column =
          pixel_copy_position(across, position.column, static_cast<int>(p.outer.left), p.width,
                              static_cast<int>(p.outer.width));
      if (column < 0) continue;
      const int64_t at = (position.frame * p.outer.height + row) * p.outer.width + column;
      float dy[N];
      floats_load<T, N>(static_cast<const T *>(p.dy) + at * p.channels + channel, dy);
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += dy[i];
    }
  }
}

#endif
