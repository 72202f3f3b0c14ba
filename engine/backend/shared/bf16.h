/* bf16, the upper half of an f32, and f32: in a form that compilers vectorise. */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_BF16_H
#define CELFORGE_ENGINE_BACKEND_SHARED_BF16_H

#include <stdint.h>
#include <string.h>

#include "engine/backend/shared/shared.h"

SHARED uint32_t shared_float_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

SHARED float shared_float_of_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

SHARED float shared_bf16_to_f32(uint16_t value) {
  return shared_float_of_bits((uint32_t)value << 16);
}

/* To the nearest, ties to even; a NaN becomes a quiet one. */
SHARED uint16_t shared_bf16_from_f32(float value) {
  const uint32_t bits = shared_float_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

#endif
