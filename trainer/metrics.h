/* metrics.jsonl: one JSON object a line, one line every metrics.every steps, written by rank 0. */
#ifndef CELFORGE_TRAINER_METRICS_H
#define CELFORGE_TRAINER_METRICS_H

#include "trainer/model.h"

typedef struct MetricsRecord {
  int64_t step;                /* steps done */
  double values[METRIC_COUNT]; /* means over the ranks; NaN: not computed, left out */
  double seconds_per_step, clips_per_second,
      gflops; /* since the record before; gflops of all ranks */
  double generator_rate, discriminator_rate;
  double wait_data, wait_comm; /* shares of the time, 0 to 1 */
  int64_t skipped_generator, skipped_discriminator, corrupt;
} MetricsRecord;

typedef struct MetricsLog MetricsLog;

/* Opens RUN/metrics.jsonl, cut (atomically) to its first `lines` lines: what a killed run wrote
 * behind its last checkpoint goes. */
Status metrics_open(const char *run_dir, int64_t lines, MetricsLog **out, Error *error);
/* Keys: step, model_metric_name's, clips_per_second, step_seconds, gflops, rate/g, rate/d,
 * wait/data, wait/comm, skipped/g, skipped/d, corrupt. */
Status metrics_write(MetricsLog *log, const MetricsRecord *record, Error *error);
int64_t metrics_lines(const MetricsLog *log);
void metrics_close(MetricsLog *log);

#endif
