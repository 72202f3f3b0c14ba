#include "engine/cuda/epilogue.h"

#include "engine/cuda/launch.h"
#include "engine/cuda/vector.h"

enum { THREADS = 256 };
static const int64_t MOST_BLOCKS = 16384, ROWS_OF_A_PART = 512, MOST_PARTS = 1024;

/* --- Windows ---------------------------------------------------------------------------------- */
__device__ inline float activated(float value, Activation activation, float slope) {
  if (activation == ACTIVATION_LEAKY_RELU) return value > 0.0f ? value : slope * value;
  if (activation == ACTIVATION_TANH) return tanhf(value);
  return value;
}

/* A block takes a row (n, t, h) of the destination at a time, a thread N of its elements. */
template <typename From, typename To, int N>
__global__ void __launch_bounds__(THREADS) window_kernel(const WindowLaunch p) {
  const int64_t *from = p.from.dim, *to = p.to.dim, *offset = p.offset;
  const int64_t rows = to[AXIS_N] * to[AXIS_T] * to[AXIS_H];
  const int64_t packs = to[AXIS_C] / N, row_packs = to[AXIS_W] * packs;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t h = row % to[AXIS_H] + offset[AXIS_H];
    const int64_t t = row / to[AXIS_H] % to[AXIS_T] + offset[AXIS_T];
    const int64_t n = row / to[AXIS_H] / to[AXIS_T] + offset[AXIS_N];
    const bool row_there =
        h >= 0 && h < from[AXIS_H] && t >= 0 && t < from[AXIS_T] && n >= 0 && n < from[AXIS_N];
    const int64_t from_row = ((n * from[AXIS_T] + t) * from[AXIS_H] + h) * from[AXIS_W];
    To *out = static_cast<To *>(p.destination) + row * to[AXIS_W] * to[AXIS_C];
    for (int64_t i = threadIdx.x; i < row_packs; i += THREADS) {
      const int64_t pixel = i / packs, channel = (i - pixel * packs) * N;
      const int64_t w = pixel + offset[AXIS_W], c = channel + offset[AXIS_C];
      float values[N];
      for (int k = 0; k < N; k++) values[k] = 0.0f;
      if (row_there && w >= 0 && w < from[AXIS_W] && c >= 0 && c < from[AXIS_C])
        floats_load<From, N>(
            static_cast<const From *>(p.source) + (from_row + w) * from[AXIS_C] + c, values);
      for (int k = 0; k < N; k++) {
        if (p.bias) values[k] += p.bias[channel + k];
        values[k] = activated(values[k], p.activation, p.slope);
      }
      floats_store<To, N>(out + i * N, values);
    }
  }
}

template <typename From, typename To>
static Status start_window(const WindowLaunch *p, bool wide, cudaStream_t stream, Error *error) {
  const int64_t rows = p->to.dim[AXIS_N] * p->to.dim[AXIS_T] * p->to.dim[AXIS_H];
  const dim3 blocks(static_cast<unsigned>(rows < MOST_BLOCKS ? rows : MOST_BLOCKS));
  return cuda_launch(wide ? window_kernel<From, To, Widest<From>::N> : window_kernel<From, To, 1>,
                     blocks, THREADS, 0, *p, stream, error);
}

extern "C" Status launch_window(const WindowLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t wide = p->source_dtype == DTYPE_BF16 ? 8 : 4;
  const uintptr_t addresses =
      reinterpret_cast<uintptr_t>(p->source) | reinterpret_cast<uintptr_t>(p->destination);
  const bool fits = p->from.dim[AXIS_C] % wide == 0 && p->to.dim[AXIS_C] % wide == 0 &&
                    p->offset[AXIS_C] % wide == 0 && addresses % 16 == 0;
  if (p->source_dtype == DTYPE_BF16 && p->destination_dtype == DTYPE_BF16)
    return start_window<uint16_t, uint16_t>(p, fits, stream, error);
  if (p->source_dtype == DTYPE_F32 && p->destination_dtype == DTYPE_F32)
    return start_window<float, float>(p, fits, stream, error);
  const int64_t rows = p->to.dim[AXIS_N] * p->to.dim[AXIS_T] * p->to.dim[AXIS_H];
  const dim3 blocks(static_cast<unsigned>(rows < MOST_BLOCKS ? rows : MOST_BLOCKS));
  return p->source_dtype == DTYPE_BF16
             ? cuda_launch(window_kernel<uint16_t, float, 1>, blocks, THREADS, 0, *p, stream, error)
             : cuda_launch(window_kernel<float, uint16_t, 1>, blocks, THREADS, 0, *p, stream,
                           error);
}

