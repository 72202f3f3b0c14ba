/* RMS norm (Zhang, Sennrich 2019): a pixel's channels at a time. The formulas stand in
 * engine/cpu/norm_pixels.c. */
#include "engine/cuda/launch.h"
#include "engine/cuda/norm.h"
#include "engine/cuda/vector.h"
#include "engine/shared/norm.h"

struct RowLaunch {
  NormLaunch norm;
  int64_t pixels; /* of all frames */
  float of_mean;  /* 1 / channels */
};

/* --- Pixels that a warp's registers hold ------------------------------------------------------ */

/* A pixel is read by LANES lanes, in K accesses of N elements each. A warp's lanes go round
 * together: they meet in sums. */
template <int N, int LANES> struct Lane {
  unsigned channels;
  int64_t pixel; /* the lane's first one */
  unsigned step; /* from a pixel to the lane's next */

  __device__ Lane(const RowLaunch &p)
      : channels(static_cast<unsigned>(p.norm.channels)),
        pixel((static_cast<int64_t>(blockIdx.x) * NORM_THREADS + threadIdx.x) / LANES),
        step(gridDim.x * (NORM_THREADS / LANES)) {}
  __device__ unsigned channel(int k) const {
    return (static_cast<unsigned>(k) * LANES + threadIdx.x % LANES) * N;
  }
  __device__ bool has(int k) const { return channel(k) < channels; }
  /* The first pixel of the lane's warp from its pixel: lanes of a warp loop alike. */
  __device__ static int64_t of_warp(int64_t pixel) { return pixel - threadIdx.x % 32 / LANES; }
};

/* Gain and bias of the lane's access k to a pixel. */
template <int N, int LANES>
__device__ inline void load_parameters(const RowLaunch &p, const Lane<N, LANES> &lane, int k,
                                       float *gain, float *bias) {
  const bool there = p.norm.gain && lane.has(k);
#pragma unroll
  for (int i = 0; i < N; i++) {
    gain[i] = there ? p.norm.gain[lane.channel(k) + i] : 1.0f;
    bias[i] = there ? p.norm.bias[lane.channel(k) + i] : 0.0f;
  }
}

/* The lane's K accesses to the pixel that begins at element `at`; zeros where there is none. */
template <typename T, int N, int K, int LANES>
__device__ inline void load_row(const void *tensor, int64_t at, bool active,
                                const Lane<N, LANES> &lane, Pack<T, N> row[K]) {
#pragma unroll
  for (int k = 0; k < K; k++)
    row[k] = pack_load_if<T, N>(active && lane.has(k),
                                static_cast<const T *>(tensor) + at + lane.channel(k));
}

template <typename T, int N, int K, int LANES>
__device__ inline float inverse_rms(const RowLaunch &p, const Pack<T, N> row[K]) {
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < K; k++) {
    float x[N];
    row[k].get(x);
#pragma unroll
    for (int i = 0; i < N; i++) sum += x[i] * x[i];
  }
  return rsqrtf(lanes_sum<LANES>(sum) * p.of_mean + p.norm.epsilon);
}

/* y of the lane's accesses to the pixel that begins at element `at`. */
template <typename T, int N, int K, int LANES>
__device__ inline void rms_forward_row(const RowLaunch &p, const Lane<N, LANES> &lane, int64_t at,
                                       bool active, const Pack<T, N> row[K],
                                       const Pack<T, N> residual[K], float gain[K][N],
                                       float bias[K][N]) {
  const float r = inverse_rms<T, N, K, LANES>(p, row);
#pragma unroll
  for (int k = 0; k < K; k++) {
    if (K > 2) load_parameters(p, lane, k, gain[k], bias[k]); /* registers are scarce */
    float x[N];
    row[k].get(x);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = norm_value(x[i] * r, gain[k][i], bias[k][i], p.norm.slope);
    if (p.norm.residual) {
      float other[N];
      residual[k].get(other);
#pragma unroll
      for (int i = 0; i < N; i++) x[i] += other[i];
    }
    if (active && lane.has(k))
      floats_store<T, N>(static_cast<T *>(p.norm.y) + at + lane.channel(k), x);
  }
}

/* Of a lane, where registers allow: their loads are under way together. */
enum { PIXELS_AT_A_TIME = 2 };

