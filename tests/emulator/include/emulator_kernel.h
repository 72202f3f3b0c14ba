/* Device code in plain C++: CUDA's keywords, vector types, barriers, shuffles and intrinsics.
 * Included by cuda_runtime.h. The threads of a block are fibers of one host thread, so a shared
 * array is a static one, and an atomic operation a plain one. */
#ifndef CELFORGE_TESTS_EMULATOR_KERNEL_H
#define CELFORGE_TESTS_EMULATOR_KERNEL_H

#include <math.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__    static const
#define __shared__      static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

/* --- The block that is running ---------------------------------------------------------------- */
struct EmulatorSourceLine {
  const char *file;
  int line;
};

struct EmulatorDevice {
  uint3 thread, block;
  dim3 block_size, grid_size;
  void *shared; /* dynamic */
  /* Waits for the whole block; returns the number of threads that passed a `value` other than 0. */
  int (*barrier)(int value, EmulatorSourceLine source_line);
  /* Both wait for the lanes of `mask`. exchange returns the value of lane `source`, vote the mask
   * of lanes that voted true. */
  uint64_t (*exchange)(unsigned mask, uint64_t value, int source, EmulatorSourceLine source_line);
  unsigned (*vote)(unsigned mask, bool value, EmulatorSourceLine source_line);
};
extern "C" EmulatorDevice *emulator_device;

#define threadIdx (emulator_device->thread)
#define blockIdx  (emulator_device->block)
#define blockDim  (emulator_device->block_size)
#define gridDim   (emulator_device->grid_size)
static const int warpSize = 32;

/* Declares `TYPE *NAME`, the block's dynamic shared memory; engine/cuda/kernels/launch.h has the
 * definition for nvcc. */
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulator_device->shared)

#define EMULATOR_SOURCE_LINE_PARAMETER                                                             \
  const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define EMULATOR_SOURCE_LINE                                                                       \
  EmulatorSourceLine {                                                                             \
    file, line                                                                                     \
  }

/* --- Barriers and warps ----------------------------------------------------------------------- */
static inline void __syncthreads(EMULATOR_SOURCE_LINE_PARAMETER) {
  emulator_device->barrier(0, EMULATOR_SOURCE_LINE);
}
static inline int __syncthreads_count(int value, EMULATOR_SOURCE_LINE_PARAMETER) {
  return emulator_device->barrier(value, EMULATOR_SOURCE_LINE);
}
static inline int __syncthreads_or(int value, EMULATOR_SOURCE_LINE_PARAMETER) {
  return emulator_device->barrier(value, EMULATOR_SOURCE_LINE) > 0;
}
static inline int __syncthreads_and(int value, EMULATOR_SOURCE_LINE_PARAMETER) {
  return emulator_device->barrier(!value, EMULATOR_SOURCE_LINE) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_SOURCE_LINE_PARAMETER) {
  emulator_device->vote(mask, false, EMULATOR_SOURCE_LINE);
}
static inline unsigned __ballot_sync(unsigned mask, int value, EMULATOR_SOURCE_LINE_PARAMETER) {
  return emulator_device->vote(mask, value != 0, EMULATOR_SOURCE_LINE);
}
static inline int __any_sync(unsigned mask, int value, EMULATOR_SOURCE_LINE_PARAMETER) {
  return emulator_device->vote(mask, value != 0, EMULATOR_SOURCE_LINE) != 0;
}
static inline int __all_sync(unsigned mask, int value, EMULATOR_SOURCE_LINE_PARAMETER) {
  return emulator_device->vote(mask, value == 0, EMULATOR_SOURCE_LINE) == 0;
}
static inline unsigned __activemask(EMULATOR_SOURCE_LINE_PARAMETER) {
  return emulator_device->vote(0xffffffffu, true, EMULATOR_SOURCE_LINE);
}

static inline int emulator_lane() {
  return static_cast<int>(emulator_device->thread.x & 31u);
}

