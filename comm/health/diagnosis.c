/* Who is behind, judged from the ranks' records. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/thread.h"
#include "comm/health/internal.h"

enum { MOST_NAMED = 16 };

void look_new(int size, Look *look) {
  *look = (Look){.size = size};
  look->beats = mem_new((size_t)size, sizeof *look->beats);
  look->records = mem_new((size_t)size, sizeof *look->records);
}

void look_free(Look *look) {
  free(look->beats);
  free(look->records);
}

void look_first(Look *look, const char *folder, const char *run) {
  for (int i = 0; i < look->size; i++) {
    Record record = record_read(folder, i, run);
    look->beats[i] = record.valid ? record.beat : -1;
  }
  look->at = clock_seconds();
}

void look_second(Look *look, const char *folder, const char *run) {
  for (int i = 0; i < look->size; i++) look->records[i] = record_read(folder, i, run);
}

bool record_waits(const Record *record) {
  return record->waiting[0] != '\0' || record->phase == PHASE_REDUCE;
}

bool look_is_alive(const Look *look, int rank) {
  const Record *record = &look->records[rank];
  return record->valid && record->beat != look->beats[rank];
}

/* --- Words ------------------------------------------------------------------------------------ */

void append_rank(const Record *record, Text *text) {
  text_append(text, "rank %d", record->rank);
  if (record->valid) text_append(text, " (host %s, pid %d)", record->host, record->pid);
}

void append_place(const Record *record, double now, Text *text) {
  char clock[16] = "";
  struct tm local;
  double began = record->time - record->since;
  time_t seconds = (time_t)began;
  if (localtime_r(&seconds, &local)) strftime(clock, sizeof clock, "%H:%M:%S", &local);
  text_append(text, "in %s", phase_name(record->phase));
  if (record->waiting[0]) text_append(text, " (%s)", record->waiting);
  text_append(text, " since %s (%.0f s), step %lld", clock, now - began, (long long)record->step);
}

/* The state letter of proc(5), or 0. */
static char process_state(int pid) {
  char path[64], line[512];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  char *got = fgets(line, sizeof line, file);
  fclose(file);
  const char *behind_name = got ? strrchr(line, ')') : NULL;
  return behind_name && behind_name[1] == ' ' ? behind_name[2] : '\0';
}

const char *explain_silence(const Record *record, const char *own_host) {
  if (!record->valid) return "it has not begun, or does not see this folder";
  if (strcmp(record->host, own_host) != 0) return "stopped, killed, or its node is gone or cut off";
  if (kill(record->pid, 0) != 0 && errno == ESRCH) return "its process is gone";
  char state = process_state(record->pid);
  if (state == 'T' || state == 't') return "its process is stopped by a signal or a debugger";
  if (state == 'Z' || state == 'X') return "its process has ended";
  return "its process is there, but writes no heartbeat";
}

/* --- The report ------------------------------------------------------------------------------- */

typedef enum Standing { SILENT, BUSY, LATE, WAITING } Standing;

/* Where all wait, the most parts of means that one has begun; else 0. */
static int64_t most_begun(const Look *look) {
  int64_t most = 0;
  for (int i = 0; i < look->size; i++) {
    const Record *record = &look->records[i];
    if (!look_is_alive(look, i) || !record_waits(record)) return 0;
    if (record->begun > most) most = record->begun;
  }
  return most;
}

/* The communication thread of a rank can hang while its main thread waits for a mean as others do:
 * such a rank has begun the fewest parts of it. */
static bool is_late(const Look *look, int rank) {
  if (strcmp(look->records[rank].waiting, MEAN_NAME) != 0) return false;
  int64_t most = most_begun(look), least = most;
  for (int i = 0; i < look->size && most > 0; i++)
    if (look->records[i].begun < least) least = look->records[i].begun;
  return least < most && look->records[rank].begun == least;
}

static Standing standing_of(const Look *look, int rank) {
  if (!look_is_alive(look, rank)) return SILENT;
  if (!record_waits(&look->records[rank])) return BUSY;
  return is_late(look, rank) ? LATE : WAITING;
}

static int count_of(const Look *look, Standing standing) {
  int count = 0;
  for (int i = 0; i < look->size; i++) count += standing_of(look, i) == standing;
  return count;
}

static void append_behind(const Look *look, int rank, const char *own_host, double now,
                          Text *report) {
  const Record *record = &look->records[rank];
  text_append(report, "behind: ");
  append_rank(record, report);
  if (standing_of(look, rank) == SILENT) {
    text_append(report, ": %s", explain_silence(record, own_host));
    if (record->valid) text_append(report, "; last sign of life %.0f s ago,", now - record->time);
  }
  if (record->valid) {
    text_append(report, " ");
    append_place(record, now, report);
  }
  if (standing_of(look, rank) == LATE)
    text_append(report,
                ": it has begun %lld parts of means, another rank %lld; its communication thread "
                "hangs, or the network to it is cut",
                (long long)record->begun, (long long)most_begun(look));
  text_append(report, "\n");
}

static bool same_place(const Record *a, const Record *b) {
  return a->phase == b->phase && a->step == b->step && strcmp(a->waiting, b->waiting) == 0;
}

/* The ranks of one standing, those at the same place on one line. */
static void append_groups(const Look *look, Standing standing, Text *report) {
  bool *told = mem_new((size_t)look->size, sizeof *told);
  for (int first = 0, lines = 0; first < look->size && lines < MOST_NAMED; first++) {
    const Record *record = &look->records[first];
    if (told[first] || standing_of(look, first) != standing) continue;
    int count = 0;
    text_append(report, "%s in %s", standing == WAITING ? "waiting" : "busy",
                phase_name(record->phase));
    if (record->waiting[0]) text_append(report, " (%s)", record->waiting);
    text_append(report, ", step %lld: rank", (long long)record->step);
    for (int i = first; i < look->size; i++) {
      if (standing_of(look, i) != standing || !same_place(record, &look->records[i])) continue;
      if (count < MOST_NAMED) text_append(report, "%s %d", count > 0 ? "," : "", i);
      told[i] = true;
      count++;
    }
    if (count > MOST_NAMED) text_append(report, " and %d more", count - MOST_NAMED);
    text_append(report, "\n");
    lines++;
  }
  free(told);
}

void diagnose(const Look *look, const Expiry *expiry, Text *report) {
  double now = clock_wall_seconds();
  const Record *self = &look->records[expiry->rank];
  int silent = count_of(look, SILENT), named = 0;
  Standing behind = silent > 0 ? SILENT : count_of(look, BUSY) > 0 ? BUSY : LATE;
  int count = count_of(look, behind);
  text_append(report, "no progress: rank %d of %d is ", expiry->rank, look->size);
  append_place(self, now, report);
  text_append(report, ", longer than its %g s; the run ends\n", expiry->deadline);
  for (int i = 0; i < look->size && named < MOST_NAMED; i++) {
    if (standing_of(look, i) != behind) continue;
    append_behind(look, i, self->host, now, report);
    named++;
  }
  if (count > named)
    text_append(report, "behind: %d more, see %s\n", count - named, expiry->folder);
  if (count == 0)
    text_append(report, "no rank is behind: all wait for each other; the network between them is "
                        "cut, or they went different ways\n");
  if (expiry->trouble)
    text_append(report, "the records may be older than the ranks' lives: %s\n", expiry->trouble);
  if (silent > 0) append_groups(look, BUSY, report);
  append_groups(look, WAITING, report);
}
