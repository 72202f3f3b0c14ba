/* RMS norm of pixels with more channels than a warp's registers hold: a block for each. */
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/norm_padding.h"

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
  Spot spot = first_spot(row, blockIdx.x);
  for (int64_t pixel = blockIdx.x; pixel < row.pixels;
       pixel += gridDim.x, spot = next_spot(row, spot)) {
    const Sources sources(p, spot);
    const int64_t begin = pixel * p.channels;
    const T *x = static_cast<const T *>(p.x) + sources.x * p.channels;
    const T *residual =
        static_cast<const T *>(p.residual) + (p.residual ? sources.residual * p.channels : 0);
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

/* dy of N channels from c, of all places that show the pixel. */
template <typename T, int N>
__device__ inline void load_dy(const NormLaunch &p, const Spot &spot, int64_t c, float *dy) {
  floats_load<T, N>(static_cast<const T *>(p.dy) + spot.in(p.outer) * p.channels + c, dy);
  if (near_sides(p, spot)) add_seen<T, N>(p, spot, c, dy);
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
  Spot spot = first_spot(row, blockIdx.x);
  for (int64_t pixel = blockIdx.x; pixel < row.pixels;
       pixel += gridDim.x, spot = next_spot(row, spot)) {
    const int64_t begin = pixel * p.channels;
    const T *x = static_cast<const T *>(p.x) + begin;
    const float r = block_inverse_rms<T, N>(p, x, space);
    float along = 0.0f, n[N], h[N];
    for (int64_t c = threadIdx.x * N; c < p.channels; c += NORM_THREADS * N) {
      floats_load<T, N>(x + c, n);
      load_dy<T, N>(p, spot, c, h);
      wide_step<N>(p, c, r, n, h);
      for (int i = 0; i < N; i++) along += h[i] * n[i];
    }
    const float mean = block_sum<NORM_THREADS>(along, space) / static_cast<float>(p.channels);
    for (int64_t c = threadIdx.x * N; c < p.channels; c += NORM_THREADS * N) {
      floats_load<T, N>(x + c, n);
      load_dy<T, N>(p, spot, c, h);
      wide_step<N>(p, c, r, n, h);
      for (int i = 0; i < N; i++) h[i] = r * (h[i] - n[i] * mean);
      floats_store<T, N>(static_cast<T *>(p.dx) + begin + c, h);
    }
    if (threadIdx.x == 0 && p.partials) p.statistics[pixel] = r;
  }
}

/* A thread for each channel; a row of the grid for each piece, which is every pieces-th pixel. */
template <typename T>
__global__ void __launch_bounds__(NORM_THREADS) wide_partials_kernel(const RowLaunch row) {
  const NormLaunch &p = row.norm;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * NORM_THREADS + threadIdx.x;
  const int64_t piece = blockIdx.y;
  Spot spot = first_spot(row, piece);
  if (c >= p.channels) return;
  const float gain = p.gain ? p.gain[c] : 1.0f, bias = p.gain ? p.bias[c] : 0.0f;
  float dgain = 0.0f, dbias = 0.0f;
  for (int64_t pixel = piece; pixel < row.pixels; pixel += p.pieces, spot = next_spot(row, spot)) {
    float x, dy;
    floats_load<T, 1>(static_cast<const T *>(p.x) + pixel * p.channels + c, &x);
    load_dy<T, 1>(p, spot, c, &dy);
    const float n = x * p.statistics[pixel];
    const float g = norm_gradient(n, gain, bias, p.slope, dy);
    dgain += g * n;
    dbias += g;
  }
  p.partials[piece * 2 * p.channels + c] = dgain;
  p.partials[piece * 2 * p.channels + p.channels + c] = dbias;
}

/* --- Launchers -------------------------------------------------------------------------------- */

template <typename T, int N>
static Status wide_backward(RowLaunch row, cudaStream_t stream, Error *error) {
  Status status = OK;
  const dim3 grid(static_cast<unsigned>((row.norm.channels + NORM_THREADS - 1) / NORM_THREADS),
                  static_cast<unsigned>(row.norm.pieces));
  const dim3 pixels = row.grid(1, 1);
  TRY(cuda_launch(wide_backward_kernel<T, N>, pixels, NORM_THREADS, 0, row, stream, error));
  row.step_by(row.norm.pieces);
  if (row.norm.partials)
    TRY(cuda_launch(wide_partials_kernel<T>, grid, NORM_THREADS, 0, row, stream, error));
done:
  return status;
}

template <typename T, int N>
static Status launch(const NormLaunch *p, cudaStream_t stream, Error *error) {
  RowLaunch row(*p);
  if (p->dy) return wide_backward<T, N>(row, stream, error);
  const dim3 pixels = row.grid(1, 1);
  return cuda_launch(wide_forward_kernel<T, N>, pixels, NORM_THREADS, 0, row, stream, error);
}

Status launch_norm_wide(const NormLaunch *p, bool vectors, cudaStream_t stream, Error *error) {
  if (p->bf16) return (vectors ? launch<uint16_t, 8> : launch<uint16_t, 1>)(p, stream, error);
  return (vectors ? launch<float, 4> : launch<float, 1>)(p, stream, error);
}
