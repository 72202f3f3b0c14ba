/* Options of small loaders, and a reference for what they load. */
#ifndef CELFORGE_TESTS_SUPPORT_LOADER_H
#define CELFORGE_TESTS_SUPPORT_LOADER_H

#include "data/loader/augment.h"
#include "data/loader/loader.h"

/* Seed 11, global batches of 8 clips in micro-batches of 2, one rank, 3 threads. */
LoaderOptions plain_options(void);
/* Returns the next batch; fails the test if there is none. */
Batch *next_batch(Loader *loader);
/* Asserts that `found` is the crop of one side (0: source) of clip `index` (support_dataset.h), one
 * value at a time. `clip` and `shape` are the shapes before and after. */
void assert_sample_side(const ClipShape *clip, const ClipShape *shape, const Augment *augment,
                        int side, int64_t index, const uint8_t *found);

#endif
