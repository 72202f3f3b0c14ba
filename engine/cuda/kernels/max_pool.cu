/* Max pooling and its gradient: see max_pool.h. */
#include "engine/cuda/kernels/max_pool.h"

#include "engine/backend/shared/maximum.h"
#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };
static const int64_t MAX_GRID_ROWS = 65535;

struct MaxPoolParameters {
  MaxPoolLaunch pool;
  int64_t rows, columns; /* whole windows of a frame along H and W */
  FastDivisor accesses;  /* per pixel */
  FastDivisor windows;   /* per row; backward: including a partial one at the end */
  uint32_t threads;      /* per frame; each row of the grid processes frames */
};

/* A thread's window and first channel. */
struct Window {
  int64_t row, column, channel;
};

template <int N> __device__ inline Window window_of(const MaxPoolParameters &p, uint32_t index) {
  Window window;
  window.channel = static_cast<int64_t>(take_remainder(index, p.accesses)) * N;
  window.column = static_cast<int64_t>(take_remainder(index, p.windows));
  window.row = static_cast<int64_t>(index);
  return window;
}

/* The index of the window's first element in x. */
__device__ inline int64_t first_of(const MaxPoolLaunch &p, const Window &window, int64_t frame,
                                   int size) {
  const int64_t row = frame * p.height + window.row * size;
  return (row * p.width + window.column * size) * p.channels + window.channel;
}

/* The index of the window's element in the pooled tensor. */
__device__ inline int64_t pooled_of(const MaxPoolParameters &p, const Window &window,
                                    int64_t frame) {
  const int64_t pixel = (frame * p.rows + window.row) * p.columns + window.column;
  return pixel * p.pool.channels + window.channel;
}

/* The window size: SIZE, or p.size if SIZE is 0. */
template <int SIZE> __device__ inline int size_of(const MaxPoolLaunch &p) {
  return SIZE > 0 ? SIZE : p.size;
}

/* The maximum of each channel in the window, and the number of its cell. */
template <typename T, int N, int SIZE>
__device__ inline void find_maximum(const MaxPoolLaunch &p, int64_t first, float *largest,
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
        const bool replaces = number == 0 || replaces_maximum(cell[k], largest[k]);
        largest[k] = replaces ? cell[k] : largest[k];
        which[k] = replaces ? number : which[k];
      }
    }
  }
}

/* The elements of `other` in the cells of the maxima. */
template <typename T, int N, int SIZE>
__device__ inline void gather_at_maximum(const MaxPoolLaunch &p, int64_t first, const int *which,
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
__global__ void __launch_bounds__(THREADS) max_pool_kernel(const MaxPoolParameters p) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.threads) return;
  const Window window = window_of<N>(p, index);
#pragma unroll 1
  for (int64_t frame = blockIdx.y; frame < p.pool.frames; frame += gridDim.y) {
    const int64_t first = first_of(p.pool, window, frame, size_of<SIZE>(p.pool));
    float value[N] = {};
    int which[N] = {};
    find_maximum<T, N, SIZE>(p.pool, first, value, which);
    if (p.pool.other) gather_at_maximum<T, N, SIZE>(p.pool, first, which, value);
    floats_store<T, N>(static_cast<T *>(p.pool.out) + pooled_of(p, window, frame), value);
  }
}

/* --- Backward --------------------------------------------------------------------------------- */

