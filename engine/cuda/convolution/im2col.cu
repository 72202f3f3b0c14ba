#include "engine/cuda/convolution/im2col.h"

#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };

/* The number of blocks for `threads`; 0 and an error where it exceeds the limit of a grid. */
static int64_t blocks_for(int64_t threads, const char *what, Error *error) {
  const int64_t blocks = (threads + THREADS - 1) / THREADS;
  if (blocks <= INT32_MAX) return blocks;
  error_set(error, ERROR_INTERNAL, "%s: %lld threads, at most %lld", what,
            static_cast<long long>(threads), static_cast<long long>(INT32_MAX) * THREADS);
  return 0;
}

/* --- im2col ----------------------------------------------------------------------------------- */
struct PacksLaunch {
  Im2colMap map;
  const void *image;
  void *columns;
  int64_t packs; /* stores of N elements to the column tensor */
  FastDivisor of_pixel, width, height, time, channels, taps_along_width;
};

/* The index of an image pixel; -1 where it is out of range. */
__device__ inline int64_t image_pixel(const Im2colMap &map, int64_t n, int64_t h, int64_t t,
                                      int64_t w) {
  const int64_t *dim = map.image.dim;
  const bool there = t >= 0 && t < dim[AXIS_T] && w >= 0 && w < dim[AXIS_W];
  return there ? ((n * dim[AXIS_T] + t) * dim[AXIS_H] + h) * dim[AXIS_W] + w : -1;
}

/* For images whose channels are a multiple of N: a thread copies N neighbouring channels of a
 * column pixel, which all belong to one tap and are all in range or all zero. */
template <typename T, int N, typename Index>
__global__ void __launch_bounds__(THREADS) im2col_packs_kernel(const PacksLaunch p) {
  Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.packs)) return;
  T *out = static_cast<T *>(p.columns) + static_cast<int64_t>(index) * N;
  const Im2colMap &map = p.map;
  uint32_t tap = static_cast<uint32_t>(take_remainder(index, p.of_pixel)) * N;
  const int64_t w = static_cast<int64_t>(take_remainder(index, p.width)) * map.stride[1];
  const int64_t h = static_cast<int64_t>(take_remainder(index, p.height));
  const int64_t t = static_cast<int64_t>(take_remainder(index, p.time)) * map.stride[0];
  const int64_t n = static_cast<int64_t>(index);
  const int channel = static_cast<int>(take_remainder(tap, p.channels));
  const int b = static_cast<int>(take_remainder(tap, p.taps_along_width)),
            a = static_cast<int>(tap);
  const T *image = static_cast<const T *>(p.image);
  Pack<T, N> pack;
  pack.clear();
  const int64_t pixel =
      image_pixel(map, n, h, t + map.sign * a + map.offset[0], w + map.sign * b + map.offset[1]);
  if (pixel >= 0 && a < map.taps[0])
    pack = pack_load<T, N>(image + pixel * map.image.dim[AXIS_C] + channel);
  pack_store<T, N>(out, pack);
}

template <typename T, int N>
static Status start_packs(const Im2colMap *p, const void *image, void *columns, cudaStream_t stream,
                          Error *error) {
  const int64_t *dim = p->columns.dim;
  const int64_t packs = dim[AXIS_N] * dim[AXIS_T] * dim[AXIS_H] * dim[AXIS_W] * (dim[AXIS_C] / N);
  const PacksLaunch launch = {*p,
                              image,
                              columns,
                              packs,
                              fast_divisor(dim[AXIS_C] / N),
                              fast_divisor(dim[AXIS_W]),
                              fast_divisor(dim[AXIS_H]),
                              fast_divisor(dim[AXIS_T]),
                              fast_divisor(p->image.dim[AXIS_C]),
                              fast_divisor(p->taps[1])};
  const int64_t blocks = blocks_for(packs, "im2col", error);
  if (blocks == 0) return ERROR_INTERNAL;
  return cuda_launch(packs <= INT32_MAX - THREADS ? im2col_packs_kernel<T, N, uint32_t>
                                                  : im2col_packs_kernel<T, N, uint64_t>,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, launch, stream, error);
}

/* For other channel counts: a block writes a chunk of a row of the column tensor. It loads the
 * segments of image rows that the chunk refers to into shared memory, one for each tap along time,
 * and gathers every channel from there. */
struct RowsLaunch {
  Im2colMap map;
  const void *image;
  void *columns;
  int chunk;          /* pixels of the column row */
  int lowest;         /* first image pixel of a chunk, relative to its first pixel times stride */
  int segment;        /* image elements that a chunk needs of one row */
  int row_elements;   /* of a whole image row */
  int channels, step; /* of the image; image elements from one column pixel to the next */
  FastDivisor chunks, height, time, of_pixel, of_channels, of_width;
};

