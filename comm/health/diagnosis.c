/* Finds out from the heartbeats which ranks are behind, and reports it. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/thread.h"
#include "comm/health/internal.h"

enum { MAX_LISTED = 16 };

void heartbeat_snapshot_new(int size, HeartbeatSnapshot *snapshot) {
  *snapshot = (HeartbeatSnapshot){.size = size};
  snapshot->first_beats = mem_new((size_t)size, sizeof *snapshot->first_beats);
  snapshot->records = mem_new((size_t)size, sizeof *snapshot->records);
}

void heartbeat_snapshot_free(HeartbeatSnapshot *snapshot) {
  free(snapshot->first_beats);
  free(snapshot->records);
}

void heartbeat_snapshot_read_first(HeartbeatSnapshot *snapshot, const char *folder,
                                   const char *run) {
  for (int i = 0; i < snapshot->size; i++) {
    HeartbeatRecord record = heartbeat_file_read(folder, i, run);
    snapshot->first_beats[i] = record.valid ? record.beat : -1;
  }
  snapshot->first_read_at = clock_seconds();
}

void heartbeat_snapshot_read_second(HeartbeatSnapshot *snapshot, const char *folder,
                                    const char *run) {
  for (int i = 0; i < snapshot->size; i++)
    snapshot->records[i] = heartbeat_file_read(folder, i, run);
}

bool record_is_waiting(const HeartbeatRecord *record) {
  return record->waiting[0] != '\0' || record->phase == PHASE_REDUCE;
}

bool heartbeat_snapshot_is_alive(const HeartbeatSnapshot *snapshot, int rank) {
  const HeartbeatRecord *record = &snapshot->records[rank];
  return record->valid && record->beat != snapshot->first_beats[rank];
}

/* --- Phrases ---------------------------------------------------------------------------------- */

void append_rank(const HeartbeatRecord *record, Text *text) {
  text_append(text, "rank %d", record->rank);
  if (record->valid) text_append(text, " (host %s, pid %d)", record->host, record->pid);
}

/* The seconds since the heartbeat, by the wall clocks of two hosts: 0 if they disagree on which is
 * later. For reports alone; deadlines are on the monotonic clock. */
static double age_of(const HeartbeatRecord *record, double now) {
  return fmax(0, now - record->time);
}

void append_location(const HeartbeatRecord *record, double now, Text *text) {
  char clock[16] = "";
  struct tm local;
  double start = record->time - record->since;
  time_t seconds = (time_t)start;
  if (localtime_r(&seconds, &local)) strftime(clock, sizeof clock, "%H:%M:%S", &local);
  text_append(text, "in %s", phase_name(record->phase));
  if (record->waiting[0]) text_append(text, " (%s)", record->waiting);
  text_append(text, " since %s (%.0f s), step %lld", clock, age_of(record, now) + record->since,
              (long long)record->step);
}

/* The process state letter of proc(5), or 0. */
static char process_state(int pid) {
  char path[64], line[512];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  char *got = fgets(line, sizeof line, file);
  fclose(file);
  const char *after_name = got ? strrchr(line, ')') : NULL;
  return after_name && after_name[1] == ' ' ? after_name[2] : '\0';
}

const char *explain_silence(const HeartbeatRecord *record, const char *own_host) {
  if (!record->valid) return "it has not started, or does not see this folder";
  if (strcmp(record->host, own_host) != 0) return "stopped, killed, or its node is gone or cut off";
  if (kill(record->pid, 0) != 0 && errno == ESRCH) return "its process is gone";
  char state = process_state(record->pid);
  if (state == 'T' || state == 't') return "its process is stopped by a signal or a debugger";
  if (state == 'Z' || state == 'X') return "its process has ended";
  return "its process exists, but writes no heartbeat";
}

/* --- The report ------------------------------------------------------------------------------- */

typedef enum RankStatus {
  RANK_SILENT,       /* no new heartbeat between the two readings */
  RANK_BUSY,         /* does not wait for other ranks */
  RANK_COMM_STALLED, /* waits, but its communication thread hangs */
  RANK_WAITING
} RankStatus;

/* The largest operations_started of all ranks if all of them wait, else 0. */
static int64_t most_operations_started(const HeartbeatSnapshot *snapshot) {
  int64_t most = 0;
  for (int i = 0; i < snapshot->size; i++) {
    const HeartbeatRecord *record = &snapshot->records[i];
    if (!heartbeat_snapshot_is_alive(snapshot, i) || !record_is_waiting(record)) return 0;
    if (record->operations_started > most) most = record->operations_started;
  }
  return most;
}

/* If the communication thread of a rank hangs, its main thread waits for the gradient all-reduce
 * like those of the others, but the rank has started the fewest operations of it. */
