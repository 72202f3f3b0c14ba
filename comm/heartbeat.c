/* Two threads a rank: one beats, looks after the deadlines and reports; the other touches no file
 * and no lock of the first, and ends the process where the first hangs in a file too. */
#include "comm/heartbeat.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/heartbeat_internal.h"

/* seconds */
static const double LONGEST_NAP = 0.25; /* between two looks at the main thread's phase */
static const double PAUSE = 5;          /* a nap that lasted so much longer was no nap */
static const double HEAD_START = 0.5;   /* of each rank before the next one, to report */
static const double SILENCE = 10;       /* the least that is worth a warning */
static const double HANGING = 10;       /* the least after which the beating thread hangs */
enum { HEAD_STARTS = 16, LEAVE_SECONDS = 10 };

/* What one beat of another rank told, and when. */
typedef struct Seen {
  int64_t beat;
  double at; /* clock_seconds; 0: never looked */
  bool warned;
} Seen;

struct Heartbeat {
  Comm *comm;
  int rank, size;
  double every, deadlines[PHASE_COUNT];
  char *folder, *diagnosis; /* paths */
  Record self;              /* what does not change; the rest is filled in for each beat */

  /* The main thread's word, and the forgiving of a pause. */
  _Atomic uint64_t phase; /* nanoseconds of clock_seconds at its begin << 3 | Phase */
  _Atomic int64_t step;
  _Atomic uint64_t waiting_since; /* nanoseconds; 0: not waiting */
  _Atomic(const char *) waiting;

  /* The beating thread's own. */
  pthread_t beating;
  _Atomic uint64_t ticked;            /* nanoseconds: when it last went round */
  _Atomic bool expired;               /* it is about to report and to leave */
  Seen *seen;                         /* [size] */
  Look look;                          /* of the place that began at `looked_since` */
  double looked_since, excused_until; /* clock_seconds */
  bool write_failed;

  pthread_t guarding;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  bool over;
};

static uint64_t now_ns(void) {
  return (uint64_t)(clock_seconds() * 1e9);
}

/* --- The main thread's side ------------------------------------------------------------------- */

void heartbeat_phase(Heartbeat *heartbeat, Phase phase, int64_t step) {
  if (!heartbeat) return;
  atomic_store(&heartbeat->step, step);
  atomic_store(&heartbeat->phase, now_ns() << 3 | (uint64_t)phase);
}

void heartbeat_wait_begin(Heartbeat *heartbeat, const char *name) {
  if (!heartbeat) return;
  atomic_store(&heartbeat->waiting, name);
  atomic_store(&heartbeat->waiting_since, now_ns());
}

void heartbeat_wait_end(Heartbeat *heartbeat) {
  if (!heartbeat) return;
  uint64_t phase = atomic_load(&heartbeat->phase) & 7;
  atomic_store(&heartbeat->phase, now_ns() << 3 | phase);
  atomic_store(&heartbeat->waiting_since, 0);
}

/* Where the main thread is. */
typedef struct Place {
  Phase phase;
  double since;        /* clock_seconds */
  const char *waiting; /* the collective or NULL */
} Place;

static Place place_of(Heartbeat *heartbeat) {
  /* In this order: the end of a wait starts the phase's clock anew before it says so. */
  uint64_t waiting_since = atomic_load(&heartbeat->waiting_since);
  uint64_t packed = atomic_load(&heartbeat->phase);
  Place place = {(Phase)(packed & 7), (double)(packed >> 3) * 1e-9, NULL};
  if (waiting_since == 0) return place;
  place.waiting = atomic_load(&heartbeat->waiting);
  place.since = (double)waiting_since * 1e-9;
  if (place.phase == PHASE_DATA || place.phase == PHASE_STEP) place.phase = PHASE_REDUCE;
  return place;
}

static double longest_deadline(const Heartbeat *heartbeat) {
  double longest = 0;
  for (int i = 0; i < PHASE_COUNT; i++) longest = fmax(longest, heartbeat->deadlines[i]);
  return longest;
}

