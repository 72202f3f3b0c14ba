/* Batches, read ahead by threads.
 *
 * Step s of a run takes batch b = order_batch(s), samples b*G .. b*G+G-1 (G: global batch), cut
 * into M = G / micro_batch micro-batches of consecutive samples; rank r of R takes micro-batches
 * r*M/R .. (r+1)*M/R-1. So every world size that divides M reads the same samples into the same
 * micro-batches. Crop, flip and stride are drawn from Philox keyed by (seed, sample), never by rank
 * or thread. */
#ifndef CELFORGE_DATA_LOADER_LOADER_H
#define CELFORGE_DATA_LOADER_LOADER_H

#include "data/dataset/dataset.h"
#include "data/loader/shuffle.h"

typedef enum OnCorrupt { CORRUPT_STOP, CORRUPT_SUBSTITUTE } OnCorrupt;

typedef struct LoaderOptions {
  uint64_t seed;
  int64_t global_batch;
  int micro_batch;
  int rank, world_size;
  int frames;                  /* 0: all of a clip's; else a random run of that many */
  int crop_height, crop_width; /* of the target; 0: all. The source is cropped at the same place */
  int crop_multiple; /* crop offsets are multiples of this in the target (its scale over the source)
                      */
  bool flip;         /* left-right, half of the samples */
  int threads;
  int batches_ahead;
  OnCorrupt on_corrupt;
  const int64_t *skipped_batches; /* batches no step takes, ascending; copied */
  int64_t skipped_batch_count;
  double timeout; /* seconds loader_next waits before it fails, naming clip and thread */
} LoaderOptions;

typedef struct Batch {
  int64_t step;
  int micro;                 /* 0 .. micro-batches of this rank - 1 */
  int count;                 /* micro_batch */
  uint8_t *source, *target;  /* [count,T,H,W,C] */
  const int64_t *samples;    /* global sample numbers */
  const SamplePlace *places; /* epoch, position and the clip really read (its substitute's) */
  int substituted;           /* how many of them are substitutes */
  struct Loader *loader;
} Batch;

typedef struct Loader Loader;

/* The dataset outlives the loader. ERROR_USAGE where the crop is larger than the clips, there are
 * too few frames, or the batch cannot be divided (the message lists the world sizes that would do).
 */
Status loader_open(const Dataset *dataset, const LoaderOptions *options, int64_t first_step,
                   Loader **out, Error *error);
void loader_close(Loader *loader);
/* The shape of one sample after cropping. */
ClipShape loader_shape(const Loader *loader);
/* Batches in order: step, then micro. Borrowed until loader_release. */
Status loader_next(Loader *loader, Batch **out, Error *error);
void loader_release(Loader *loader, Batch *batch);

typedef struct LoaderStats {
  double seconds_waiting; /* in loader_next */
  int64_t bytes_read, clips, corrupt;
} LoaderStats;
LoaderStats loader_stats(const Loader *loader);

/* "1, 2, 4": world sizes up to `limit` that divide the micro-batches of a global batch. */
void loader_world_sizes(int64_t global_batch, int micro_batch, int limit, Text *out);

#endif
