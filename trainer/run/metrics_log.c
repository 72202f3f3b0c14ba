#include "trainer/run/metrics_log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

enum { MAX_BYTES = 1 << 30 };

struct MetricsLog {
  char *path;
  int descriptor;
};

/* The step that a line belongs to, or INT64_MAX for one that cannot be read. */
static int64_t step_of_line(const MetricsLog *log, const char *line, size_t length) {
  Error unused;
  json_t *record = NULL;
  int64_t step = INT64_MAX;
  if (json_parse(log->path, line, length, &record, &unused) == OK &&
      json_get_int(record, log->path, "step", 0, INT64_MAX, &step, &unused) != OK)
    step = INT64_MAX;
  json_decref(record);
  return step;
}

/* The length of the lines up to the last one of a step up to `last`; steps ascend. */
static size_t length_up_to(const MetricsLog *log, const char *data, size_t size, int64_t last) {
  const char *newline = size > 0 ? memrchr(data, '\n', size) : NULL;
  while (newline) {
    const char *before = newline > data ? memrchr(data, '\n', (size_t)(newline - data)) : NULL;
    const char *line = before ? before + 1 : data;
    if (step_of_line(log, line, (size_t)(newline - line)) <= last)
      return (size_t)(newline - data) + 1;
    newline = before;
  }
  return 0;
}

static Status cut(const MetricsLog *log, int64_t step, Error *error) {
  Status status = OK;
  char *data = NULL;
  size_t size = 0;
  if (path_exists(log->path)) TRY(file_read(log->path, MAX_BYTES, &data, &size, error));
  size_t keep = length_up_to(log, data, size, step);
  if (keep < size) TRY(atomic_file_replace(log->path, data, keep, error));
done:
  free(data);
  return status;
}

Status metrics_open(const char *run_dir, int64_t step, MetricsLog **out, Error *error) {
  Status status = OK;
  MetricsLog *log = mem_new(1, sizeof *log);
  log->descriptor = -1;
  log->path = path_join(run_dir, "metrics.jsonl");
  TRY(cut(log, step, error));
  log->descriptor = open(log->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (log->descriptor < 0) {
    status = error_errno(error, errno, "%s", log->path);
    goto done;
  }
  *out = log;
  log = NULL;
done:
  metrics_close(log);
  return status;
}

/* --- Numbers ---------------------------------------------------------------------------------- */

typedef struct Taker {
  MetricsTake *take;
  void *context;
} Taker;

static void give_real(const Taker *to, const char *key, double value) {
  if (isfinite(value)) to->take(to->context, &(MetricsNumber){.key = key, .real = value});
}

static void give_count(const Taker *to, const char *key, int64_t value) {
  to->take(to->context, &(MetricsNumber){.key = key, .is_count = true, .count = value});
}

void metrics_numbers(const MetricsRecord *record, MetricsTake *take, void *context) {
  const Taker to = {take, context};
  for (Metric metric = 0; metric < METRIC_COUNT; metric++)
    give_real(&to, model_metric_name(metric), record->values[metric]);
  give_real(&to, "clips_per_second", record->clips_per_second);
  give_real(&to, "step_seconds", record->seconds_per_step);
  give_real(&to, "gflops", record->gflops);
  give_real(&to, "lr/g", record->generator_lr);
  give_real(&to, "lr/d", record->discriminator_lr);
  give_real(&to, "time/compute", record->computing);
  give_real(&to, "time/data", record->time_data);
  give_real(&to, "time/comm_exposed", record->time_comm_exposed);
  if (record->straggler_rank >= 0) {
    give_count(&to, "straggler/rank", record->straggler_rank);
    give_real(&to, "straggler/seconds", record->straggler_seconds);
  }
  give_count(&to, "skipped/g", record->skipped_generator);
  give_count(&to, "skipped/d", record->skipped_discriminator);
  give_count(&to, "corrupt", record->corrupt);
  give_count(&to, "rollbacks", record->rollbacks);
  give_count(&to, "skipped_batches", record->skipped_batches);
}

/* --- Lines ------------------------------------------------------------------------------------ */

static void append_number(void *line, const MetricsNumber *number) {
  if (number->is_count)
    text_append(line, ", \"%s\": %lld", number->key, (long long)number->count);
  else
    text_append(line, ", \"%s\": %.9g", number->key, number->real);
}

Status metrics_write(MetricsLog *log, const MetricsRecord *record, Error *error) {
  Text line = {0};
  text_append(&line, "{\"step\": %lld", (long long)record->step);
  metrics_numbers(record, append_number, &line);
  text_append(&line, "}\n");
  Status status = file_write(log->descriptor, log->path, line.data, line.length, error);
  text_free(&line);
  return status;
}

Status metrics_sync(MetricsLog *log, Error *error) {
  if (fdatasync(log->descriptor) == 0) return OK;
  return error_errno(error, errno, "%s", log->path);
}

void metrics_close(MetricsLog *log) {
  if (!log) return;
  if (log->descriptor >= 0) close(log->descriptor);
  free(log->path);
  free(log);
}
