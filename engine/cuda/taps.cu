#include "engine/cuda/taps.h"

#include "engine/cuda/divisor.h"
#include "engine/cuda/launch.h"
#include "engine/cuda/vector.h"

enum { THREADS = 256 };

/* Blocks for so many threads; 0 and an error where a grid has not that many. */
static int64_t blocks_for(int64_t threads, const char *what, Error *error) {
  const int64_t blocks = (threads + THREADS - 1) / THREADS;
  if (blocks <= INT32_MAX) return blocks;
  error_set(error, ERROR_INTERNAL, "%s: %lld threads; at most %lld", what,
            static_cast<long long>(threads), static_cast<long long>(INT32_MAX) * THREADS);
  return 0;
}

/* --- Spreading -------------------------------------------------------------------------------- */
struct SpreadLaunch {
  Taps taps;
  const void *plain;
  void *spread;
  int64_t packs; /* accesses of N elements to the spread tensor */
  Divisor of_pixel, width, height, time, channels, taps_along_width;
};

/* Where the plain tensor's pixel lies; -1: there is none. */
__device__ inline int64_t plain_pixel(const Taps &taps, int64_t n, int64_t h, int64_t t,
                                      int64_t w) {
  const int64_t *dim = taps.plain.dim;
  const bool there = t >= 0 && t < dim[AXIS_T] && w >= 0 && w < dim[AXIS_W];
  return there ? ((n * dim[AXIS_T] + t) * dim[AXIS_H] + h) * dim[AXIS_W] + w : -1;
}

/* A thread takes N neighbouring channels of a pixel of the spread tensor: parts of one tap or of
 * several. WHOLE: of one, and all N of them are there or none. */
template <typename T, int N, bool WHOLE, typename Index>
__global__ void __launch_bounds__(THREADS) spread_kernel(const SpreadLaunch p) {
  Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.packs)) return;
  T *out = static_cast<T *>(p.spread) + static_cast<int64_t>(index) * N;
  const Taps &taps = p.taps;
  uint32_t tap = static_cast<uint32_t>(take_rest(index, p.of_pixel)) * N;
  const int64_t w = static_cast<int64_t>(take_rest(index, p.width)) * taps.stride[1];
  const int64_t h = static_cast<int64_t>(take_rest(index, p.height));
  const int64_t t = static_cast<int64_t>(take_rest(index, p.time)) * taps.stride[0];
  const int64_t n = static_cast<int64_t>(index);
  int channel = static_cast<int>(take_rest(tap, p.channels));
  uint32_t a = tap;
  int b = static_cast<int>(take_rest(a, p.taps_along_width));
  const int channels = static_cast<int>(taps.plain.dim[AXIS_C]);
  const T *plain = static_cast<const T *>(p.plain);
  Pack<T, N> pack;
  pack.clear();
  if (WHOLE) {
    const int64_t pixel =
        plain_pixel(taps, n, h, t + taps.sign * static_cast<int>(a) + taps.offset[0],
                    w + taps.sign * b + taps.offset[1]);
    if (pixel >= 0 && static_cast<int>(a) < taps.count[0])
      pack = pack_load<T, N>(plain + pixel * channels + channel);
    pack_store<T, N>(out, pack);
    return;
  }
  float values[N];
  int64_t pixel = -2; /* not looked for yet */
#pragma unroll
  for (int k = 0; k < N; k++) {
    values[k] = 0.0f;
    if (static_cast<int>(a) < taps.count[0]) {
      if (pixel == -2)
        pixel = plain_pixel(taps, n, h, t + taps.sign * static_cast<int>(a) + taps.offset[0],
                            w + taps.sign * b + taps.offset[1]);
      if (pixel >= 0) floats_load<T, 1>(plain + pixel * channels + channel, &values[k]);
    }
    if (++channel < channels) continue;
    channel = 0;
    pixel = -2;
    if (++b < taps.count[1]) continue;
    b = 0;
    a++;
  }
  pack.set(values);
  pack_store<T, N>(out, pack);
}

