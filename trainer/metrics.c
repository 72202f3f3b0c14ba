#include "trainer/metrics.h"

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

/* JSON has no NaN and no infinity: such numbers are left out. */
static void append_number(Text *line, const char *key, double value) {
  if (isfinite(value)) text_append(line, ", \"%s\": %.9g", key, value);
}

static void append_count(Text *line, const char *key, int64_t value) {
  text_append(line, ", \"%s\": %lld", key, (long long)value);
}

Status metrics_write(MetricsLog *log, const MetricsRecord *record, Error *error) {
  Text line = {0};
  text_append(&line, "{\"step\": %lld", (long long)record->step);
  for (Metric metric = 0; metric < METRIC_COUNT; metric++)
    append_number(&line, model_metric_name(metric), record->values[metric]);
  append_number(&line, "clips_per_second", record->clips_per_second);
  append_number(&line, "step_seconds", record->seconds_per_step);
  append_number(&line, "gflops", record->gflops);
  append_number(&line, "rate/g", record->generator_rate);
  append_number(&line, "rate/d", record->discriminator_rate);
  append_number(&line, "time/compute", record->computing);
  append_number(&line, "wait/data", record->wait_data);
  append_number(&line, "wait/comm", record->wait_comm);
  if (record->slowest_rank >= 0) {
    append_count(&line, "slowest/rank", record->slowest_rank);
    append_number(&line, "slowest/seconds", record->slowest_seconds);
  }
  append_count(&line, "skipped/g", record->skipped_generator);
  append_count(&line, "skipped/d", record->skipped_discriminator);
  append_count(&line, "corrupt", record->corrupt);
  append_count(&line, "rollbacks", record->rollbacks);
  append_count(&line, "left_out", record->left_out);
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
