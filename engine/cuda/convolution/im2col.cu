#include "engine/cuda/convolution/im2col.h"

#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

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

/* Where N divides the plain tensor's channels, as 1 does: a thread takes N neighbouring channels of
 * a pixel of the spread tensor, which are of one tap, and there all or none. */
template <typename T, int N, typename Index>
__global__ void __launch_bounds__(THREADS) spread_packs_kernel(const SpreadLaunch p) {
  Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.packs)) return;
  T *out = static_cast<T *>(p.spread) + static_cast<int64_t>(index) * N;
  const Taps &taps = p.taps;
  uint32_t tap = static_cast<uint32_t>(take_rest(index, p.of_pixel)) * N;
  const int64_t w = static_cast<int64_t>(take_rest(index, p.width)) * taps.stride[1];
  const int64_t h = static_cast<int64_t>(take_rest(index, p.height));
  const int64_t t = static_cast<int64_t>(take_rest(index, p.time)) * taps.stride[0];
  const int64_t n = static_cast<int64_t>(index);
  const int channel = static_cast<int>(take_rest(tap, p.channels));
  const int b = static_cast<int>(take_rest(tap, p.taps_along_width)), a = static_cast<int>(tap);
  const T *plain = static_cast<const T *>(p.plain);
  Pack<T, N> pack;
  pack.clear();
  const int64_t pixel = plain_pixel(taps, n, h, t + taps.sign * a + taps.offset[0],
                                    w + taps.sign * b + taps.offset[1]);
  if (pixel >= 0 && a < taps.count[0])
    pack = pack_load<T, N>(plain + pixel * taps.plain.dim[AXIS_C] + channel);
  pack_store<T, N>(out, pack);
}

template <typename T, int N>
static Status start_packs(const Taps *p, const void *plain, void *spread, cudaStream_t stream,
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
  return cuda_launch(packs <= INT32_MAX - THREADS ? spread_packs_kernel<T, N, uint32_t>
                                                  : spread_packs_kernel<T, N, uint64_t>,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, launch, stream, error);
}

/* Otherwise a block takes a chunk of a row of the spread tensor: it reads the pieces of plain rows
 * that the chunk shows, one for each tap along time, and picks every channel out of shared memory.
 */
struct RowsLaunch {
  Taps taps;
  const void *plain;
  void *spread;
  int chunk;        /* pixels of the spread row */
  int lowest;       /* the first plain pixel that a chunk shows, from its own first times stride */
  int piece;        /* elements of the piece of a plain row that a chunk shows */
  int row_elements; /* of a whole plain row */
  int channels, step; /* of the plain tensor; plain elements from a spread pixel to the next */
  Divisor chunks, height, time, of_pixel, of_channels, of_width;
};

/* Where a pixel finds its channels in the pieces, from where it begins in the first; those that are
 * no tap's in a piece of zeros behind the others. */
__device__ inline void list_places(const RowsLaunch &p, int32_t *places) {
  for (unsigned i = threadIdx.x; i < static_cast<unsigned>(p.taps.spread.dim[AXIS_C]);
       i += THREADS) {
    uint32_t a = i;
    const int channel = static_cast<int>(take_rest(a, p.of_channels));
    const int b = static_cast<int>(take_rest(a, p.of_width));
    const int column = p.taps.sign > 0 ? b : p.taps.count[1] - 1 - b;
    places[i] = static_cast<int>(a) < p.taps.count[0]
                    ? static_cast<int>(a) * p.piece + column * p.channels + channel
                    : p.taps.count[0] * p.piece;
  }
}

/* The pieces of frame t and those behind (or before) it that begin at element `begin` of their
 * rows, with zeros where there is nothing. */
