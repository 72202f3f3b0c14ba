/* RMS norm (Zhang, Sennrich 2019) of pixels whose channels fit in a warp's registers. The formulas
 * are in engine/cpu/norm/rms_norm.c. */
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/norm_padding.h"

/* LANES lanes share a pixel and read it in K accesses of N elements each. All lanes of a warp loop
 * equally often, since sums are computed with warp shuffles. */
template <int N, int LANES> struct Lane {
  unsigned channels;
  int64_t pixel; /* first pixel */
  unsigned step; /* distance to the next pixel */

  __device__ Lane(const RmsParameters &p)
      : channels(static_cast<unsigned>(p.norm.channels)),
        pixel((static_cast<int64_t>(blockIdx.x) * NORM_THREADS + threadIdx.x) / LANES),
        step(gridDim.x * (NORM_THREADS / LANES)) {}
  __device__ unsigned channel(int k) const {
    return (static_cast<unsigned>(k) * LANES + threadIdx.x % LANES) * N;
  }
  __device__ bool has(int k) const { return channel(k) < channels; }
  /* The pixel of the warp's first lane when this lane's pixel is `pixel`. */
  __device__ static int64_t of_warp(int64_t pixel) { return pixel - threadIdx.x % 32 / LANES; }
};

/* Gain and bias for the lane's access k. */
template <int N, int LANES>
__device__ inline void load_parameters(const RmsParameters &p, const Lane<N, LANES> &lane, int k,
                                       float *gain, float *bias) {
  const bool there = p.norm.gain && lane.has(k);
#pragma unroll
  for (int i = 0; i < N; i++) {
    gain[i] = there ? p.norm.gain[lane.channel(k) + i] : 1.0f;
    bias[i] = there ? p.norm.bias[lane.channel(k) + i] : 0.0f;
  }
}

/* Loads the lane's K accesses of the pixel that begins at element `at`; zeros outside of it. */
template <typename T, int N, int K, int LANES>
__device__ inline void load_row(const void *tensor, int64_t at, bool active,
                                const Lane<N, LANES> &lane, Pack<T, N> row[K]) {
#pragma unroll
  for (int k = 0; k < K; k++)
    row[k] = pack_load_if<T, N>(active && lane.has(k),
                                static_cast<const T *>(tensor) + at + lane.channel(k));
}

template <typename T, int N, int K, int LANES>
__device__ inline float inverse_rms(const RmsParameters &p, const Pack<T, N> row[K]) {
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < K; k++) {
    float x[N];
    row[k].get(x);
#pragma unroll
    for (int i = 0; i < N; i++) sum += x[i] * x[i];
  }
  return rsqrtf(lanes_sum<LANES>(sum) * p.inverse_channels + p.norm.epsilon);
}