template <typename T, int N, bool WHOLE>
static Status start_spread(const Taps *p, const void *plain, void *spread, cudaStream_t stream,
                           Error *error) {
  const int64_t *dim = p->spread.dim;
  const int64_t packs = dim[AXIS_N] * dim[AXIS_T] * dim[AXIS_H] * dim[AXIS_W] * (dim[AXIS_C] / N);
  const SpreadLaunch launch = {*p,
                               plain,
                               spread,
                               packs,
                               divisor_of(dim[AXIS_C] / N),
                               divisor_of(dim[AXIS_W]),
                               divisor_of(dim[AXIS_H]),
                               divisor_of(dim[AXIS_T]),
                               divisor_of(p->plain.dim[AXIS_C]),
                               divisor_of(p->count[1])};
  const int64_t blocks = blocks_for(packs, "spreading taps", error);
  if (blocks == 0) return ERROR_INTERNAL;
  return cuda_launch(packs <= INT32_MAX - THREADS ? spread_kernel<T, N, WHOLE, uint32_t>
                                                  : spread_kernel<T, N, WHOLE, uint64_t>,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, launch, stream, error);
}

template <typename T>
static Status choose_spread(const Taps *p, const void *plain, void *spread, cudaStream_t stream,
                            Error *error) {
  enum { N = Widest<T>::N };
  if (p->spread.dim[AXIS_C] % N != 0)
    return error_set(error, ERROR_INTERNAL,
                     "taps are spread over %lld channels; %d must divide them",
                     static_cast<long long>(p->spread.dim[AXIS_C]), int{N});
  const bool whole = p->plain.dim[AXIS_C] % N == 0 && reinterpret_cast<uintptr_t>(plain) % 16 == 0;
  return whole ? start_spread<T, N, true>(p, plain, spread, stream, error)
               : start_spread<T, N, false>(p, plain, spread, stream, error);
}

extern "C" Status launch_spread(const Taps *p, const void *plain, void *spread, cudaStream_t stream,
                                Error *error) {
  return p->dtype == DTYPE_BF16 ? choose_spread<uint16_t>(p, plain, spread, stream, error)
                                : choose_spread<float>(p, plain, spread, stream, error);
}

/* --- Collecting ------------------------------------------------------------------------------- */
struct CollectPlaces {
  CollectLaunch collect;
  int64_t elements; /* of the plain tensor */
  Divisor channels, width, height, time, stride[2];
};

/* The place along one axis of the spread tensor from which a tap shows place `at` of the plain one;
 * -1: none. */
__device__ inline int spread_place(const Taps &taps, int axis, int at, int tap, int length,
                                   const Divisor &stride) {
  const int place = at - taps.sign * tap - taps.offset[axis];
  if (place < 0) return -1;
  uint32_t whole = static_cast<uint32_t>(place);
  const uint32_t rest = take_rest(whole, stride);
  return rest == 0 && static_cast<int>(whole) < length ? static_cast<int>(whole) : -1;
}

template <typename T, typename Index>
__global__ void __launch_bounds__(THREADS) collect_kernel(const CollectPlaces p) {
  Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.elements)) return;
  const Taps &taps = p.collect.taps;
  const int64_t *dim = taps.spread.dim;
  T *out = static_cast<T *>(p.collect.plain) + static_cast<int64_t>(index);
  const int channel = static_cast<int>(take_rest(index, p.channels));
  const int w = static_cast<int>(take_rest(index, p.width));
  const int64_t h = static_cast<int64_t>(take_rest(index, p.height));
  const int t = static_cast<int>(take_rest(index, p.time));
  const int64_t n = static_cast<int64_t>(index);
  const int channels = static_cast<int>(taps.plain.dim[AXIS_C]);
  float sum = 0.0f;
  for (int a = 0; a < taps.count[0]; a++) {
    const int from_t = spread_place(taps, 0, t, a, static_cast<int>(dim[AXIS_T]), p.stride[0]);
    if (from_t < 0) continue;
    const int64_t row = ((n * dim[AXIS_T] + from_t) * dim[AXIS_H] + h) * dim[AXIS_W];
    for (int b = 0; b < taps.count[1]; b++) {
      const int from_w = spread_place(taps, 1, w, b, static_cast<int>(dim[AXIS_W]), p.stride[1]);
      if (from_w < 0) continue;
      const int place = (a * taps.count[1] + b) * channels + channel;
      float value;
      floats_load<T, 1>(
          static_cast<const T *>(p.collect.spread) + (row + from_w) * dim[AXIS_C] + place, &value);
      sum += value;
    }
  }
  if (p.collect.bias) sum += p.collect.bias[channel];
  if (p.collect.activation == ACTIVATION_LEAKY_RELU) sum = sum > 0.0f ? sum : p.collect.slope * sum;
  if (p.collect.activation == ACTIVATION_TANH) sum = tanhf(sum);
  floats_store<T, 1>(out, &sum);
}

