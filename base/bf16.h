/* Conversions between f32 and bfloat16, the upper half of an IEEE 754 binary32, in a form that
 * compilers vectorise. */
#ifndef CELFORGE_BASE_BF16_H
#define CELFORGE_BASE_BF16_H

#include <stdint.h>
#include <string.h>

#include "base/host_device.h"

/* Returns the bits of an f32. */
HOST_DEVICE uint32_t float_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

HOST_DEVICE float float_from_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

/* Exact: every bfloat16 is an f32. */
HOST_DEVICE float bf16_to_f32(uint16_t value) {
  return float_from_bits((uint32_t)value << 16);
}

/* Rounds to nearest, ties to even. Any NaN becomes a quiet NaN. */
HOST_DEVICE uint16_t bf16_from_f32(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u; /* rounding could turn a NaN into infinity */
  return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

#endif
