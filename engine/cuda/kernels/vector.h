/* Vectorized loads and stores of N neighbouring elements (up to 16 bytes per access), and sums over
 * lanes and blocks. For .cu files. bf16 is uint16_t. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_VECTOR_H
#define CELFORGE_ENGINE_CUDA_KERNELS_VECTOR_H

#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>
#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

#include "base/bf16.h"

/* The type of one access of BYTES bytes. */
template <int BYTES> struct Access;
template <> struct Access<1> { typedef uint8_t type; };
template <> struct Access<2> { typedef uint16_t type; };
template <> struct Access<4> { typedef uint32_t type; };
template <> struct Access<8> { typedef uint2 type; };
template <> struct Access<16> { typedef uint4 type; };

__device__ inline uint32_t pack_bf16x2(float low, float high) {
#ifdef __CUDA_ARCH__
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&pair);
#else
  return static_cast<uint32_t>(bf16_from_f32(low)) | static_cast<uint32_t>(bf16_from_f32(high))
                                                         << 16;
#endif
}
__device__ inline float low_bf16(uint32_t pair) {
  return float_from_bits(pair << 16);
}
__device__ inline float high_bf16(uint32_t pair) {
  return float_from_bits(pair & 0xffff0000u);
}

/* N elements in their storage type; get and set convert to and from f32. Addresses are multiples of
 * the size. */
template <typename T, int N> struct Pack;

template <> struct Pack<float, 1> {
  float bits;
  __device__ void get(float *out) const { out[0] = bits; }
  __device__ void set(const float *in) { bits = in[0]; }
  __device__ void clear() { bits = 0.0f; }
};
template <> struct Pack<float, 4> {
  float4 bits;
  __device__ void get(float *out) const {
    out[0] = bits.x, out[1] = bits.y, out[2] = bits.z, out[3] = bits.w;
  }
  __device__ void set(const float *in) { bits = make_float4(in[0], in[1], in[2], in[3]); }
  __device__ void clear() { bits = make_float4(0.0f, 0.0f, 0.0f, 0.0f); }
};
template <> struct Pack<uint16_t, 1> {
  uint16_t bits;
  __device__ void get(float *out) const { out[0] = bf16_to_f32(bits); }
  __device__ void set(const float *in) { bits = bf16_from_f32(in[0]); }
  __device__ void clear() { bits = 0; }
};
template <> struct Pack<uint16_t, 8> {
  uint4 bits;
  __device__ void get(float *out) const {
    out[0] = low_bf16(bits.x), out[1] = high_bf16(bits.x);
    out[2] = low_bf16(bits.y), out[3] = high_bf16(bits.y);
    out[4] = low_bf16(bits.z), out[5] = high_bf16(bits.z);
    out[6] = low_bf16(bits.w), out[7] = high_bf16(bits.w);
  }
  __device__ void set(const float *in) {
    bits = make_uint4(pack_bf16x2(in[0], in[1]), pack_bf16x2(in[2], in[3]),
                      pack_bf16x2(in[4], in[5]), pack_bf16x2(in[6], in[7]));
  }
  __device__ void clear() { bits = make_uint4(0, 0, 0, 0); }
};

/* The pack of N elements in their storage type. */
template <typename T, int N> __device__ inline Pack<T, N> pack_of(const T values[N]) {
  Pack<T, N> pack;
  memcpy(&pack.bits, values, sizeof pack.bits);
  return pack;
}

/* The number of elements of T in 16 bytes. */
template <typename T> struct Widest {
  enum { N = 16 / sizeof(T) };
};

