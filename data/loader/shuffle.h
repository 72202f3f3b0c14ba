/* Which sample comes when: a keyed Feistel permutation of [0, n) for each epoch. No state, a true
 * global shuffle, any position in O(1), the same for every world size.
 *
 * Black, Rogaway: "Ciphers with arbitrary finite domains", CT-RSA 2002 (cycle walking over a
 * balanced Feistel network); the round function is Philox. */
#ifndef CELFORGE_DATA_LOADER_SHUFFLE_H
#define CELFORGE_DATA_LOADER_SHUFFLE_H

#include <stdint.h>

typedef struct SamplePlace {
  int64_t epoch, position; /* position: 0 .. n-1 */
  int64_t clip;            /* the index of the clip at that position of that epoch */
} SamplePlace;
/* A sample is a position in the endless sequence of epochs of n >= 1 clips each:
 * batch * global_batch + place in batch. */
SamplePlace order_sample(uint64_t seed, int64_t sample, int64_t n);

/* The number of the batch that step `step` takes, where the `count` batches of `skipped_batches`
 * (ascending, each once) are taken by none: batch b has the samples b * global_batch and on. */
int64_t order_batch(int64_t step, const int64_t *skipped_batches, int64_t count);

#endif
