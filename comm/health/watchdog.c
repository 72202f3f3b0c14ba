/* What a rank's threads do about ranks that stand still: warn, report, leave. */
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
static const double HEAD_START = 0.5; /* of each rank before the next one, to report */
static const double SILENCE = 10;     /* the least that is worth a warning */
static const double HANGING = 10;     /* the least after which the beating thread hangs, */
static const double READING = 0.01;   /* and for each record that it may be reading */
enum { HEAD_STARTS = 16, LEAVE_SECONDS = 10, PRINT_SECONDS = 2 };

/* --- The guarding thread ---------------------------------------------------------------------- */

static double longest_deadline(const Heartbeat *heartbeat) {
  double longest = 0;
  for (int i = 0; i < PHASE_COUNT; i++) longest = fmax(longest, heartbeat->deadlines[i]);
  return longest;
}

/* How long the beating thread may take for one round. */
static double patience(const Heartbeat *heartbeat) {
  return fmax(HANGING, 3 * heartbeat->every) + READING * heartbeat->size;
}

void watchdog_check_beating(Heartbeat *heartbeat) {
  Place place = heartbeat_place(heartbeat);
  double now = clock_seconds(), age = now - place.since;
  double silent = now - (double)atomic_load(&heartbeat->ticked) * 1e-9;
  /* Which ranks are waited for is not known here. */
  double deadline = place.waiting ? longest_deadline(heartbeat) : heartbeat->deadlines[place.phase];
  if (age <= deadline && !atomic_load(&heartbeat->expired)) return;
  if (silent <= patience(heartbeat)) return;
  if (!leave_within(LEAVE_SECONDS, ERROR_INTERNAL)) _exit(ERROR_INTERNAL);
  log_error("rank %d of %d (host %s, pid %d) has been in %s for %.0f s, longer than its %g s, and "
            "its heartbeat hangs in %s since %.0f s: does the file system answer? The run ends",
            heartbeat->rank, heartbeat->size, heartbeat->self.host, heartbeat->self.pid,
            phase_name(place.phase), age, deadline, heartbeat->folder, silent);
  comm_abort(heartbeat->comm, ERROR_INTERNAL);
}

/* --- The beating thread: the next rank -------------------------------------------------------- */

static void warn_of_silence(const Heartbeat *heartbeat, const Record *record, double silent) {
  Text text = {0};
  append_rank(record, &text);
  text_append(&text, " has given no sign of life for %.0f s: %s", silent,
              explain_silence(record, heartbeat->self.host));
  if (record->valid) {
    text_append(&text, "; last seen ");
    append_place(record, record->time, &text);
  }
  log_warning("%s", text.data);
  text_free(&text);
}

/* True where the rank gives no sign of life. */
static bool watch(Heartbeat *heartbeat, int rank, double now) {
  Seen *seen = &heartbeat->seen[rank];
  Record record = record_read(heartbeat->folder, rank, heartbeat->self.run);
  if (seen->at == 0 || (record.valid && record.beat != seen->beat)) {
    if (seen->warned)
      log_warning("rank %d gives signs of life again, after %.0f s", rank, now - seen->at);
    *seen = (Seen){record.valid ? record.beat : -1, now, false};
    return false;
  }
  double silent = now - seen->at;
  if (silent <= fmax(SILENCE, 3 * heartbeat->every)) return false;
  if (!seen->warned) warn_of_silence(heartbeat, &record, silent);
  seen->warned = true;
  return true;
}

/* Each rank watches the next one, and beyond it while that is silent. */
void watchdog_check_next(Heartbeat *heartbeat) {
  double now = clock_seconds();
  for (int i = 1; i < heartbeat->size; i++)
    if (!watch(heartbeat, (heartbeat->rank + i) % heartbeat->size, now)) return;
}

/* --- The beating thread: deadlines ------------------------------------------------------------ */

