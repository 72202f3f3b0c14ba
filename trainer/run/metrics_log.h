/* metrics.jsonl: one JSON object a line, one line every metrics.every steps, written by rank 0. */
#ifndef CELFORGE_TRAINER_RUN_METRICS_LOG_H
#define CELFORGE_TRAINER_RUN_METRICS_LOG_H

#include "trainer/gan/gan.h"

typedef struct MetricsRecord {
  int64_t step;                /* steps done */
  double values[METRIC_COUNT]; /* means over the ranks; NaN: not computed, left out */
  /* Since the record before, of all ranks together. */
  double seconds_per_step, clips_per_second, gflops;
  double generator_lr, discriminator_lr; /* of the last step */
  /* Shares of the time, 0 to 1, means over the ranks. */
  double computing, time_data, time_comm_exposed;
  int straggler_rank; /* the one that computes and waits for data longest; below 0: one rank alone
                       */
  double straggler_seconds; /* for that, a step */
  /* Since the run began: updates skipped, times the run went back, batches it leaves out since.
   * `corrupt`: clips with a bad checksum that all ranks read, also ahead, since the process began
   * or went back.
   */
  int64_t skipped_generator, skipped_discriminator, corrupt, rollbacks, skipped_batches;
} MetricsRecord;

/* One number of a record under its key. */
typedef struct MetricsNumber {
  const char *key;
  bool is_count;
  int64_t count; /* where it is one */
  double real;   /* else; finite */
} MetricsNumber;
typedef void MetricsTake(void *context, const MetricsNumber *number);

/* Calls `take` with each number of the record but its step, in this order: model_metric_name's,
 * clips_per_second, step_seconds, gflops, lr/g, lr/d, time/compute, time/data, time/comm_exposed,
 * straggler/rank, straggler/seconds, skipped/g, skipped/d, corrupt, rollbacks, skipped_batches.
 * What is not finite is left out: JSON has no NaN and no infinity. */
void metrics_numbers(const MetricsRecord *record, MetricsTake *take, void *context);

typedef struct MetricsLog MetricsLog;

/* Opens RUN/metrics.jsonl, cut (atomically) behind the last line of a step up to `step`: what a run
 * wrote behind the checkpoint that it goes on from goes. */
Status metrics_open(const char *run_dir, int64_t step, MetricsLog **out, Error *error);
/* The key step, and those of metrics_numbers. */
Status metrics_write(MetricsLog *log, const MetricsRecord *record, Error *error);
/* What was written is on the disk when it returns. */
Status metrics_sync(MetricsLog *log, Error *error);
void metrics_close(MetricsLog *log);

#endif