/* --- Both threads ----------------------------------------------------------------------------- */

/* A process that was stopped and goes on starts its clocks anew. */
static void forgive(Heartbeat *heartbeat) {
  uint64_t packed = atomic_load(&heartbeat->phase), now = now_ns();
  atomic_compare_exchange_strong(&heartbeat->phase, &packed, now << 3 | (packed & 7));
  uint64_t waiting_since = atomic_load(&heartbeat->waiting_since);
  if (waiting_since != 0)
    atomic_compare_exchange_strong(&heartbeat->waiting_since, &waiting_since, now);
}

/* False when the heartbeat is to end. `paused` says how much longer than `seconds` it took, where
 * that can only mean that the process did not run. */
static bool nap(Heartbeat *heartbeat, double seconds, double *paused) {
  double until = clock_seconds() + seconds;
  bool in_time = true;
  pthread_mutex_lock(&heartbeat->mutex);
  while (!heartbeat->over && in_time)
    in_time = condition_wait_until(&heartbeat->changed, &heartbeat->mutex, until);
  bool over = heartbeat->over;
  pthread_mutex_unlock(&heartbeat->mutex);
  *paused = clock_seconds() - until;
  if (*paused > PAUSE)
    forgive(heartbeat);
  else
    *paused = 0;
  return !over;
}

/* --- The guarding thread ---------------------------------------------------------------------- */

static void check_beating(Heartbeat *heartbeat) {
  Place place = place_of(heartbeat);
  double now = clock_seconds(), age = now - place.since;
  double silent = now - (double)atomic_load(&heartbeat->ticked) * 1e-9;
  /* Which ranks are waited for is not known here. */
  double deadline = place.waiting ? longest_deadline(heartbeat) : heartbeat->deadlines[place.phase];
  if (age <= deadline && !atomic_load(&heartbeat->expired)) return;
  if (silent <= fmax(HANGING, 3 * heartbeat->every)) return;
  if (!leave_within(LEAVE_SECONDS, ERROR_INTERNAL)) _exit(ERROR_INTERNAL);
  log_error("rank %d of %d (host %s, pid %d) has been in %s for %.0f s, longer than its %g s, and "
            "its heartbeat hangs in %s since %.0f s: does the file system answer? The run ends",
            heartbeat->rank, heartbeat->size, heartbeat->self.host, heartbeat->self.pid,
            phase_name(place.phase), age, deadline, heartbeat->folder, silent);
  comm_abort(heartbeat->comm, ERROR_INTERNAL);
}

static void *guard(void *argument) {
  Heartbeat *heartbeat = argument;
  double paused;
  while (nap(heartbeat, LONGEST_NAP, &paused))
    if (paused == 0) check_beating(heartbeat);
  return NULL;
}

/* --- The beating thread: its own record ------------------------------------------------------- */

static void write_record(Heartbeat *heartbeat) {
  Error error = {0};
  Place place = place_of(heartbeat);
  Record *self = &heartbeat->self;
  self->beat++;
  self->time = clock_wall_seconds();
  self->phase = place.phase;
  self->since = fmax(0, clock_seconds() - place.since);
  self->step = atomic_load(&heartbeat->step);
  snprintf(self->waiting, sizeof self->waiting, "%s", place.waiting ? place.waiting : "");
  bool failed = record_write(heartbeat->folder, self, &error) != OK;
  if (failed && !heartbeat->write_failed)
    log_warning("the other ranks see no heartbeat of this one: %s", error.message);
  heartbeat->write_failed = failed;
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
static void watch_next(Heartbeat *heartbeat) {
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
    unlink(temporary);
  }
  if (!leave_within(LEAVE_SECONDS, ERROR_INTERNAL)) _exit(ERROR_INTERNAL);
  for (char *line = report.data; first && *line;) {
    char *end = strchr(line, '\n');
    log_error("%.*s", (int)(end - line), line);
    line = end + 1;
  }
  comm_abort(heartbeat->comm, ERROR_INTERNAL);
}

