#include "checkpoints/half_float.h"

#include "base/bf16.h"

enum {
  HALF_FRACTION_BITS = 10,
  FRACTION_BITS = 23,
  SHIFT = FRACTION_BITS - HALF_FRACTION_BITS,
  BIAS_DIFFERENCE = 127 - 15,
};
static const uint32_t INFINITE = 0x7f800000u;
static const uint16_t HALF_INFINITE = 0x7c00u, HALF_QUIET = 0x0200u;

float half_to_f32(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  if (magnitude >= HALF_INFINITE) return float_from_bits(sign | INFINITE | magnitude << SHIFT);
  if (magnitude >= 1u << HALF_FRACTION_BITS) /* a normal number */
    return float_from_bits(sign | (magnitude + ((uint32_t)BIAS_DIFFERENCE << HALF_FRACTION_BITS))
                                      << SHIFT);
  float value = (float)magnitude * 0x1p-24f; /* the unit of subnormal numbers; exact */
  return sign ? -value : value;
}

/* Shifts right by 1 to 31 bits, rounding to nearest, ties to even. */
static uint32_t shift_rounded(uint32_t value, int shift) {
  uint32_t kept = value >> shift, rest = value & ((1u << shift) - 1), half = 1u << (shift - 1);
  return kept + (rest > half || (rest == half && (kept & 1u)));
}

uint16_t half_from_f32(float value) {
  uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffffu;
  uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
  int exponent = (int)(magnitude >> FRACTION_BITS) - BIAS_DIFFERENCE;
  if (magnitude > INFINITE)
    return (uint16_t)(sign | HALF_INFINITE | HALF_QUIET | (magnitude >> SHIFT & 0x3ffu));
  if (exponent >= 31) return sign | HALF_INFINITE;
  if (exponent > 0) { /* a carry out of the fraction increments the exponent, up to infinity */
    uint32_t rebiased = magnitude - ((uint32_t)BIAS_DIFFERENCE << FRACTION_BITS);
    return (uint16_t)(sign | shift_rounded(rebiased, SHIFT));
  }
  if (exponent < -10) return sign; /* below half of the smallest subnormal number */
  uint32_t fraction = (magnitude & 0x7fffffu) | 1u << FRACTION_BITS;
  return (uint16_t)(sign | shift_rounded(fraction, SHIFT + 1 - exponent));
}
