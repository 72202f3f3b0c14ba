/* Warping and translation: see motion.h. */
#include "engine/cuda/kernels/motion.h"

#include "engine/backend/shared/motion.h"
#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };

struct MotionParameters {
  MotionLaunch motion;
  FastDivisor accesses; /* per pixel */
  FastDivisor width, height, times;
  int64_t outputs; /* accesses of y, one thread each */
};

/* The position of an access of y. */
struct Position {
  int64_t access, sample, time;
  int w, h;
};

template <typename Index>
__device__ inline Position position_of(const MotionParameters &p, Index index) {
  Position at;
  at.access = static_cast<int64_t>(take_remainder(index, p.accesses));
  at.w = static_cast<int>(take_remainder(index, p.width));
  at.h = static_cast<int>(take_remainder(index, p.height));
  at.time = static_cast<int64_t>(take_remainder(index, p.times));
  at.sample = static_cast<int64_t>(index);
  return at;
}

/* --- Warp ------------------------------------------------------------------------------------- */

/* N neighbouring channels of a pixel, in accesses of ACCESS channels. */
template <typename T, int N, int ACCESS, typename Index>
__global__ void __launch_bounds__(THREADS) warp_kernel(const MotionParameters p) {
  const Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.outputs)) return;
  const MotionLaunch &m = p.motion;
  const Position at = position_of(p, index);
  const int64_t frame = at.sample * m.times + at.time;
  const int64_t flow_frame = m.flow_times == 1 ? at.sample : frame;
  const float *flow = m.by + ((flow_frame * m.height + at.h) * m.width + at.w) * 2;
  const WarpPosition x = warp_position(at.w, flow[0], static_cast<int>(m.width));
  const WarpPosition y = warp_position(at.h, flow[1], static_cast<int>(m.height));
  const T *from =
      static_cast<const T *>(m.x) + frame * m.height * m.width * m.channels + at.access * N;
  const T *upper = from + y.lower * m.width * m.channels;
  const T *lower = from + y.upper * m.width * m.channels;
  const int64_t left = x.lower * m.channels, right = x.upper * m.channels;
  float a[N], b[N], c[N], d[N];
#pragma unroll
  for (int j = 0; j < N; j += ACCESS) {
    floats_load<T, ACCESS>(upper + left + j, a + j);
    floats_load<T, ACCESS>(upper + right + j, b + j);
    floats_load<T, ACCESS>(lower + left + j, c + j);
    floats_load<T, ACCESS>(lower + right + j, d + j);
  }
#pragma unroll
  for (int j = 0; j < N; j++) a[j] = warp_value(a[j], b[j], c[j], d[j], x.part, y.part);
  T *to = static_cast<T *>(m.y) + static_cast<int64_t>(index) * N;
#pragma unroll
  for (int j = 0; j < N; j += ACCESS) floats_store<T, ACCESS>(to + j, a + j);
}

/* --- Translate -------------------------------------------------------------------------------- */

template <int BYTES, typename Index>
__global__ void __launch_bounds__(THREADS) translate_kernel(const MotionParameters p) {
  typedef typename Access<BYTES>::type Unit;
  const Index index = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= static_cast<Index>(p.outputs)) return;
  const MotionLaunch &m = p.motion;
  const Position at = position_of(p, index);
  const float *offset = m.by + at.sample * 2;
  const int64_t w = static_cast<int64_t>(at.w) - translate_pixels(offset[0], m.negated);
  const int64_t h = static_cast<int64_t>(at.h) - translate_pixels(offset[1], m.negated);
  Unit unit = {};
  if (w >= 0 && w < m.width && h >= 0 && h < m.height) {
    const int64_t pixel = ((at.sample * m.times + at.time) * m.height + h) * m.width + w;
    unit = static_cast<const Unit *>(m.x)[pixel * p.accesses.value + at.access];
  }
  static_cast<Unit *>(m.y)[index] = unit;
}

/* --- Launchers -------------------------------------------------------------------------------- */

typedef void MotionFunction(MotionParameters);

/* `small` is the kernel for indices below 2^31, `large` for all others. */
static Status start(MotionFunction *small, MotionFunction *large, const MotionLaunch *p,
                    int64_t accesses, cudaStream_t stream, Error *error) {
  const MotionParameters parameters = {*p,
                                       fast_divisor(accesses),
                                       fast_divisor(p->width),
                                       fast_divisor(p->height),
                                       fast_divisor(p->times),
                                       p->samples * p->times * p->height * p->width * accesses};
  const int64_t blocks = (parameters.outputs + THREADS - 1) / THREADS;
  if (blocks > INT32_MAX)
    return error_set(error, ERROR_INTERNAL, "warp or translate: %lld outputs, at most %lld",
                     static_cast<long long>(parameters.outputs),
                     static_cast<long long>(INT32_MAX) * THREADS);
  return cuda_launch(parameters.outputs <= INT32_MAX - THREADS ? small : large,
                     dim3(static_cast<unsigned>(blocks)), THREADS, 0, parameters, stream, error);
}

template <typename T, int N, int ACCESS>
static Status warp(const MotionLaunch *p, cudaStream_t stream, Error *error) {
  return start(warp_kernel<T, N, ACCESS, uint32_t>, warp_kernel<T, N, ACCESS, uint64_t>, p,
               p->channels / N, stream, error);
}

template <int BYTES>
static Status translate(const MotionLaunch *p, int64_t pixel_bytes, cudaStream_t stream,
                        Error *error) {
  return start(translate_kernel<BYTES, uint32_t>, translate_kernel<BYTES, uint64_t>, p,
               pixel_bytes / BYTES, stream, error);
}

/* True if accesses of `bytes` bytes are aligned in every pixel of x and y. */
static bool can_access(const MotionLaunch *p, int64_t pixel_bytes, int bytes) {
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(p->x) | reinterpret_cast<uintptr_t>(p->y);
  return pixel_bytes % bytes == 0 && addresses % static_cast<uintptr_t>(bytes) == 0;
}

extern "C" Status launch_warp(const MotionLaunch *p, cudaStream_t stream, Error *error) {
  if (p->bf16) {
    if (can_access(p, p->channels * 2, 16)) return warp<uint16_t, 8, 8>(p, stream, error);
    if (p->channels == 3) return warp<uint16_t, 3, 1>(p, stream, error);
    return warp<uint16_t, 1, 1>(p, stream, error);
  }
  if (can_access(p, p->channels * 4, 16)) return warp<float, 4, 4>(p, stream, error);
  if (p->channels == 3) return warp<float, 3, 1>(p, stream, error);
  return warp<float, 1, 1>(p, stream, error);
}

extern "C" Status launch_translate(const MotionLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t pixel_bytes = p->channels * (p->bf16 ? 2 : 4);
  if (can_access(p, pixel_bytes, 16)) return translate<16>(p, pixel_bytes, stream, error);
  if (can_access(p, pixel_bytes, 8)) return translate<8>(p, pixel_bytes, stream, error);
  if (can_access(p, pixel_bytes, 4)) return translate<4>(p, pixel_bytes, stream, error);
  return translate<2>(p, pixel_bytes, stream, error);
}
