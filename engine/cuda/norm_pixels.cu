/* RMS norm (Zhang, Sennrich 2019): a pixel's channels at a time. The formulas stand in
 * engine/cpu/norm_pixels.c. */
#include "engine/cuda/launch.h"
#include "engine/cuda/norm.h"
#include "engine/cuda/vector.h"
#include "engine/shared/norm.h"

/* How a warp reads pixels: each by `lanes` lanes, a power of two, in accesses of N elements. */
struct RowLaunch {
  NormLaunch norm;
  int64_t pixels; /* of all frames */
  int lanes;
};

/* Gain and bias of the lane's access k to a pixel. */
template <int N>
__device__ inline void load_parameters(const RowLaunch &p, int lane, int k, float *gain,
                                       float *bias) {
  const int64_t channel = static_cast<int64_t>(k * p.lanes + lane) * N;
  const bool there = p.norm.gain && channel < p.norm.channels;
  for (int i = 0; i < N; i++) {
    gain[i] = there ? p.norm.gain[channel + i] : 1.0f;
    bias[i] = there ? p.norm.bias[channel + i] : 0.0f;
  }
}

/* --- Pixels that a warp's registers hold ------------------------------------------------------ */

/* The lane's K accesses to a pixel; zeros where there is none. */
template <typename T, int N, int K>
__device__ inline void load_row(const void *tensor, int64_t pixel, bool active, const RowLaunch &p,
                                int lane, Pack<T, N> row[K]) {
  for (int k = 0; k < K; k++) {
    const int64_t channel = static_cast<int64_t>(k * p.lanes + lane) * N;
    row[k].clear();
    if (active && channel < p.norm.channels)
      row[k] = pack_load<T, N>(static_cast<const T *>(tensor) + pixel * p.norm.channels + channel);
  }
}

template <typename T, int N, int K>
__device__ inline float inverse_rms(const RowLaunch &p, const Pack<T, N> row[K]) {
  float sum = 0.0f;
  for (int k = 0; k < K; k++) {
    float x[N];
    row[k].get(x);
    for (int i = 0; i < N; i++) sum += x[i] * x[i];
  }
  sum = lanes_sum(sum, p.lanes);
  return rsqrtf(sum / static_cast<float>(p.norm.channels) + p.norm.epsilon);
}

template <typename T, int N, int K>
__global__ void __launch_bounds__(NORM_THREADS) rms_forward_kernel(const RowLaunch p) {
  const int lane = static_cast<int>(threadIdx.x) & (p.lanes - 1);
  const int64_t channels = p.norm.channels;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (NORM_THREADS / p.lanes);
  float gain[K][N], bias[K][N];
#pragma unroll
  for (int k = 0; k < K; k++) load_parameters<N>(p, lane, k, gain[k], bias[k]);
  /* A warp's lanes go round together: they meet in sums. */
  const int64_t warp = blockIdx.x * NORM_THREADS + (threadIdx.x & ~31u);
  for (int64_t first = warp / p.lanes; first < p.pixels; first += step) {
    const int64_t pixel = first + (threadIdx.x & 31u) / static_cast<unsigned>(p.lanes);
    const bool active = pixel < p.pixels;
    Pack<T, N> row[K], residual[K];
    load_row<T, N, K>(p.norm.x, pixel, active, p, lane, row);
    load_row<T, N, K>(p.norm.residual, pixel, active && p.norm.residual, p, lane, residual);
    const float r = inverse_rms<T, N, K>(p, row);
#pragma unroll
    for (int k = 0; k < K; k++) {
      const int64_t channel = static_cast<int64_t>(k * p.lanes + lane) * N;
      if (K > 2) load_parameters<N>(p, lane, k, gain[k], bias[k]); /* registers are scarce */
      float x[N], other[N];
      row[k].get(x);
      residual[k].get(other);
#pragma unroll
      for (int i = 0; i < N; i++)
        x[i] = norm_value(x[i] * r, gain[k][i], bias[k][i], p.norm.slope) + other[i];
      if (active && channel < channels)
        floats_store<T, N>(static_cast<T *>(p.norm.y) + pixel * channels + channel, x);
    }
  }
}

/* Adds the warps' sums of dgain and dbias in order and leaves them in the block's row of partials.
 */
