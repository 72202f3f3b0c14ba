/* Loads shuffled, augmented micro-batches with background threads.
 *
 * Pairs come from one dataset. Unpaired data come from two, of which the first gives the sources
 * and the second the targets. Both are permuted and augmented independently of each other, and each
 * in epochs of its own number of clips; a dataset with fewer clips than a global batch repeats them
 * within the batch, with another crop and flip.
 *
 * Step s of a run trains on global batch b = shuffle_batch_of_step(s), which holds samples b*G ..
 * b*G+G-1 (G: global batch size). It is cut into M = G / micro_batch micro-batches of consecutive
 * samples; rank r of R takes micro-batches r*M/R .. (r+1)*M/R-1. So every world size that divides M
 * has the same samples in the same micro-batches. Augmentation uses Philox keyed by (seed,
 * sample number), never by rank or thread. */
#ifndef CELFORGE_DATA_LOADER_LOADER_H
#define CELFORGE_DATA_LOADER_LOADER_H

#include "data/dataset/dataset.h"
#include "data/loader/shuffle.h"

/* The policy for a clip whose checksum is wrong: fail, or read another clip instead. */
typedef enum OnCorrupt { CORRUPT_STOP, CORRUPT_SUBSTITUTE } OnCorrupt;

typedef struct LoaderOptions {
  uint64_t seed;
  int64_t global_batch;
  int micro_batch; /* clips */
  int rank, world_size;
  int frames; /* consecutive frames of each clip, from a random one; 0: all, and if the clips of
                 unpaired datasets differ in length, as many as the shorter ones have */
  int crop_height, crop_width; /* in pixels of the target, for unpaired data of each side; 0: no
                                  crop, for which unpaired clips must have equal sizes */
  int crop_multiple;           /* crop offsets are multiples of this, in pixels of the target */
  bool flip;                   /* flip half of the samples horizontally */
  bool smooth_edges;           /* compute Batch.smoothed */
  bool flow;                   /* compute Batch.flow and Batch.flow_mask; needs at least 2 frames */
  int threads;
  int prefetch_batches; /* micro-batches read ahead */
  OnCorrupt on_corrupt;
  const int64_t *skipped_batches; /* numbers of global batches that no step takes, ascending;
                                     copied */
  int64_t skipped_batch_count;
  double timeout; /* seconds that loader_next waits before it fails */
} LoaderOptions;

/* A micro-batch. */
typedef struct Batch {
  int64_t step;
  int micro_index;          /* 0 .. micro-batches per step of this rank - 1 */
  int count;                /* clips: micro_batch */
  uint8_t *source, *target; /* u8 [count,T,H,W,C] */
  uint8_t *smoothed;        /* u8 [count,T,H',W',3], the target with smoothed edges
                               (data/loader/edge_smoothing.h), or NULL */
  float *flow, *flow_mask;  /* f32 [count,T-1,H,W,2] and [count,T-1,H,W,1], the optical flow of
                               the source's first three channels from each frame back to the
                               frame before it (data/flow/clip_flow.h), or NULL */
  const int64_t *samples;   /* [count] global sample numbers */
  const SamplePosition *positions; /* [count]; .clip is the clip read, possibly a substitute */
  const SamplePosition *target_positions; /* the same of the target; equal for pairs */
} Batch;

typedef struct Loader Loader;

/* Starts loading at step `first_step`: pairs of `dataset` if `target` is NULL, else unpaired data
 * with the sources of `dataset` and the targets of `target`. Either may have pairs, of which the
 * other side is not read. The datasets must outlive the loader. ERROR_USAGE if a dataset does not
 * have the side, if crop or frames exceed the clips, or if the global batch cannot be split over
 * the ranks (the message lists the world sizes that can). Logs a warning, on rank 0, if the frame
 * rates of unpaired data differ, or if a dataset has fewer clips than a global batch. */
Status loader_open(const Dataset *dataset, const Dataset *target, const LoaderOptions *options,
                   int64_t first_step, Loader **out, Error *error);
/* Stops the threads and frees the loader. A thread that hangs in a read for seconds is abandoned
 * with the loader's memory, with a warning. */
void loader_close(Loader *loader);
/* Returns the shape of one sample, after cropping. */
ClipShape loader_shape(const Loader *loader);
/* Returns the next micro-batch, in order of step and micro_index. The caller gives it back with
 * loader_release. ERROR_IO after options.timeout seconds; the message names clip and thread. */
Status loader_next(Loader *loader, Batch **out, Error *error);
void loader_release(Loader *loader, Batch *batch);

/* Returns the number of corrupt clips of both datasets that were substituted so far. */
int64_t loader_corrupt_clips(const Loader *loader);

/* Appends the possible world sizes up to `limit`, such as "1, 2, 4": those that divide the number
 * of micro-batches in a global batch. */
void loader_world_sizes(int64_t global_batch, int micro_batch, int limit, Text *out);

#endif