template <typename T>
__device__ inline void read_pieces(const RowsLaunch &p, int64_t n, int64_t t, int64_t h, int begin,
                                   T *pieces) {
  enum { TOGETHER = 4 }; /* loads of a thread that are under way at a time */
  const int64_t *dim = p.taps.plain.dim;
  const T *plain = static_cast<const T *>(p.plain);
  for (int a = 0; a <= p.taps.count[0]; a++) {
    const int64_t frame = t + p.taps.sign * a;
    const bool there = a < p.taps.count[0] && frame >= 0 && frame < dim[AXIS_T];
    const unsigned end = there ? static_cast<unsigned>(p.row_elements) : 0;
    const T *row = plain + ((n * dim[AXIS_T] + frame) * dim[AXIS_H] + h) * p.row_elements;
    for (int i = threadIdx.x; i < p.piece; i += TOGETHER * THREADS) {
      T values[TOGETHER];
#pragma unroll
      for (int k = 0; k < TOGETHER; k++) {
        const int at = begin + i + k * THREADS;
        const bool inside = static_cast<unsigned>(at) < end && i + k * THREADS < p.piece;
        const T value = *(inside ? row + at : plain); /* read either way: no jump */
        values[k] = inside ? value : static_cast<T>(0);
      }
#pragma unroll
      for (int k = 0; k < TOGETHER; k++)
        if (i + k * THREADS < p.piece) pieces[i + k * THREADS] = values[k];
    }
    pieces += p.piece;
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) spread_rows_kernel(const RowsLaunch p) {
  DYNAMIC_SHARED(int32_t, places); /* [channels of the spread tensor] */
  const Taps &taps = p.taps;
  const int64_t *dim = taps.spread.dim;
  T *pieces = reinterpret_cast<T *>(places + dim[AXIS_C]); /* [taps along time + 1][piece] */
  uint32_t row = blockIdx.x;
  const int w = static_cast<int>(take_rest(row, p.chunks)) * p.chunk;
  uint32_t index = row;
  const int64_t h = take_rest(index, p.height), t = take_rest(index, p.time), n = index;
  list_places(p, places);
  read_pieces(p, n, t * taps.stride[0] + taps.offset[0], h, w * p.step + p.lowest * p.channels,
              pieces);
  __syncthreads();
  const int width = static_cast<int>(dim[AXIS_W]), left = width - w;
  const int packs = (left < p.chunk ? left : p.chunk) * static_cast<int>(p.of_pixel.value);
  T *out = static_cast<T *>(p.spread) + (static_cast<int64_t>(row) * width + w) * dim[AXIS_C];
  for (int i = threadIdx.x; i < packs; i += THREADS) {
    uint32_t pixel = static_cast<uint32_t>(i);
    const int32_t *from = places + take_rest(pixel, p.of_pixel) * N;
    const T *own = pieces + static_cast<int>(pixel) * p.step;
    T values[N];
#pragma unroll
    for (int k = 0; k < N; k++) values[k] = own[from[k]];
    pack_store<T, N>(out + static_cast<int64_t>(i) * N, pack_of<T, N>(values));
  }
}

/* Chunks of a row whose pieces are small enough for several blocks on a multiprocessor. Of so many
 * channels that one pixel takes more shared memory than a block has, each element by itself. */
template <typename T, int N>
static Status start_rows(const Taps *p, const void *plain, void *spread, cudaStream_t stream,
                         Error *error) {
  enum { PIECES_BYTES = 16384, MOST_SHARED = 48 << 10 };
  const int64_t *dim = p->spread.dim, channels = p->plain.dim[AXIS_C];
  const int64_t pixel_bytes = static_cast<int64_t>(sizeof(T)) * channels * (p->count[0] + 1);
  const int64_t room = PIECES_BYTES / pixel_bytes - p->count[1];
  const int64_t most = room > 0 ? room / p->stride[1] + 1 : 1, width = dim[AXIS_W];
  const int64_t chunks = (width + most - 1) / most, chunk = (width + chunks - 1) / chunks;
  const int64_t blocks = dim[AXIS_N] * dim[AXIS_T] * dim[AXIS_H] * chunks;
  const int64_t span = (chunk - 1) * p->stride[1] + p->count[1]; /* plain pixels */
  const int64_t row_elements = p->plain.dim[AXIS_W] * channels;
  const size_t shared =
      static_cast<size_t>(dim[AXIS_C]) * sizeof(int32_t) + static_cast<size_t>(span * pixel_bytes);
  if (shared > MOST_SHARED) return start_packs<T, 1>(p, plain, spread, stream, error);
  const RowsLaunch launch = {*p,
                             plain,
                             spread,
                             static_cast<int>(chunk),
                             p->offset[1] - (p->sign > 0 ? 0 : p->count[1] - 1),
                             static_cast<int>(span * channels),
                             static_cast<int>(row_elements),
                             static_cast<int>(channels),
                             static_cast<int>(p->stride[1] * channels),
                             divisor_of(chunks),
                             divisor_of(dim[AXIS_H]),
                             divisor_of(dim[AXIS_T]),
                             divisor_of(dim[AXIS_C] / N),
                             divisor_of(channels),
                             divisor_of(p->count[1])};
  if (blocks > INT32_MAX || row_elements > INT32_MAX / 2)
    return error_set(error, ERROR_INTERNAL,
                     "spreading taps: %lld rows of %lld elements; at most %lld of %lld",
                     static_cast<long long>(blocks), static_cast<long long>(row_elements),
                     static_cast<long long>(INT32_MAX), static_cast<long long>(INT32_MAX / 2));
  return cuda_launch(spread_rows_kernel<T, N>, dim3(static_cast<unsigned>(blocks)), THREADS, shared,
                     launch, stream, error);
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
  return whole ? start_packs<T, N>(p, plain, spread, stream, error)
               : start_rows<T, N>(p, plain, spread, stream, error);
}

extern "C" Status launch_spread(const Taps *p, const void *plain, void *spread, cudaStream_t stream,
                                Error *error) {
  return p->dtype == DTYPE_BF16 ? choose_spread<uint16_t>(p, plain, spread, stream, error)
                                : choose_spread<float>(p, plain, spread, stream, error);
}

/* --- Collecting ------------------------------------------------------------------------------- */
struct CollectPlaces {
  CollectLaunch collect;
  int64_t groups; /* of channels of a pixel, of the plain tensor */
  Divisor of_pixel, width, height, time, stride[2];
};

/* The taps along one axis that show place `at` of the plain tensor: every stride-th from `tap`,
 * from spread place `place` on, which goes down by `sign` for each. */
struct Shown {
  int tap, place;
};

__device__ inline Shown shown_of(const Taps &taps, int axis, int at, const Divisor &stride) {
  const int step = taps.stride[axis];
  /* Of tap 0, were all places there; counted from a place before the first. */
  const int from = at - taps.offset[axis], far = taps.offset[axis] > 0 ? taps.offset[axis] : 0;
  uint32_t whole = static_cast<uint32_t>(from + far * step);
  const int rest = static_cast<int>(take_rest(whole, stride));
  const int tap = taps.sign > 0 || rest == 0 ? rest : step - rest;
  const int skipped = taps.sign < 0 && rest != 0 ? 1 : 0;
  return {tap, static_cast<int>(whole) + skipped - far};
}

/* A thread takes GROUP neighbouring channels of a pixel of the plain tensor. */
template <typename T, int GROUP, typename Index>
__global__ void __launch_bounds__(THREADS) collect_kernel(const CollectPlaces p) {
  Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.groups)) return;
  const Taps &taps = p.collect.taps;
  const int64_t *dim = taps.spread.dim;
  T *out = static_cast<T *>(p.collect.plain) + static_cast<int64_t>(index) * GROUP;
  const int channel = static_cast<int>(take_rest(index, p.of_pixel)) * GROUP;
  const int w = static_cast<int>(take_rest(index, p.width));
  const int64_t h = static_cast<int64_t>(take_rest(index, p.height));
  const Shown t = shown_of(taps, 0, static_cast<int>(take_rest(index, p.time)), p.stride[0]);
  const int64_t n = static_cast<int64_t>(index);
  const Shown along_w = shown_of(taps, 1, w, p.stride[1]);
  const int channels = static_cast<int>(taps.plain.dim[AXIS_C]);
  const T *spread = static_cast<const T *>(p.collect.spread);
  float sums[GROUP] = {};
  for (int a = t.tap, at = t.place; a < taps.count[0]; a += taps.stride[0], at -= taps.sign) {
    if (at < 0 || at >= dim[AXIS_T]) continue;
    const T *row = spread + ((n * dim[AXIS_T] + at) * dim[AXIS_H] + h) * dim[AXIS_W] * dim[AXIS_C];
    int place = along_w.place;
#pragma unroll 2
    for (int b = along_w.tap; b < taps.count[1]; b += taps.stride[1], place -= taps.sign) {
      const bool there = place >= 0 && place < dim[AXIS_W];
      /* Read either way: no jump. */
      const T *from =
          there ? row + place * dim[AXIS_C] + (a * taps.count[1] + b) * channels + channel : spread;
#pragma unroll
      for (int k = 0; k < GROUP; k++) {
        float value;
        floats_load<T, 1>(from + k, &value);
        sums[k] += there ? value : 0.0f;
      }
    }
  }
