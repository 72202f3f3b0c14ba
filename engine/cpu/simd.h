/* Sixteen floats at a time, for loops that the compiler does not turn into good vector code by
 * itself. GCC's vector types work on any processor; AVX-512 is what they are shaped for. */
#ifndef CELFORGE_ENGINE_CPU_SIMD_H
#define CELFORGE_ENGINE_CPU_SIMD_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { LANES = 16 };
typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t LaneMask __attribute__((vector_size(64)));

#ifdef __AVX512F__
enum { LANES_ARE_NATIVE = 1 };
#else
enum { LANES_ARE_NATIVE = 0 };
#endif

#define LANES_INLINE static inline __attribute__((always_inline))

LANES_INLINE Lanes lanes_load(const float *from) {
  Lanes v;
  memcpy(&v, from, sizeof v);
  return v;
}

LANES_INLINE void lanes_store(float *to, Lanes v) {
  memcpy(to, &v, sizeof v);
}

LANES_INLINE Lanes lanes_all(float value) {
  return value - (Lanes){0};
}

/* a * b + c; rounded once where the processor does so */
LANES_INLINE Lanes lanes_fma(Lanes a, Lanes b, Lanes c) {
#ifdef __AVX512F__
  return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

/* v > 0 ? a : b */
LANES_INLINE Lanes lanes_where_positive(Lanes v, Lanes a, Lanes b) {
  LaneMask mask = v > (Lanes){0};
  return (Lanes)((mask & (LaneMask)a) | (~mask & (LaneMask)b));
}

/* Lane i is the sum of the lanes of v[i]. Each step halves the vectors: of a pair, every vector's
 * two halves (then quarters ...) are added, side by side. */
LANES_INLINE Lanes lanes_sums(const Lanes v[LANES]) {
  Lanes a[8], b[4], c[2];
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
