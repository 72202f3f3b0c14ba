/* The order of samples: a keyed Feistel permutation of [0, n) for each epoch. A global shuffle
 * without state: any position is computed in O(1), equally for every world size.
 *
 * Black, Rogaway: "Ciphers with arbitrary finite domains", CT-RSA 2002 (cycle walking over a
 * balanced Feistel network); the round function is Philox. */
#ifndef CELFORGE_DATA_LOADER_SHUFFLE_H
#define CELFORGE_DATA_LOADER_SHUFFLE_H

#include <stdint.h>

typedef struct SamplePosition {
  int64_t epoch, position; /* position in the epoch, 0 .. n-1 */
  int64_t clip;            /* index of the clip at that position */
} SamplePosition;

/* Returns the position and clip of global sample number `sample` in the endless sequence of epochs
 * of n >= 1 clips. The number is batch * global_batch + index in the global batch. */
SamplePosition shuffle_sample(uint64_t seed, int64_t sample, int64_t n);

/* The same for the targets of unpaired data: another permutation, independent of the first. */
SamplePosition shuffle_target_sample(uint64_t seed, int64_t sample, int64_t n);

/* Returns the number of the global batch that step `step` trains on: each step takes the next batch
 * that is not among the `count` numbers in `skipped_batches` (ascending, distinct). Batch b holds
 * samples b * global_batch .. (b + 1) * global_batch - 1. */
int64_t shuffle_batch_of_step(int64_t step, const int64_t *skipped_batches, int64_t count);

#endif
