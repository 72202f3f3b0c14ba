/* Instance and group norm: statistics of each frame and group of channels over the frame's pixels.
 * The formulas stand in engine/cpu/norm/instance_norm.c. A frame is cut into pieces, a block for
 * each; a thread keeps its channels and goes through the piece's pixels. */
#include "engine/backend/shared/norm.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/norm.h"
#include "engine/cuda/kernels/vector.h"

struct FramesLaunch {
  NormLaunch norm;
  int lanes;      /* threads side by side over channels, a power of two */
  unsigned tiles; /* of `lanes` accesses that cover the channels */
};

/* Where a thread works. */
struct Place {
  int64_t frame, piece, channel;
  int64_t begin, end; /* the piece's pixels, counted over all frames */
  int row, rows;      /* pixels are dealt out to rows of threads */
  bool active;        /* `channel` is one */
};

/* Where a frame's piece that begins at pixel `begin` ends. */
__device__ inline int64_t piece_end(const NormLaunch &p, int64_t begin) {
  return begin + p.piece_length < p.pixels ? begin + p.piece_length : p.pixels;
}

template <int N> __device__ inline Place place_of(const FramesLaunch &p) {
  Place place;
  const unsigned tile = blockIdx.x % p.tiles, piece = blockIdx.x / p.tiles;
  const unsigned pieces = static_cast<unsigned>(p.norm.pieces);
  place.frame = piece / pieces;
  place.piece = piece % pieces;
  const int64_t base = place.frame * p.norm.pixels, begin = place.piece * p.norm.piece_length;
  place.begin = base + begin;
  place.end = base + piece_end(p.norm, begin);
  place.row = static_cast<int>(threadIdx.x) / p.lanes;
  place.rows = NORM_THREADS / p.lanes;
  place.channel =
      (static_cast<int64_t>(tile) * p.lanes + threadIdx.x % static_cast<unsigned>(p.lanes)) * N;
  place.active = place.channel < p.norm.channels;
  return place;
}

/* The block's row of partials, at the thread's channel. */
__device__ inline float *partials_of(const FramesLaunch &p, const Place &place) {
  return p.norm.partials + (place.frame * p.norm.pieces + place.piece) * 2 * p.norm.channels +
         place.channel;
}

/* --- Statistics ------------------------------------------------------------------------------- */

struct Moments {
  float count, mean, squares; /* squares: of deviations from the mean */
};

/* Of the elements of both. */
__device__ inline Moments merge(const Moments &a, const Moments &b) {
  const float count = a.count + b.count;
  if (count == 0.0f) return a;
  const float part = b.count / count, step = b.mean - a.mean;
  return {count, a.mean + step * part, a.squares + b.squares + step * step * a.count * part};
}

