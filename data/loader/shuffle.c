#include "data/loader/shuffle.h"

#include "base/random.h"

enum {
  ROUNDS = 8,
  MIN_HALF_BITS = 3, /* a domain of 64: smaller networks reach too few permutations */
};

typedef struct Feistel {
  uint32_t key[2];
  uint64_t epoch;
  int half_bits;
} Feistel;

/* Applies the network, a permutation of [0, 4^half_bits). */
static uint64_t feistel(const Feistel *network, uint64_t value) {
  uint32_t mask = (uint32_t)((UINT64_C(1) << network->half_bits) - 1);
  uint32_t left = (uint32_t)(value >> network->half_bits), right = (uint32_t)value & mask;
  for (uint32_t round = 0; round < ROUNDS; round++) {
    const uint32_t counter[4] = {right, round, (uint32_t)network->epoch,
                                 (uint32_t)(network->epoch >> 32)};
    uint32_t mixed[4];
    philox4x32(counter, network->key, mixed);
    uint32_t next = (left ^ mixed[0]) & mask;
    left = right;
    right = next;
  }
  return (uint64_t)left << network->half_bits | right;
}

static int64_t permute(RandomPurpose purpose, uint64_t seed, int64_t epoch, int64_t position,
                       int64_t n) {
  Random stream = random_stream(seed, purpose, 0, 0);
  Feistel network = {{stream.key[0], stream.key[1]}, (uint64_t)epoch, MIN_HALF_BITS};
  while (UINT64_C(1) << 2 * network.half_bits < (uint64_t)n) network.half_bits++;
  uint64_t value = (uint64_t)position;
  do value = feistel(&network, value); /* cycle walking: repeats until it is back in [0, n) */
  while (value >= (uint64_t)n);
  return (int64_t)value;
}

static SamplePosition position_of(RandomPurpose purpose, uint64_t seed, int64_t sample, int64_t n) {
  SamplePosition found = {.epoch = sample / n, .position = sample % n};
  found.clip = permute(purpose, seed, found.epoch, found.position, n);
  return found;
}

SamplePosition shuffle_sample(uint64_t seed, int64_t sample, int64_t n) {
  return position_of(RANDOM_SHUFFLE, seed, sample, n);
}

SamplePosition shuffle_target_sample(uint64_t seed, int64_t sample, int64_t n) {
  return position_of(RANDOM_SHUFFLE_TARGET, seed, sample, n);
}

int64_t shuffle_batch_of_step(int64_t step, const int64_t *skipped_batches, int64_t count) {
  int64_t batch = step;
  for (int64_t i = 0; i < count && skipped_batches[i] <= batch; i++) batch++;
  return batch;
}
