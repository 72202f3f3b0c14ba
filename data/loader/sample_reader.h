/* Reads one sample at a time for the loader's threads: finds its clips, reads them or substitutes,
 * augments, and computes edge-smoothed targets and optical flow. A sample depends on its number and
 * the options alone. */
#ifndef CELFORGE_DATA_LOADER_SAMPLE_READER_H
#define CELFORGE_DATA_LOADER_SAMPLE_READER_H

#include <stdatomic.h>

#include "data/loader/augment.h"
#include "data/loader/loader.h"

/* The clips of one dataset, in an order of their own. */
typedef struct ClipStream {
  const Dataset *dataset;
  int64_t clips;
  AugmentPlan plan; /* of the sides that this stream gives to a sample */
  bool unchanged;   /* augmentation copies the clip as it is */
} ClipStream;

/* Shared by all threads. */
typedef struct SamplePlan {
  ClipStream streams[2];
  int stream_count; /* 1: pairs; 2: unpaired, sources and targets */
  ClipShape shape;  /* of a sample */
  uint64_t seed;
  OnCorrupt on_corrupt;
  bool smooth_edges, flow;
  _Atomic int64_t corrupt_clips; /* substituted so far */
} SamplePlan;

/* Plans samples of `dataset`, and of `target` if not NULL. Errors and warnings as loader_open. */
Status sample_plan_init(const Dataset *dataset, const Dataset *target, const LoaderOptions *options,
                        SamplePlan *out, Error *error);

/* Memory for one sample; NULL for what is not computed. */
typedef struct Sample {
  uint8_t *source, *target, *smoothed;
  float *flow, *flow_mask;
} Sample;

/* Sizes of the arrays of a sample in bytes, 0 for what is not computed. */
typedef struct SampleBytes {
  size_t source, target, smoothed, flow, flow_mask;
} SampleBytes;
SampleBytes sample_bytes(const SamplePlan *plan);

/* The read in progress, for the message of a timeout. Written by one thread, read by another. */
typedef struct ReadProgress {
  _Atomic int64_t sample, clip;
  _Atomic(const Dataset *) dataset;
} ReadProgress;

/* Work memory of one thread. */
typedef struct SampleReader SampleReader;
Status sample_reader_new(SamplePlan *plan, SampleReader **out, Error *error);
void sample_reader_free(SampleReader *reader); /* NULL is allowed */

/* Reads sample number `sample` into `out`. positions[stream] receive the clips that were read. */
Status sample_reader_read(SampleReader *reader, int64_t sample, ReadProgress *progress,
                          SamplePosition positions[2], const Sample *out, Error *error);

#endif
