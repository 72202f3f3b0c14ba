#include "trainer/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"

enum { MAX_BYTES = 1 << 30 };

struct MetricsLog {
  char *path;
  int descriptor;
  int64_t lines;
};

/* The length of the first `wanted` whole lines; *found is how many there are of them. */
static size_t whole_lines(const char *data, size_t size, int64_t wanted, int64_t *found) {
  size_t length = 0;
  *found = 0;
  while (*found < wanted) {
    const char *newline = memchr(data + length, '\n', size - length);
    if (!newline) break;
    length = (size_t)(newline - data) + 1;
    *found += 1;
  }
  return length;
}

static Status cut(MetricsLog *log, int64_t lines, Error *error) {
  Status status = OK;
  char *data = NULL;
  size_t size = 0;
  if (path_exists(log->path)) TRY(file_read(log->path, MAX_BYTES, &data, &size, error));
  size_t keep = data ? whole_lines(data, size, lines, &log->lines) : 0;
  if (log->lines < lines)
    log_warning("%s: has %lld lines where the checkpoint knows of %lld; goes on behind them",
                log->path, (long long)log->lines, (long long)lines);
  if (keep < size) TRY(atomic_file_replace(log->path, data, keep, error));
done:
  free(data);
  return status;
}

Status metrics_open(const char *run_dir, int64_t lines, MetricsLog **out, Error *error) {
  Status status = OK;
  MetricsLog *log = mem_new(1, sizeof *log);
  log->descriptor = -1;
  log->path = path_join(run_dir, "metrics.jsonl");
  TRY(cut(log, lines, error));
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
  append_number(&line, "wait/data", record->wait_data);
  append_number(&line, "wait/comm", record->wait_comm);
  append_count(&line, "skipped/g", record->skipped_generator);
  append_count(&line, "skipped/d", record->skipped_discriminator);
  append_count(&line, "corrupt", record->corrupt);
  text_append(&line, "}\n");
  Status status = file_write(log->descriptor, log->path, line.data, line.length, error);
  if (status == OK) log->lines++;
  text_free(&line);
  return status;
}

int64_t metrics_lines(const MetricsLog *log) {
  return log->lines;
}

void metrics_close(MetricsLog *log) {
  if (!log) return;
  if (log->descriptor >= 0) close(log->descriptor);
  free(log->path);
  free(log);
}
