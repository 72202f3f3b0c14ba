/* The metrics of a run: records, and metrics.jsonl, which holds one JSON object per line, one line
 * every metrics.every steps, in ascending order of steps. Rank 0 writes it. */
#ifndef CELFORGE_TRAINER_RUN_METRICS_LOG_H
#define CELFORGE_TRAINER_RUN_METRICS_LOG_H

#include "base/json.h"
#include "trainer/gan/gan.h"

typedef struct MetricsRecord {
  int64_t step;                /* steps done; 0: no metrics yet */
  double values[METRIC_COUNT]; /* averaged over all ranks; NaN if not computed */
  /* All ranks together, since the previous record. */
  double seconds_per_step, clips_per_second, gflops;
  double generator_lr, discriminator_lr; /* of the last step */
  double augment_probability;            /* of the last step; NaN without augmentation */
  /* Fractions of the time, 0 to 1, averaged over all ranks. */
  double time_compute, time_data, time_comm_exposed;
  int straggler_rank; /* the rank with the most seconds of compute and data; -1 with one rank */
  double straggler_seconds; /* the sum of these two on that rank, per step */
  /* Since the run began: skipped updates of each network, rollbacks, skipped batches. */
  int64_t skipped_generator, skipped_discriminator, rollbacks, skipped_batches;
  /* Clips with a wrong checksum that the loaders of all ranks have read (prefetched ones included)
   * since the process started or the run last rolled back. */
  int64_t corrupt;
} MetricsRecord;

/* One number of a record. */
typedef struct MetricsNumber {
  const char *key;
  bool is_count;
  int64_t count; /* if is_count */
  double real;   /* otherwise; finite */
} MetricsNumber;
typedef void MetricsVisitor(void *context, const MetricsNumber *number);

/* Calls `visit` with each number of the record except its step, in this order: those of
 * gan_metric_name, clips_per_second, step_seconds, gflops, lr/g, lr/d, augment/probability,
 * time/compute, time/data, time/comm_exposed, straggler/rank, straggler/seconds, skipped/g,
 * skipped/d, corrupt, rollbacks, skipped_batches. Omits numbers that are not finite, because JSON
 * has no NaN and no infinity. */
void metrics_visit(const MetricsRecord *record, MetricsVisitor *visit, void *context);

typedef struct MetricsLog MetricsLog;

/* Opens RUN/metrics.jsonl for appending, truncated after the last line of a step <= `step`: a run
 * that resumes from that step writes the later ones again. Only reads the end of the file, so its
 * size does not matter; truncating in place leaves whole lines whenever it is interrupted.
 * ERROR_IO. */
Status metrics_log_open(const char *run_dir, int64_t step, MetricsLog **out, Error *error);
/* Appends a line: the key step, and those of metrics_visit. */
Status metrics_log_write(MetricsLog *log, const MetricsRecord *record, Error *error);
/* Flushes all lines to disk. */
Status metrics_log_sync(MetricsLog *log, Error *error);
void metrics_log_close(MetricsLog *log); /* NULL is allowed */

/* Reads the last complete line of the metrics file `path`, and only the end of the file. *out is
 * NULL if the file is missing or has no complete line; the caller releases it. ERROR_DATA if the
 * line is not a JSON object. */
Status metrics_log_read_last(const char *path, json_t **out, Error *error);

#endif