static void leave_if_diagnosed(Heartbeat *heartbeat) {
  if (!path_exists(heartbeat->diagnosis)) return;
  if (!leave_within(LEAVE_SECONDS, ERROR_INTERNAL)) _exit(ERROR_INTERNAL);
  usleep(500000); /* the rank that wrote it is about to print it */
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
  write_record(heartbeat);
  look_second(look, heartbeat->folder, heartbeat->self.run);
  look->records[heartbeat->rank] = heartbeat->self;
  look->beats[heartbeat->rank] = -1;
}

/* The records are looked at twice, two beats apart: whose beat has not moved is not alive. A rank
 * that expects to report takes the first look before its deadline. */
static void check_deadline(Heartbeat *heartbeat) {
  Place place = place_of(heartbeat);
  Look *look = &heartbeat->look;
  double now = clock_seconds(), gap = 2 * heartbeat->every + 2 * LONGEST_NAP;
  if (place.since != heartbeat->looked_since) {
    heartbeat->looked_since = place.since;
    heartbeat->excused_until = look->at = 0;
  }
  int turn = heartbeat->rank < HEAD_STARTS ? heartbeat->rank : HEAD_STARTS;
  double expiry = fmax(place.since + heartbeat->deadlines[place.phase], heartbeat->excused_until);
  double due = expiry + turn * HEAD_START;
  if (now >= (turn < HEAD_STARTS ? due - gap : due) && look->at == 0)
    look_first(look, heartbeat->folder, heartbeat->self.run);
  if (now < expiry) return;
  leave_if_diagnosed(heartbeat);
  if (now < due || now < look->at + gap) return;
  look_again(heartbeat);
  heartbeat->excused_until = place.waiting ? excused_until(heartbeat, place.since) : 0;
  look->at = 0;
  if (heartbeat->excused_until > now) return;
  Expiry what = {heartbeat->rank, heartbeat->deadlines[place.phase], heartbeat->folder};
  report_and_leave(heartbeat, &what);
}

static void *beat(void *argument) {
  Heartbeat *heartbeat = argument;
  double next = clock_seconds() + heartbeat->every, paused, length;
  do {
    double now = clock_seconds();
    atomic_store(&heartbeat->ticked, now_ns());
    if (now >= next) {
      next = now + heartbeat->every;
      write_record(heartbeat);
      leave_if_diagnosed(heartbeat);
      watch_next(heartbeat);
    }
    check_deadline(heartbeat);
    length = fmin(LONGEST_NAP, fmax(0.001, next - clock_seconds()));
    if (!nap(heartbeat, length, &paused)) break;
    if (paused == 0) continue;
    log_warning("this process did not run for %.0f s; its deadlines start anew", paused);
    for (int i = 0; i < heartbeat->size; i++) heartbeat->seen[i].at = 0;
    heartbeat->look.at = 0;
  } while (true);
  write_record(heartbeat);
  return NULL;
}

/* --- Start and stop --------------------------------------------------------------------------- */

static Status check_options(const HeartbeatOptions *options, Error *error) {
  if (!(options->every > 0))
    return error_set(error, ERROR_INTERNAL, "a heartbeat every %g s", options->every);
  for (int i = 0; i < PHASE_COUNT; i++)
    if (!(options->deadline[i] > 0))
      return error_set(error, ERROR_INTERNAL, "a deadline of %g s for %s", options->deadline[i],
                       phase_name((Phase)i));
  return OK;
}