template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS) moments_kernel(const FramesLaunch p) {
  __shared__ Moments shared[N][NORM_THREADS];
  const Place place = place_of<N>(p);
  const T *x = static_cast<const T *>(p.norm.x) + place.channel;
  float count = 0.0f, mean[N], squares[N];
#pragma unroll
  for (int i = 0; i < N; i++) mean[i] = squares[i] = 0.0f;
  for (int64_t pixel = place.begin + place.row; place.active && pixel < place.end;
       pixel += place.rows) {
    float v[N];
    floats_load<T, N>(x + pixel * p.norm.channels, v);
    count += 1.0f;
    const float part = 1.0f / count;
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float step = v[i] - mean[i];
      mean[i] += step * part;
      squares[i] += step * (v[i] - mean[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < N; i++) shared[i][threadIdx.x] = {count, mean[i], squares[i]};
  for (int half = place.rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (place.row >= half) continue;
    for (int i = 0; i < N; i++)
      shared[i][threadIdx.x] =
          merge(shared[i][threadIdx.x], shared[i][threadIdx.x + half * p.lanes]);
  }
  if (place.row > 0 || !place.active) return;
  float *to = partials_of(p, place);
  for (int i = 0; i < N; i++) {
    to[i] = shared[i][threadIdx.x].mean;
    to[p.norm.channels + i] = shared[i][threadIdx.x].squares;
  }
}

/* --- Elements --------------------------------------------------------------------------------- */

/* What a thread's channels are normalised with. */
template <int N> struct Channels { float mean[N], r[N], gain[N], bias[N]; };

template <int N>
__device__ inline Channels<N> channels_of(const FramesLaunch &p, const Place &place) {
  Channels<N> c;
  const float *from = p.norm.statistics + place.frame * 2 * p.norm.channels + place.channel;
  const float *gain = p.norm.gain + (p.norm.gain ? place.channel : 0);
  const float *bias = p.norm.bias + (p.norm.gain ? place.channel : 0);
#pragma unroll
  for (int i = 0; i < N; i++) {
    c.mean[i] = from[i];
    c.r[i] = from[p.norm.channels + i];
    c.gain[i] = p.norm.gain ? gain[i] : 1.0f;
    c.bias[i] = p.norm.gain ? bias[i] : 0.0f;
  }
  return c;
}

template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS) frames_forward_kernel(const FramesLaunch p) {
  const Place place = place_of<N>(p);
  if (!place.active) return;
  const Channels<N> c = channels_of<N>(p, place);
  for (int64_t pixel = place.begin + place.row; pixel < place.end; pixel += place.rows) {
    const int64_t at = pixel * p.norm.channels + place.channel;
    float v[N], other[N] = {};
    floats_load<T, N>(static_cast<const T *>(p.norm.x) + at, v);
    if (p.norm.residual) floats_load<T, N>(static_cast<const T *>(p.norm.residual) + at, other);
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float n = (v[i] - c.mean[i]) * c.r[i];
      v[i] = norm_value(n, c.gain[i], c.bias[i], p.norm.slope) + other[i];
    }
    floats_store<T, N>(static_cast<T *>(p.norm.y) + at, v);
  }
}

/* n of x and g of dy, at an element. */
template <typename T, int N>
__device__ inline void load_gradient(const FramesLaunch &p, const Channels<N> &c, int64_t at,
                                     float *n, float *g) {
  floats_load<T, N>(static_cast<const T *>(p.norm.x) + at, n);
  floats_load<T, N>(static_cast<const T *>(p.norm.dy) + at, g);
#pragma unroll
  for (int i = 0; i < N; i++) {
    n[i] = (n[i] - c.mean[i]) * c.r[i];
    g[i] = norm_gradient(n[i], c.gain[i], c.bias[i], p.norm.slope, g[i]);
  }
}

