#include "engine/cuda/kernels/max_pool.h"

#include "engine/backend/shared/maximum.h"
#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };
static const int64_t MOST_ROWS = 65535; /* of a grid */

struct PoolLaunch {
  MaxPoolLaunch pool;
  int64_t rows, columns; /* of whole windows in a frame */
  Divisor slots,
      across;       /* accesses to a pixel; windows of a row, backward with a part at the end */
  uint32_t threads; /* for a frame, which a row of the grid takes */
};

/* A thread's window and the first of its channels. */
struct Window {
  int64_t row, column, channel;
};

template <int N> __device__ inline Window window_of(const PoolLaunch &p, uint32_t index) {
  Window window;
  window.channel = static_cast<int64_t>(take_rest(index, p.slots)) * N;
  window.column = static_cast<int64_t>(take_rest(index, p.across));
  window.row = static_cast<int64_t>(index);
  return window;
}

/* The element of x at which the window begins. */
__device__ inline int64_t first_of(const MaxPoolLaunch &p, const Window &window, int64_t frame,
                                   int size) {
  const int64_t row = frame * p.height + window.row * size;
  return (row * p.width + window.column * size) * p.channels + window.channel;
}

/* Its element of what is pooled. */
__device__ inline int64_t pooled_of(const PoolLaunch &p, const Window &window, int64_t frame) {
  const int64_t pixel = (frame * p.rows + window.row) * p.columns + window.column;
  return pixel * p.pool.channels + window.channel;
}

/* Windows are SIZE wide, or, where that is 0, p.size. */
template <int SIZE> __device__ inline int size_of(const MaxPoolLaunch &p) {
  return SIZE > 0 ? SIZE : p.size;
}

/* Each channel's largest number in the window, and the number of its cell. */
template <typename T, int N, int SIZE>
__device__ inline void find_largest(const MaxPoolLaunch &p, int64_t first, float *largest,
                                    int *which) {
  const int size = size_of<SIZE>(p);
  const T *x = static_cast<const T *>(p.x) + first;
#pragma unroll(SIZE > 0 ? SIZE : 1)
  for (int i = 0; i < size; i++) {
#pragma unroll(SIZE > 0 ? SIZE : 1)
    for (int j = 0; j < size; j++) {
      float cell[N];
      floats_load<T, N>(x + (i * p.width + j) * p.channels, cell);
      const int number = i * size + j;
#pragma unroll
      for (int k = 0; k < N; k++) {
        const bool takes = number == 0 || shared_is_larger(cell[k], largest[k]);
        largest[k] = takes ? cell[k] : largest[k];
        which[k] = takes ? number : which[k];
      }
    }
  }
}

/* What `other` holds in those cells. */
template <typename T, int N, int SIZE>
__device__ inline void read_where(const MaxPoolLaunch &p, int64_t first, const int *which,
                                  float *value) {
  const int size = size_of<SIZE>(p);
  const T *other = static_cast<const T *>(p.other) + first;
#pragma unroll(SIZE > 0 ? SIZE : 1)
  for (int i = 0; i < size; i++) {
#pragma unroll(SIZE > 0 ? SIZE : 1)
    for (int j = 0; j < size; j++) {
      float cell[N];
      floats_load<T, N>(other + (i * p.width + j) * p.channels, cell);
#pragma unroll
      for (int k = 0; k < N; k++) value[k] = which[k] == i * size + j ? cell[k] : value[k];
    }
  }
}

template <typename T, int N, int SIZE>
__global__ void __launch_bounds__(THREADS) max_pool_kernel(const PoolLaunch p) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.threads) return;
  const Window window = window_of<N>(p, index);
#pragma unroll 1
  for (int64_t frame = blockIdx.y; frame < p.pool.frames; frame += gridDim.y) {
    const int64_t first = first_of(p.pool, window, frame, size_of<SIZE>(p.pool));
    float value[N] = {};
    int which[N] = {};
    find_largest<T, N, SIZE>(p.pool, first, value, which);
    if (p.pool.other) read_where<T, N, SIZE>(p.pool, first, which, value);
    floats_store<T, N>(static_cast<T *>(p.pool.out) + pooled_of(p, window, frame), value);
  }
}

/* --- Backward --------------------------------------------------------------------------------- */

/* dy in the cell of that number, 0 in the window's others. */
template <typename T, int N, int SIZE>
__device__ inline void write_where(const MaxPoolLaunch &p, int64_t first, const int *which,
                                   const float *dy) {
  const int size = size_of<SIZE>(p);
  T *dx = static_cast<T *>(p.out) + first;
#pragma unroll(SIZE > 0 ? SIZE : 1)
  for (int i = 0; i < size; i++) {
#pragma unroll(SIZE > 0 ? SIZE : 1)
    for (int j = 0; j < size; j++) {
      float cell[N];
#pragma unroll
      for (int k = 0; k < N; k++) cell[k] = which[k] == i * size + j ? dy[k] : 0.0f;
      floats_store<T, N>(dx + (i * p.width + j) * p.channels, cell);
    }
  }
}

