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
  /* Waits for the whole block. */
  void (*barrier)(EmulatorSourceLine source_line);
  /* Waits for the lanes of `mask` and returns the value of lane `source`. */
  uint64_t (*exchange)(unsigned mask, uint64_t value, int source, EmulatorSourceLine source_line);
};
extern "C" EmulatorDevice *emulator_device;

#define threadIdx (emulator_device->thread)
#define blockIdx  (emulator_device->block)
#define blockDim  (emulator_device->block_size)
#define gridDim   (emulator_device->grid_size)

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
  emulator_device->barrier(EMULATOR_SOURCE_LINE);
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
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                                EMULATOR_SOURCE_LINE_PARAMETER) {
  const int lane = emulator_lane(), source = lane ^ bits;
  const int end = (lane & ~(width - 1)) + width;
  return emulator_shuffle(mask, value, source >= end ? lane : source, EMULATOR_SOURCE_LINE);
}

/* --- Vectors ---------------------------------------------------------------------------------- */
struct __align__(8) uint2 {
  unsigned x, y;
};
struct __align__(16) uint4 {
  unsigned x, y, z, w;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
static inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
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
static inline float __uint_as_float(unsigned x) {
  return emulator_bits<float>(x);
}

static inline float rsqrtf(float x) {
  return 1.0f / sqrtf(x);
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

#endif