/* --- Sums over pixels ------------------------------------------------------------------------- */
extern "C" int64_t column_sums_parts(int64_t rows, int64_t columns) {
  (void)columns;
  const int64_t parts = (rows + ROWS_OF_A_PART - 1) / ROWS_OF_A_PART;
  return parts < MOST_PARTS ? parts : MOST_PARTS;
}

/* A block sums a part's rows for up to THREADS accesses of N columns: threads that are left over
 * share the rows, and are added up in a tree. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS) column_parts_kernel(const ColumnSumsLaunch p) {
  __shared__ float lanes[THREADS * N];
  const int64_t packs = p.columns / N, first_pack = static_cast<int64_t>(blockIdx.y) * THREADS;
  const int64_t left = packs - first_pack;
  const int width = left < THREADS ? static_cast<int>(left) : int{THREADS}, depth = THREADS / width;
  const int thread = static_cast<int>(threadIdx.x), pack = thread % width, lane = thread / width;
  const int64_t begin = p.rows * blockIdx.x / p.parts, end = p.rows * (blockIdx.x + 1) / p.parts;
  const int64_t column = (first_pack + pack) * N;
  float sums[N];
  for (int k = 0; k < N; k++) sums[k] = 0.0f;
  if (lane < depth) {
    for (int64_t row = begin + lane; row < end; row += depth) {
      float values[N];
      floats_load<T, N>(static_cast<const T *>(p.x) + row * p.columns + column, values);
      for (int k = 0; k < N; k++) sums[k] += values[k];
    }
  }
  for (int k = 0; k < N; k++) lanes[thread * N + k] = sums[k];
  for (int count = depth; count > 1;) {
    const int half = (count + 1) / 2;
    __syncthreads();
    if (lane + half < count)
      for (int k = 0; k < N; k++) lanes[thread * N + k] += lanes[(thread + half * width) * N + k];
    count = half;
  }
  if (lane == 0)
    for (int k = 0; k < N; k++)
      p.partials[blockIdx.x * p.columns + column + k] = lanes[thread * N + k];
}

/* A block's threads share the parts of 32 columns: a warp reads neighbours. */
__global__ void __launch_bounds__(THREADS) column_total_kernel(const ColumnSumsLaunch p) {
  __shared__ float lanes[THREADS];
  enum { WIDTH = 32, DEPTH = THREADS / WIDTH };
  const int thread = static_cast<int>(threadIdx.x), lane = thread / WIDTH;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * WIDTH + thread % WIDTH;
  float sum = 0.0f;
  if (column < p.columns)
    for (int64_t part = lane; part < p.parts; part += DEPTH)
      sum += p.partials[part * p.columns + column];
  lanes[thread] = sum;
  for (int half = DEPTH / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) lanes[thread] += lanes[thread + half * WIDTH];
  }
  if (lane == 0 && column < p.columns) p.sums[column] = lanes[thread];
}

template <typename T, int N>
static Status start_parts(const ColumnSumsLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t packs = p->columns / N;
  const dim3 blocks(static_cast<unsigned>(p->parts),
                    static_cast<unsigned>((packs + THREADS - 1) / THREADS));
  return cuda_launch(column_parts_kernel<T, N>, blocks, THREADS, 0, *p, stream, error);
}

extern "C" Status launch_column_sums(const ColumnSumsLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t wide = p->dtype == DTYPE_BF16 ? 8 : 4;
  const bool fits = p->columns % wide == 0 && reinterpret_cast<uintptr_t>(p->x) % 16 == 0;
  Status status;
  if (p->dtype == DTYPE_BF16)
    status = fits ? start_parts<uint16_t, 8>(p, stream, error)
                  : start_parts<uint16_t, 1>(p, stream, error);
  else
    status =
        fits ? start_parts<float, 4>(p, stream, error) : start_parts<float, 1>(p, stream, error);
  if (status != OK) return status;
  const dim3 blocks(static_cast<unsigned>((p->columns + 31) / 32));
  return cuda_launch(column_total_kernel, blocks, THREADS, 0, *p, stream, error);
}