template <int N, int K>
__device__ inline void store_partials(const RowLaunch &p, float dgain[K][N], float dbias[K][N]) {
  DYNAMIC_SHARED(float, sums); /* [2, C] */
  const int channels = static_cast<int>(p.norm.channels);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      for (int offset = 16; offset >= p.lanes; offset /= 2) {
        dgain[k][i] += __shfl_xor_sync(0xffffffffu, dgain[k][i], offset);
        dbias[k][i] += __shfl_xor_sync(0xffffffffu, dbias[k][i], offset);
      }
    }
  }
  for (int turn = 0; turn < NORM_THREADS / 32; turn++) {
    if (warp == turn && lane < p.lanes) {
#pragma unroll
      for (int k = 0; k < K; k++) {
#pragma unroll
        for (int i = 0; i < N; i++) {
          const int channel = (k * p.lanes + lane) * N + i;
          if (channel >= channels) continue;
          sums[channel] = turn == 0 ? dgain[k][i] : sums[channel] + dgain[k][i];
          sums[channels + channel] =
              turn == 0 ? dbias[k][i] : sums[channels + channel] + dbias[k][i];
        }
      }
    }
    __syncthreads();
  }
  float *row = p.norm.partials + static_cast<int64_t>(blockIdx.x) * 2 * channels;
  for (int c = static_cast<int>(threadIdx.x); c < 2 * channels; c += NORM_THREADS) row[c] = sums[c];
}

/* dx of the lane's accesses; adds to its sums of dgain and dbias. */
template <typename T, int N, int K>
__device__ inline void rms_backward_row(const RowLaunch &p, int lane, int64_t pixel, bool active,
                                        float gain[K][N], float bias[K][N], float dgain[K][N],
                                        float dbias[K][N]) {
  const int64_t channels = p.norm.channels;
  Pack<T, N> row[K], dy[K];
  load_row<T, N, K>(p.norm.x, pixel, active, p, lane, row);
  load_row<T, N, K>(p.norm.dy, pixel, active, p, lane, dy);
  const float r = inverse_rms<T, N, K>(p, row);
  float h[K][N], along = 0.0f;
#pragma unroll
  for (int k = 0; k < K; k++) {
    float x[N], behind[N];
    row[k].get(x);
    dy[k].get(behind);
    if (K > 2) load_parameters<N>(p, lane, k, gain[k], bias[k]); /* registers are scarce */
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float n = x[i] * r;
      const float g = norm_gradient(n, gain[k][i], bias[k][i], p.norm.slope, behind[i]);
      dgain[k][i] += g * n;
      dbias[k][i] += g;
      h[k][i] = g * gain[k][i];
      along += h[k][i] * n;
    }
  }
  const float back = lanes_sum(along, p.lanes) * r / static_cast<float>(channels);
#pragma unroll
  for (int k = 0; k < K; k++) {
    const int64_t channel = static_cast<int64_t>(k * p.lanes + lane) * N;
    float x[N];
    row[k].get(x);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = r * (h[k][i] - x[i] * back);
    if (active && channel < channels)
      floats_store<T, N>(static_cast<T *>(p.norm.dx) + pixel * channels + channel, x);
  }
}

template <typename T, int N, int K>
__global__ void __launch_bounds__(NORM_THREADS) rms_backward_kernel(const RowLaunch p) {
  const int lane = static_cast<int>(threadIdx.x) & (p.lanes - 1);
  const int64_t step = static_cast<int64_t>(gridDim.x) * (NORM_THREADS / p.lanes);
  float gain[K][N], bias[K][N], dgain[K][N], dbias[K][N];
#pragma unroll
  for (int k = 0; k < K; k++) {
    load_parameters<N>(p, lane, k, gain[k], bias[k]);
#pragma unroll
    for (int i = 0; i < N; i++) dgain[k][i] = dbias[k][i] = 0.0f;
  }
  const int64_t warp = blockIdx.x * NORM_THREADS + (threadIdx.x & ~31u);
  for (int64_t first = warp / p.lanes; first < p.pixels; first += step) {
    const int64_t pixel = first + (threadIdx.x & 31u) / static_cast<unsigned>(p.lanes);
    rms_backward_row<T, N, K>(p, lane, pixel, pixel < p.pixels, gain, bias, dgain, dbias);
  }
  if (p.norm.partials) store_partials<N, K>(p, dgain, dbias);
}

/* --- Pixels of more channels: a block for each ------------------------------------------------ */