template <typename T>
static Status start_collect(const CollectLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t *dim = p->taps.plain.dim;
  const int64_t elements = shape_count(p->taps.plain);
  const CollectPlaces places = {*p,
                                elements,
                                divisor_of(dim[AXIS_C]),
                                divisor_of(dim[AXIS_W]),
                                divisor_of(dim[AXIS_H]),
                                divisor_of(dim[AXIS_T]),
                                {divisor_of(p->taps.stride[0]), divisor_of(p->taps.stride[1])}};
  const int64_t blocks = blocks_for(elements, "collecting taps", error);
  if (blocks == 0) return ERROR_INTERNAL;
  return cuda_launch(elements <= INT32_MAX - THREADS ? collect_kernel<T, uint32_t>
                                                     : collect_kernel<T, uint64_t>,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, places, stream, error);
}

extern "C" Status launch_collect(const CollectLaunch *p, cudaStream_t stream, Error *error) {
  return p->taps.dtype == DTYPE_BF16 ? start_collect<uint16_t>(p, stream, error)
                                     : start_collect<float>(p, stream, error);
}

/* --- Permuting -------------------------------------------------------------------------------- */
struct PermutePlaces {
  PermuteLaunch permute;
  int64_t elements;
  Divisor along[RANK];
};

template <typename From, typename To>
__global__ void __launch_bounds__(THREADS) permute_kernel(const PermutePlaces p) {
  uint64_t index = static_cast<uint64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<uint64_t>(p.elements)) return;
  int64_t from = 0, to = 0;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    const int64_t place = static_cast<int64_t>(take_rest(index, p.along[axis]));
    from += place * p.permute.from[axis];
    to += place * p.permute.to[axis];
  }
  float value;
  floats_load<From, 1>(static_cast<const From *>(p.permute.source) + from, &value);
  floats_store<To, 1>(static_cast<To *>(p.permute.destination) + to, &value);
}

template <typename From, typename To>
static Status start_permute(const PermuteLaunch *p, cudaStream_t stream, Error *error) {
  PermutePlaces places = {*p, shape_count(p->shape), {}};
  for (int axis = 0; axis < RANK; axis++) places.along[axis] = divisor_of(p->shape.dim[axis]);
  const int64_t blocks = blocks_for(places.elements, "permuting weights", error);
  if (blocks == 0) return ERROR_INTERNAL;
  return cuda_launch(permute_kernel<From, To>, dim3(static_cast<unsigned>(blocks)), THREADS, 0,
                     places, stream, error);
}

extern "C" Status launch_permute(const PermuteLaunch *p, cudaStream_t stream, Error *error) {
  const bool from_bf16 = p->source_dtype == DTYPE_BF16,
             to_bf16 = p->destination_dtype == DTYPE_BF16;
  if (from_bf16)
    return to_bf16 ? start_permute<uint16_t, uint16_t>(p, stream, error)
                   : start_permute<uint16_t, float>(p, stream, error);
  return to_bf16 ? start_permute<float, uint16_t>(p, stream, error)
                 : start_permute<float, float>(p, stream, error);
}
