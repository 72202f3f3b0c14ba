/* The two threads of a rank's heartbeat. The heartbeat thread writes the heartbeats and runs the
 * checks of watchdog.c; the guard thread touches no file, and ends the process if the heartbeat
 * thread hangs in one. */
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

/* A sleep that takes this many seconds too long means that the process was suspended. */
static const double SUSPENDED = 5;

void heartbeat_set_phase(Heartbeat *heartbeat, Phase phase, int64_t step) {
  if (heartbeat) presence_set_phase(&heartbeat->comm->presence, phase, step);
}

/* --- Both threads ----------------------------------------------------------------------------- */

/* Sleeps; returns false if the heartbeat is to stop. *suspended receives the seconds that the
 * process did not run, or 0. */
static bool sleep_unless_stopped(Heartbeat *heartbeat, double seconds, double *suspended) {
  double until = clock_seconds() + seconds;
  bool in_time = true;
  pthread_mutex_lock(&heartbeat->mutex);
  while (!heartbeat->stopping && in_time)
    in_time = condition_wait_until(&heartbeat->changed, &heartbeat->mutex, until);
  bool stopping = heartbeat->stopping;
  pthread_mutex_unlock(&heartbeat->mutex);
  *suspended = clock_seconds() - until;
  if (*suspended > SUSPENDED)
    presence_restart_clocks(&heartbeat->comm->presence);
  else
    *suspended = 0;
  return !stopping;
}

/* --- The guard thread ------------------------------------------------------------------------- */

static void *run_guard(void *argument) {
  Heartbeat *heartbeat = argument;
  double suspended;
  while (sleep_unless_stopped(heartbeat, POLL_SECONDS, &suspended)) {
    if (suspended == 0)
      watchdog_check_heartbeat_thread(heartbeat);
    else /* logged here for both threads: the other may have been suspended inside a write */
      log_warning("this process was suspended for %.0f s; its deadlines restart", suspended);
  }
  return NULL;
}

/* --- The heartbeat thread --------------------------------------------------------------------- */

static void record_iteration(Heartbeat *heartbeat) {
  atomic_store(&heartbeat->last_iteration, (uint64_t)(clock_seconds() * 1e9));
}

static void *run_heartbeat(void *argument) {
  Heartbeat *heartbeat = argument;
  double next = clock_seconds() + heartbeat->every, suspended, length;
  do {
    double now = clock_seconds();
    record_iteration(heartbeat);
    if (now >= next) {
      next = now + heartbeat->every;
      heartbeat_write(heartbeat);
      watchdog_exit_if_diagnosed(heartbeat);
      watchdog_check_peers(heartbeat);
    }
    watchdog_check_deadline(heartbeat);
    length = fmin(POLL_SECONDS, fmax(0.001, next - clock_seconds()));
    if (!sleep_unless_stopped(heartbeat, length, &suspended)) break;
    if (suspended == 0) continue;
    for (int i = 0; i < heartbeat->size; i++) heartbeat->peers[i].seen_at = 0;
    heartbeat->snapshot.first_read_at = 0;
  } while (true);
  heartbeat_write(heartbeat);
  return NULL;
}

/* --- Starting and stopping -------------------------------------------------------------------- */

static Status check_options(const HeartbeatOptions *options, Error *error) {
  if (!(options->every > 0))
    return error_set(error, ERROR_INTERNAL, "a heartbeat every %g s; must be positive",
                     options->every);
  for (int i = 0; i < PHASE_COUNT; i++)
    if (!(options->deadline[i] > 0))
      return error_set(error, ERROR_INTERNAL, "a deadline of %g s for %s; must be positive",
                       options->deadline[i], phase_name((Phase)i));
  return OK;
}

