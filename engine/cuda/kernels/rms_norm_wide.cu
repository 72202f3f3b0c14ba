/* RMS norm of pixels with more channels than fit in a warp's registers: one block per pixel. */
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
__global__ void __launch_bounds__(NORM_THREADS)
    rms_wide_forward_kernel(const RmsParameters parameters) {
  __shared__ float space[NORM_THREADS / 32];
  const NormLaunch &p = parameters.norm;
  Position position = first_position(parameters, blockIdx.x);
  for (int64_t pixel = blockIdx.x; pixel < parameters.pixels;
       pixel += gridDim.x, position = next_position(parameters, position)) {
    const SourcePixels sources(p, position);
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

/* dy of N channels from c, summed over the pixel and its copies in the padding. */
template <typename T, int N>
__device__ inline void load_dy(const NormLaunch &p, const Position &position, int64_t c,
                               float *dy) {
  floats_load<T, N>(static_cast<const T *>(p.dy) + position.in(p.outer) * p.channels + c, dy);
  if (may_be_reflected(p, position)) add_reflected<T, N>(p, position, c, dy);
}

/* Replaces v by n and dy by h = gain g, where g is the gradient before the activation. */
template <int N>
__device__ inline void wide_step(const NormLaunch &p, int64_t c, float r, float *v, float *dy) {
  for (int i = 0; i < N; i++) {
    const float gain = p.gain ? p.gain[c + i] : 1.0f, bias = p.gain ? p.bias[c + i] : 0.0f;
    v[i] *= r;
    dy[i] = gain * norm_gradient(v[i], gain, bias, p.slope, dy[i]);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS)
    rms_wide_backward_kernel(const RmsParameters parameters) {
  __shared__ float space[NORM_THREADS / 32];
  const NormLaunch &p = parameters.norm;
  Position position = first_position(parameters, blockIdx.x);
  for (int64_t pixel = blockIdx.x; pixel < parameters.pixels;
       pixel += gridDim.x, position = next_position(parameters, position)) {
    const int64_t begin = pixel * p.channels;
    const T *x = static_cast<const T *>(p.x) + begin;
    const float r = block_inverse_rms<T, N>(p, x, space);
    float dot = 0.0f, n[N], h[N];
    for (int64_t c = threadIdx.x * N; c < p.channels; c += NORM_THREADS * N) {
      floats_load<T, N>(x + c, n);
      load_dy<T, N>(p, position, c, h);
      wide_step<N>(p, c, r, n, h);
      for (int i = 0; i < N; i++) dot += h[i] * n[i];
    }
    const float mean = block_sum<NORM_THREADS>(dot, space) / static_cast<float>(p.channels);
    for (int64_t c = threadIdx.x * N; c < p.channels; c += NORM_THREADS * N) {
      floats_load<T, N>(x + c, n);
      load_dy<T, N>(p, position, c, h);
      wide_step<N>(p, c, r, n, h);
      for (int i = 0; i < N; i++) h[i] = r * (h[i] - n[i] * mean);
      floats_store<T, N>(static_cast<T *>(p.dx) + begin + c, h);
    }
    if (threadIdx.x == 0 && p.partials) p.statistics[pixel] = r;
  }
}

/* Partial sums of dgain and dbias: one thread per channel, one grid row per chunk. Chunk k has the
 * pixels k, k + chunks, k + 2 chunks, ... */
template <typename T>
__global__ void __launch_bounds__(NORM_THREADS)
    rms_wide_partials_kernel(const RmsParameters parameters) {
  const NormLaunch &p = parameters.norm;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * NORM_THREADS + threadIdx.x;
  const int64_t chunk = blockIdx.y;
  Position position = first_position(parameters, chunk);
  if (c >= p.channels) return;
  const float gain = p.gain ? p.gain[c] : 1.0f, bias = p.gain ? p.bias[c] : 0.0f;
  float dgain = 0.0f, dbias = 0.0f;
  for (int64_t pixel = chunk; pixel < parameters.pixels;
       pixel += p.chunks, position = next_position(parameters, position)) {
    float x, dy;
    floats_load<T, 1>(static_cast<const T *>(p.x) + pixel * p.channels + c, &x);
    load_dy<T, 1>(p, position, c, &dy);
    const float n = x * p.statistics[pixel];
    const float g = norm_gradient(n, gain, bias, p.slope, dy);
    dgain += g * n;
    dbias += g;
  }
  p.partials[chunk * 2 * p.channels + c] = dgain;
  p.partials[chunk * 2 * p.channels + p.channels + c] = dbias;
}

/* --- Launchers -------------------------------------------------------------------------------- */

template <typename T, int N>
static Status wide_backward(RmsParameters parameters, cudaStream_t stream, Error *error) {
  Status status = OK;
  const dim3 grid(
      static_cast<unsigned>((parameters.norm.channels + NORM_THREADS - 1) / NORM_THREADS),
      static_cast<unsigned>(parameters.norm.chunks));
  const dim3 pixels = parameters.grid(1, 1);
  TRY(cuda_launch(rms_wide_backward_kernel<T, N>, pixels, NORM_THREADS, 0, parameters, stream,
                  error));
  parameters.step_by(parameters.norm.chunks);
  if (parameters.norm.partials)
    TRY(cuda_launch(rms_wide_partials_kernel<T>, grid, NORM_THREADS, 0, parameters, stream, error));
done:
  return status;
}

template <typename T, int N>
static Status launch(const NormLaunch *p, cudaStream_t stream, Error *error) {
  RmsParameters parameters(*p);
  if (p->dy) return wide_backward<T, N>(parameters, stream, error);
  const dim3 pixels = parameters.grid(1, 1);
  return cuda_launch(rms_wide_forward_kernel<T, N>, pixels, NORM_THREADS, 0, parameters, stream,
                     error);
}

Status launch_rms_norm_wide(const NormLaunch *p, cudaStream_t stream, Error *error) {
  if (p->bf16) return (p->vectorized ? launch<uint16_t, 8> : launch<uint16_t, 1>)(p, stream, error);
  return (p->vectorized ? launch<float, 4> : launch<float, 1>)(p, stream, error);
}