template <typename T, int N, int K, int LANES>
__global__ void __launch_bounds__(NORM_THREADS) rms_forward_kernel(const RowLaunch p) {
  enum { PIXELS = K == 1 ? int{PIXELS_AT_A_TIME} : 1 };
  const Lane<N, LANES> lane(p);
  float gain[K][N], bias[K][N];
#pragma unroll
  for (int k = 0; k < K; k++) load_parameters(p, lane, k, gain[k], bias[k]);
  for (int64_t pixel = lane.pixel; lane.of_warp(pixel) < p.pixels;
       pixel += static_cast<int64_t>(PIXELS) * lane.step) {
    Pack<T, N> row[PIXELS][K], residual[PIXELS][K];
    int64_t at[PIXELS];
    bool active[PIXELS];
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
      const int64_t own = pixel + static_cast<int64_t>(i) * lane.step;
      at[i] = own * lane.channels;
      active[i] = own < p.pixels;
      load_row<T, N, K>(p.norm.x, at[i], active[i], lane, row[i]);
      load_row<T, N, K>(p.norm.residual, at[i], active[i] && p.norm.residual, lane, residual[i]);
    }
#pragma unroll
    for (int i = 0; i < PIXELS; i++)
      rms_forward_row<T, N, K>(p, lane, at[i], active[i], row[i], residual[i], gain, bias);
  }
}

/* Adds the warps' sums of dgain and dbias in order and leaves them in the block's row of partials.
 */
