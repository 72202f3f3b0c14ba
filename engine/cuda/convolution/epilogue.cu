#include "engine/cuda/convolution/epilogue.h"

#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };
static const int64_t ROWS_PER_PART = 512, MAX_PARTS = 1024;

/* --- Pad and crop ----------------------------------------------------------------------------- */
__device__ inline float activated(float value, Activation activation, float slope) {
  if (activation == ACTIVATION_LEAKY_RELU) return value > 0.0f ? value : slope * value;
  if (activation == ACTIVATION_TANH) return tanhf(value);
  return value;
}

struct PadCropParameters {
  PadCropLaunch pad_crop;
  int64_t packs;                  /* stores to the destination, of N elements each */
  FastDivisor of_pixel, along[3]; /* stores per pixel; lengths along T, H, W */
  bool same;                      /* no padding, crop or added channels: indices are equal */
  bool wide;                      /* loads from the source are 16 bytes, too */
};

/* The source pixel of pixel `index` of the destination; -1 where it is out of range. */
template <typename Index>
__device__ inline int64_t source_pixel(const PadCropParameters &p, Index index) {
  const int64_t *from = p.pad_crop.from.dim, *offset = p.pad_crop.offset;
  if (p.same) return static_cast<int64_t>(index);
  const int64_t w = static_cast<int64_t>(take_remainder(index, p.along[2])) + offset[AXIS_W];
  const int64_t h = static_cast<int64_t>(take_remainder(index, p.along[1])) + offset[AXIS_H];
  const int64_t t = static_cast<int64_t>(take_remainder(index, p.along[0])) + offset[AXIS_T];
  const int64_t n = static_cast<int64_t>(index) + offset[AXIS_N];
  const bool there = w >= 0 && w < from[AXIS_W] && h >= 0 && h < from[AXIS_H] && t >= 0 &&
                     t < from[AXIS_T] && n >= 0 && n < from[AXIS_N];
  return there ? ((n * from[AXIS_T] + t) * from[AXIS_H] + h) * from[AXIS_W] + w : -1;
}

/* Elements [channel, channel + N) of a pixel of the source. */
template <typename From, int N>
__device__ inline void load_source(const PadCropParameters &p, int64_t pixel, int64_t channel,
                                   float *values) {
  const int64_t channels = p.pad_crop.from.dim[AXIS_C];
  const From *from = static_cast<const From *>(p.pad_crop.source) + pixel * channels + channel;
#pragma unroll
  for (int k = 0; k < N; k++) values[k] = 0.0f;
  if (N > 1 && p.wide) {
    if (channel >= 0 && channel < channels) load_wide<N>(from, values);
    return;
  }
#pragma unroll
  for (int k = 0; k < N; k++)
    if (channel + k >= 0 && channel + k < channels) floats_load<From, 1>(from + k, &values[k]);
}

/* A thread writes N neighbouring elements of the destination. */
template <typename From, typename To, int N, typename Index>
__global__ void __launch_bounds__(THREADS) pad_crop_kernel(const PadCropParameters p) {
  Index pixel = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (pixel >= static_cast<Index>(p.packs)) return;
  To *out = static_cast<To *>(p.pad_crop.destination) + static_cast<int64_t>(pixel) * N;
  const int64_t channel = static_cast<int64_t>(take_remainder(pixel, p.of_pixel)) * N;
  const int64_t from = source_pixel(p, pixel);
  float values[N] = {};
  if (from >= 0) load_source<From, N>(p, from, channel + p.pad_crop.offset[AXIS_C], values);
  if (p.pad_crop.bias) {
#pragma unroll
    for (int k = 0; k < N; k++) values[k] += p.pad_crop.bias[channel + k];
  }
  if (p.pad_crop.activation != ACTIVATION_NONE) {
#pragma unroll
    for (int k = 0; k < N; k++)
      values[k] = activated(values[k], p.pad_crop.activation, p.pad_crop.slope);
  }
  if (N > 1) {
    store_wide<N>(out, values);
  } else {
    floats_store<To, 1>(out, values);
  }
}