static Heartbeat *heartbeat_new(Comm *comm, const HeartbeatOptions *options) {
  Heartbeat *heartbeat = mem_new(1, sizeof *heartbeat);
  Record *self = &heartbeat->self;
  heartbeat->comm = comm;
  heartbeat->rank = self->rank = comm->rank;
  heartbeat->size = self->world_size = comm->size;
  heartbeat->every = options->every;
  memcpy(heartbeat->deadlines, options->deadline, sizeof heartbeat->deadlines);
  heartbeat->folder = mem_string(options->folder);
  self->valid = true;
  self->pid = (int)getpid();
  self->started = clock_wall_seconds();
  if (gethostname(self->host, sizeof self->host - 1) != 0) strcpy(self->host, "unknown");
  heartbeat->seen = mem_new((size_t)comm->size, sizeof *heartbeat->seen);
  look_new(comm->size, &heartbeat->look);
  pthread_mutex_init(&heartbeat->mutex, NULL);
  condition_init(&heartbeat->changed);
  heartbeat_phase(heartbeat, PHASE_START, 0);
  atomic_store(&heartbeat->ticked, now_ns());
  return heartbeat;
}

static void heartbeat_free(Heartbeat *heartbeat) {
  pthread_cond_destroy(&heartbeat->changed);
  pthread_mutex_destroy(&heartbeat->mutex);
  look_free(&heartbeat->look);
  free(heartbeat->seen);
  free(heartbeat->folder);
  free(heartbeat->diagnosis);
  free(heartbeat);
}

static Status prepare_folder(Heartbeat *heartbeat, Error *error) {
  Status status = OK;
  uint64_t number = (uint64_t)(clock_wall_seconds() * 1e6) ^ (uint64_t)getpid() << 40;
  TRY(folder_create(heartbeat->folder, error));
  TRY(record_clear(heartbeat->folder, error));
  if (getrandom(&number, sizeof number, GRND_NONBLOCK) != sizeof number)
    log_debug("no random number for the run: its time of start will do");
  snprintf(heartbeat->self.run, sizeof heartbeat->self.run, "%016" PRIx64, number);
done:
  return status;
}

static void end_thread(Heartbeat *heartbeat, pthread_t thread) {
  pthread_mutex_lock(&heartbeat->mutex);
  heartbeat->over = true;
  pthread_cond_broadcast(&heartbeat->changed);
  pthread_mutex_unlock(&heartbeat->mutex);
  pthread_join(thread, NULL);
}

static Status start_threads(Heartbeat *heartbeat, Error *error) {
  Status status = record_write(heartbeat->folder, &heartbeat->self, error);
  if (status == OK) status = thread_start(&heartbeat->beating, "heartbeat", beat, heartbeat, error);
  if (status != OK) return status;
  status = thread_start(&heartbeat->guarding, "watchdog", guard, heartbeat, error);
  if (status != OK) end_thread(heartbeat, heartbeat->beating);
  return status;
}

Status heartbeat_start(Comm *comm, const HeartbeatOptions *options, Heartbeat **out, Error *error) {
  *out = NULL;
  Status status = check_options(options, error);
  if (status == OK && comm->heartbeat)
    status = error_set(error, ERROR_INTERNAL, "the group has a heartbeat already");
  if (status != OK) return status;
  Heartbeat *heartbeat = heartbeat_new(comm, options);
  if (comm->rank == 0) status = prepare_folder(heartbeat, error);
  TRY(comm_agree(comm, status, error));
  TRY(comm_broadcast(comm, heartbeat->self.run, sizeof heartbeat->self.run, 0, error));
  heartbeat->diagnosis = mem_format("%s/diagnosis-%s.txt", heartbeat->folder, heartbeat->self.run);
  status = start_threads(heartbeat, error);
  bool started = status == OK;
  status = comm_agree(comm, status, error);
  if (status == OK) {
    *out = comm->heartbeat = heartbeat;
    heartbeat = NULL;
  } else if (started) {
    end_thread(heartbeat, heartbeat->beating);
    end_thread(heartbeat, heartbeat->guarding);
  }
done:
  if (heartbeat) heartbeat_free(heartbeat);
  return status;
}

void heartbeat_stop(Heartbeat *heartbeat) {
  if (!heartbeat) return;
  end_thread(heartbeat, heartbeat->beating);
  end_thread(heartbeat, heartbeat->guarding);
  heartbeat_free(heartbeat);
}
