/* Sparse maps along H and W: see resample.h. */
#include "engine/cuda/kernels/resample.h"

#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { AXIS_N, AXIS_T, AXIS_H, AXIS_W, AXIS_C };
enum { THREADS = 256 };

struct ResampleParameters {
  ResampleLaunch map;
  FastDivisor accesses; /* per output pixel */
  FastDivisor width, height, times;
  int64_t outputs; /* accesses of the output, one thread each */
  bool shifted;    /* along N or T */
};

/* The position of an output access, and the input frame and channel that it reads. */
struct OutputAccess {
  int64_t w, h;
  int64_t frame; /* of the input; -1: outside */
  int64_t channel;
  bool inside; /* frame and channel exist in the input; else the output is zero */
};

template <typename Index, int N>
__device__ inline OutputAccess output_access(const ResampleParameters &p, Index index) {
  OutputAccess at;
  const Index access = take_remainder(index, p.accesses);
  at.w = static_cast<int64_t>(take_remainder(index, p.width));
  at.h = static_cast<int64_t>(take_remainder(index, p.height));
  at.frame = static_cast<int64_t>(index);
  if (p.shifted) {
    const int64_t t = static_cast<int64_t>(take_remainder(index, p.times)) + p.map.shift_t;
    const int64_t n = static_cast<int64_t>(index) + p.map.shift_n;
    const bool exists = n >= 0 && n < p.map.in[AXIS_N] && t >= 0 && t < p.map.in[AXIS_T];
    at.frame = exists ? n * p.map.in[AXIS_T] + t : -1;
  }
  at.channel = static_cast<int64_t>(access) * N + p.map.shift_c;
  at.inside = at.frame >= 0 && at.channel >= 0 && at.channel < p.map.in[AXIS_C];
  return at;
}

/* --- Outputs that are inputs or zero ---------------------------------------------------------- */

template <int BYTES, int N, typename Index>
__global__ void __launch_bounds__(THREADS) resample_copy_kernel(const ResampleParameters p) {
  typedef typename Access<BYTES>::type Unit;
  const Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.outputs)) return;
  const OutputAccess at = output_access<Index, N>(p, index);
  const int32_t h = p.map.h.begin[at.h], w = p.map.w.begin[at.w];
  Unit unit = {};
  if (at.inside && h < p.map.h.begin[at.h + 1] && w < p.map.w.begin[at.w + 1]) {
    const int64_t row = at.frame * p.map.in[AXIS_H] + p.map.h.index[h];
    const int64_t pixel = row * p.map.in[AXIS_W] + p.map.w.index[w];
    const char *from = static_cast<const char *>(p.map.input) +
                       (pixel * p.map.in[AXIS_C] + at.channel) * (BYTES / N);
    unit = *reinterpret_cast<const Unit *>(from);
  }
  reinterpret_cast<Unit *>(p.map.output)[index] = unit;
}

/* --- Outputs that are sums -------------------------------------------------------------------- */

/* N neighbouring channels of a pixel, in accesses of ACCESS channels. */
template <typename T, int N, int ACCESS, typename Index>
__global__ void __launch_bounds__(THREADS) resample_sum_kernel(const ResampleParameters p) {
  const Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.outputs)) return;
  const OutputAccess at = output_access<Index, N>(p, index);
  float sum[N] = {};
  if (p.map.addend) {
#pragma unroll
    for (int j = 0; j < N; j += ACCESS)
      floats_load<T, ACCESS>(
          static_cast<const T *>(p.map.addend) + static_cast<int64_t>(index) * N + j, sum + j);
  }
  if (at.inside) {
    const int32_t w_begin = p.map.w.begin[at.w], w_end = p.map.w.begin[at.w + 1];
    const T *frame = static_cast<const T *>(p.map.input) + at.channel +
                     at.frame * p.map.in[AXIS_H] * p.map.in[AXIS_W] * p.map.in[AXIS_C];
    for (int32_t i = p.map.h.begin[at.h]; i < p.map.h.begin[at.h + 1]; i++) {
      const float row_weight = p.map.h.weight[i];
      const int64_t row = p.map.h.index[i] * p.map.in[AXIS_W];
      for (int32_t k = w_begin; k < w_end; k++) {
        const float weight = row_weight * p.map.w.weight[k];
        float x[N];
        const T *pixel = frame + (row + p.map.w.index[k]) * p.map.in[AXIS_C];
#pragma unroll
        for (int j = 0; j < N; j += ACCESS) floats_load<T, ACCESS>(pixel + j, x + j);
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += weight * x[j];
      }
    }
  }
  T *out = static_cast<T *>(p.map.output) + static_cast<int64_t>(index) * N;