/* Sums of g n and of g over a piece. */
template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS) gradient_sums_kernel(const FramesLaunch p) {
  __shared__ float shared[2 * N][NORM_THREADS];
  const Place place = place_of<N>(p);
  float along[N], sum[N];
#pragma unroll
  for (int i = 0; i < N; i++) along[i] = sum[i] = 0.0f;
  if (place.active) {
    const Channels<N> c = channels_of<N>(p, place);
    for (int64_t pixel = place.begin + place.row; pixel < place.end; pixel += place.rows) {
      float n[N], g[N];
      load_gradient<T, N>(p, c, pixel * p.norm.channels + place.channel, n, g);
#pragma unroll
      for (int i = 0; i < N; i++) {
        along[i] += g[i] * n[i];
        sum[i] += g[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    shared[i][threadIdx.x] = along[i];
    shared[N + i][threadIdx.x] = sum[i];
  }
  for (int half = place.rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (place.row >= half) continue;
    for (int i = 0; i < 2 * N; i++)
      shared[i][threadIdx.x] += shared[i][threadIdx.x + half * p.lanes];
  }
  if (place.row > 0 || !place.active) return;
  float *to = partials_of(p, place);
  for (int i = 0; i < N; i++) {
    to[i] = shared[i][threadIdx.x];
    to[p.norm.channels + i] = shared[N + i][threadIdx.x];
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS) frames_backward_kernel(const FramesLaunch p) {
  const Place place = place_of<N>(p);
  if (!place.active) return;
  const Channels<N> c = channels_of<N>(p, place);
  const float *means = p.norm.means + place.frame * 2 * p.norm.channels + place.channel;
  float mean_h[N], mean_hn[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    mean_h[i] = means[i];
    mean_hn[i] = means[p.norm.channels + i];
  }
  for (int64_t pixel = place.begin + place.row; pixel < place.end; pixel += place.rows) {
    const int64_t at = pixel * p.norm.channels + place.channel;
    float n[N], g[N];
    load_gradient<T, N>(p, c, at, n, g);
#pragma unroll
    for (int i = 0; i < N; i++) g[i] = c.r[i] * (c.gain[i] * g[i] - mean_h[i] - n[i] * mean_hn[i]);
    floats_store<T, N>(static_cast<T *>(p.norm.dx) + at, g);
  }
}

/* --- Groups of channels ----------------------------------------------------------------------- */

enum { COLUMNS = 32, ROWS = 8 };

/* A block takes a group, or as many small ones as COLUMNS channels hold, of one frame. */
struct GroupsLaunch {
  NormLaunch norm;
  unsigned blocks; /* of a frame */
  int size;        /* channels of a group */
  int width;       /* channels of a block */
};

/* Its threads are rows of neighbouring channels; pieces are dealt out to rows. */
struct GroupPlace {
  int64_t frame;
  int column, row, channel, end; /* the thread's first channel; behind the block's last */
};

__device__ inline GroupPlace group_place_of(const GroupsLaunch &p) {
  const int first = static_cast<int>(blockIdx.x % p.blocks) * p.width;
  const int channels = static_cast<int>(p.norm.channels);
  const int column = static_cast<int>(threadIdx.x) % COLUMNS;
  return {blockIdx.x / p.blocks, column, static_cast<int>(threadIdx.x) / COLUMNS, first + column,
          first + p.width < channels ? first + p.width : channels};
}

/* Of the gradients: sums of gain g n and of gain g. */
struct Sums {
  float along, sum;
};

__device__ inline Sums merge(const Sums &a, const Sums &b) {
  return {a.along + b.along, a.sum + b.sum};
}

/* What the threads of the channel's group have, together: rows first, then columns in order. */
template <typename Part>
__device__ inline Part group_total(const GroupsLaunch &p, const GroupPlace &place,
                                   const Part &own) {
  __shared__ Part shared[ROWS][COLUMNS];
  shared[place.row][place.column] = own;
  for (int half = ROWS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (place.row >= half) continue;
    shared[place.row][place.column] =
        merge(shared[place.row][place.column], shared[place.row + half][place.column]);
  }
  __syncthreads();
  const int begin = p.size < COLUMNS ? place.column / p.size * p.size : 0;
  const int end = p.size < COLUMNS && begin + p.size < COLUMNS ? begin + p.size : int{COLUMNS};
  Part total = shared[0][begin];
  for (int column = begin + 1; column < end; column++) total = merge(total, shared[0][column]);
  return total;
}

__global__ void __launch_bounds__(COLUMNS *ROWS) group_moments_kernel(const GroupsLaunch p) {
  const GroupPlace place = group_place_of(p);
  const int64_t channels = p.norm.channels, pieces = p.norm.pieces;
  Moments moments = {0.0f, 0.0f, 0.0f};
  for (int64_t piece = place.row; piece < pieces; piece += ROWS) {
    const int64_t begin = piece * p.norm.piece_length;
    const float count = static_cast<float>(piece_end(p.norm, begin) - begin);
    const float *from = p.norm.partials + (place.frame * pieces + piece) * 2 * channels;
    for (int c = place.channel; c < place.end; c += COLUMNS)
      moments = merge(moments, {count, from[c], from[channels + c]});
  }
  moments = group_total(p, place, moments);
  if (place.row > 0) return;
  const float variance = moments.squares / moments.count;
  float *to = p.norm.statistics + place.frame * 2 * channels;
  for (int c = place.channel; c < place.end; c += COLUMNS) {
    to[c] = moments.mean;
    to[channels + c] = 1.0f / sqrtf(variance + p.norm.epsilon);
  }
}

/* The means of h = gain g and of h n. */
__global__ void __launch_bounds__(COLUMNS *ROWS) group_means_kernel(const GroupsLaunch p) {
  const GroupPlace place = group_place_of(p);
  const int64_t channels = p.norm.channels, pieces = p.norm.pieces;
  Sums sums = {0.0f, 0.0f};
  for (int64_t piece = place.row; piece < pieces; piece += ROWS) {
    const float *from = p.norm.partials + (place.frame * pieces + piece) * 2 * channels;
    for (int c = place.channel; c < place.end; c += COLUMNS) {
      const float gain = p.norm.gain ? p.norm.gain[c] : 1.0f;
      sums = merge(sums, {gain * from[c], gain * from[channels + c]});
    }
  }
  sums = group_total(p, place, sums);
  if (place.row > 0) return;
  const float count = static_cast<float>(p.norm.pixels * p.size);
  float *to = p.norm.means + place.frame * 2 * channels;
  for (int c = place.channel; c < place.end; c += COLUMNS) {
    to[c] = sums.sum / count;
    to[channels + c] = sums.along / count;
  }
}

/* --- Launchers -------------------------------------------------------------------------------- */

static Status start_groups(void (*kernel)(GroupsLaunch), const NormLaunch &p, cudaStream_t stream,
                           Error *error) {
  const int size = static_cast<int>(p.channels / p.groups);
  const int width = size < COLUMNS ? COLUMNS / size * size : size;
  const int64_t blocks = (p.channels + width - 1) / width;
  const GroupsLaunch groups = {p, static_cast<unsigned>(blocks), size, width};
  return cuda_launch(kernel, dim3(static_cast<unsigned>(p.frames * blocks)), COLUMNS * ROWS, 0,
                     groups, stream, error);
}

template <typename T, int N>
static Status forward(const FramesLaunch &p, dim3 grid, cudaStream_t stream, Error *error) {
  Status status = OK;
  TRY(cuda_launch(moments_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
  TRY(start_groups(group_moments_kernel, p.norm, stream, error));
  TRY(cuda_launch(frames_forward_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
done:
  return status;
}

template <typename T, int N>
static Status backward(const FramesLaunch &p, dim3 grid, cudaStream_t stream, Error *error) {
  Status status = OK;
  TRY(cuda_launch(moments_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
  TRY(start_groups(group_moments_kernel, p.norm, stream, error));
  TRY(cuda_launch(gradient_sums_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
  TRY(start_groups(group_means_kernel, p.norm, stream, error));
  TRY(cuda_launch(frames_backward_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
  if (p.norm.dgain || p.norm.dbias)
    TRY(launch_norm_parameters(&p.norm, p.norm.frames * p.norm.pieces, stream, error));
done:
  return status;
}

template <typename T, int N>
static Status launch(const NormLaunch *p, cudaStream_t stream, Error *error) {
  FramesLaunch frames = {*p, 1, 1};
  const int64_t slots = p->channels / N;
  while (frames.lanes < NORM_THREADS && frames.lanes < slots) frames.lanes *= 2;
  frames.tiles = static_cast<unsigned>((slots + frames.lanes - 1) / frames.lanes);
  const dim3 grid(static_cast<unsigned>(p->frames * p->pieces * frames.tiles));
  return p->dy ? backward<T, N>(frames, grid, stream, error)
               : forward<T, N>(frames, grid, stream, error);
}

Status launch_norm_frames(const NormLaunch *p, cudaStream_t stream, Error *error) {
  const bool vectors = norm_in_vectors(p);
  if (p->bf16)
    return vectors ? launch<uint16_t, 8>(p, stream, error) : launch<uint16_t, 1>(p, stream, error);
  return vectors ? launch<float, 4>(p, stream, error) : launch<float, 1>(p, stream, error);
}
