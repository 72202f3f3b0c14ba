/* RMS norm (Zhang, Sennrich 2019) of pixels that a warp's registers hold. The formulas stand in
 * engine/cpu/norm/rms_norm.c. */
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/norm_padding.h"

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

template <typename T, int N, int K, int LANES, bool PADDED>
__global__ void __launch_bounds__(NORM_THREADS) rms_forward_kernel(const RowLaunch p) {
  enum { PIXELS = K == 1 ? int{PIXELS_AT_A_TIME} : 1 };
  const Lane<N, LANES> lane(p);
  float gain[K][N], bias[K][N];
#pragma unroll
  for (int k = 0; k < K; k++) load_parameters(p, lane, k, gain[k], bias[k]);
  Spot spot = first_spot(p, lane.pixel);
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
        const Sources sources(p.norm, spot);
        of_x = sources.x;
        of_residual = sources.residual;
        spot = next_spot(p, spot);
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

/* What the lane reads of a pixel. */
template <typename T, int N, int K, int LANES, bool PADDED> struct BackwardRow {
  Pack<T, N> x[K], dy[K];
  Spot spot;

  /* Both loads are under way together. */
  __device__ void load(const RowLaunch &p, const Lane<N, LANES> &lane, int64_t pixel,
                       const Spot &at) {
    spot = at;
    const int64_t of_dy = PADDED ? spot.in(p.norm.outer) : pixel;
    load_row<T, N, K>(p.norm.x, pixel * lane.channels, pixel < p.pixels, lane, x);
    load_row<T, N, K>(p.norm.dy, of_dy * lane.channels, pixel < p.pixels, lane, dy);
  }
  /* Adds what the padding shows of the pixel, of which few are seen so. The sum is rounded to T, as
   * a padding's own gradient is: registers are scarce. */
  __device__ void add_padding(const RowLaunch &p, const Lane<N, LANES> &lane, int64_t pixel) {
    const bool seen = pixel < p.pixels && near_sides(p.norm, spot);
#pragma unroll
    for (int k = 0; k < K; k++) {
      if (!seen || !lane.has(k)) continue;
      float sum[N];
      dy[k].get(sum);
      add_seen<T, N>(p.norm, spot, lane.channel(k), sum);
      dy[k].set(sum);
    }
  }
};

/* dx of the lane's accesses to a pixel; adds to its sums of dgain and dbias. */
template <typename T, int N, int K, int LANES, bool PADDED>
__device__ inline void
rms_backward_row(const RowLaunch &p, const Lane<N, LANES> &lane, int64_t pixel,
                 const BackwardRow<T, N, K, LANES, PADDED> &row, float gain[K][N], float bias[K][N],
                 float dgain[K][N], float dbias[K][N]) {
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

/* Blocks that a multiprocessor's registers must hold: a lane keeps four floats for each of its
 * channels all the while, and what it reads. */
constexpr int resident_blocks(int channels) {
  return channels == 1 ? 6 : channels <= 4 ? 4 : channels <= 8 ? 3 : channels <= 16 ? 2 : 1;
}

template <typename T, int N, int K, int LANES, bool PADDED>
__global__ void __launch_bounds__(NORM_THREADS, resident_blocks(N *K))
    rms_backward_kernel(const RowLaunch p) {
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
  BackwardRow<T, N, K, LANES, PADDED> row, next;
  Spot spot = first_spot(p, lane.pixel);
  if (AHEAD) next.load(p, lane, lane.pixel, spot);
  for (int64_t pixel = lane.pixel; lane.of_warp(pixel) < p.pixels; pixel += lane.step) {
    if (AHEAD && N == 8) pixel = opaque(pixel); /* registers are scarce */
    if (AHEAD) {
      row = next;
      spot = next_spot(p, spot);
      next.load(p, lane, pixel + lane.step, spot);
    } else {
      row.load(p, lane, pixel, spot);
      spot = next_spot(p, spot);
    }
    if (PADDED) row.add_padding(p, lane, pixel);
    rms_backward_row<T, N, K>(p, lane, pixel, row, gain, bias, dgain, dbias);
  }
  if (p.norm.partials) store_partials<N, K>(p, lane, dgain, dbias);
}

/* --- Launchers -------------------------------------------------------------------------------- */

typedef void RowKernel(RowLaunch);

/* The lanes that share a pixel of so many accesses. Odd channels, which are rare, know two numbers.
 */
template <int N> static int lanes_of(int64_t slots) {
  return slots <= 4 ? 4 : N == 1 || slots > 16 ? 32 : slots > 8 ? 16 : 8;
}

template <typename T, int N, bool PADDED>
static Status forward(RowLaunch row, int64_t slots, cudaStream_t stream, Error *error) {
  enum { FEW = N == 1 ? 32 : 8, MORE = N == 1 ? 32 : 16 };
  const int lanes = lanes_of<N>(slots);
  RowKernel *kernel = slots > 64    ? rms_forward_kernel<T, N, NORM_MOST_SLOTS, 32, PADDED>
                      : slots > 32  ? rms_forward_kernel<T, N, 2, 32, PADDED>
                      : lanes == 32 ? rms_forward_kernel<T, N, 1, 32, PADDED>
                      : lanes == 16 ? rms_forward_kernel<T, N, 1, MORE, PADDED>
                      : lanes == 8  ? rms_forward_kernel<T, N, 1, FEW, PADDED>
                                    : rms_forward_kernel<T, N, 1, 4, PADDED>;
  const int at_once = slots > 32 ? 1 : PIXELS_AT_A_TIME;
  const dim3 grid = row.grid(NORM_THREADS / lanes * at_once, at_once);
  return cuda_launch(kernel, grid, NORM_THREADS, 0, row, stream, error);
}

template <typename T, int N, bool PADDED>
static Status backward(RowLaunch row, int64_t slots, cudaStream_t stream, Error *error) {
  enum { FEW = N == 1 ? 32 : 8, MORE = N == 1 ? 32 : 16 };
  const int lanes = lanes_of<N>(slots);
  const dim3 grid(static_cast<unsigned>(row.norm.pieces)); /* a row of partials for each block */
  row.step_by(row.norm.pieces * (NORM_THREADS / lanes));
  const size_t shared =
      row.norm.partials ? 2 * static_cast<size_t>(row.norm.channels) * sizeof(float) : 0;
  RowKernel *kernel = slots > 64    ? rms_backward_kernel<T, N, NORM_MOST_SLOTS, 32, PADDED>
                      : slots > 32  ? rms_backward_kernel<T, N, 2, 32, PADDED>
                      : lanes == 32 ? rms_backward_kernel<T, N, 1, 32, PADDED>
                      : lanes == 16 ? rms_backward_kernel<T, N, 1, MORE, PADDED>
                      : lanes == 8  ? rms_backward_kernel<T, N, 1, FEW, PADDED>
                                    : rms_backward_kernel<T, N, 1, 4, PADDED>;
  return cuda_launch(kernel, grid, NORM_THREADS, shared, row, stream, error);
}

template <typename T, int N, bool PADDED>
static Status launch(const NormLaunch *p, cudaStream_t stream, Error *error) {
  const RowLaunch row(*p);
  const int64_t slots = p->channels / N;
  if (slots > 32 * NORM_MOST_SLOTS) return launch_norm_wide(p, N > 1, stream, error);
  return p->dy ? backward<T, N, PADDED>(row, slots, stream, error)
               : forward<T, N, PADDED>(row, slots, stream, error);
}

template <bool PADDED>
static Status launch_any(const NormLaunch *p, cudaStream_t stream, Error *error) {
  const bool vectors = norm_in_vectors(p);
  if (p->bf16)
    return (vectors ? launch<uint16_t, 8, PADDED> : launch<uint16_t, 1, PADDED>)(p, stream, error);
  return (vectors ? launch<float, 4, PADDED> : launch<float, 1, PADDED>)(p, stream, error);
}

Status launch_norm_pixels(const NormLaunch *p, cudaStream_t stream, Error *error) {
  Status status = OK;
  TRY((p->padded ? launch_any<true> : launch_any<false>)(p, stream, error));
  if (p->partials) TRY(launch_norm_parameters(p, p->pieces, stream, error));
done:
  return status;
}