/* Publishes the report, if no other rank has, and ends the process. */
static void report_and_leave(Heartbeat *heartbeat, const Expiry *expiry) {
  Error error = {0};
  Text report = {0};
  atomic_store(&heartbeat->expired, true);
  diagnose(&heartbeat->look, expiry, &report);
  char *temporary = mem_format("%s.%d.tmp", heartbeat->diagnosis, heartbeat->rank);
  bool first = true;
  if (atomic_file_replace(temporary, report.data, report.length, &error) == OK) {
    /* A link, unlike a rename, is made by one rank alone. */
    first = link(temporary, heartbeat->diagnosis) == 0 || !path_exists(heartbeat->diagnosis);
  }
  if (!leave_within(LEAVE_SECONDS, ERROR_INTERNAL)) _exit(ERROR_INTERNAL);
  for (char *line = report.data; first && *line;) {
    char *end = strchr(line, '\n');
    log_error("%.*s", (int)(end - line), line);
    line = end + 1;
  }
  unlink(temporary); /* on a busy disk that takes a while, and the others leave soon */
  comm_abort(heartbeat->comm, ERROR_INTERNAL);
}

void watchdog_leave_if_diagnosed(Heartbeat *heartbeat) {
  if (!path_exists(heartbeat->diagnosis)) return;
  if (!leave_within(LEAVE_SECONDS, ERROR_INTERNAL)) _exit(ERROR_INTERNAL);
  sleep(PRINT_SECONDS); /* the rank that wrote it is about to print it and to end all */
  comm_abort(heartbeat->comm, ERROR_INTERNAL);
}

/* Until when (clock_seconds) the ranks waited for may stay in the phases they are in. */
static double excused_until(const Heartbeat *heartbeat, double since) {
  double until = 0;
  for (int i = 0; i < heartbeat->size; i++) {
    const Record *record = &heartbeat->look.records[i];
    if (i == heartbeat->rank || !look_is_alive(&heartbeat->look, i) || record_waits(record))
      continue;
    until = fmax(until, since + heartbeat->deadlines[record->phase]);
  }
  return until;
}

/* The second look, where this rank's own word needs no file. */
static void look_again(Heartbeat *heartbeat) {
  Look *look = &heartbeat->look;
  heartbeat_write(heartbeat);
  look_second(look, heartbeat->folder, heartbeat->self.run);
  look->records[heartbeat->rank] = heartbeat->self;
  look->beats[heartbeat->rank] = -1;
}

/* The records are looked at twice, two beats apart: whose beat has not moved is not alive. A rank
 * that expects to report takes the first look before its deadline. */
void watchdog_check_deadline(Heartbeat *heartbeat) {
  Place place = heartbeat_place(heartbeat);
  Look *look = &heartbeat->look;
  double now = clock_seconds(), gap = 2 * heartbeat->every + 2 * HEARTBEAT_NAP;
  if (place.since != heartbeat->looked_since) {
    heartbeat->looked_since = place.since;
    heartbeat->excused_until = look->at = 0;
  }
  if (now > look->at + gap + patience(heartbeat)) look->at = 0; /* stopped since then */
  int turn = heartbeat->rank < HEAD_STARTS ? heartbeat->rank : HEAD_STARTS;
  double expiry = fmax(place.since + heartbeat->deadlines[place.phase], heartbeat->excused_until);
  double due = expiry + turn * HEAD_START;
  if (now >= (turn < HEAD_STARTS ? due - gap : due) && look->at == 0)
    look_first(look, heartbeat->folder, heartbeat->self.run);
  if (now < expiry) return;
  watchdog_leave_if_diagnosed(heartbeat);
  if (now < due || now < look->at + gap) return;
  look_again(heartbeat);
  heartbeat->excused_until = place.waiting ? excused_until(heartbeat, place.since) : 0;
  look->at = 0;
  if (heartbeat->excused_until > now) return;
  const Error *trouble = &heartbeat->trouble;
  Expiry what = {heartbeat->rank, heartbeat->deadlines[place.phase], heartbeat->folder,
                 trouble->status != OK ? trouble->message : NULL};
  report_and_leave(heartbeat, &what);
}