template <typename T>
static inline T emulator_shuffle(unsigned mask, T value, int source,
                                 EmulatorSourceLine source_line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles four or eight bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = emulator_device->exchange(mask, bits, source, source_line);
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                            EMULATOR_SOURCE_LINE_PARAMETER) {
  const int base = emulator_lane() & ~(width - 1);
  return emulator_shuffle(mask, value, base + (source & (width - 1)), EMULATOR_SOURCE_LINE);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                               EMULATOR_SOURCE_LINE_PARAMETER) {
  const int lane = emulator_lane(), source = lane - static_cast<int>(delta);
  const int base = lane & ~(width - 1);
  return emulator_shuffle(mask, value, source < base ? lane : source, EMULATOR_SOURCE_LINE);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 EMULATOR_SOURCE_LINE_PARAMETER) {
  const int lane = emulator_lane(), source = lane + static_cast<int>(delta);
  const int end = (lane & ~(width - 1)) + width;
  return emulator_shuffle(mask, value, source >= end ? lane : source, EMULATOR_SOURCE_LINE);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                                EMULATOR_SOURCE_LINE_PARAMETER) {
  const int lane = emulator_lane(), source = lane ^ bits;
  const int end = (lane & ~(width - 1)) + width;
  return emulator_shuffle(mask, value, source >= end ? lane : source, EMULATOR_SOURCE_LINE);
}

static inline void __threadfence() {}
static inline void __threadfence_block() {}

/* --- Vectors ---------------------------------------------------------------------------------- */
#define EMULATOR_VECTORS(type, name, align2, align4)                                               \
  struct name##1 {                                                                                 \
    type x;                                                                                        \
  };                                                                                               \
  struct __align__(align2) name##2 {                                                               \
    type x, y;                                                                                     \
  };                                                                                               \
  struct __align__(align4) name##4 {                                                               \
    type x, y, z, w;                                                                               \
  };                                                                                               \
  static inline name##2 make_##name##2(type x, type y) {                                           \
    return {x, y};                                                                                 \
  }                                                                                                \
  static inline name##4 make_##name##4(type x, type y, type z, type w) {                           \
    return {x, y, z, w};                                                                           \
  }
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(unsigned, uint, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
#undef EMULATOR_VECTORS
struct float3 {
  float x, y, z;
};
struct int3 {
  int x, y, z;
};
static inline float3 make_float3(float x, float y, float z) {
  return {x, y, z};
}
static inline int3 make_int3(int x, int y, int z) {
  return {x, y, z};
}
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
  return {x, y, z};
}

/* --- Memory ----------------------------------------------------------------------------------- */
template <typename T> static inline T __ldg(const T *from) {
  return *from;
}
template <typename T> static inline T __ldcg(const T *from) {
  return *from;
}
template <typename T> static inline T __ldcs(const T *from) {
  return *from;
}
template <typename T> static inline void __stcs(T *to, T value) {
  *to = value;
}
template <typename T> static inline void __stcg(T *to, T value) {
  *to = value;
}

template <typename T, typename U> static inline T atomicAdd(T *to, U value) {
  const T before = *to;
  *to = before + static_cast<T>(value);
  return before;
}
template <typename T, typename U> static inline T atomicMax(T *to, U value) {
  const T before = *to, other = static_cast<T>(value);
  *to = before < other ? other : before;
  return before;
}
template <typename T, typename U> static inline T atomicMin(T *to, U value) {
  const T before = *to, other = static_cast<T>(value);
  *to = other < before ? other : before;
  return before;
}
template <typename T, typename U> static inline T atomicOr(T *to, U value) {
  const T before = *to;
  *to = before | static_cast<T>(value);
  return before;
}
template <typename T, typename U> static inline T atomicExch(T *to, U value) {
  const T before = *to;
  *to = static_cast<T>(value);
  return before;
}
template <typename T> static inline T atomicCAS(T *to, T expected, T value) {
  const T before = *to;
  if (before == expected) *to = value;
  return before;
}

/* --- Numbers ---------------------------------------------------------------------------------- */
template <typename To, typename From> static inline To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline unsigned __float_as_uint(float x) {
  return emulator_bits<unsigned>(x);
}
static inline int __float_as_int(float x) {
  return emulator_bits<int>(x);
}
static inline float __uint_as_float(unsigned x) {
  return emulator_bits<float>(x);
}
static inline float __int_as_float(int x) {
  return emulator_bits<float>(x);
}
static inline long long __double_as_longlong(double x) {
  return emulator_bits<long long>(x);
}
static inline double __longlong_as_double(long long x) {
  return emulator_bits<double>(x);
}