/* Stores dy in the cells of the maxima, 0 in all other cells of the window. */
template <typename T, int N, int SIZE>
__device__ inline void scatter_to_maximum(const MaxPoolLaunch &p, int64_t first, const int *which,
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

/* Zeros the cells of a partial window at the end of the rows or columns. */
template <typename T, int N, int SIZE>
__device__ inline void clear_partial_window(const MaxPoolLaunch &p, const Window &window,
                                            int64_t first) {
  const float zeros[N] = {};
  const int size = size_of<SIZE>(p);
  for (int i = 0; i < size && window.row * size + i < p.height; i++) {
    for (int j = 0; j < size && window.column * size + j < p.width; j++)
      floats_store<T, N>(static_cast<T *>(p.out) + first + (i * p.width + j) * p.channels, zeros);
  }
}

template <typename T, int N, int SIZE>
__global__ void __launch_bounds__(THREADS) max_pool_backward_kernel(const MaxPoolParameters p) {
  const uint32_t index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.threads) return;
  const Window window = window_of<N>(p, index);
  const bool whole = window.row < p.rows && window.column < p.columns;
#pragma unroll 1
  for (int64_t frame = blockIdx.y; frame < p.pool.frames; frame += gridDim.y) {
    const int64_t first = first_of(p.pool, window, frame, size_of<SIZE>(p.pool));
    if (!whole) {
      clear_partial_window<T, N, SIZE>(p.pool, window, first);
      continue;
    }
    float largest[N] = {}, dy[N];
    int which[N] = {};
    floats_load<T, N>(static_cast<const T *>(p.pool.dy) + pooled_of(p, window, frame), dy);
    find_maximum<T, N, SIZE>(p.pool, first, largest, which);
#pragma unroll
    for (int k = 0; k < N; k++) dy[k] *= largest[k] > 0.0f ? 1.0f : p.pool.slope;
    scatter_to_maximum<T, N, SIZE>(p.pool, first, which, dy);
  }
}

/* --- Launchers -------------------------------------------------------------------------------- */

typedef void MaxPoolFunction(MaxPoolParameters);

/* One thread for each of rows x columns windows and N channels. */
template <int N>
static Status start(MaxPoolFunction *kernel, const MaxPoolLaunch *p, int64_t rows, int64_t columns,
                    cudaStream_t stream, Error *error) {
  const int64_t accesses = p->channels / N, threads = rows * columns * accesses;
  const int64_t blocks = (threads + THREADS - 1) / THREADS;
  if (threads > INT32_MAX - THREADS)
    return error_set(error, ERROR_INTERNAL, "max pool: %lld threads per frame, at most %d",
                     static_cast<long long>(threads), INT32_MAX - THREADS);
  const MaxPoolParameters launch = {*p,
                                    p->height / p->size,
                                    p->width / p->size,
                                    fast_divisor(accesses),
                                    fast_divisor(columns),
                                    static_cast<uint32_t>(threads)};
  const dim3 grid(static_cast<unsigned>(blocks),
                  static_cast<unsigned>(p->frames < MAX_GRID_ROWS ? p->frames : MAX_GRID_ROWS));
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

/* True if 16-byte accesses of `count` channels are aligned. */
static bool can_vectorize(const MaxPoolLaunch *p, int count) {
  const uintptr_t addresses =
      reinterpret_cast<uintptr_t>(p->x) | reinterpret_cast<uintptr_t>(p->other) |
      reinterpret_cast<uintptr_t>(p->dy) | reinterpret_cast<uintptr_t>(p->out);
  return (addresses & 15u) == 0 && p->channels % count == 0;
}

Status launch_max_pool(const MaxPoolLaunch *p, cudaStream_t stream, Error *error) {
  if (p->bf16)
    return can_vectorize(p, 8) ? launch<uint16_t, 8>(p, stream, error)
                               : launch<uint16_t, 1>(p, stream, error);
  return can_vectorize(p, 4) ? launch<float, 4>(p, stream, error)
                             : launch<float, 1>(p, stream, error);
}

Status launch_max_pool_backward(const MaxPoolLaunch *p, cudaStream_t stream, Error *error) {
  if (p->bf16)
    return can_vectorize(p, 8) ? launch_backward<uint16_t, 8>(p, stream, error)
                               : launch_backward<uint16_t, 1>(p, stream, error);
  return can_vectorize(p, 4) ? launch_backward<float, 4>(p, stream, error)
                             : launch_backward<float, 1>(p, stream, error);
}