/* Stores y for the lane's accesses of the pixel that begins at element `at`. */
template <typename T, int N, int K, int LANES>
__device__ inline void rms_forward_row(const RmsParameters &p, const Lane<N, LANES> &lane,
                                       int64_t at, bool active, const Pack<T, N> row[K],
                                       const Pack<T, N> residual[K], float gain[K][N],
                                       float bias[K][N]) {
  const float r = inverse_rms<T, N, K, LANES>(p, row);
#pragma unroll
  for (int k = 0; k < K; k++) {
    if (K > 2) load_parameters(p, lane, k, gain[k], bias[k]); /* again, to save registers */
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

/* Pixels per lane and iteration when registers allow (K == 1), so that their loads overlap. */
enum { PIXELS_PER_ITERATION = 2 };

template <typename T, int N, int K, int LANES, bool PADDED>
__global__ void __launch_bounds__(NORM_THREADS) rms_forward_kernel(const RmsParameters p) {
  enum { PIXELS = K == 1 ? int{PIXELS_PER_ITERATION} : 1 };
  const Lane<N, LANES> lane(p);
  float gain[K][N], bias[K][N];
#pragma unroll
  for (int k = 0; k < K; k++) load_parameters(p, lane, k, gain[k], bias[k]);
  Position position = first_position(p, lane.pixel);
  for (int64_t pixel = lane.pixel; lane.of_warp(pixel) < p.pixels;
       pixel += static_cast<int64_t>(PIXELS) * lane.step) {
    Pack<T, N> row[PIXELS][K], residual[PIXELS][K];
    int64_t at[PIXELS];
    bool active[PIXELS];
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
      const int64_t own = pixel + static_cast<int64_t>(i) * lane.step;
      int64_t of_x = own, of_residual = own;
      if (PADDED) {
        const SourcePixels sources(p.norm, position);
        of_x = sources.x;
        of_residual = sources.residual;
        position = next_position(p, position);
      }
      at[i] = own * lane.channels;
      active[i] = own < p.pixels;
      load_row<T, N, K>(p.norm.x, of_x * lane.channels, active[i], lane, row[i]);
      load_row<T, N, K>(p.norm.residual, of_residual * lane.channels, active[i] && p.norm.residual,
                        lane, residual[i]);
    }
#pragma unroll
    for (int i = 0; i < PIXELS; i++)
      rms_forward_row<T, N, K>(p, lane, at[i], active[i], row[i], residual[i], gain, bias);
  }
}

/* Adds the warps' sums of dgain and dbias in order and stores them as the block's row of partials.
 */
template <int N, int K, int LANES>
__device__ inline void store_partials(const RmsParameters &p, const Lane<N, LANES> &lane,
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

/* The lane's elements of x and dy of one pixel. */
template <typename T, int N, int K, int LANES, bool PADDED> struct BackwardRow {
  Pack<T, N> x[K], dy[K];
  Position position;

  /* Starts both loads before either is used. */
  __device__ void load(const RmsParameters &p, const Lane<N, LANES> &lane, int64_t pixel,
                       const Position &at) {
    position = at;
    const int64_t of_dy = PADDED ? position.in(p.norm.outer) : pixel;
    load_row<T, N, K>(p.norm.x, pixel * lane.channels, pixel < p.pixels, lane, x);
    load_row<T, N, K>(p.norm.dy, of_dy * lane.channels, pixel < p.pixels, lane, dy);
  }
  /* Adds dy at the pixel's copies in the padding; few pixels have any. The sum is rounded to T,
   * like the output of OP_PAD_BACKWARD, to save registers. */
  __device__ void add_padding(const RmsParameters &p, const Lane<N, LANES> &lane, int64_t pixel) {
    const bool reflected = pixel < p.pixels && may_be_reflected(p.norm, position);
#pragma unroll
    for (int k = 0; k < K; k++) {
      if (!reflected || !lane.has(k)) continue;
      float sum[N];
      dy[k].get(sum);
      add_reflected<T, N>(p.norm, position, lane.channel(k), sum);
      dy[k].set(sum);
    }
  }
};

/* Stores dx for the lane's accesses of a pixel and adds to the lane's sums of dgain and dbias. */
template <typename T, int N, int K, int LANES, bool PADDED>
__device__ inline void
rms_backward_row(const RmsParameters &p, const Lane<N, LANES> &lane, int64_t pixel,
                 const BackwardRow<T, N, K, LANES, PADDED> &row, float gain[K][N], float bias[K][N],
                 float dgain[K][N], float dbias[K][N]) {
  const bool active = pixel < p.pixels;
  const float r = inverse_rms<T, N, K, LANES>(p, row.x);
  float h[K][N], dot = 0.0f;
#pragma unroll
  for (int k = 0; k < K; k++) {
    float x[N], dy[N];
    row.x[k].get(x);
    row.dy[k].get(dy);
    if (K > 2) load_parameters(p, lane, k, gain[k], bias[k]); /* again, to save registers */
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float n = x[i] * r;
      const float g = norm_gradient(n, gain[k][i], bias[k][i], p.norm.slope, dy[i]);
      dgain[k][i] += g * n;
      dbias[k][i] += g;
      h[k][i] = g * gain[k][i];
      dot += h[k][i] * n;
    }
  }
  const float projection = lanes_sum<LANES>(dot) * r * p.inverse_channels;
#pragma unroll
  for (int k = 0; k < K; k++) {
    float x[N];
    row.x[k].get(x);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = r * (h[k][i] - x[i] * projection);
    if (active && lane.has(k))
      floats_store<T, N>(static_cast<T *>(p.norm.dx) + pixel * lane.channels + lane.channel(k), x);
  }
}

/* Blocks that must fit on a multiprocessor (__launch_bounds__): a lane keeps four floats per
 * channel in registers for the whole loop, besides the loaded elements. */
constexpr int resident_blocks(int channels) {
  return channels == 1 ? 6 : channels <= 4 ? 4 : channels <= 8 ? 3 : channels <= 16 ? 2 : 1;
}

template <typename T, int N, int K, int LANES, bool PADDED>
__global__ void __launch_bounds__(NORM_THREADS, resident_blocks(N *K))
    rms_backward_kernel(const RmsParameters p) {
  /* Prefetches the next pixel while this one is summed, when registers allow. */
  enum { PREFETCH = K == 1 };
  const Lane<N, LANES> lane(p);
  float gain[K][N], bias[K][N], dgain[K][N], dbias[K][N];
#pragma unroll
  for (int k = 0; k < K; k++) {
    load_parameters(p, lane, k, gain[k], bias[k]);
#pragma unroll
    for (int i = 0; i < N; i++) dgain[k][i] = dbias[k][i] = 0.0f;
  }
  BackwardRow<T, N, K, LANES, PADDED> row, next;
  Position position = first_position(p, lane.pixel);
  if (PREFETCH) next.load(p, lane, lane.pixel, position);
  for (int64_t pixel = lane.pixel; lane.of_warp(pixel) < p.pixels; pixel += lane.step) {
    if (PREFETCH && N == 8) pixel = hide_from_optimizer(pixel); /* saves registers */
    if (PREFETCH) {
      row = next;
      position = next_position(p, position);
      next.load(p, lane, pixel + lane.step, position);
    } else {
      row.load(p, lane, pixel, position);
      position = next_position(p, position);
    }
    if (PADDED) row.add_padding(p, lane, pixel);
    rms_backward_row<T, N, K>(p, lane, pixel, row, gain, bias, dgain, dbias);
  }
  if (p.norm.partials) store_partials<N, K>(p, lane, dgain, dbias);
}

/* --- Launchers -------------------------------------------------------------------------------- */

typedef void RmsKernel(RmsParameters);

/* The number of lanes that share a pixel of `accesses` accesses. Channel counts that cannot be
 * vectorized (N == 1) are rare and use 4 or 32 lanes only. */
template <int N> static int lanes_of(int64_t accesses) {
  return accesses <= 4 ? 4 : N == 1 || accesses > 16 ? 32 : accesses > 8 ? 16 : 8;
}

template <typename T, int N, bool PADDED>
static Status forward(RmsParameters p, int64_t accesses, cudaStream_t stream, Error *error) {
  enum { LANES_8 = N == 1 ? 32 : 8, LANES_16 = N == 1 ? 32 : 16 };
  const int lanes = lanes_of<N>(accesses);
  RmsKernel *kernel = accesses > 64   ? rms_forward_kernel<T, N, NORM_MAX_LANE_ACCESSES, 32, PADDED>
                      : accesses > 32 ? rms_forward_kernel<T, N, 2, 32, PADDED>
                      : lanes == 32   ? rms_forward_kernel<T, N, 1, 32, PADDED>
                      : lanes == 16   ? rms_forward_kernel<T, N, 1, LANES_16, PADDED>
                      : lanes == 8    ? rms_forward_kernel<T, N, 1, LANES_8, PADDED>
                                      : rms_forward_kernel<T, N, 1, 4, PADDED>;
  const int per_thread = accesses > 32 ? 1 : PIXELS_PER_ITERATION;
  const dim3 grid = p.grid(NORM_THREADS / lanes * per_thread, per_thread);
  return cuda_launch(kernel, grid, NORM_THREADS, 0, p, stream, error);
}

template <typename T, int N, bool PADDED>
static Status backward(RmsParameters p, int64_t accesses, cudaStream_t stream, Error *error) {
  enum { LANES_8 = N == 1 ? 32 : 8, LANES_16 = N == 1 ? 32 : 16 };
  const int lanes = lanes_of<N>(accesses);
  const dim3 grid(static_cast<unsigned>(p.norm.chunks)); /* each block writes a row of partials */
  p.step_by(p.norm.chunks * (NORM_THREADS / lanes));
  const size_t shared =
      p.norm.partials ? 2 * static_cast<size_t>(p.norm.channels) * sizeof(float) : 0;
  RmsKernel *kernel = accesses > 64 ? rms_backward_kernel<T, N, NORM_MAX_LANE_ACCESSES, 32, PADDED>
                      : accesses > 32 ? rms_backward_kernel<T, N, 2, 32, PADDED>
                      : lanes == 32   ? rms_backward_kernel<T, N, 1, 32, PADDED>
                      : lanes == 16   ? rms_backward_kernel<T, N, 1, LANES_16, PADDED>
                      : lanes == 8    ? rms_backward_kernel<T, N, 1, LANES_8, PADDED>
                                      : rms_backward_kernel<T, N, 1, 4, PADDED>;
  return cuda_launch(kernel, grid, NORM_THREADS, shared, p, stream, error);
}

template <typename T, int N, bool PADDED>
static Status launch(const NormLaunch *p, cudaStream_t stream, Error *error) {
  const RmsParameters parameters(*p);
  const int64_t accesses = p->channels / N;
  if (accesses > 32 * NORM_MAX_LANE_ACCESSES) return launch_rms_norm_wide(p, stream, error);
  return p->dy ? backward<T, N, PADDED>(parameters, accesses, stream, error)
               : forward<T, N, PADDED>(parameters, accesses, stream, error);
}

template <bool PADDED>
static Status launch_any(const NormLaunch *p, cudaStream_t stream, Error *error) {
  if (p->bf16)
    return (p->vectorized ? launch<uint16_t, 8, PADDED> : launch<uint16_t, 1, PADDED>)(p, stream,
                                                                                       error);
  return (p->vectorized ? launch<float, 4, PADDED> : launch<float, 1, PADDED>)(p, stream, error);
}

Status launch_rms_norm(const NormLaunch *p, cudaStream_t stream, Error *error) {
  Status status = OK;
  TRY((p->padded ? launch_any<true> : launch_any<false>)(p, stream, error));
  if (p->partials) TRY(launch_norm_parameter_gradients(p, p->chunks, stream, error));
done:
  return status;
}
