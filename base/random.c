#include "base/random.h"

#include <math.h>

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    uint64_t a = (uint64_t)0xD2511F53u * x0, b = (uint64_t)0xCD9E8D57u * x2;
    x0 = (uint32_t)(b >> 32) ^ x1 ^ k0;
    x1 = (uint32_t)b;
    x2 = (uint32_t)(a >> 32) ^ x3 ^ k1;
    x3 = (uint32_t)a;
    k0 += 0x9E3779B9u; /* the golden ratio and sqrt(3) - 1 */
    k1 += 0xBB67AE85u;
  }
  out[0] = x0;
  out[1] = x1;
  out[2] = x2;
  out[3] = x3;
}

/* Seed and purpose do not both fit into the 64-bit key, so the key is taken from a Philox block of
 * both. The counter holds the block number, the subindex and the index. */
Random random_stream(uint64_t seed, RandomPurpose purpose, uint64_t index, uint32_t subindex) {
  const uint32_t both[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)purpose, 0};
  const uint32_t no_key[2] = {0, 0};
  uint32_t mixed[4];
  philox4x32(both, no_key, mixed);
  return (Random){
      .key = {mixed[0], mixed[1]},
      .counter = {0, subindex, (uint32_t)index, (uint32_t)(index >> 32)},
      .used = 4,
  };
}

uint32_t random_u32(Random *random) {
  if (random->used == 4) {
    philox4x32(random->counter, random->key, random->block);
    random->counter[0]++;
    random->used = 0;
  }
  return random->block[random->used++];
}

static uint64_t random_u64(Random *random) {
  uint64_t high = random_u32(random);
  return high << 32 | random_u32(random);
}

/* Lemire: "Fast random integer generation in an interval", ACM TOMACS 29(1), 2019. */
uint64_t random_below(Random *random, uint64_t bound) {
  uint64_t rejected = -bound % bound; /* 2^64 mod bound */
  for (;;) {
    unsigned __int128 product = (unsigned __int128)random_u64(random) * bound;
    if ((uint64_t)product >= rejected) return (uint64_t)(product >> 64);
  }
}

double random_uniform(Random *random) {
  return (double)(random_u64(random) >> 11) * 0x1p-53;
}

/* Box-Muller transform: two uniform numbers give a point with two normal coordinates. */
static void normal_pair(Random *random, double *radius, double *angle) {
  double u = ((double)random_u32(random) + 1) * 0x1p-32; /* (0, 1] */
  double v = (double)random_u32(random) * 0x1p-32;
  *radius = sqrt(-2 * log(u));
  *angle = 2 * M_PI * v;
}

float random_normal(Random *random) {
  double radius, angle;
  normal_pair(random, &radius, &angle);
  return (float)(radius * cos(angle));
}

void random_fill_normal(Random *random, float *out, size_t count, float standard_deviation) {
  for (size_t i = 0; i < count; i += 2) {
    double radius, angle;
    normal_pair(random, &radius, &angle);
    radius *= (double)standard_deviation;
    out[i] = (float)(radius * cos(angle));
    if (i + 1 < count) out[i + 1] = (float)(radius * sin(angle));
  }
}
