/* Conversions between f32 and IEEE 754 binary16 (1 sign, 5 exponent, 10 fraction bits). */
#ifndef CELFORGE_CHECKPOINTS_HALF_FLOAT_H
#define CELFORGE_CHECKPOINTS_HALF_FLOAT_H

#include <stdint.h>

/* The largest finite value. */
#define HALF_MAX 65504.0f

/* Exact, with subnormal numbers, infinities and NaNs (whose payload is kept). */
float half_to_f32(uint16_t half);
/* Rounds to nearest, ties to even; values that round beyond HALF_MAX become infinite. Any NaN
 * becomes a quiet NaN. */
uint16_t half_from_f32(float value);

#endif
