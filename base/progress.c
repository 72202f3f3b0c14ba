#include "base/progress.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/thread.h"

enum { BAR_CELLS = 20 };
static const double REDRAW_SECONDS = 0.1, LOG_SECONDS = 10;

struct Progress {
  char *what;
  int64_t first, total; /* total: -1 where it is not known */
  double began, shown;  /* clock_seconds; shown: of the last line, 0 before */
  /* What was last told, and whether a line in the log has said so. */
  int64_t done;
  bool has_record, logged;
  MetricsRecord record;
};

Progress *progress_new(const char *what, int64_t first, int64_t total) {
  Progress *progress = mem_new(1, sizeof *progress);
  progress->what = mem_string(what);
  progress->first = progress->done = first;
  progress->total = total;
  progress->began = clock_seconds();
  return progress;
}

static void append_duration(Text *line, double seconds) {
  long long s = llround(seconds);
  if (s >= 3600)
    text_append(line, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
  else
    text_append(line, "%lld:%02lld", s / 60, s % 60);
}

static void append_bar(Text *line, double share) {
  int full = (int)(share * BAR_CELLS);
  text_append(line, " [");
  for (int i = 0; i < BAR_CELLS; i++) text_append(line, i < full ? "=" : i == full ? ">" : " ");
  text_append(line, "]");
}

static void append_losses(Text *line, const MetricsRecord *record) {
  static const struct {
    Metric metric;
    const char *name;
  } SHOWN[] = {{METRIC_LOSS_G, "g"}, {METRIC_LOSS_D, "d"}, {METRIC_L1, "l1"}};
  for (size_t i = 0; i < sizeof SHOWN / sizeof *SHOWN; i++) {
    double value = record->values[SHOWN[i].metric];
    if (!isnan(value)) text_append(line, "  %s %.4g", SHOWN[i].name, value);
  }
  text_append(line, "  %.3g clips/s", record->clips_per_second);
  text_append(line, "  data %.0f%%  comm %.0f%%", 100 * record->time_data, 100 * record->time_comm_exposed);
  if (record->straggler_rank >= 0) text_append(line, "  slowest rank %d", record->straggler_rank);
}

static void append_time(const Progress *progress, double rate, double elapsed, Text *line) {
  int64_t left = progress->total - progress->done;
  text_append(line, "  ");
  append_duration(line, left > 0 ? (double)left / rate : elapsed);
  text_append(line, left > 0 ? " left" : " in all");
}

static void describe(const Progress *progress, bool bar, double now, Text *line) {
  int64_t total = progress->total, done = progress->done, steps = done - progress->first;
  double elapsed = fmax(now - progress->began, 1e-9), rate = (double)steps / elapsed;
  text_append(line, "%s", progress->what);
  if (bar && total > 0) append_bar(line, fmin((double)done / (double)total, 1));
  text_append(line, " %lld", (long long)done);
  if (total > 0) text_append(line, "/%lld", (long long)total);
  if (progress->has_record && progress->record.step > 0)
    append_losses(line, &progress->record);
  else if (steps > 0)
    text_append(line, "  %.3g/s", rate);
  if (total > 0 && steps > 0) append_time(progress, rate, elapsed, line);
}

static void show(Progress *progress, bool bar, double now) {
  Text line = {0};
  describe(progress, bar, now, &line);
  if (bar)
    log_status_line(line.data);
  else
    log_info("%s", line.data);
  progress->logged = !bar;
  text_free(&line);
}

void progress_update(Progress *progress, int64_t done, const MetricsRecord *record) {
  double now = clock_seconds();
  bool terminal = log_is_terminal();
  double every = terminal ? REDRAW_SECONDS : LOG_SECONDS;
  progress->done = done;
  progress->has_record = record != NULL;
  progress->logged = false;
  if (record) progress->record = *record;
  if (progress->shown > 0 && now - progress->shown < every) return;
  progress->shown = now;
  show(progress, terminal, now);
}

void progress_end(Progress *progress) {
  if (!progress) return;
  log_status_line(NULL);
  if (progress->shown > 0 && !progress->logged) show(progress, false, clock_seconds());
  free(progress->what);
  free(progress);
}