template <typename From, typename To, int N>
static Status start_pad_crop(const PadCropLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t *from = p->from.dim, *to = p->to.dim, *offset = p->offset;
  const int64_t packs = to[AXIS_N] * to[AXIS_T] * to[AXIS_H] * to[AXIS_W] * (to[AXIS_C] / N);
  const int64_t blocks = (packs + THREADS - 1) / THREADS;
  PadCropParameters parameters = {*p, packs, fast_divisor(to[AXIS_C] / N), {}, true, true};
  for (int i = 0; i < 3; i++) parameters.along[i] = fast_divisor(to[AXIS_T + i]);
  for (int axis = 0; axis < RANK; axis++)
    parameters.same = parameters.same && from[axis] == to[axis] && offset[axis] == 0;
  parameters.wide = reinterpret_cast<uintptr_t>(p->source) % 16 == 0 && from[AXIS_C] % N == 0 &&
                    offset[AXIS_C] % N == 0;
  if (blocks > INT32_MAX)
    return error_set(error, ERROR_INTERNAL, "pad and crop: %lld stores, at most %lld",
                     static_cast<long long>(packs), static_cast<long long>(INT32_MAX) * THREADS);
  return cuda_launch(packs <= INT32_MAX - THREADS ? pad_crop_kernel<From, To, N, uint32_t>
                                                  : pad_crop_kernel<From, To, N, uint64_t>,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, parameters, stream, error);
}

/* 16-byte stores where the destination allows; the source may still need narrow loads. */
template <typename From, typename To>
static Status choose_pad_crop(const PadCropLaunch *p, cudaStream_t stream, Error *error) {
  enum { WIDE = sizeof(From) + sizeof(To) == 8 ? 4 : 8 };
  const bool fits =
      p->to.dim[AXIS_C] % WIDE == 0 && reinterpret_cast<uintptr_t>(p->destination) % 16 == 0;
  return fits ? start_pad_crop<From, To, WIDE>(p, stream, error)
              : start_pad_crop<From, To, 1>(p, stream, error);
}

extern "C" Status launch_pad_crop(const PadCropLaunch *p, cudaStream_t stream, Error *error) {
  const bool from_bf16 = p->source_dtype == DTYPE_BF16,
             to_bf16 = p->destination_dtype == DTYPE_BF16;
  if (from_bf16)
    return to_bf16 ? choose_pad_crop<uint16_t, uint16_t>(p, stream, error)
                   : choose_pad_crop<uint16_t, float>(p, stream, error);
  return to_bf16 ? choose_pad_crop<float, uint16_t>(p, stream, error)
                 : choose_pad_crop<float, float>(p, stream, error);
}

/* --- Column sums ------------------------------------------------------------------------------ */
extern "C" int64_t column_sums_parts(int64_t rows, int64_t columns) {
  (void)columns;
  const int64_t parts = (rows + ROWS_PER_PART - 1) / ROWS_PER_PART;
  return parts < MAX_PARTS ? parts : MAX_PARTS;
}

/* A block sums the rows of a part for up to THREADS groups of N columns. Where there are fewer
 * groups than threads, several threads share the rows of a group and their sums are added in a
 * tree. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS) column_parts_kernel(const ColumnSumsLaunch p) {
  __shared__ float thread_sums[THREADS * N];
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
  for (int k = 0; k < N; k++) thread_sums[thread * N + k] = sums[k];
  for (int count = depth; count > 1;) {
    const int half = (count + 1) / 2;
    __syncthreads();
    if (lane + half < count)
      for (int k = 0; k < N; k++)
        thread_sums[thread * N + k] += thread_sums[(thread + half * width) * N + k];
    count = half;
  }
  if (lane == 0)
    for (int k = 0; k < N; k++)
      p.partials[blockIdx.x * p.columns + column + k] = thread_sums[thread * N + k];
}

/* A block adds the parts of 32 columns: each warp reads neighbouring columns of one part. */
__global__ void __launch_bounds__(THREADS) column_total_kernel(const ColumnSumsLaunch p) {
  __shared__ float thread_sums[THREADS];
  enum { WIDTH = 32, DEPTH = THREADS / WIDTH };
  const int thread = static_cast<int>(threadIdx.x), lane = thread / WIDTH;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * WIDTH + thread % WIDTH;
  float sum = 0.0f;
  if (column < p.columns)
    for (int64_t part = lane; part < p.parts; part += DEPTH)
      sum += p.partials[part * p.columns + column];
  thread_sums[thread] = sum;
  for (int half = DEPTH / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) thread_sums[thread] += thread_sums[thread + half * WIDTH];
  }
  if (lane == 0 && column < p.columns) p.sums[column] = thread_sums[thread];
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
