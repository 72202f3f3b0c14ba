/* Philox4x32-10, a counter-based random number generator: the same key and counter give the same
 * numbers on any rank, thread or device. There is no global state. Salmon, Moraes, Dror, Shaw:
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#ifndef CELFORGE_BASE_RANDOM_H
#define CELFORGE_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Computes one block: four 32-bit words from a 128-bit counter and a 64-bit key. */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* A stream of 2^34 words for one purpose. Streams that differ in seed, purpose or either index are
 * independent. The numbers of a stream must never change: resumed runs rely on them. */
typedef struct Random {
  uint32_t key[2];
  uint32_t counter[4];
  uint32_t block[4];
  int used; /* words of `block` already returned */
} Random;

/* The purpose of a stream, part of its key, so that no two uses share numbers. */
typedef enum RandomPurpose {
  RANDOM_WEIGHTS = 1,
  RANDOM_SHUFFLE,
  RANDOM_AUGMENT,
  RANDOM_NOISE,
  RANDOM_SYNTH,
  RANDOM_TEST,
  RANDOM_SIMULATION,
  RANDOM_INTERPOLATION,
  RANDOM_SCORES,
  RANDOM_SHUFFLE_TARGET, /* the targets of unpaired data; their sources: RANDOM_SHUFFLE */
  RANDOM_AUGMENT_TARGET,
  RANDOM_DIFF_AUGMENT,
  RANDOM_GREY,
  RANDOM_MOTION,
  RANDOM_MOTION_NOISE,
  RANDOM_MIRROR,
} RandomPurpose;

Random random_stream(uint64_t seed, RandomPurpose purpose, uint64_t index, uint32_t subindex);
uint32_t random_u32(Random *random);
uint64_t random_below(Random *random, uint64_t bound); /* unbiased, bound > 0 */
double random_uniform(Random *random);                 /* [0, 1), 53 bits */
float random_normal(Random *random);                   /* mean 0, variance 1 (Box-Muller) */
/* Fills out[count] with normal numbers of mean 0. Uses both numbers of each Box-Muller pair, so the
 * values differ from those of random_normal. */
void random_fill_normal(Random *random, float *out, size_t count, float standard_deviation);

#endif
