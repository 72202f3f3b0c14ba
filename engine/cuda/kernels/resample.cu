#include "engine/cuda/kernels/resample.h"

#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { AXIS_N, AXIS_T, AXIS_H, AXIS_W, AXIS_C };
enum { THREADS = 256 };

struct MapLaunch {
  SeparableLaunch map;
  Divisor slots; /* accesses to an output pixel */
  Divisor width, height, times;
  int64_t outputs; /* accesses in all */
  bool shifted;    /* along N or T */
};

/* An output access: where it is and which input plane it reads. */
struct Place {
  int64_t w, h;
  int64_t frame; /* of the input; -1: outside */
  int64_t channel;
  bool inside; /* the channels are there */
};

template <typename Index, int N> __device__ inline Place place_of(const MapLaunch &p, Index index) {
  Place place;
  const Index slot = take_rest(index, p.slots);
  place.w = static_cast<int64_t>(take_rest(index, p.width));
  place.h = static_cast<int64_t>(take_rest(index, p.height));
  place.frame = static_cast<int64_t>(index);
  if (p.shifted) {
    const int64_t t = static_cast<int64_t>(take_rest(index, p.times)) + p.map.shift_t;
    const int64_t n = static_cast<int64_t>(index) + p.map.shift_n;
    const bool there = n >= 0 && n < p.map.in[AXIS_N] && t >= 0 && t < p.map.in[AXIS_T];
    place.frame = there ? n * p.map.in[AXIS_T] + t : -1;
  }
  place.channel = static_cast<int64_t>(slot) * N + p.map.shift_c;
  place.inside = place.frame >= 0 && place.channel >= 0 && place.channel < p.map.in[AXIS_C];
  return place;
}

/* --- Outputs that are inputs or zero ---------------------------------------------------------- */

template <int BYTES, int N, typename Index>
__global__ void __launch_bounds__(THREADS) map_copy_kernel(const MapLaunch p) {
  typedef typename Access<BYTES>::type Unit;
  const Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.outputs)) return;
  const Place place = place_of<Index, N>(p, index);
  const int32_t h = p.map.h.begin[place.h], w = p.map.w.begin[place.w];
  Unit unit = {};
  if (place.inside && h < p.map.h.begin[place.h + 1] && w < p.map.w.begin[place.w + 1]) {
    const int64_t row = place.frame * p.map.in[AXIS_H] + p.map.h.index[h];
    const int64_t pixel = row * p.map.in[AXIS_W] + p.map.w.index[w];
    const char *from = static_cast<const char *>(p.map.input) +
                       (pixel * p.map.in[AXIS_C] + place.channel) * (BYTES / N);
    unit = *reinterpret_cast<const Unit *>(from);
  }
  reinterpret_cast<Unit *>(p.map.output)[index] = unit;
}

/* --- Outputs that are sums -------------------------------------------------------------------- */

/* N neighbouring channels of a pixel, ACCESS at a time. */
template <typename T, int N, int ACCESS, typename Index>
__global__ void __launch_bounds__(THREADS) map_sum_kernel(const MapLaunch p) {
  const Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.outputs)) return;
  const Place place = place_of<Index, N>(p, index);
  float sum[N] = {};
  if (p.map.addend) {
#pragma unroll
    for (int j = 0; j < N; j += ACCESS)
      floats_load<T, ACCESS>(
          static_cast<const T *>(p.map.addend) + static_cast<int64_t>(index) * N + j, sum + j);
  }
  if (place.inside) {
    const int32_t w_begin = p.map.w.begin[place.w], w_end = p.map.w.begin[place.w + 1];
    const T *frame = static_cast<const T *>(p.map.input) + place.channel +
                     place.frame * p.map.in[AXIS_H] * p.map.in[AXIS_W] * p.map.in[AXIS_C];
    for (int32_t i = p.map.h.begin[place.h]; i < p.map.h.begin[place.h + 1]; i++) {
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

/* An access is of N channels. */
template <int N> static MapLaunch launch_of(const SeparableLaunch *map) {
  const int64_t *in = map->in, *out = map->out;
  const int64_t pixels = out[AXIS_N] * out[AXIS_T] * out[AXIS_H] * out[AXIS_W];
  return {*map,
          divisor_of(out[AXIS_C] / N),
          divisor_of(out[AXIS_W]),
          divisor_of(out[AXIS_H]),
          divisor_of(out[AXIS_T]),
          pixels * (out[AXIS_C] / N),
          map->shift_n != 0 || map->shift_t != 0 || in[AXIS_T] != out[AXIS_T] ||
              in[AXIS_N] != out[AXIS_N]};
}

typedef void MapKernel(MapLaunch);

/* `small`: indices below 2^31. */
static Status start(MapKernel *small, MapKernel *large, const MapLaunch &p, cudaStream_t stream,
                    Error *error) {
  const int64_t blocks = (p.outputs + THREADS - 1) / THREADS;
  if (blocks > INT32_MAX)
    return error_set(error, ERROR_INTERNAL, "a map of %lld outputs; at most %lld",
                     static_cast<long long>(p.outputs),
                     static_cast<long long>(INT32_MAX) * THREADS);
  return cuda_launch(p.outputs <= INT32_MAX - THREADS ? small : large,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, p, stream, error);
}

template <typename T, int N>
static Status launch_copy(const SeparableLaunch *map, cudaStream_t stream, Error *error) {
  enum { BYTES = sizeof(T) * N };
  return start(map_copy_kernel<BYTES, N, uint32_t>, map_copy_kernel<BYTES, N, uint64_t>,
               launch_of<N>(map), stream, error);
}

template <typename T, int N, int ACCESS>
static Status launch_sum(const SeparableLaunch *map, cudaStream_t stream, Error *error) {
  return start(map_sum_kernel<T, N, ACCESS, uint32_t>, map_sum_kernel<T, N, ACCESS, uint64_t>,
               launch_of<N>(map), stream, error);
}

/* Whether channels come in groups of `count` on both sides. */
static bool in_groups(const SeparableLaunch *p, int count) {
  return p->in[AXIS_C] % count == 0 && p->out[AXIS_C] % count == 0 && p->shift_c % count == 0;
}

/* The same, of 16 bytes at multiples of 16. */
static bool in_vectors(const SeparableLaunch *p, int count) {
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(p->input) |
                              reinterpret_cast<uintptr_t>(p->addend) |
                              reinterpret_cast<uintptr_t>(p->output);
  return (addresses & 15u) == 0 && in_groups(p, count);
}

/* Pictures have 3 channels, pairs of them 6: a pixel's place is found once for all. */
template <typename T>
static Status launch(const SeparableLaunch *map, cudaStream_t stream, Error *error) {
  enum { N = Widest<T>::N };
  const bool vectors = in_vectors(map, N);
  if (map->copies) return (vectors ? launch_copy<T, N> : launch_copy<T, 1>)(map, stream, error);
  if (vectors) return launch_sum<T, N, N>(map, stream, error);
  if (in_groups(map, 6)) return launch_sum<T, 6, 1>(map, stream, error);
  if (in_groups(map, 3)) return launch_sum<T, 3, 1>(map, stream, error);
  return launch_sum<T, 1, 1>(map, stream, error);
}

Status launch_separable(const SeparableLaunch *p, cudaStream_t stream, Error *error) {
  return p->bf16 ? launch<uint16_t>(p, stream, error) : launch<float>(p, stream, error);
}