static Heartbeat *heartbeat_new(Comm *comm, const HeartbeatOptions *options) {
  Heartbeat *heartbeat = mem_new(1, sizeof *heartbeat);
  HeartbeatRecord *self = &heartbeat->self;
  heartbeat->comm = comm;
  heartbeat->rank = self->rank = comm->rank;
  heartbeat->size = self->world_size = comm->size;
  heartbeat->every = options->every;
  memcpy(heartbeat->deadlines, options->deadline, sizeof heartbeat->deadlines);
  heartbeat->folder = mem_string(options->folder);
  self->valid = true;
  self->pid = (int)getpid();
  self->started = clock_wall_seconds();
  host_name(self->host);
  heartbeat->peers = mem_new((size_t)comm->size, sizeof *heartbeat->peers);
  heartbeat_snapshot_new(comm->size, &heartbeat->snapshot);
  pthread_mutex_init(&heartbeat->mutex, NULL);
  condition_init(&heartbeat->changed);
  presence_set_phase(&comm->presence, PHASE_START, 0);
  record_iteration(heartbeat);
  return heartbeat;
}

static void heartbeat_free(Heartbeat *heartbeat) {
  pthread_cond_destroy(&heartbeat->changed);
  pthread_mutex_destroy(&heartbeat->mutex);
  heartbeat_snapshot_free(&heartbeat->snapshot);
  free(heartbeat->peers);
  free(heartbeat->folder);
  free(heartbeat->diagnosis_path);
  free(heartbeat);
}

static Status prepare_folder(Heartbeat *heartbeat, Error *error) {
  Status status = OK;
  uint64_t number = (uint64_t)(clock_wall_seconds() * 1e6) ^ (uint64_t)getpid() << 40;
  TRY(folder_create(heartbeat->folder, error));
  TRY(heartbeat_files_remove(heartbeat->folder, error));
  if (getrandom(&number, sizeof number, GRND_NONBLOCK) != sizeof number)
    log_debug("no random number for the run's name in heartbeats; using time and pid instead");
  snprintf(heartbeat->self.run, sizeof heartbeat->self.run, "%016" PRIx64, number);
done:
  return status;
}

static void stop_thread(Heartbeat *heartbeat, pthread_t thread) {
  pthread_mutex_lock(&heartbeat->mutex);
  heartbeat->stopping = true;
  pthread_cond_broadcast(&heartbeat->changed);
  pthread_mutex_unlock(&heartbeat->mutex);
  pthread_join(thread, NULL);
}

static Status start_threads(Heartbeat *heartbeat, Error *error) {
  Status status = heartbeat_file_write(heartbeat->folder, &heartbeat->self, error);
  if (status == OK)
    status =
        thread_start(&heartbeat->heartbeat_thread, "heartbeat", run_heartbeat, heartbeat, error);
  if (status != OK) return status;
  status = thread_start(&heartbeat->guard_thread, "watchdog", run_guard, heartbeat, error);
  if (status != OK) stop_thread(heartbeat, heartbeat->heartbeat_thread);
  return status;
}

static void stop_threads(Heartbeat *heartbeat) {
  stop_thread(heartbeat, heartbeat->heartbeat_thread);
  stop_thread(heartbeat, heartbeat->guard_thread);
}

static void stop_and_free(void *context) {
  stop_threads(context);
  heartbeat_free(context);
}

Status heartbeat_start(Comm *comm, const HeartbeatOptions *options, Heartbeat **out, Error *error) {
  *out = NULL;
  Status status = check_options(options, error);
  if (status == OK && comm->stop_watch)
    status = error_set(error, ERROR_INTERNAL, "the group already has a heartbeat");
  if (status != OK) return status;
  Heartbeat *heartbeat = heartbeat_new(comm, options);
  if (comm->rank == 0) status = prepare_folder(heartbeat, error);
  TRY(comm_agree(comm, status, error));
  TRY(comm_broadcast(comm, heartbeat->self.run, sizeof heartbeat->self.run, 0, error));
  heartbeat->diagnosis_path =
      mem_format("%s/diagnosis-%s.txt", heartbeat->folder, heartbeat->self.run);
  status = start_threads(heartbeat, error);
  bool started = status == OK;
  status = comm_agree(comm, status, error);
  if (status == OK) {
    comm_set_watch(comm, stop_and_free, heartbeat);
    *out = heartbeat;
    heartbeat = NULL;
  } else if (started) {
    stop_threads(heartbeat);
  }
done:
  if (heartbeat) heartbeat_free(heartbeat);
  return status;
}