/* The offset of each channel in the segments, relative to the pixel's begin in the first one.
 * Channels beyond the last tap refer to a segment of zeros behind the others. */
__device__ inline void list_offsets(const RowsLaunch &p, int32_t *offsets) {
  for (unsigned i = threadIdx.x; i < static_cast<unsigned>(p.map.columns.dim[AXIS_C]);
       i += THREADS) {
    uint32_t a = i;
    const int channel = static_cast<int>(take_remainder(a, p.of_channels));
    const int b = static_cast<int>(take_remainder(a, p.of_width));
    const int column = p.map.sign > 0 ? b : p.map.taps[1] - 1 - b;
    offsets[i] = static_cast<int>(a) < p.map.taps[0]
                     ? static_cast<int>(a) * p.segment + column * p.channels + channel
                     : p.map.taps[0] * p.segment;
  }
}

/* Loads the segments of frame t and of the following (or preceding) frames that begin at element
 * `begin` of their rows; elements out of range are 0. */
template <typename T>
__device__ inline void load_chunk(const RowsLaunch &p, int64_t n, int64_t t, int64_t h, int begin,
                                  T *segments) {
  enum { TOGETHER = 4 }; /* loads in flight for each thread */
  const int64_t *dim = p.map.image.dim;
  const T *image = static_cast<const T *>(p.image);
  for (int a = 0; a <= p.map.taps[0]; a++) {
    const int64_t frame = t + p.map.sign * a;
    const bool there = a < p.map.taps[0] && frame >= 0 && frame < dim[AXIS_T];
    const unsigned end = there ? static_cast<unsigned>(p.row_elements) : 0;
    const T *row = image + ((n * dim[AXIS_T] + frame) * dim[AXIS_H] + h) * p.row_elements;
    for (int i = threadIdx.x; i < p.segment; i += TOGETHER * THREADS) {
      T values[TOGETHER];
#pragma unroll
      for (int k = 0; k < TOGETHER; k++) {
        const int at = begin + i + k * THREADS;
        const bool inside = static_cast<unsigned>(at) < end && i + k * THREADS < p.segment;
        const T value = *(inside ? row + at : image); /* unconditional load: no branch */
        values[k] = inside ? value : static_cast<T>(0);
      }
#pragma unroll
      for (int k = 0; k < TOGETHER; k++)
        if (i + k * THREADS < p.segment) segments[i + k * THREADS] = values[k];
    }
    segments += p.segment;
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(THREADS) im2col_rows_kernel(const RowsLaunch p) {
  DYNAMIC_SHARED(int32_t, offsets); /* [channels of the columns] */
  const Im2colMap &map = p.map;
  const int64_t *dim = map.columns.dim;
  T *segments = reinterpret_cast<T *>(offsets + dim[AXIS_C]); /* [taps in time + 1][segment] */
  uint32_t row = blockIdx.x;
  const int w = static_cast<int>(take_remainder(row, p.chunks)) * p.chunk;
  uint32_t index = row;
  const int64_t h = take_remainder(index, p.height), t = take_remainder(index, p.time), n = index;
  list_offsets(p, offsets);
  load_chunk(p, n, t * map.stride[0] + map.offset[0], h, w * p.step + p.lowest * p.channels,
             segments);
  __syncthreads();
  const int width = static_cast<int>(dim[AXIS_W]), left = width - w;
  const int packs = (left < p.chunk ? left : p.chunk) * static_cast<int>(p.of_pixel.value);
  T *out = static_cast<T *>(p.columns) + (static_cast<int64_t>(row) * width + w) * dim[AXIS_C];
  for (int i = threadIdx.x; i < packs; i += THREADS) {
    uint32_t pixel = static_cast<uint32_t>(i);
    const int32_t *from = offsets + take_remainder(pixel, p.of_pixel) * N;
    const T *own = segments + static_cast<int>(pixel) * p.step;
    T values[N];
#pragma unroll
    for (int k = 0; k < N; k++) values[k] = own[from[k]];
    pack_store<T, N>(out + static_cast<int64_t>(i) * N, pack_of<T, N>(values));
  }
}

/* Chunks of a row are small enough for several blocks on a multiprocessor. Where one pixel needs
 * more shared memory than a block has, every element is copied by itself. */
template <typename T, int N>
static Status start_rows(const Im2colMap *p, const void *image, void *columns, cudaStream_t stream,
                         Error *error) {
  enum { CHUNK_BYTES = 16384, MAX_SHARED = 48 << 10 };
  const int64_t *dim = p->columns.dim, channels = p->image.dim[AXIS_C];
  const int64_t pixel_bytes = static_cast<int64_t>(sizeof(T)) * channels * (p->taps[0] + 1);
  const int64_t room = CHUNK_BYTES / pixel_bytes - p->taps[1];
  const int64_t most = room > 0 ? room / p->stride[1] + 1 : 1, width = dim[AXIS_W];
  const int64_t chunks = (width + most - 1) / most, chunk = (width + chunks - 1) / chunks;
  const int64_t blocks = dim[AXIS_N] * dim[AXIS_T] * dim[AXIS_H] * chunks;
  const int64_t span = (chunk - 1) * p->stride[1] + p->taps[1]; /* image pixels */
  const int64_t row_elements = p->image.dim[AXIS_W] * channels;
  const size_t shared =
      static_cast<size_t>(dim[AXIS_C]) * sizeof(int32_t) + static_cast<size_t>(span * pixel_bytes);
  if (shared > MAX_SHARED) return start_packs<T, 1>(p, image, columns, stream, error);
  const RowsLaunch launch = {*p,
                             image,
                             columns,
                             static_cast<int>(chunk),
                             p->offset[1] - (p->sign > 0 ? 0 : p->taps[1] - 1),
                             static_cast<int>(span * channels),
                             static_cast<int>(row_elements),
                             static_cast<int>(channels),
                             static_cast<int>(p->stride[1] * channels),
                             fast_divisor(chunks),
                             fast_divisor(dim[AXIS_H]),
                             fast_divisor(dim[AXIS_T]),
                             fast_divisor(dim[AXIS_C] / N),
                             fast_divisor(channels),
                             fast_divisor(p->taps[1])};
  if (blocks > INT32_MAX || row_elements > INT32_MAX / 2)
    return error_set(error, ERROR_INTERNAL,
                     "im2col: %lld rows of %lld elements, at most %lld of %lld",
                     static_cast<long long>(blocks), static_cast<long long>(row_elements),
                     static_cast<long long>(INT32_MAX), static_cast<long long>(INT32_MAX / 2));
  return cuda_launch(im2col_rows_kernel<T, N>, dim3(static_cast<unsigned>(blocks)), THREADS, shared,
                     launch, stream, error);
}

template <typename T>
static Status choose_im2col(const Im2colMap *p, const void *image, void *columns,
                            cudaStream_t stream, Error *error) {
  enum { N = Widest<T>::N };
  if (p->columns.dim[AXIS_C] % N != 0)
    return error_set(error, ERROR_INTERNAL,
                     "im2col: %lld column channels, expected a multiple of %d",
                     static_cast<long long>(p->columns.dim[AXIS_C]), int{N});
  const bool whole = p->image.dim[AXIS_C] % N == 0 && reinterpret_cast<uintptr_t>(image) % 16 == 0;
  return whole ? start_packs<T, N>(p, image, columns, stream, error)
               : start_rows<T, N>(p, image, columns, stream, error);
}

extern "C" Status launch_im2col(const Im2colMap *p, const void *image, void *columns,
                                cudaStream_t stream, Error *error) {
  return p->dtype == DTYPE_BF16 ? choose_im2col<uint16_t>(p, image, columns, stream, error)
                                : choose_im2col<float>(p, image, columns, stream, error);
}

/* --- col2im ----------------------------------------------------------------------------------- */
struct Col2imPlaces {
  Col2imLaunch col2im;
  int64_t groups; /* of neighbouring channels of the image */
  FastDivisor of_pixel, width, height, time, stride[2];
};

/* The taps along one axis that read position `at` of the image: every stride-th tap from `tap` on.
 * The first one belongs to column position `place`, each further one to `sign` positions before. */
struct TapRange {
  int tap, place;
};

__device__ inline TapRange taps_of(const Im2colMap &map, int axis, int at,
                                   const FastDivisor &stride) {
  const int step = map.stride[axis];
  /* The column position that reads `at` by tap 0, shifted by `far` to be non-negative. */
  const int from = at - map.offset[axis], far = map.offset[axis] > 0 ? map.offset[axis] : 0;
  uint32_t whole = static_cast<uint32_t>(from + far * step);
  const int rest = static_cast<int>(take_remainder(whole, stride));
  const int tap = map.sign > 0 || rest == 0 ? rest : step - rest;
  const int skipped = map.sign < 0 && rest != 0 ? 1 : 0;
  return {tap, static_cast<int>(whole) + skipped - far};
}

/* A thread computes GROUP neighbouring channels of an image pixel. */
template <typename T, int GROUP, typename Index>
__global__ void __launch_bounds__(THREADS) col2im_kernel(const Col2imPlaces p) {
  Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.groups)) return;
  const Im2colMap &map = p.col2im.map;
  const int64_t *dim = map.columns.dim;
  T *out = static_cast<T *>(p.col2im.image) + static_cast<int64_t>(index) * GROUP;
  const int channel = static_cast<int>(take_remainder(index, p.of_pixel)) * GROUP;
  const int w = static_cast<int>(take_remainder(index, p.width));
  const int64_t h = static_cast<int64_t>(take_remainder(index, p.height));
  const TapRange t = taps_of(map, 0, static_cast<int>(take_remainder(index, p.time)), p.stride[0]);
  const int64_t n = static_cast<int64_t>(index);
  const TapRange along_w = taps_of(map, 1, w, p.stride[1]);
  const int channels = static_cast<int>(map.image.dim[AXIS_C]);
  const T *columns = static_cast<const T *>(p.col2im.columns);
  float sums[GROUP] = {};
  for (int a = t.tap, at = t.place; a < map.taps[0]; a += map.stride[0], at -= map.sign) {
    if (at < 0 || at >= dim[AXIS_T]) continue;
    const T *row = columns + ((n * dim[AXIS_T] + at) * dim[AXIS_H] + h) * dim[AXIS_W] * dim[AXIS_C];
    int place = along_w.place;
#pragma unroll 2
    for (int b = along_w.tap; b < map.taps[1]; b += map.stride[1], place -= map.sign) {
      const bool there = place >= 0 && place < dim[AXIS_W];
      /* Unconditional load: no branch. */
      const T *from =
          there ? row + place * dim[AXIS_C] + (a * map.taps[1] + b) * channels + channel : columns;
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
    if (p.col2im.bias) sum += p.col2im.bias[channel + k];
    if (p.col2im.activation == ACTIVATION_LEAKY_RELU) sum = sum > 0.0f ? sum : p.col2im.slope * sum;
    if (p.col2im.activation == ACTIVATION_TANH) sum = tanhf(sum);
    floats_store<T, 1>(out + k, &sum);
  }
}

template <typename T, int GROUP>
static Status start_col2im(const Col2imLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t *dim = p->map.image.dim;
  const int64_t groups = shape_count(p->map.image) / GROUP;
  const Col2imPlaces places = {*p,
                               groups,
                               fast_divisor(dim[AXIS_C] / GROUP),
                               fast_divisor(dim[AXIS_W]),
                               fast_divisor(dim[AXIS_H]),
                               fast_divisor(dim[AXIS_T]),
                               {fast_divisor(p->map.stride[0]), fast_divisor(p->map.stride[1])}};
  const int64_t blocks = blocks_for(groups, "col2im", error);
  if (blocks == 0) return ERROR_INTERNAL;
  return cuda_launch(groups <= INT32_MAX - THREADS ? col2im_kernel<T, GROUP, uint32_t>
                                                   : col2im_kernel<T, GROUP, uint64_t>,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, places, stream, error);
}

/* Images have 3 channels, pairs of images 6. */
template <typename T>
static Status choose_col2im(const Col2imLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t channels = p->map.image.dim[AXIS_C];
  if (channels % 6 == 0) return start_col2im<T, 6>(p, stream, error);
  if (channels % 4 == 0) return start_col2im<T, 4>(p, stream, error);
  if (channels % 3 == 0) return start_col2im<T, 3>(p, stream, error);
  return start_col2im<T, 1>(p, stream, error);
}

extern "C" Status launch_col2im(const Col2imLaunch *p, cudaStream_t stream, Error *error) {
  return p->map.dtype == DTYPE_BF16 ? choose_col2im<uint16_t>(p, stream, error)
                                    : choose_col2im<float>(p, stream, error);
}

/* --- Permute ---------------------------------------------------------------------------------- */
struct PermutePlaces {
  PermuteLaunch permute;
  int64_t elements;
  FastDivisor along[RANK];
};

template <typename From, typename To>
__global__ void __launch_bounds__(THREADS) permute_kernel(const PermutePlaces p) {
  uint64_t index = static_cast<uint64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<uint64_t>(p.elements)) return;
  int64_t from = 0, to = 0;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    const int64_t place = static_cast<int64_t>(take_remainder(index, p.along[axis]));
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
  for (int axis = 0; axis < RANK; axis++) places.along[axis] = fast_divisor(p->shape.dim[axis]);
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