/* Loads `*bits` if `inside`, else leaves it unchanged. */
template <typename Bits>
__device__ inline void bits_load_if(bool inside, const void *from, Bits *bits) {
  if (inside) *bits = *static_cast<const Bits *>(from);
}
#ifdef __CUDA_ARCH__
template <> __device__ inline void bits_load_if(bool inside, const void *from, uint4 *bits) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %4, 0; @p ld.global.v4.u32 {%0, %1, %2, %3}, [%5]; }"
               : "+r"(bits->x), "+r"(bits->y), "+r"(bits->z), "+r"(bits->w)
               : "r"(static_cast<int>(inside)), "l"(__cvta_generic_to_global(from)));
}
template <> __device__ inline void bits_load_if(bool inside, const void *from, float4 *bits) {
  asm volatile("{ .reg .pred p; setp.ne.s32 p, %4, 0; @p ld.global.v4.f32 {%0, %1, %2, %3}, [%5]; }"
               : "+f"(bits->x), "+f"(bits->y), "+f"(bits->z), "+f"(bits->w)
               : "r"(static_cast<int>(inside)), "l"(__cvta_generic_to_global(from)));
}
#endif
template <typename T, int N> __device__ inline Pack<T, N> pack_load(const T *from) {
  Pack<T, N> pack;
  pack.bits = *reinterpret_cast<const decltype(pack.bits) *>(from);
  return pack;
}
/* pack_load if `inside`, else zeros. Uses a predicate instead of a branch, so that several such
 * loads are in flight at once: for `if (inside) pack = pack_load(from)` the compiler emits a jump
 * around each load, and waits for one load before the next. */
template <typename T, int N> __device__ inline Pack<T, N> pack_load_if(bool inside, const T *from) {
  Pack<T, N> pack;
  pack.clear();
  bits_load_if(inside, from, &pack.bits);
  return pack;
}
/* A 16-byte store as one instruction: in some loops the compiler splits a plain assignment. */
template <typename Bits> __device__ inline void bits_store(Bits *to, const Bits &bits) {
  *to = bits;
}
#ifdef __CUDA_ARCH__
template <> __device__ inline void bits_store(uint4 *to, const uint4 &bits) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w)
               : "memory");
}
template <> __device__ inline void bits_store(float4 *to, const float4 &bits) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "f"(bits.x), "f"(bits.y), "f"(bits.z), "f"(bits.w)
               : "memory");
}
#endif
template <typename T, int N> __device__ inline void pack_store(T *to, const Pack<T, N> &pack) {
  bits_store(reinterpret_cast<decltype(pack.bits) *>(to), pack.bits);
}
template <typename T, int N> __device__ inline void floats_load(const T *from, float *out) {
  pack_load<T, N>(from).get(out);
}
template <typename T, int N> __device__ inline void floats_store(T *to, const float *in) {
  Pack<T, N> pack;
  pack.set(in);
  pack_store<T, N>(to, pack);
}

/* N elements in one or several 16-byte accesses. */
template <int N, typename T> __device__ inline void load_wide(const T *from, float *to) {
  const int step = Widest<T>::N;
  for (int k = 0; k < N; k += step) floats_load<T, step>(from + k, to + k);
}
template <int N, typename T> __device__ inline void store_wide(T *to, const float *from) {
  const int step = Widest<T>::N;
  for (int k = 0; k < N; k += step) floats_store<T, step>(to + k, from + k);
}

/* Returns `value` in a way that hides it from the optimizer. Applied to a loop counter it stops the
 * compiler from precomputing addresses, which would save few instructions and cost registers. */
__device__ inline int64_t hide_from_optimizer(int64_t value) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+l"(value));
#endif
  return value;
}

/* The sum over a group of LANES neighbouring lanes (a power of two), in every lane of the group. */
template <int LANES> __device__ inline float lanes_sum(float value) {
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

/* The sum over the block, in every thread. `space`: shared memory, one float per warp. */
template <int THREADS> __device__ inline float block_sum(float value, float *space) {
  value = lanes_sum<32>(value);
  __syncthreads(); /* all threads have read the previous sum */
  if (threadIdx.x % 32 == 0) space[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < THREADS / 32; warp++) sum += space[warp];
  return sum;
}

#endif
