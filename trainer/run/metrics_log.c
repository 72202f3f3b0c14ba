#include "trainer/run/metrics_log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/text.h"

enum { BLOCK_BYTES = 1 << 16, MAX_LINE_BYTES = 1 << 20 };

struct MetricsLog {
  char *path;
  int descriptor;
};

/* --- Reading lines from the end --------------------------------------------------------------- */

/* Reads a file backwards, block by block. */
typedef struct BackwardReader {
  int descriptor;
  const char *path;
  int64_t begin, end; /* offsets of the block in the file */
  char *block;        /* [BLOCK_BYTES] */
} BackwardReader;

/* Finds the last newline before offset `end`; *newline is -1 if there is none. */
static Status find_newline(BackwardReader *reader, int64_t end, int64_t *newline, Error *error) {
  Status status = OK;
  *newline = -1;
  while (end > 0 && *newline < 0) {
    if (end <= reader->begin || end > reader->end) {
      reader->end = end;
      reader->begin = end > BLOCK_BYTES ? end - BLOCK_BYTES : 0;
      TRY(file_pread(reader->descriptor, reader->path, reader->block,
                     (size_t)(reader->end - reader->begin), (uint64_t)reader->begin, error));
    }
    const char *found = memrchr(reader->block, '\n', (size_t)(end - reader->begin));
    if (found) *newline = reader->begin + (found - reader->block);
    end = reader->begin;
  }
done:
  return status;
}

/* Parses the line from offset `begin` to `end`. ERROR_DATA if it is not a JSON object. */
static Status parse_line(const BackwardReader *reader, int64_t begin, int64_t end, json_t **out,
                         Error *error) {
  Status status = OK;
  char *line = NULL;
  size_t length = (size_t)(end - begin);
  *out = NULL;
  if (length > MAX_LINE_BYTES)
    FAIL(error, ERROR_DATA, "%s: a line has %zu bytes; at most %d are allowed", reader->path,
         length, MAX_LINE_BYTES);
  line = mem_new(length + 1, 1);
  TRY(file_pread(reader->descriptor, reader->path, line, length, (uint64_t)begin, error));
  TRY(json_parse(reader->path, line, length, out, error));
done:
  free(line);
  return status;
}

/* Finds out whether the line is a record of at most step `last`; a line that cannot be parsed is
 * none. An I/O error is not taken for one: the line may be good. */
static Status check_step(const BackwardReader *reader, int64_t begin, int64_t end, int64_t last,
                         bool *is_up_to, Error *error) {
  Error found = {0};
  json_t *record = NULL;
  int64_t step = 0;
  Status status = parse_line(reader, begin, end, &record, &found);
  *is_up_to = status == OK &&
              json_get_int(record, reader->path, "step", 0, INT64_MAX, &step, &found) == OK &&
              step <= last;
  json_decref(record);
  if (status != ERROR_IO) return OK;
  if (error) *error = found;
  return status;
}

static Status open_reader(int descriptor, const char *path, BackwardReader *reader, int64_t *size,
                          Error *error) {
  struct stat info;
  if (fstat(descriptor, &info) != 0) return error_errno(error, errno, "%s: cannot stat", path);
  if (!S_ISREG(info.st_mode)) return error_set(error, ERROR_IO, "%s: is not a regular file", path);
  *size = info.st_size;
  *reader = (BackwardReader){descriptor, path, 0, 0, mem_new(BLOCK_BYTES, 1)};
  return OK;
}