/* Where rows and columns end in a part of a window. */
template <typename T, int N, int SIZE>
__device__ inline void clear_part(const MaxPoolLaunch &p, const Window &window, int64_t first) {
  const float zeros[N] = {};
  const int size = size_of<SIZE>(p);
  for (int i = 0; i < size && window.row * size + i < p.height; i++) {
    for (int j = 0; j < size && window.column * size + j < p.width; j++)
      floats_store<T, N>(static_cast<T *>(p.out) + first + (i * p.width + j) * p.channels, zeros);
  }
}

template <typename T, int N, int SIZE>
__global__ void __launch_bounds__(THREADS) max_pool_backward_kernel(const PoolLaunch p) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.threads) return;
  const Window window = window_of<N>(p, index);
  const bool whole = window.row < p.rows && window.column < p.columns;
#pragma unroll 1
  for (int64_t frame = blockIdx.y; frame < p.pool.frames; frame += gridDim.y) {
    const int64_t first = first_of(p.pool, window, frame, size_of<SIZE>(p.pool));
    if (!whole) {
      clear_part<T, N, SIZE>(p.pool, window, first);
      continue;
    }
    float largest[N] = {}, dy[N];
    int which[N] = {};
    floats_load<T, N>(static_cast<const T *>(p.pool.dy) + pooled_of(p, window, frame), dy);
    find_largest<T, N, SIZE>(p.pool, first, largest, which);
#pragma unroll
    for (int k = 0; k < N; k++) dy[k] *= largest[k] > 0.0f ? 1.0f : p.pool.slope;
    write_where<T, N, SIZE>(p.pool, first, which, dy);
  }
}

/* --- Launchers -------------------------------------------------------------------------------- */

typedef void PoolKernel(PoolLaunch);

/* A thread for each of rows x across windows and N channels. */
template <int N>
static Status start(PoolKernel *kernel, const MaxPoolLaunch *p, int64_t rows, int64_t across,
                    cudaStream_t stream, Error *error) {
  const int64_t slots = p->channels / N, threads = rows * across * slots;
  const int64_t blocks = (threads + THREADS - 1) / THREADS;
  if (threads > INT32_MAX - THREADS)
    return error_set(error, ERROR_INTERNAL, "max pool: %lld accesses to a frame; at most %d",
                     static_cast<long long>(threads), INT32_MAX - THREADS);
  const PoolLaunch launch = {*p,
                             p->height / p->size,
                             p->width / p->size,
                             divisor_of(slots),
                             divisor_of(across),
                             static_cast<uint32_t>(threads)};
  const dim3 grid(static_cast<unsigned>(blocks),
                  static_cast<unsigned>(p->frames < MOST_ROWS ? p->frames : MOST_ROWS));
  return cuda_launch(kernel, grid, THREADS, 0, launch, stream, error);
}

template <typename T, int N>
static Status launch(const MaxPoolLaunch *p, cudaStream_t stream, Error *error) {
  return start<N>(p->size == 2 ? max_pool_kernel<T, N, 2> : max_pool_kernel<T, N, 0>, p,
                  p->height / p->size, p->width / p->size, stream, error);
}

template <typename T, int N>
static Status launch_backward(const MaxPoolLaunch *p, cudaStream_t stream, Error *error) {
  return start<N>(
      p->size == 2 ? max_pool_backward_kernel<T, N, 2> : max_pool_backward_kernel<T, N, 0>, p,
      (p->height + p->size - 1) / p->size, (p->width + p->size - 1) / p->size, stream, error);
}

/* Whether every access may be of 16 bytes, `count` channels. */
static bool in_vectors(const MaxPoolLaunch *p, int count) {
  const uintptr_t addresses =
      reinterpret_cast<uintptr_t>(p->x) | reinterpret_cast<uintptr_t>(p->other) |
      reinterpret_cast<uintptr_t>(p->dy) | reinterpret_cast<uintptr_t>(p->out);
  return (addresses & 15u) == 0 && p->channels % count == 0;
}

Status launch_max_pool(const MaxPoolLaunch *p, cudaStream_t stream, Error *error) {
  if (p->bf16)
    return in_vectors(p, 8) ? launch<uint16_t, 8>(p, stream, error)
                            : launch<uint16_t, 1>(p, stream, error);
  return in_vectors(p, 4) ? launch<float, 4>(p, stream, error) : launch<float, 1>(p, stream, error);
}

Status launch_max_pool_backward(const MaxPoolLaunch *p, cudaStream_t stream, Error *error) {
  if (p->bf16)
    return in_vectors(p, 8) ? launch_backward<uint16_t, 8>(p, stream, error)
                            : launch_backward<uint16_t, 1>(p, stream, error);
  return in_vectors(p, 4) ? launch_backward<float, 4>(p, stream, error)
                          : launch_backward<float, 1>(p, stream, error);
}
