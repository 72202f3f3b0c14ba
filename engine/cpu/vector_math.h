/* Elementary functions of one float, written so that loops over them vectorise: no branches, no
 * tables, no calls. Infinities, NaN and denormals give the results of libm.
 *
 * Largest errors against libm in double over the whole range of f32, asserted by
 * tests/unit/engine/test_vector_math.c: exp 2 ulp, log 2 ulp, tanh 4 ulp, sigmoid 4 ulp, softplus 4
 * ulp; below the smallest normal number they are absolute, in units of it. */
#ifndef CELFORGE_ENGINE_CPU_VECTOR_MATH_H
#define CELFORGE_ENGINE_CPU_VECTOR_MATH_H

#include <math.h>

#include "base/bf16.h"

/* condition ? a : b without a branch: compilers do not vectorise a branch over operations that may
 * trap. */
static inline float float_select(int condition, float a, float b) {
  const uint32_t mask = 0u - (uint32_t)condition;
  return float_from_bits((float_bits(a) & mask) | (float_bits(b) & ~mask));
}

static inline float float_multiply_add(float a, float b, float c) {
#ifdef FP_FAST_FMAF
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

/* x = n ln 2 + r with |r| <= ln(2)/2; e^r - 1 = r + r^2/2 + ... + r^7/5040, with a truncation error
 * below 2^-26 |r|. ln 2 is split in two so that n times the first part is exact. */
typedef struct ExpParts {
  float minus_one; /* e^r - 1 */
  float low, high; /* low * high = 2^n, each of them a normal number */
} ExpParts;

static inline ExpParts float_exp_parts(float x) {
  /* 1.5 * 2^23: adding it rounds to the nearest integer, in the low bits. */
  const float round = 12582912.0f;
  const float shifted = float_multiply_add(x, 1.44269504088896341f, round);
  const float n = shifted - round;
  float r = float_multiply_add(n, -0.693145751953125f, x);
  r = float_multiply_add(n, -1.42860682030941723e-6f, r);
  float p = 1.0f / 5040.0f;
  p = float_multiply_add(p, r, 1.0f / 720.0f);
  p = float_multiply_add(p, r, 1.0f / 120.0f);
  p = float_multiply_add(p, r, 1.0f / 24.0f);
  p = float_multiply_add(p, r, 1.0f / 6.0f);
  p = float_multiply_add(p, r, 0.5f);
  p = float_multiply_add(p * r, r, r);
  /* n + 512 is positive, so that the shift rounds towards minus infinity. */
  const uint32_t biased = float_bits(shifted) - float_bits(round) + 512u;
  const uint32_t half = biased >> 1;
  return (ExpParts){
      .minus_one = p,
      .low = float_from_bits((half - 256u + 127u) << 23),
      .high = float_from_bits((biased - half - 256u + 127u) << 23),
  };
}

static inline float float_exp(float x) {
  float inside = float_select(x < -104.0f, -104.0f, x);
  inside = float_select(inside > 89.0f, 89.0f, inside);
  const ExpParts e = float_exp_parts(inside);
  return (1.0f + e.minus_one) * e.low * e.high;
}

/* log((1 + s) / (1 - s)) = 2 s (1 + s^2/3 + s^4/5 + ...) */
static inline float float_log_of_ratio(float s, int terms) {
  const float square = s * s;
  float series = 1.0f / (float)(2 * terms + 1);
  for (int k = terms - 1; k >= 1; k--) {
    series = float_multiply_add(series, square, 1.0f / (float)(2 * k + 1));
  }
  return float_multiply_add(2.0f * s * square, series, 2.0f * s);
}

/* x = m 2^n with sqrt(1/2) <= m < sqrt(2): log x = n ln 2 + log m, with log m from
 * s = (m - 1) / (m + 1), |s| < 0.172; the truncation error is below s^10/11 < 2^-28 of it. */
static inline float float_log(float x) {
  const float smallest_normal = 0x1p-126f, root_half = 0.707106769f;
  const int is_small = x < smallest_normal;
  const float scaled = x * float_select(is_small, 0x1p23f, 1.0f);
  const uint32_t above = float_bits(scaled) - float_bits(root_half);
  const float m = float_from_bits((above & 0x7fffffu) + float_bits(root_half));
  const float n = (float)((int32_t)above >> 23) - float_select(is_small, 23.0f, 0.0f);
  const float log_m = float_log_of_ratio((m - 1.0f) / (m + 1.0f), 4);
  const float low = float_multiply_add(n, 1.42860682030941723e-6f, log_m);
  float result = float_multiply_add(n, 0.693145751953125f, low);
  result = float_select(x > 0.0f, result, float_select(x == 0.0f, -INFINITY, NAN));
  return float_select(x == INFINITY, INFINITY, result);
}

/* tanh|x| = e / (e + 2) with e = exp(2|x|) - 1, accurate for small x too. */
static inline float float_tanh(float x) {
  const float magnitude = float_from_bits(float_bits(x) & 0x7fffffffu);
  const ExpParts parts = float_exp_parts(2.0f * float_select(magnitude > 10.0f, 10.0f, magnitude));
  const float power = parts.low * parts.high;
  const float e = float_multiply_add(power, parts.minus_one, power - 1.0f);
  return float_from_bits(float_bits(e / (e + 2.0f)) | (float_bits(x) & 0x80000000u));
}

/* 1 / (1 + e^-x), computed from e^-|x| to avoid overflow. */
static inline float float_sigmoid(float x) {
  const float z = float_exp(-float_from_bits(float_bits(x) & 0x7fffffffu));
  return float_select(x < 0.0f, z, 1.0f) / (1.0f + z);
}

/* max(x, 0) + log(1 + e^-|x|), with log(1 + z) from s = z / (2 + z) <= 1/3; the truncation error is
 * below s^18/19 < 2^-32. */
static inline float float_softplus(float x) {
  const float z = float_exp(-float_from_bits(float_bits(x) & 0x7fffffffu));
  return float_select(x < 0.0f, 0.0f, x) + float_log_of_ratio(z / (2.0f + z), 8);
}

#endif