#pragma unroll
  for (int k = 0; k < GROUP; k++) {
    float sum = sums[k];
    if (p.collect.bias) sum += p.collect.bias[channel + k];
    if (p.collect.activation == ACTIVATION_LEAKY_RELU)
      sum = sum > 0.0f ? sum : p.collect.slope * sum;
    if (p.collect.activation == ACTIVATION_TANH) sum = tanhf(sum);
    floats_store<T, 1>(out + k, &sum);
  }
}

template <typename T, int GROUP>
static Status start_collect(const CollectLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t *dim = p->taps.plain.dim;
  const int64_t groups = shape_count(p->taps.plain) / GROUP;
  const CollectPlaces places = {*p,
                                groups,
                                divisor_of(dim[AXIS_C] / GROUP),
                                divisor_of(dim[AXIS_W]),
                                divisor_of(dim[AXIS_H]),
                                divisor_of(dim[AXIS_T]),
                                {divisor_of(p->taps.stride[0]), divisor_of(p->taps.stride[1])}};
  const int64_t blocks = blocks_for(groups, "collecting taps", error);
  if (blocks == 0) return ERROR_INTERNAL;
  return cuda_launch(groups <= INT32_MAX - THREADS ? collect_kernel<T, GROUP, uint32_t>
                                                   : collect_kernel<T, GROUP, uint64_t>,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, places, stream, error);
}

/* Pictures have 3 channels, pairs of them 6. */
template <typename T>
static Status choose_collect(const CollectLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t channels = p->taps.plain.dim[AXIS_C];
  if (channels % 6 == 0) return start_collect<T, 6>(p, stream, error);
  if (channels % 4 == 0) return start_collect<T, 4>(p, stream, error);
  if (channels % 3 == 0) return start_collect<T, 3>(p, stream, error);
  return start_collect<T, 1>(p, stream, error);
}

extern "C" Status launch_collect(const CollectLaunch *p, cudaStream_t stream, Error *error) {
  return p->taps.dtype == DTYPE_BF16 ? choose_collect<uint16_t>(p, stream, error)
                                     : choose_collect<float>(p, stream, error);
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
