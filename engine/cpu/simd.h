/* Vectors of 16 floats, for loops that compilers do not vectorise well by themselves. GCC's vector
 * types run on any processor; the width is that of AVX-512. */
#ifndef CELFORGE_ENGINE_CPU_SIMD_H
#define CELFORGE_ENGINE_CPU_SIMD_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { SIMD_WIDTH = 16 };
typedef float SimdFloat __attribute__((vector_size(64)));
typedef int32_t SimdMask __attribute__((vector_size(64)));

#ifdef __AVX512F__
enum { SIMD_IS_NATIVE = 1 };
#else
enum { SIMD_IS_NATIVE = 0 };
#endif

#define SIMD_INLINE static inline __attribute__((always_inline))

SIMD_INLINE SimdFloat simd_load(const float *from) {
  SimdFloat v;
  memcpy(&v, from, sizeof v);
  return v;
}

SIMD_INLINE void simd_store(float *to, SimdFloat v) {
  memcpy(to, &v, sizeof v);
}

SIMD_INLINE SimdFloat simd_broadcast(float value) {
  return value - (SimdFloat){0};
}

/* a * b + c; rounded once if the processor has fused multiply-add */
SIMD_INLINE SimdFloat simd_fma(SimdFloat a, SimdFloat b, SimdFloat c) {
#ifdef __AVX512F__
  return (SimdFloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

/* v > 0 ? a : b */
SIMD_INLINE SimdFloat simd_select_positive(SimdFloat v, SimdFloat a, SimdFloat b) {
  SimdMask mask = v > (SimdFloat){0};
  return (SimdFloat)((mask & (SimdMask)a) | (~mask & (SimdMask)b));
}

/* Element i of the result is the sum of the elements of v[i]. Each step adds the two halves (then
 * quarters ...) of a pair of vectors, side by side, and so halves the number of vectors. */
SIMD_INLINE SimdFloat simd_horizontal_sums(const SimdFloat v[SIMD_WIDTH]) {
  SimdFloat a[8], b[4], c[2];
  for (int i = 0; i < 8; i++)
    a[i] = __builtin_shufflevector(v[i], v[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21,
                                   22, 23) +
           __builtin_shufflevector(v[i], v[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28,
                                   29, 30, 31);
  for (int i = 0; i < 4; i++)
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25,
                                   26, 27) +
           __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28,
                                   29, 30, 31);
  for (int i = 0; i < 2; i++)
    c[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13,
                                   28, 29) +
           __builtin_shufflevector(b[i], b[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14,
                                   15, 30, 31);
  return __builtin_shufflevector(c[0], c[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14,
                                 30) +
         __builtin_shufflevector(c[0], c[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15,
                                 31);
}

#endif
