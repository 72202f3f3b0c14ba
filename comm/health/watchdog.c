/* Warnings about silent ranks, and the end of a run without progress. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/health/internal.h"

/* seconds */
static const double REPORT_STAGGER = 0.5; /* that each rank reports before the next one */
static const double MIN_SILENCE = 10;     /* before a warning */
static const double MIN_HANG = 10;        /* after which the heartbeat thread counts as hung, ... */
static const double READ_ALLOWANCE = 0.01; /* ... plus this for each heartbeat that it may read */
enum { STAGGERED_RANKS = 16, EXIT_SECONDS = 10, PRINT_SECONDS = 2 };

static Location location_of(const Heartbeat *heartbeat) {
  return presence_location(&heartbeat->comm->presence);
}

/* Makes sure that the process ends even if comm_abort or logging hangs. */
static void exit_soon(void) {
  if (!exit_after(EXIT_SECONDS, ERROR_INTERNAL)) _exit(ERROR_INTERNAL);
}

/* --- The guard thread ------------------------------------------------------------------------- */

static double longest_deadline(const Heartbeat *heartbeat) {
  double longest = 0;
  for (int i = 0; i < PHASE_COUNT; i++) longest = fmax(longest, heartbeat->deadlines[i]);
  return longest;
}

/* The longest that one iteration of the heartbeat thread may take, in seconds. */
static double max_iteration(const Heartbeat *heartbeat) {
  return fmax(MIN_HANG, 3 * heartbeat->every) + READ_ALLOWANCE * heartbeat->size;
}

void watchdog_check_heartbeat_thread(Heartbeat *heartbeat) {
  Location location = location_of(heartbeat);
  double now = clock_seconds(), age = now - location.since;
  double hung = now - (double)atomic_load(&heartbeat->last_iteration) * 1e-9;
  /* The phases of the ranks waited for are not known here. */
  double deadline =
      location.waiting ? longest_deadline(heartbeat) : heartbeat->deadlines[location.phase];
  if (age <= deadline && !atomic_load(&heartbeat->expired)) return;
  if (hung <= max_iteration(heartbeat)) return;
  exit_soon();
  log_error("rank %d of %d (host %s, pid %d) has been in %s for %.0f s, past its deadline of %g s, "
            "and its heartbeat thread has hung for %.0f s in folder %s: does the file system "
            "respond? The run ends",
            heartbeat->rank, heartbeat->size, heartbeat->self.host, heartbeat->self.pid,
            phase_name(location.phase), age, deadline, hung, heartbeat->folder);
  comm_abort(heartbeat->comm, ERROR_INTERNAL);
}

/* --- The heartbeat thread: other ranks -------------------------------------------------------- */

static void warn_of_silence(const Heartbeat *heartbeat, const HeartbeatRecord *record,
                            double silent) {
  Text text = {0};
  append_rank(record, &text);
  text_append(&text, " has written no heartbeat for %.0f s: %s", silent,
              explain_silence(record, heartbeat->self.host));
  if (record->valid) {
    text_append(&text, "; last seen ");
    append_location(record, record->time, &text);
  }
  log_warning("%s", text.data);
  text_free(&text);
}

/* Returns whether the rank is silent; warns once. */
static bool check_peer(Heartbeat *heartbeat, int rank, double now) {
  PeerState *peer = &heartbeat->peers[rank];
  HeartbeatRecord record = heartbeat_file_read(heartbeat->folder, rank, heartbeat->self.run);
  if (peer->seen_at == 0 || (record.valid && record.beat != peer->beat)) {
    if (peer->warned)
      log_warning("rank %d writes heartbeats again, after %.0f s", rank, now - peer->seen_at);
    *peer = (PeerState){record.valid ? record.beat : -1, now, false};
    return false;
  }
  double silent = now - peer->seen_at;
  if (silent <= fmax(MIN_SILENCE, 3 * heartbeat->every)) return false;
  if (!peer->warned) warn_of_silence(heartbeat, &record, silent);
  peer->warned = true;
  return true;
}

void watchdog_check_peers(Heartbeat *heartbeat) {
  double now = clock_seconds();
  for (int i = 1; i < heartbeat->size; i++)
    if (!check_peer(heartbeat, (heartbeat->rank + i) % heartbeat->size, now)) return;
}

/* --- The heartbeat thread: deadlines ---------------------------------------------------------- */

/* Returns false if it cannot be looked up, too: the heartbeat thread looks again. */
static bool has_diagnosis(const Heartbeat *heartbeat) {
  bool exists;
  Error ignored;
  return path_exists(heartbeat->diagnosis_path, &exists, &ignored) == OK && exists;
}

