/* Division by numbers that a launch knows, by a multiplication and a shift: kernels find places in
 * tensors by it, and a division of the hardware's takes ten times as long. For C, CUDA and, as
 * text, NVRTC. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_FAST_DIVISION_H
#define CELFORGE_ENGINE_CUDA_KERNELS_FAST_DIVISION_H

#include <stdint.h>

/* Compiled here, and text for kernels that are compiled later. */
#define SOURCE_AND_CODE(name, ...)                                                                 \
  __VA_ARGS__                                                                                      \
  static const char name[] __attribute__((unused)) = #__VA_ARGS__;

SOURCE_AND_CODE(
    divisor_source,
    /* n / value is (n * multiplier) >> shift for n below 2^31. */
    struct Divisor {
      long long value;
      unsigned multiplier;
      unsigned shift;
    };)

/* Granlund, Montgomery 1994, theorem 4.2, for 31-bit numerators: with 2^(l-1) < d <= 2^l and
 * m = floor(2^(31+l) / d) + 1, n / d = (n m) >> (31 + l). m fits 32 bits, n m 63. `value` is at
 * least 1; of 2^31 and more only the value itself is kept. */
static inline struct Divisor divisor_of(int64_t value) {
  struct Divisor d = {value, 0, 31};
  if (value >= (int64_t)1 << 31) return d;
  while ((int64_t)1 << (d.shift - 31) < value) d.shift++;
  d.multiplier = (unsigned)(((uint64_t)1 << d.shift) / (uint64_t)value + 1);
  return d;
}

#ifdef __cplusplus
/* `n` is below 2^31. */
__device__ inline uint32_t quotient(uint32_t n, const Divisor &d) {
  return static_cast<uint32_t>(static_cast<uint64_t>(n) * d.multiplier >> d.shift);
}
__device__ inline uint64_t quotient(uint64_t n, const Divisor &d) {
  return n / static_cast<uint64_t>(d.value);
}
/* The rest of n by d, and n becomes the quotient. */
template <typename Index> __device__ inline Index take_rest(Index &n, const Divisor &d) {
  const Index whole = quotient(n, d), rest = n - whole * static_cast<Index>(d.value);
  n = whole;
  return rest;
}
#endif

#endif