static inline float rsqrtf(float x) {
  return 1.0f / sqrtf(x);
}
static inline double rsqrt(double x) {
  return 1.0 / sqrt(x);
}
static inline float __fsqrt_rn(float x) {
  return sqrtf(x);
}
static inline float __frsqrt_rn(float x) {
  return 1.0f / sqrtf(x);
}
static inline float __frcp_rn(float x) {
  return 1.0f / x;
}
static inline float __fdiv_rn(float x, float y) {
  return x / y;
}
static inline float __fdividef(float x, float y) {
  return x / y;
}
static inline float __fadd_rn(float x, float y) {
  return x + y;
}
static inline float __fsub_rn(float x, float y) {
  return x - y;
}
static inline float __fmul_rn(float x, float y) {
  return x * y;
}
static inline float __fmaf_rn(float x, float y, float z) {
  return fmaf(x, y, z);
}
static inline double __dadd_rn(double x, double y) {
  return x + y;
}
static inline double __dmul_rn(double x, double y) {
  return x * y;
}
/* Macros, since glibc declares functions of these names. */
#define __expf expf
#define __logf logf
#define __powf powf
static inline float __saturatef(float x) {
  return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
static inline int __float2int_rn(float x) {
  return static_cast<int>(rintf(x));
}
static inline int __float2int_rz(float x) {
  return static_cast<int>(x);
}
static inline int __float2int_rd(float x) {
  return static_cast<int>(floorf(x));
}
static inline unsigned __float2uint_rn(float x) {
  return static_cast<unsigned>(rintf(x));
}
static inline float __int2float_rn(int x) {
  return static_cast<float>(x);
}

static inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
static inline int __clz(int x) {
  return x ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}
static inline int __clzll(long long x) {
  return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
static inline int __ffs(int x) {
  return __builtin_ffs(x);
}
static inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(static_cast<uint64_t>(x) * y >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}

#define EMULATOR_MIN_MAX(type)                                                                     \
  static inline type min(type a, type b) {                                                         \
    return b < a ? b : a;                                                                          \
  }                                                                                                \
  static inline type max(type a, type b) {                                                         \
    return a < b ? b : a;                                                                          \
  }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX
static inline float min(float a, float b) {
  return fminf(a, b);
}
static inline float max(float a, float b) {
  return fmaxf(a, b);
}
static inline double min(double a, double b) {
  return fmin(a, b);
}
static inline double max(double a, double b) {
  return fmax(a, b);
}

/* --- Launches --------------------------------------------------------------------------------- */
struct EmulatorLaunch {
  const char *name; /* not copied: a literal, or in a loaded library */
  void (*entry)(void (*kernel)(), const void *parameters);
  void (*kernel)();
  size_t parameter_bytes;
  dim3 blocks;
  unsigned threads;
  size_t shared_bytes;
};
extern "C" cudaError_t emulator_enqueue_launch(const EmulatorLaunch *launch, const void *parameters,
                                               cudaStream_t stream);
extern "C" cudaError_t emulator_allow_shared(void (*kernel)(), int bytes);

template <typename P> static void emulator_entry(void (*kernel)(), const void *parameters) {
  reinterpret_cast<void (*)(P)>(kernel)(*static_cast<const P *>(parameters));
}
template <typename P>
static cudaError_t emulator_launch(void (*kernel)(P), dim3 blocks, unsigned threads,
                                   size_t shared_bytes, const P &parameters, cudaStream_t stream) {
  const EmulatorLaunch launch = {__PRETTY_FUNCTION__,
                                 emulator_entry<P>,
                                 reinterpret_cast<void (*)()>(kernel),
                                 sizeof(P),
                                 blocks,
                                 threads,
                                 shared_bytes};
  return emulator_enqueue_launch(&launch, &parameters, stream);
}

template <typename P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P), cudaFuncAttribute, int bytes) {
  return emulator_allow_shared(reinterpret_cast<void (*)()>(kernel), bytes);
}
template <typename P>
static inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void (*)(P),
                                                                        int threads, size_t) {
  *blocks = threads > 0 ? 2048 / threads : 0;
  return threads > 0 && threads <= 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

#endif
