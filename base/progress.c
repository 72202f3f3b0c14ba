#include "base/progress.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

enum { BAR_CELLS = 20 };
static const double REDRAW_SECONDS = 0.1, LOG_SECONDS = 10;

struct Progress {
  char *task;
  int64_t first, total, done; /* total: below 1 if unknown */
  double began, shown;        /* clock_seconds; shown: of the last line, 0 before the first */
  bool logged;                /* the log has a line for `done` */
  ProgressDetails *details;   /* or NULL */
  const void *context;
};

Progress *progress_new(const char *task, int64_t first, int64_t total) {
  Progress *progress = mem_new(1, sizeof *progress);
  progress->task = mem_string(task);
  progress->first = progress->done = first;
  progress->total = total;
  progress->began = clock_seconds();
  return progress;
}

void progress_set_details(Progress *progress, ProgressDetails *details, const void *context) {
  progress->details = details;
  progress->context = context;
}

static void append_duration(Text *line, double seconds) {
  long long s = llround(seconds);
  if (s >= 3600)
    text_append(line, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
  else
    text_append(line, "%lld:%02lld", s / 60, s % 60);
}

static void append_bar(Text *line, double fraction) {
  int full = (int)(fraction * BAR_CELLS);
  text_append(line, " [");
  for (int i = 0; i < BAR_CELLS; i++) text_append(line, i < full ? "=" : i == full ? ">" : " ");
  text_append(line, "]");
}

static void append_time(const Progress *progress, double rate, double elapsed, Text *line) {
  int64_t left = progress->total - progress->done;
  text_append(line, "  ");
  append_duration(line, left > 0 ? (double)left / rate : elapsed);
  text_append(line, left > 0 ? " left" : " in all");
}

static void append_line(const Progress *progress, bool bar, double now, Text *line) {
  int64_t total = progress->total, done = progress->done, count = done - progress->first;
  double elapsed = fmax(now - progress->began, 1e-9), rate = (double)count / elapsed;
  text_append(line, "%s", progress->task);
  if (bar && total > 0) append_bar(line, fmin((double)done / (double)total, 1));
  text_append(line, " %lld", (long long)done);
  if (total > 0) text_append(line, "/%lld", (long long)total);
  size_t before_details = line->length;
  if (progress->details) progress->details(progress->context, line);
  if (line->length == before_details && count > 0) text_append(line, "  %.3g/s", rate);
  if (total > 0 && count > 0) append_time(progress, rate, elapsed, line);
}

static void show(Progress *progress, bool bar, double now) {
  Text line = {0};
  append_line(progress, bar, now, &line);
  if (bar)
    log_status_line(line.data);
  else
    log_info("%s", line.data);
  progress->logged = !bar;
  text_free(&line);
}

void progress_update(Progress *progress, int64_t done) {
  double now = clock_seconds();
  bool terminal = log_is_terminal();
  double every = terminal ? REDRAW_SECONDS : LOG_SECONDS;
  progress->done = done;
  progress->logged = false;
  if (progress->shown > 0 && now - progress->shown < every) return;
  progress->shown = now;
  show(progress, terminal, now);
}

void progress_end(Progress *progress) {
  if (!progress) return;
  log_status_line(NULL);
  if (progress->shown > 0 && !progress->logged) show(progress, false, clock_seconds());
  free(progress->task);
  free(progress);
}