/* Publishes the report, unless another rank has, and ends the process. */
static void report_and_exit(Heartbeat *heartbeat, const Timeout *timeout) {
  Error error = {0};
  Text report = {0};
  atomic_store(&heartbeat->expired, true);
  diagnose(&heartbeat->snapshot, timeout, &report);
  char *temporary = mem_format("%s.%d.tmp", heartbeat->diagnosis_path, heartbeat->rank);
  bool is_first = true;
  if (atomic_file_replace(temporary, report.data, report.length, &error) == OK) {
    /* Of several ranks only one succeeds in creating the link; a rename would succeed for all. */
    is_first = link(temporary, heartbeat->diagnosis_path) == 0 || !has_diagnosis(heartbeat);
  }
  exit_soon();
  for (char *line = report.data; is_first && *line;) {
    char *end = strchr(line, '\n');
    log_error("%.*s", (int)(end - line), line);
    line = end + 1;
  }
  unlink(temporary); /* last: slow on a busy disk, and the other ranks exit soon */
  comm_abort(heartbeat->comm, ERROR_INTERNAL);
}

void watchdog_exit_if_diagnosed(Heartbeat *heartbeat) {
  if (!has_diagnosis(heartbeat)) return;
  exit_soon();
  sleep(PRINT_SECONDS); /* the rank that wrote the diagnosis logs it and aborts the group */
  comm_abort(heartbeat->comm, ERROR_INTERNAL);
}

/* The time (clock_seconds) until which a rank that waits since `since` must wait, because ranks
 * that do not wait may still be within the deadlines of their phases; 0 if there are none. */
static double extended_deadline(const Heartbeat *heartbeat, double since) {
  double until = 0;
  for (int i = 0; i < heartbeat->size; i++) {
    const HeartbeatRecord *record = &heartbeat->snapshot.records[i];
    if (i == heartbeat->rank || !heartbeat_snapshot_is_alive(&heartbeat->snapshot, i) ||
        record_is_waiting(record))
      continue;
    until = fmax(until, since + heartbeat->deadlines[record->phase]);
  }
  return until;
}

/* The second reading. This rank's own record is taken from memory and counts as alive. */
static void complete_snapshot(Heartbeat *heartbeat) {
  HeartbeatSnapshot *snapshot = &heartbeat->snapshot;
  heartbeat_write(heartbeat);
  heartbeat_snapshot_read_second(snapshot, heartbeat->folder, heartbeat->self.run);
  snapshot->records[heartbeat->rank] = heartbeat->self;
  snapshot->first_beats[heartbeat->rank] = -1;
}

/* The heartbeats are read twice, two beats apart; a rank whose beat count has not changed is not
 * alive. The first STAGGERED_RANKS ranks do the first reading before their deadline, so that they
 * can report in the order of their ranks, REPORT_STAGGER apart. */
void watchdog_check_deadline(Heartbeat *heartbeat) {
  Location location = location_of(heartbeat);
  HeartbeatSnapshot *snapshot = &heartbeat->snapshot;
  double now = clock_seconds(), gap = 2 * heartbeat->every + 2 * POLL_SECONDS;
  double deadline = heartbeat->deadlines[location.phase];
  if (location.since != heartbeat->checked_since) {
    heartbeat->checked_since = location.since;
    heartbeat->extended_until = snapshot->first_read_at = 0;
  }
  if (now > snapshot->first_read_at + gap + max_iteration(heartbeat))
    snapshot->first_read_at = 0; /* too old: this process was suspended */
  int turn = heartbeat->rank < STAGGERED_RANKS ? heartbeat->rank : STAGGERED_RANKS;
  double expiry = fmax(location.since + deadline, heartbeat->extended_until);
  double report_at = expiry + turn * REPORT_STAGGER;
  if (now >= (turn < STAGGERED_RANKS ? report_at - gap : report_at) && snapshot->first_read_at == 0)
    heartbeat_snapshot_read_first(snapshot, heartbeat->folder, heartbeat->self.run);
  if (now < expiry) return;
  watchdog_exit_if_diagnosed(heartbeat);
  if (now < report_at || now < snapshot->first_read_at + gap) return;
  complete_snapshot(heartbeat);
  heartbeat->extended_until = location.waiting ? extended_deadline(heartbeat, location.since) : 0;
  snapshot->first_read_at = 0;
  if (heartbeat->extended_until > now) return;
  const Error *write_error = &heartbeat->write_error;
  Timeout timeout = {heartbeat->rank, deadline, heartbeat->folder,
                     write_error->status != OK ? write_error->message : NULL};
  report_and_exit(heartbeat, &timeout);
}
