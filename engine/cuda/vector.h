/* For .cu files: N neighbouring elements that move in one access of up to 16 bytes, and sums over
 * lanes. bf16 is uint16_t here. */
#ifndef CELFORGE_ENGINE_CUDA_VECTOR_H
#define CELFORGE_ENGINE_CUDA_VECTOR_H

#include <cuda_runtime.h>
#include <stdint.h>
#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

#include "engine/shared/bf16.h"

/* The type of one access of so many bytes. */
template <int BYTES> struct Access;
template <> struct Access<1> { typedef uint8_t type; };
template <> struct Access<2> { typedef uint16_t type; };
template <> struct Access<4> { typedef uint32_t type; };
template <> struct Access<8> { typedef uint2 type; };
template <> struct Access<16> { typedef uint4 type; };

__device__ inline uint32_t two_bf16(float low, float high) {
#ifdef __CUDA_ARCH__
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&pair);
#else
  return static_cast<uint32_t>(shared_bf16_from_f32(low)) |
         static_cast<uint32_t>(shared_bf16_from_f32(high)) << 16;
#endif
}
__device__ inline float low_bf16(uint32_t pair) {
  return shared_float_of_bits(pair << 16);
}
__device__ inline float high_bf16(uint32_t pair) {
  return shared_float_of_bits(pair & 0xffff0000u);
}

/* N elements as memory holds them; `get` and `set` speak f32. Loaded and stored at an address that
 * is a multiple of its size. */
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
  __device__ void get(float *out) const { out[0] = shared_bf16_to_f32(bits); }
  __device__ void set(const float *in) { bits = shared_bf16_from_f32(in[0]); }
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
    bits = make_uint4(two_bf16(in[0], in[1]), two_bf16(in[2], in[3]), two_bf16(in[4], in[5]),
                      two_bf16(in[6], in[7]));
  }
  __device__ void clear() { bits = make_uint4(0, 0, 0, 0); }
};

/* Elements of T that 16 bytes hold. */
template <typename T> struct Widest {
  enum { N = 16 / sizeof(T) };
};

template <typename T, int N> __device__ inline Pack<T, N> pack_load(const T *from) {
  Pack<T, N> pack;
  pack.bits = *reinterpret_cast<const decltype(pack.bits) *>(from);
  return pack;
}
template <typename T, int N> __device__ inline void pack_store(T *to, const Pack<T, N> &pack) {
  *reinterpret_cast<decltype(pack.bits) *>(to) = pack.bits;
}
template <typename T, int N> __device__ inline void floats_load(const T *from, float *out) {
  pack_load<T, N>(from).get(out);
}
template <typename T, int N> __device__ inline void floats_store(T *to, const float *in) {
  Pack<T, N> pack;
  pack.set(in);
  pack_store<T, N>(to, pack);
}

/* Every lane gets the sum over its group of `lanes` neighbours (a power of two). */
__device__ inline float lanes_sum(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

/* Every thread gets the sum over the block; `space` is shared, a float for each warp. */
template <int THREADS> __device__ inline float block_sum(float value, float *space) {
  value = lanes_sum(value, 32);
  __syncthreads(); /* the last sum has been read */
  if (threadIdx.x % 32 == 0) space[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < THREADS / 32; warp++) sum += space[warp];
  return sum;
}

#endif
