/* Philox4x32-10, a counter-based generator: the same key and counter give the same numbers on any
 * rank, thread or device. Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2,
 * 3", SC 2011. Nothing here keeps hidden state. */
#ifndef CELFORGE_BASE_RANDOM_H
#define CELFORGE_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* One block: four 32-bit words for a 128-bit counter and a 64-bit key. */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* A stream of 2^34 words for one purpose. Two streams that differ in seed, purpose or either index
 * are independent; how one consumes its numbers never disturbs another. Runs are resumed and
 * compared by these numbers: what a stream gives may never change. */
typedef struct Random {
  uint32_t key[2];
  uint32_t counter[4];
  uint32_t block[4];
  int used; /* words of `block` handed out */
} Random;

/* What a stream is for; part of its key, so that no two uses share numbers. */
typedef enum RandomPurpose {
  RANDOM_WEIGHTS = 1,
  RANDOM_ORDER,
  RANDOM_AUGMENT,
  RANDOM_NOISE,
  RANDOM_SYNTH,
  RANDOM_TEST,
  RANDOM_SIMULATION,
  RANDOM_INTERPOLATION,
} RandomPurpose;

Random random_stream(uint64_t seed, RandomPurpose purpose, uint64_t index, uint32_t subindex);
uint32_t random_u32(Random *random);
uint64_t random_below(Random *random, uint64_t bound); /* unbiased, bound > 0 */
double random_uniform(Random *random);                 /* [0, 1), 53 bits */
float random_normal(Random *random);                   /* mean 0, variance 1 (Box-Muller) */
/* Two numbers from each pair of words, so not the numbers that random_normal would give. */
void random_fill_normal(Random *random, float *out, size_t count, float standard_deviation);

#endif