static bool is_comm_stalled(const HeartbeatSnapshot *snapshot, int rank) {
  if (strcmp(snapshot->records[rank].waiting, GRADIENT_ALL_REDUCE) != 0) return false;
  int64_t most = most_operations_started(snapshot), least = most;
  for (int i = 0; i < snapshot->size && most > 0; i++)
    if (snapshot->records[i].operations_started < least)
      least = snapshot->records[i].operations_started;
  return least < most && snapshot->records[rank].operations_started == least;
}

static RankStatus rank_status(const HeartbeatSnapshot *snapshot, int rank) {
  if (!heartbeat_snapshot_is_alive(snapshot, rank)) return RANK_SILENT;
  if (!record_is_waiting(&snapshot->records[rank])) return RANK_BUSY;
  return is_comm_stalled(snapshot, rank) ? RANK_COMM_STALLED : RANK_WAITING;
}

static int count_ranks(const HeartbeatSnapshot *snapshot, RankStatus status) {
  int count = 0;
  for (int i = 0; i < snapshot->size; i++) count += rank_status(snapshot, i) == status;
  return count;
}

static void append_behind(const HeartbeatSnapshot *snapshot, int rank, const char *own_host,
                          double now, Text *report) {
  const HeartbeatRecord *record = &snapshot->records[rank];
  text_append(report, "behind: ");
  append_rank(record, report);
  if (rank_status(snapshot, rank) == RANK_SILENT) {
    text_append(report, ": %s", explain_silence(record, own_host));
    if (record->valid) text_append(report, "; last heartbeat %.0f s ago,", age_of(record, now));
  }
  if (record->valid) {
    text_append(report, " ");
    append_location(record, now, report);
  }
  if (rank_status(snapshot, rank) == RANK_COMM_STALLED)
    text_append(report,
                ": it has started %lld all-reduce operations, another rank %lld; its communication "
                "thread hangs, or the network to it is cut",
                (long long)record->operations_started,
                (long long)most_operations_started(snapshot));
  text_append(report, "\n");
}

static bool same_location(const HeartbeatRecord *a, const HeartbeatRecord *b) {
  return a->phase == b->phase && a->step == b->step && strcmp(a->waiting, b->waiting) == 0;
}

/* Lists the ranks of one status, one line per location. */
static void append_groups(const HeartbeatSnapshot *snapshot, RankStatus status, Text *report) {
  bool *listed = mem_new((size_t)snapshot->size, sizeof *listed);
  for (int first = 0, lines = 0; first < snapshot->size && lines < MAX_LISTED; first++) {
    const HeartbeatRecord *record = &snapshot->records[first];
    if (listed[first] || rank_status(snapshot, first) != status) continue;
    int count = 0;
    text_append(report, "%s in %s", status == RANK_WAITING ? "waiting" : "busy",
                phase_name(record->phase));
    if (record->waiting[0]) text_append(report, " (%s)", record->waiting);
    text_append(report, ", step %lld: rank", (long long)record->step);
    for (int i = first; i < snapshot->size; i++) {
      if (rank_status(snapshot, i) != status || !same_location(record, &snapshot->records[i]))
        continue;
      if (count < MAX_LISTED) text_append(report, "%s %d", count > 0 ? "," : "", i);
      listed[i] = true;
      count++;
    }
    if (count > MAX_LISTED) text_append(report, " and %d more", count - MAX_LISTED);
    text_append(report, "\n");
    lines++;
  }
  free(listed);
}

void diagnose(const HeartbeatSnapshot *snapshot, const Timeout *timeout, Text *report) {
  double now = clock_wall_seconds();
  const HeartbeatRecord *self = &snapshot->records[timeout->rank];
  int silent = count_ranks(snapshot, RANK_SILENT), lines = 0;
  RankStatus behind = silent > 0                             ? RANK_SILENT
                      : count_ranks(snapshot, RANK_BUSY) > 0 ? RANK_BUSY
                                                             : RANK_COMM_STALLED;
  int count = count_ranks(snapshot, behind);
  text_append(report, "no progress: rank %d of %d has been ", timeout->rank, snapshot->size);
  append_location(self, now, report);
  text_append(report, ", past its deadline of %g s; the run ends\n", timeout->deadline);
  for (int i = 0; i < snapshot->size && lines < MAX_LISTED; i++) {
    if (rank_status(snapshot, i) != behind) continue;
    append_behind(snapshot, i, self->host, now, report);
    lines++;
  }
  if (count > lines)
    text_append(report, "behind: %d more, see %s\n", count - lines, timeout->folder);
  if (count == 0)
    text_append(report, "no rank is behind: all wait for each other; the network between them is "
                        "cut, or they are in different collectives\n");
  if (timeout->write_error)
    text_append(report, "these heartbeats may be outdated: %s\n", timeout->write_error);
  if (silent > 0) append_groups(snapshot, RANK_BUSY, report);
  append_groups(snapshot, RANK_WAITING, report);
}
