/* Instance and group norm: statistics of each frame and group of channels over the frame's pixels.
 * The formulas are in engine/cpu/norm/instance_norm.c. A frame is split into chunks, one block
 * each; a thread has fixed channels and loops over pixels of the chunk. */
#include "engine/backend/shared/norm.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/norm.h"
#include "engine/cuda/kernels/vector.h"

struct InstanceNormParameters {
  NormLaunch norm;
  int lanes;      /* threads along the channels, a power of two */
  unsigned tiles; /* blocks along the channels, of `lanes` accesses each */
};

/* The part of a tensor that a thread processes. */
struct ThreadWork {
  int64_t frame, chunk, channel;
  int64_t begin, end; /* pixels of the chunk, counted over all frames */
  int row, rows;      /* the thread takes the pixels begin + row, begin + row + rows, ... */
  bool active;        /* `channel` exists */
};

/* The end of the chunk that begins at pixel `begin` of a frame. */
__device__ inline int64_t chunk_end(const NormLaunch &p, int64_t begin) {
  return begin + p.chunk_length < p.pixels ? begin + p.chunk_length : p.pixels;
}

template <int N> __device__ inline ThreadWork thread_work(const InstanceNormParameters &p) {
  ThreadWork work;
  const unsigned tile = blockIdx.x % p.tiles, chunk = blockIdx.x / p.tiles;
  const unsigned chunks = static_cast<unsigned>(p.norm.chunks);
  work.frame = chunk / chunks;
  work.chunk = chunk % chunks;
  const int64_t base = work.frame * p.norm.pixels, begin = work.chunk * p.norm.chunk_length;
  work.begin = base + begin;
  work.end = base + chunk_end(p.norm, begin);
  work.row = static_cast<int>(threadIdx.x) / p.lanes;
  work.rows = NORM_THREADS / p.lanes;
  work.channel =
      (static_cast<int64_t>(tile) * p.lanes + threadIdx.x % static_cast<unsigned>(p.lanes)) * N;
  work.active = work.channel < p.norm.channels;
  return work;
}

/* The block's row of partials, at the thread's channel. */
__device__ inline float *partials_of(const InstanceNormParameters &p, const ThreadWork &work) {
  return p.norm.partials + (work.frame * p.norm.chunks + work.chunk) * 2 * p.norm.channels +
         work.channel;
}

/* --- Statistics ------------------------------------------------------------------------------- */

struct Moments {
  float count, mean, squares; /* squares: sum of squared deviations from the mean */
};

/* The moments of the union (Chan, Golub, LeVeque 1979). */
__device__ inline Moments merge(const Moments &a, const Moments &b) {
  const float count = a.count + b.count;
  if (count == 0.0f) return a;
  const float part = b.count / count, step = b.mean - a.mean;
  return {count, a.mean + step * part, a.squares + b.squares + step * step * a.count * part};
}