template <int N, int K, int LANES>
__device__ inline void store_partials(const RowLaunch &p, const Lane<N, LANES> &lane,
                                      float dgain[K][N], float dbias[K][N]) {
  DYNAMIC_SHARED(float, sums); /* [2, C] */
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const unsigned channels = lane.channels;
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
      for (int offset = 16; offset >= LANES; offset /= 2) {
        dgain[k][i] += __shfl_xor_sync(0xffffffffu, dgain[k][i], offset);
        dbias[k][i] += __shfl_xor_sync(0xffffffffu, dbias[k][i], offset);
      }
    }
  }
  for (int turn = 0; turn < NORM_THREADS / 32; turn++) {
    if (warp == turn && threadIdx.x % 32 < LANES) {
#pragma unroll
      for (int k = 0; k < K; k++) {
#pragma unroll
        for (int i = 0; i < N; i++) {
          const unsigned channel = lane.channel(k) + i;
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
  for (unsigned c = threadIdx.x; c < 2 * channels; c += NORM_THREADS) row[c] = sums[c];
}

/* What the lane reads of a pixel; both loads are under way together. */
template <typename T, int N, int K> struct BackwardRow {
  Pack<T, N> x[K], dy[K];

  template <int LANES>
  __device__ void load(const RowLaunch &p, const Lane<N, LANES> &lane, int64_t pixel) {
    const int64_t at = pixel * lane.channels;
    load_row<T, N, K>(p.norm.x, at, pixel < p.pixels, lane, x);
    load_row<T, N, K>(p.norm.dy, at, pixel < p.pixels, lane, dy);
  }
};

/* dx of the lane's accesses to a pixel; adds to its sums of dgain and dbias. */
template <typename T, int N, int K, int LANES>
__device__ inline void rms_backward_row(const RowLaunch &p, const Lane<N, LANES> &lane,
                                        int64_t pixel, const BackwardRow<T, N, K> &row,
                                        float gain[K][N], float bias[K][N], float dgain[K][N],
                                        float dbias[K][N]) {
  const bool active = pixel < p.pixels;
  const float r = inverse_rms<T, N, K, LANES>(p, row.x);
  float h[K][N], along = 0.0f;
#pragma unroll
  for (int k = 0; k < K; k++) {
    float x[N], behind[N];
    row.x[k].get(x);
    row.dy[k].get(behind);
    if (K > 2) load_parameters(p, lane, k, gain[k], bias[k]); /* registers are scarce */
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
  const float back = lanes_sum<LANES>(along) * r * p.of_mean;
#pragma unroll
  for (int k = 0; k < K; k++) {
    float x[N];
    row.x[k].get(x);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = r * (h[k][i] - x[i] * back);
    if (active && lane.has(k))
      floats_store<T, N>(static_cast<T *>(p.norm.dx) + pixel * lane.channels + lane.channel(k), x);
  }
}

template <typename T, int N, int K, int LANES>
__global__ void __launch_bounds__(NORM_THREADS) rms_backward_kernel(const RowLaunch p) {
  /* The next pixel's loads pass the time of this one's sums, where registers allow. */
  enum { AHEAD = K == 1 };
  const Lane<N, LANES> lane(p);
  float gain[K][N], bias[K][N], dgain[K][N], dbias[K][N];
#pragma unroll
  for (int k = 0; k < K; k++) {
    load_parameters(p, lane, k, gain[k], bias[k]);
#pragma unroll
    for (int i = 0; i < N; i++) dgain[k][i] = dbias[k][i] = 0.0f;
  }
  BackwardRow<T, N, K> row, next;
  if (AHEAD) next.load(p, lane, lane.pixel);
  for (int64_t pixel = lane.pixel; lane.of_warp(pixel) < p.pixels; pixel += lane.step) {
    if (AHEAD) {
      row = next;
      next.load(p, lane, pixel + lane.step);
    } else {
      row.load(p, lane, pixel);
    }
    rms_backward_row<T, N, K>(p, lane, pixel, row, gain, bias, dgain, dbias);
  }
  if (p.norm.partials) store_partials<N, K>(p, lane, dgain, dbias);
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

typedef void RowKernel(RowLaunch);

/* The lanes that share a pixel of so many accesses. Odd channels, which are rare, know two numbers.
 */
template <int N> static int lanes_of(int64_t slots) {
  return slots <= 4 ? 4 : N == 1 || slots > 16 ? 32 : slots > 8 ? 16 : 8;
}

static dim3 grid_of(const RowLaunch &row, int pixels_of_block) {
  const int64_t blocks = (row.pixels + pixels_of_block - 1) / pixels_of_block;
  return dim3(static_cast<unsigned>(blocks < row.norm.blocks ? blocks : row.norm.blocks));
}

template <typename T, int N>
static Status forward(const RowLaunch &row, int64_t slots, cudaStream_t stream, Error *error) {
  enum { FEW = N == 1 ? 32 : 8, MORE = N == 1 ? 32 : 16 };
  if (slots > 32 * NORM_MOST_SLOTS)
    return cuda_launch(wide_forward_kernel<T, N>, grid_of(row, 1), NORM_THREADS, 0, row, stream,
                       error);
  const int lanes = lanes_of<N>(slots);
  RowKernel *kernel = slots > 64    ? rms_forward_kernel<T, N, NORM_MOST_SLOTS, 32>
                      : slots > 32  ? rms_forward_kernel<T, N, 2, 32>
                      : lanes == 32 ? rms_forward_kernel<T, N, 1, 32>
                      : lanes == 16 ? rms_forward_kernel<T, N, 1, MORE>
                      : lanes == 8  ? rms_forward_kernel<T, N, 1, FEW>
                                    : rms_forward_kernel<T, N, 1, 4>;
  const int pixels_of_block = NORM_THREADS / lanes * (slots > 32 ? 1 : PIXELS_AT_A_TIME);
  return cuda_launch(kernel, grid_of(row, pixels_of_block), NORM_THREADS, 0, row, stream, error);
}

template <typename T, int N>
static Status wide_backward(const RowLaunch &row, cudaStream_t stream, Error *error) {
  Status status = OK;
  const dim3 grid(static_cast<unsigned>((row.norm.channels + NORM_THREADS - 1) / NORM_THREADS),
                  static_cast<unsigned>(row.norm.pieces));
  TRY(cuda_launch(wide_backward_kernel<T, N>, grid_of(row, 1), NORM_THREADS, 0, row, stream,
                  error));
  if (row.norm.partials)
    TRY(cuda_launch(wide_partials_kernel<T>, grid, NORM_THREADS, 0, row, stream, error));
done:
  return status;
}

template <typename T, int N>
static Status backward(const RowLaunch &row, int64_t slots, cudaStream_t stream, Error *error) {
  enum { FEW = N == 1 ? 32 : 8, MORE = N == 1 ? 32 : 16 };
  if (slots > 32 * NORM_MOST_SLOTS) return wide_backward<T, N>(row, stream, error);
  const int lanes = lanes_of<N>(slots);
  const dim3 grid(static_cast<unsigned>(row.norm.pieces)); /* a row of partials for each block */
  const size_t shared =
      row.norm.partials ? 2 * static_cast<size_t>(row.norm.channels) * sizeof(float) : 0;
  RowKernel *kernel = slots > 64    ? rms_backward_kernel<T, N, NORM_MOST_SLOTS, 32>
                      : slots > 32  ? rms_backward_kernel<T, N, 2, 32>
                      : lanes == 32 ? rms_backward_kernel<T, N, 1, 32>
                      : lanes == 16 ? rms_backward_kernel<T, N, 1, MORE>
                      : lanes == 8  ? rms_backward_kernel<T, N, 1, FEW>
                                    : rms_backward_kernel<T, N, 1, 4>;
  return cuda_launch(kernel, grid, NORM_THREADS, shared, row, stream, error);
}

template <typename T, int N>
static Status launch(const NormLaunch *p, cudaStream_t stream, Error *error) {
  const RowLaunch row = {*p, p->frames * p->pixels, 1.0f / static_cast<float>(p->channels)};
  const int64_t slots = p->channels / N;
  return p->dy ? backward<T, N>(row, slots, stream, error)
               : forward<T, N>(row, slots, stream, error);
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
