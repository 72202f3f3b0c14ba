/* The word of the main thread, and the two threads of a rank: one beats and does what watchdog.c
 * says; the other touches no file, and ends the process where the first hangs in one. */
#include "comm/health/heartbeat.h"

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
#include "comm/health/internal.h"

/* seconds */
static const double PAUSE = 5; /* a nap that lasted so much longer was no nap */

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

Place heartbeat_place(Heartbeat *heartbeat) {
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

static void *guard(void *argument) {
  Heartbeat *heartbeat = argument;
  double paused;
  while (nap(heartbeat, HEARTBEAT_NAP, &paused)) {
    if (paused == 0)
      watchdog_check_beating(heartbeat);
    else /* for both threads: the other one may have been stopped in a write */
      log_warning("this process did not run for %.0f s; its deadlines start anew", paused);
  }
  return NULL;
}

/* --- The beating thread: its own record ------------------------------------------------------- */

void heartbeat_write(Heartbeat *heartbeat) {
  Error error = {0};
  Place place = heartbeat_place(heartbeat);
  Record *self = &heartbeat->self;
  self->beat++;
  self->time = clock_wall_seconds();
  self->phase = place.phase;
  self->since = fmax(0, clock_seconds() - place.since);
  self->step = atomic_load(&heartbeat->step);
  self->begun = atomic_load(&heartbeat->comm->begun);
  snprintf(self->waiting, sizeof self->waiting, "%s", place.waiting ? place.waiting : "");
  record_write(heartbeat->folder, self, &error);
  if (error.status != OK && heartbeat->trouble.status == OK)
    log_warning("the other ranks see no heartbeat of this one: %s", error.message);
  heartbeat->trouble = error;
}

static void *beat(void *argument) {
  Heartbeat *heartbeat = argument;
  double next = clock_seconds() + heartbeat->every, paused, length;
  do {
    double now = clock_seconds();
    atomic_store(&heartbeat->ticked, now_ns());
    if (now >= next) {
      next = now + heartbeat->every;
      heartbeat_write(heartbeat);
      watchdog_leave_if_diagnosed(heartbeat);
      watchdog_check_next(heartbeat);
    }
    watchdog_check_deadline(heartbeat);
    length = fmin(HEARTBEAT_NAP, fmax(0.001, next - clock_seconds()));
    if (!nap(heartbeat, length, &paused)) break;
    if (paused == 0) continue;
    for (int i = 0; i < heartbeat->size; i++) heartbeat->seen[i].at = 0;
    heartbeat->look.at = 0;
  } while (true);
  heartbeat_write(heartbeat);
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