template <typename T, int N>
__device__ inline float block_inverse_rms(const NormLaunch &p, const T *x, float *space) {
  float sum = 0.0f;
  for (int64_t c = threadIdx.x * N; c < p.channels; c += NORM_THREADS * N) {
    float v[N];
    floats_load<T, N>(x + c, v);
    for (int i = 0; i < N; i++) sum += v[i] * v[i];
  }
  sum = block_sum<NORM_THREADS>(sum, space);
  return rsqrtf(sum / static_cast<float>(p.channels) + p.epsilon);
}

template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS) wide_forward_kernel(const RowLaunch row) {
  __shared__ float space[NORM_THREADS / 32];
  const NormLaunch &p = row.norm;
  for (int64_t pixel = blockIdx.x; pixel < row.pixels; pixel += gridDim.x) {
    const int64_t begin = pixel * p.channels;
    const T *x = static_cast<const T *>(p.x) + begin;
    const T *residual = static_cast<const T *>(p.residual) + (p.residual ? begin : 0);
    const float r = block_inverse_rms<T, N>(p, x, space);
    for (int64_t c = threadIdx.x * N; c < p.channels; c += NORM_THREADS * N) {
      float v[N], other[N] = {};
      floats_load<T, N>(x + c, v);
      if (p.residual) floats_load<T, N>(residual + c, other);
      for (int i = 0; i < N; i++) {
        const float gain = p.gain ? p.gain[c + i] : 1.0f, bias = p.gain ? p.bias[c + i] : 0.0f;
        v[i] = norm_value(v[i] * r, gain, bias, p.slope) + other[i];
      }
      floats_store<T, N>(static_cast<T *>(p.y) + begin + c, v);
    }
  }
}