Status metrics_log_read_last(const char *path, json_t **out, Error *error) {
  Status status = OK;
  BackwardReader reader = {0};
  int64_t size = 0, newline, previous;
  *out = NULL;
  int descriptor = file_open(path, O_RDONLY | O_NONBLOCK);
  if (descriptor < 0 && errno == ENOENT) return OK;
  if (descriptor < 0) return error_errno(error, errno, "%s: cannot open", path);
  TRY(open_reader(descriptor, path, &reader, &size, error));
  TRY(find_newline(&reader, size, &newline, error));
  if (newline < 0) goto done;
  TRY(find_newline(&reader, newline, &previous, error));
  TRY(parse_line(&reader, previous + 1, newline, out, error));
done:
  free(reader.block);
  file_close(&descriptor);
  return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

/* Truncates the file after the last line of a step <= `step`. Lines that cannot be parsed, and a
 * last line without a newline, are removed: the process was killed while it wrote them. */
static Status truncate_after(const MetricsLog *log, int64_t step, Error *error) {
  Status status = OK;
  BackwardReader reader = {0};
  int64_t size = 0, newline, previous;
  bool is_up_to = false;
  TRY(open_reader(log->descriptor, log->path, &reader, &size, error));
  TRY(find_newline(&reader, size, &newline, error));
  while (newline >= 0) {
    TRY(find_newline(&reader, newline, &previous, error));
    TRY(check_step(&reader, previous + 1, newline, step, &is_up_to, error));
    if (is_up_to) break;
    newline = previous;
  }
  if (newline + 1 == size) goto done;
  int result;
  do result = ftruncate(log->descriptor, newline + 1);
  while (result != 0 && errno == EINTR);
  if (result != 0 || file_flush(log->descriptor) != 0)
    status = error_errno(error, errno, "%s: cannot truncate", log->path);
done:
  free(reader.block);
  return status;
}

Status metrics_log_open(const char *run_dir, int64_t step, MetricsLog **out, Error *error) {
  Status status = OK;
  MetricsLog *log = mem_new(1, sizeof *log);
  log->path = path_join(run_dir, "metrics.jsonl");
  log->descriptor = file_open(log->path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW);
  if (log->descriptor < 0) {
    status = error_errno(error, errno, "%s: cannot open", log->path);
    goto done;
  }
  TRY(truncate_after(log, step, error));
  *out = log;
  log = NULL;
done:
  metrics_log_close(log);
  return status;
}

/* --- Numbers ---------------------------------------------------------------------------------- */

typedef struct Target {
  MetricsVisitor *visit;
  void *context;
} Target;

static void visit_real(const Target *to, const char *key, double value) {
  if (isfinite(value)) to->visit(to->context, &(MetricsNumber){.key = key, .real = value});
}

static void visit_count(const Target *to, const char *key, int64_t value) {
  to->visit(to->context, &(MetricsNumber){.key = key, .is_count = true, .count = value});
}

void metrics_visit(const MetricsRecord *record, MetricsVisitor *visit, void *context) {
  const Target to = {visit, context};
  for (Metric metric = 0; metric < METRIC_COUNT; metric++)
    visit_real(&to, gan_metric_name(metric), record->values[metric]);
  visit_real(&to, "clips_per_second", record->clips_per_second);
  visit_real(&to, "step_seconds", record->seconds_per_step);
  visit_real(&to, "gflops", record->gflops);
  visit_real(&to, "lr/g", record->generator_lr);
  visit_real(&to, "lr/d", record->discriminator_lr);
  visit_real(&to, "augment/probability", record->augment_probability);
  visit_real(&to, "time/compute", record->time_compute);
  visit_real(&to, "time/data", record->time_data);
  visit_real(&to, "time/comm_exposed", record->time_comm_exposed);
  if (record->straggler_rank >= 0) {
    visit_count(&to, "straggler/rank", record->straggler_rank);
    visit_real(&to, "straggler/seconds", record->straggler_seconds);
  }
  visit_count(&to, "skipped/g", record->skipped_generator);
  visit_count(&to, "skipped/d", record->skipped_discriminator);
  visit_count(&to, "corrupt", record->corrupt);
  visit_count(&to, "rollbacks", record->rollbacks);
  visit_count(&to, "skipped_batches", record->skipped_batches);
}

/* --- Lines ------------------------------------------------------------------------------------ */

static void append_number(void *line, const MetricsNumber *number) {
  if (number->is_count)
    text_append(line, ", \"%s\": %lld", number->key, (long long)number->count);
  else
    text_append(line, ", \"%s\": %.9g", number->key, number->real);
}

Status metrics_log_write(MetricsLog *log, const MetricsRecord *record, Error *error) {
  Text line = {0};
  text_append(&line, "{\"step\": %lld", (long long)record->step);
  metrics_visit(record, append_number, &line);
  text_append(&line, "}\n");
  Status status = file_write(log->descriptor, log->path, line.data, line.length, error);
  text_free(&line);
  return status;
}

Status metrics_log_sync(MetricsLog *log, Error *error) {
  if (file_flush(log->descriptor) == 0) return OK;
  return error_errno(error, errno, "%s: cannot flush", log->path);
}

void metrics_log_close(MetricsLog *log) {
  if (!log) return;
  file_close(&log->descriptor);
  free(log->path);
  free(log);
}