#pragma unroll
  for (int j = 0; j < N; j += ACCESS) floats_store<T, ACCESS>(out + j, sum + j);
}

/* --- Launchers -------------------------------------------------------------------------------- */

/* Parameters for accesses of N channels. */
template <int N> static ResampleParameters parameters_of(const ResampleLaunch *map) {
  const int64_t *in = map->in, *out = map->out;
  const int64_t pixels = out[AXIS_N] * out[AXIS_T] * out[AXIS_H] * out[AXIS_W];
  return {*map,
          fast_divisor(out[AXIS_C] / N),
          fast_divisor(out[AXIS_W]),
          fast_divisor(out[AXIS_H]),
          fast_divisor(out[AXIS_T]),
          pixels * (out[AXIS_C] / N),
          map->shift_n != 0 || map->shift_t != 0 || in[AXIS_T] != out[AXIS_T] ||
              in[AXIS_N] != out[AXIS_N]};
}

typedef void ResampleFunction(ResampleParameters);

/* `small` is the kernel for indices below 2^31, `large` for all others. */
static Status start(ResampleFunction *small, ResampleFunction *large, const ResampleParameters &p,
                    cudaStream_t stream, Error *error) {
  const int64_t blocks = (p.outputs + THREADS - 1) / THREADS;
  if (blocks > INT32_MAX)
    return error_set(error, ERROR_INTERNAL, "resampling: %lld outputs, at most %lld",
                     static_cast<long long>(p.outputs),
                     static_cast<long long>(INT32_MAX) * THREADS);
  return cuda_launch(p.outputs <= INT32_MAX - THREADS ? small : large,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, p, stream, error);
}

template <typename T, int N>
static Status launch_copy(const ResampleLaunch *map, cudaStream_t stream, Error *error) {
  enum { BYTES = sizeof(T) * N };
  return start(resample_copy_kernel<BYTES, N, uint32_t>, resample_copy_kernel<BYTES, N, uint64_t>,
               parameters_of<N>(map), stream, error);
}

template <typename T, int N, int ACCESS>
static Status launch_sum(const ResampleLaunch *map, cudaStream_t stream, Error *error) {
  return start(resample_sum_kernel<T, N, ACCESS, uint32_t>,
               resample_sum_kernel<T, N, ACCESS, uint64_t>, parameters_of<N>(map), stream, error);
}

/* True if input and output channels divide into groups of `count`. */
static bool in_groups(const ResampleLaunch *p, int count) {
  return p->in[AXIS_C] % count == 0 && p->out[AXIS_C] % count == 0 && p->shift_c % count == 0;
}

/* True if 16-byte accesses of `count` channels are aligned. */
static bool can_vectorize(const ResampleLaunch *p, int count) {
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(p->input) |
                              reinterpret_cast<uintptr_t>(p->addend) |
                              reinterpret_cast<uintptr_t>(p->output);
  return (addresses & 15u) == 0 && in_groups(p, count);
}

/* Images have 3 channels, pairs of images 6: one thread then takes all channels of a pixel. */
template <typename T>
static Status launch(const ResampleLaunch *map, cudaStream_t stream, Error *error) {
  enum { N = Widest<T>::N };
  const bool vectors = can_vectorize(map, N);
  if (map->copies) return (vectors ? launch_copy<T, N> : launch_copy<T, 1>)(map, stream, error);
  if (vectors) return launch_sum<T, N, N>(map, stream, error);
  if (in_groups(map, 6)) return launch_sum<T, 6, 1>(map, stream, error);
  if (in_groups(map, 3)) return launch_sum<T, 3, 1>(map, stream, error);
  return launch_sum<T, 1, 1>(map, stream, error);
}

Status launch_resample(const ResampleLaunch *p, cudaStream_t stream, Error *error) {
  return p->bf16 ? launch<uint16_t>(p, stream, error) : launch<float>(p, stream, error);
}