template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS)
    instance_moments_kernel(const InstanceNormParameters p) {
  __shared__ Moments shared[N][NORM_THREADS];
  const ThreadWork work = thread_work<N>(p);
  const T *x = static_cast<const T *>(p.norm.x) + work.channel;
  float count = 0.0f, mean[N], squares[N];
#pragma unroll
  for (int i = 0; i < N; i++) mean[i] = squares[i] = 0.0f;
  for (int64_t pixel = work.begin + work.row; work.active && pixel < work.end; pixel += work.rows) {
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
  for (int half = work.rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (work.row >= half) continue;
    for (int i = 0; i < N; i++)
      shared[i][threadIdx.x] =
          merge(shared[i][threadIdx.x], shared[i][threadIdx.x + half * p.lanes]);
  }
  if (work.row > 0 || !work.active) return;
  float *to = partials_of(p, work);
  for (int i = 0; i < N; i++) {
    to[i] = shared[i][threadIdx.x].mean;
    to[p.norm.channels + i] = shared[i][threadIdx.x].squares;
  }
}

/* --- Elements --------------------------------------------------------------------------------- */

/* Statistics and parameters of a thread's N channels; r is 1 / std. */
template <int N> struct ChannelParameters { float mean[N], r[N], gain[N], bias[N]; };

template <int N>
__device__ inline ChannelParameters<N> load_channels(const InstanceNormParameters &p,
                                                     const ThreadWork &work) {
  ChannelParameters<N> c;
  const float *from = p.norm.statistics + work.frame * 2 * p.norm.channels + work.channel;
  const float *gain = p.norm.gain + (p.norm.gain ? work.channel : 0);
  const float *bias = p.norm.bias + (p.norm.gain ? work.channel : 0);
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
__global__ void __launch_bounds__(NORM_THREADS)
    instance_norm_forward_kernel(const InstanceNormParameters p) {
  const ThreadWork work = thread_work<N>(p);
  if (!work.active) return;
  const ChannelParameters<N> c = load_channels<N>(p, work);
  for (int64_t pixel = work.begin + work.row; pixel < work.end; pixel += work.rows) {
    const int64_t at = pixel * p.norm.channels + work.channel;
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

/* The normalised n of x and the gradient g before the activation, for N elements at `at`. */
template <typename T, int N>
__device__ inline void load_gradient(const InstanceNormParameters &p, const ChannelParameters<N> &c,
                                     int64_t at, float *n, float *g) {
  floats_load<T, N>(static_cast<const T *>(p.norm.x) + at, n);
  floats_load<T, N>(static_cast<const T *>(p.norm.dy) + at, g);
#pragma unroll
  for (int i = 0; i < N; i++) {
    n[i] = (n[i] - c.mean[i]) * c.r[i];
    g[i] = norm_gradient(n[i], c.gain[i], c.bias[i], p.norm.slope, g[i]);
  }
}

/* Sums of g n and of g over a chunk (then dgain and dbias are their sums over all chunks). */
template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS)
    instance_gradient_sums_kernel(const InstanceNormParameters p) {
  __shared__ float shared[2 * N][NORM_THREADS];
  const ThreadWork work = thread_work<N>(p);
  float dot[N], sum[N];
#pragma unroll
  for (int i = 0; i < N; i++) dot[i] = sum[i] = 0.0f;
  if (work.active) {
    const ChannelParameters<N> c = load_channels<N>(p, work);
    for (int64_t pixel = work.begin + work.row; pixel < work.end; pixel += work.rows) {
      float n[N], g[N];
      load_gradient<T, N>(p, c, pixel * p.norm.channels + work.channel, n, g);
#pragma unroll
      for (int i = 0; i < N; i++) {
        dot[i] += g[i] * n[i];
        sum[i] += g[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    shared[i][threadIdx.x] = dot[i];
    shared[N + i][threadIdx.x] = sum[i];
  }
  for (int half = work.rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (work.row >= half) continue;
    for (int i = 0; i < 2 * N; i++)
      shared[i][threadIdx.x] += shared[i][threadIdx.x + half * p.lanes];
  }
  if (work.row > 0 || !work.active) return;
  float *to = partials_of(p, work);
  for (int i = 0; i < N; i++) {
    to[i] = shared[i][threadIdx.x];
    to[p.norm.channels + i] = shared[N + i][threadIdx.x];
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(NORM_THREADS)
    instance_norm_backward_kernel(const InstanceNormParameters p) {
  const ThreadWork work = thread_work<N>(p);
  if (!work.active) return;
  const ChannelParameters<N> c = load_channels<N>(p, work);
  const float *means = p.norm.means + work.frame * 2 * p.norm.channels + work.channel;
  float mean_h[N], mean_hn[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    mean_h[i] = means[i];
    mean_hn[i] = means[p.norm.channels + i];
  }
  for (int64_t pixel = work.begin + work.row; pixel < work.end; pixel += work.rows) {
    const int64_t at = pixel * p.norm.channels + work.channel;
    float n[N], g[N];
    load_gradient<T, N>(p, c, at, n, g);
#pragma unroll
    for (int i = 0; i < N; i++) g[i] = c.r[i] * (c.gain[i] * g[i] - mean_h[i] - n[i] * mean_hn[i]);
    floats_store<T, N>(static_cast<T *>(p.norm.dx) + at, g);
  }
}

/* --- Groups of channels ----------------------------------------------------------------------- */

enum { COLUMNS = 32, ROWS = 8 };

/* A block processes one group of one frame, or as many small groups as fit in COLUMNS channels. */
struct GroupsLaunch {
  NormLaunch norm;
  unsigned blocks; /* per frame */
  int size;        /* channels per group */
  int width;       /* channels per block */
};

/* Threads of a block form ROWS rows of COLUMNS neighbouring channels; row r takes the chunks r,
 * r + ROWS, ... */
struct GroupThread {
  int64_t frame;
  int column, row;
  int channel, end; /* the thread's first channel; the end of the block's channels */
};

__device__ inline GroupThread group_thread(const GroupsLaunch &p) {
  const int first = static_cast<int>(blockIdx.x % p.blocks) * p.width;
  const int channels = static_cast<int>(p.norm.channels);
  const int column = static_cast<int>(threadIdx.x) % COLUMNS;
  return {blockIdx.x / p.blocks, column, static_cast<int>(threadIdx.x) / COLUMNS, first + column,
          first + p.width < channels ? first + p.width : channels};
}

/* Sums over elements: `dot` of h n, `sum` of h, where h = gain g. */
struct Sums {
  float dot, sum;
};

__device__ inline Sums merge(const Sums &a, const Sums &b) {
  return {a.dot + b.dot, a.sum + b.sum};
}

/* Merges the parts of all threads of the channel's group: rows first, then columns in order. */
template <typename Part>
__device__ inline Part group_merge(const GroupsLaunch &p, const GroupThread &work,
                                   const Part &own) {
  __shared__ Part shared[ROWS][COLUMNS];
  shared[work.row][work.column] = own;
  for (int half = ROWS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (work.row >= half) continue;
    shared[work.row][work.column] =
        merge(shared[work.row][work.column], shared[work.row + half][work.column]);
  }
  __syncthreads();
  const int begin = p.size < COLUMNS ? work.column / p.size * p.size : 0;
  const int end = p.size < COLUMNS && begin + p.size < COLUMNS ? begin + p.size : int{COLUMNS};
  Part total = shared[0][begin];
  for (int column = begin + 1; column < end; column++) total = merge(total, shared[0][column]);
  return total;
}

__global__ void __launch_bounds__(COLUMNS *ROWS) group_moments_kernel(const GroupsLaunch p) {
  const GroupThread work = group_thread(p);
  const int64_t channels = p.norm.channels, chunks = p.norm.chunks;
  Moments moments = {0.0f, 0.0f, 0.0f};
  for (int64_t chunk = work.row; chunk < chunks; chunk += ROWS) {
    const int64_t begin = chunk * p.norm.chunk_length;
    const float count = static_cast<float>(chunk_end(p.norm, begin) - begin);
    const float *from = p.norm.partials + (work.frame * chunks + chunk) * 2 * channels;
    for (int c = work.channel; c < work.end; c += COLUMNS)
      moments = merge(moments, {count, from[c], from[channels + c]});
  }
  moments = group_merge(p, work, moments);
  if (work.row > 0) return;
  const float variance = moments.squares / moments.count;
  float *to = p.norm.statistics + work.frame * 2 * channels;
  for (int c = work.channel; c < work.end; c += COLUMNS) {
    to[c] = moments.mean;
    to[channels + c] = 1.0f / sqrtf(variance + p.norm.epsilon);
  }
}

/* Means of h and of h n over a group. */
__global__ void __launch_bounds__(COLUMNS *ROWS) group_means_kernel(const GroupsLaunch p) {
  const GroupThread work = group_thread(p);
  const int64_t channels = p.norm.channels, chunks = p.norm.chunks;
  Sums sums = {0.0f, 0.0f};
  for (int64_t chunk = work.row; chunk < chunks; chunk += ROWS) {
    const float *from = p.norm.partials + (work.frame * chunks + chunk) * 2 * channels;
    for (int c = work.channel; c < work.end; c += COLUMNS) {
      const float gain = p.norm.gain ? p.norm.gain[c] : 1.0f;
      sums = merge(sums, {gain * from[c], gain * from[channels + c]});
    }
  }
  sums = group_merge(p, work, sums);
  if (work.row > 0) return;
  const float count = static_cast<float>(p.norm.pixels * p.size);
  float *to = p.norm.means + work.frame * 2 * channels;
  for (int c = work.channel; c < work.end; c += COLUMNS) {
    to[c] = sums.sum / count;
    to[channels + c] = sums.dot / count;
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
static Status forward(const InstanceNormParameters &p, dim3 grid, cudaStream_t stream,
                      Error *error) {
  Status status = OK;
  TRY(cuda_launch(instance_moments_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
  TRY(start_groups(group_moments_kernel, p.norm, stream, error));
  TRY(cuda_launch(instance_norm_forward_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
done:
  return status;
}

template <typename T, int N>
static Status backward(const InstanceNormParameters &p, dim3 grid, cudaStream_t stream,
                       Error *error) {
  Status status = OK;
  TRY(cuda_launch(instance_moments_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
  TRY(start_groups(group_moments_kernel, p.norm, stream, error));
  TRY(cuda_launch(instance_gradient_sums_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
  TRY(start_groups(group_means_kernel, p.norm, stream, error));
  TRY(cuda_launch(instance_norm_backward_kernel<T, N>, grid, NORM_THREADS, 0, p, stream, error));
  if (p.norm.dgain || p.norm.dbias)
    TRY(launch_norm_parameter_gradients(&p.norm, p.norm.frames * p.norm.chunks, stream, error));
done:
  return status;
}

template <typename T, int N>
static Status launch(const NormLaunch *p, cudaStream_t stream, Error *error) {
  InstanceNormParameters frames = {*p, 1, 1};
  const int64_t accesses = p->channels / N;
  while (frames.lanes < NORM_THREADS && frames.lanes < accesses) frames.lanes *= 2;
  frames.tiles = static_cast<unsigned>((accesses + frames.lanes - 1) / frames.lanes);
  const dim3 grid(static_cast<unsigned>(p->frames * p->chunks * frames.tiles));
  return p->dy ? backward<T, N>(frames, grid, stream, error)
               : forward<T, N>(frames, grid, stream, error);
}

Status launch_instance_norm(const NormLaunch *p, cudaStream_t stream, Error *error) {
  if (p->bf16)
    return p->vectorized ? launch<uint16_t, 8>(p, stream, error)
                         : launch<uint16_t, 1>(p, stream, error);
  return p->vectorized ? launch<float, 4>(p, stream, error) : launch<float, 1>(p, stream, error);
}
