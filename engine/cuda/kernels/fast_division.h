/* Division by a number that is fixed per launch, as a multiplication and a shift. Kernels compute
 * tensor indices with it; an integer division in hardware takes ten times as long. For C and CUDA,
 * and as text for kernels that NVRTC compiles. */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_FAST_DIVISION_H
#define CELFORGE_ENGINE_CUDA_KERNELS_FAST_DIVISION_H

#include <stdint.h>

/* Compiles the code, and defines `name` as its text, for generated kernels. */
#define CODE_WITH_SOURCE(name, ...)                                                                \
  __VA_ARGS__                                                                                      \
  static const char name[] __attribute__((unused)) = #__VA_ARGS__;

CODE_WITH_SOURCE(
    fast_divisor_source,
    /* n / value is (n * multiplier) >> shift for n below 2^31. */
    struct FastDivisor {
      long long value;
      unsigned multiplier;
      unsigned shift;
    };)

/* Granlund, Montgomery 1994, theorem 4.2, for 31-bit numerators: with 2^(l-1) < d <= 2^l and
 * m = floor(2^(31+l) / d) + 1, n / d = (n m) >> (31 + l). m fits 32 bits, n m 63. `value` is at
 * least 1; for values of 2^31 and more only the field `value` is set. */
static inline struct FastDivisor fast_divisor(int64_t value) {
  struct FastDivisor d = {value, 0, 31};
  if (value >= (int64_t)1 << 31) return d;
  while ((int64_t)1 << (d.shift - 31) < value) d.shift++;
  d.multiplier = (unsigned)(((uint64_t)1 << d.shift) / (uint64_t)value + 1);
  return d;
}

#ifdef __cplusplus
/* n / d; a 32-bit n is below 2^31. */
__device__ inline uint32_t fast_divide(uint32_t n, const FastDivisor &d) {
  return static_cast<uint32_t>(static_cast<uint64_t>(n) * d.multiplier >> d.shift);
}
__device__ inline uint64_t fast_divide(uint64_t n, const FastDivisor &d) {
  return n / static_cast<uint64_t>(d.value);
}
/* Returns n % d and replaces n by n / d. */
template <typename Index> __device__ inline Index take_remainder(Index &n, const FastDivisor &d) {
  const Index quotient = fast_divide(n, d), remainder = n - quotient * static_cast<Index>(d.value);
  n = quotient;
  return remainder;
}
#endif

#endif