/* v becomes n, dy becomes h = gain g. */
template <int N>
__device__ inline void wide_step(const NormLaunch &p, int64_t c, float r, float *v, float *dy) {
  for (int i = 0; i < N; i++) {
    const float gain = p.gain ? p.gain[c + i] : 1.0f, bias = p.gain ? p.bias[c + i] : 0.0f;
    v[i] *= r;
    dy[i] = gain * norm_gradient(v[i], gain, bias, p.slope, dy[i]);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS) wide_backward_kernel(const RowLaunch row) {
  __shared__ float space[NORM_THREADS / 32];
  const NormLaunch &p = row.norm;
  for (int64_t pixel = blockIdx.x; pixel < row.pixels; pixel += gridDim.x) {
    const int64_t begin = pixel * p.channels;
    const T *x = static_cast<const T *>(p.x) + begin, *dy = static_cast<const T *>(p.dy) + begin;
    const float r = block_inverse_rms<T, N>(p, x, space);
    float along = 0.0f, n[N], h[N];
    for (int64_t c = threadIdx.x * N; c < p.channels; c += NORM_THREADS * N) {
      floats_load<T, N>(x + c, n);
      floats_load<T, N>(dy + c, h);
      wide_step<N>(p, c, r, n, h);
      for (int i = 0; i < N; i++) along += h[i] * n[i];
    }
    const float mean = block_sum<NORM_THREADS>(along, space) / static_cast<float>(p.channels);
    for (int64_t c = threadIdx.x * N; c < p.channels; c += NORM_THREADS * N) {
      floats_load<T, N>(x + c, n);
      floats_load<T, N>(dy + c, h);
      wide_step<N>(p, c, r, n, h);
      for (int i = 0; i < N; i++) h[i] = r * (h[i] - n[i] * mean);
      floats_store<T, N>(static_cast<T *>(p.dx) + begin + c, h);
    }
    if (threadIdx.x == 0 && p.partials) p.statistics[pixel] = r;
  }
}

/* A thread for each channel, a row of the grid for each piece of the pixels. */
template <typename T>
__global__ void __launch_bounds__(NORM_THREADS) wide_partials_kernel(const RowLaunch row) {
  const NormLaunch &p = row.norm;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * NORM_THREADS + threadIdx.x;
  const int64_t piece = blockIdx.y;
  if (c >= p.channels) return;
  const float gain = p.gain ? p.gain[c] : 1.0f, bias = p.gain ? p.bias[c] : 0.0f;
  float dgain = 0.0f, dbias = 0.0f;
  for (int64_t pixel = row.pixels * piece / p.pieces; pixel < row.pixels * (piece + 1) / p.pieces;
       pixel++) {
    float x, dy;
    floats_load<T, 1>(static_cast<const T *>(p.x) + pixel * p.channels + c, &x);
    floats_load<T, 1>(static_cast<const T *>(p.dy) + pixel * p.channels + c, &dy);
    const float n = x * p.statistics[pixel];
    const float g = norm_gradient(n, gain, bias, p.slope, dy);
    dgain += g * n;
    dbias += g;
  }
  p.partials[piece * 2 * p.channels + c] = dgain;
  p.partials[piece * 2 * p.channels + p.channels + c] = dbias;
}

/* --- Launchers -------------------------------------------------------------------------------- */

static RowLaunch rows_of(const NormLaunch *p, int64_t slots) {
  RowLaunch row = {*p, p->frames * p->pixels, 1};
  while (row.lanes < 32 && row.lanes < slots) row.lanes *= 2;
  return row;
}

static dim3 grid_of(const RowLaunch &row, int64_t pixels_of_block, int64_t most) {
  const int64_t blocks = (row.pixels + pixels_of_block - 1) / pixels_of_block;
  return dim3(static_cast<unsigned>(blocks < most ? blocks : most));
}

template <typename T, int N>
static Status forward(const NormLaunch *p, cudaStream_t stream, Error *error) {
  enum { MOST_BLOCKS = 4096 };
  const int64_t slots = p->channels / N;
  const RowLaunch row = rows_of(p, slots);
  const dim3 grid = grid_of(row, NORM_THREADS / row.lanes, MOST_BLOCKS);
  if (slots <= 32)
    return cuda_launch(rms_forward_kernel<T, N, 1>, grid, NORM_THREADS, 0, row, stream, error);
  if (slots <= 64)
    return cuda_launch(rms_forward_kernel<T, N, 2>, grid, NORM_THREADS, 0, row, stream, error);
  if (slots <= 32 * NORM_MOST_SLOTS)
    return cuda_launch(rms_forward_kernel<T, N, NORM_MOST_SLOTS>, grid, NORM_THREADS, 0, row,
                       stream, error);
  return cuda_launch(wide_forward_kernel<T, N>, grid_of(row, 1, MOST_BLOCKS), NORM_THREADS, 0, row,
                     stream, error);
}

template <typename T, int N>
static Status wide_backward(const RowLaunch &row, cudaStream_t stream, Error *error) {
  Status status = OK;
  const dim3 grid(static_cast<unsigned>((row.norm.channels + NORM_THREADS - 1) / NORM_THREADS),
                  static_cast<unsigned>(row.norm.pieces));
  TRY(cuda_launch(wide_backward_kernel<T, N>, grid_of(row, 1, NORM_MOST_PIECES), NORM_THREADS, 0,
                  row, stream, error));
  if (row.norm.partials)
    TRY(cuda_launch(wide_partials_kernel<T>, grid, NORM_THREADS, 0, row, stream, error));
done:
  return status;
}

template <typename T, int N>
static Status backward(const NormLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t slots = p->channels / N;
  const RowLaunch row = rows_of(p, slots);
  const dim3 grid(static_cast<unsigned>(p->pieces)); /* a row of partials for each block */
  const size_t shared = p->partials ? 2 * static_cast<size_t>(p->channels) * sizeof(float) : 0;
  if (slots <= 32)
    return cuda_launch(rms_backward_kernel<T, N, 1>, grid, NORM_THREADS, shared, row, stream,
                       error);
  if (slots <= 64)
    return cuda_launch(rms_backward_kernel<T, N, 2>, grid, NORM_THREADS, shared, row, stream,
                       error);
  if (slots <= 32 * NORM_MOST_SLOTS)
    return cuda_launch(rms_backward_kernel<T, N, NORM_MOST_SLOTS>, grid, NORM_THREADS, shared, row,
                       stream, error);
  return wide_backward<T, N>(row, stream, error);
}

template <typename T, int N>
static Status launch(const NormLaunch *p, cudaStream_t stream, Error *error) {
  return p->dy ? backward<T, N>(p, stream, error) : forward<T, N>(p, stream, error);
}

Status launch_norm_pixels(const NormLaunch *p, cudaStream_t stream, Error *error) {
  Status status = OK;
  const bool vectors = norm_in_vectors(p);
  if (p->bf16) {
    TRY((vectors ? launch<uint16_t, 8> : launch<uint16_t, 1>)(p, stream, error));
  } else {
    TRY((vectors ? launch<float, 4> : launch<float, 1>)(p, stream, error));
  }
  if (p->partials) TRY(launch_norm_parameters(p, p->pieces, stream, error));
done:
  return status;
}
