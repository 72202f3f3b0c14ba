#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/internal.h"

Status mpi_check(int code, const Operation *operation, Error *error) {
  if (code == MPI_SUCCESS) return OK;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return error_set(error, ERROR_INTERNAL, "%s on rank %d of %d: MPI says: %s", operation->name,
                   operation->rank, operation->size, text);
}

/* Between two looks at a request: long enough to leave the core to the ranks that compute, short
 * beside what has been waited already (seconds). */
static void pause_for(double waited) {
  const double shortest = 20e-6, longest = 200e-6;
  double seconds = waited / 4;
  if (seconds < shortest) seconds = shortest;
  if (seconds > longest) seconds = longest;
  nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
}

Status timeout_error(const Operation *operation, double waited, Error *error) {
  char host[256] = "";
  if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  return error_set(error, ERROR_INTERNAL,
                   "%s: rank %d of %d (pid %d on %s) waited %.1f s without progress, "
                   "%zu of %zu bytes done; another rank is stuck, gone or elsewhere",
                   operation->name, operation->rank, operation->size, (int)getpid(), host, waited,
                   operation->done, operation->bytes);
}

Status mpi_wait(MPI_Request *request, const Operation *operation, double timeout, Error *error) {
  double began = clock_seconds();
  for (;;) {
    int complete = 0;
    Status status = mpi_check(MPI_Test(request, &complete, MPI_STATUS_IGNORE), operation, error);
    if (status != OK || complete) return status;
    double waited = clock_seconds() - began;
    if (waited > timeout) return timeout_error(operation, waited, error);
    pause_for(waited);
  }
}

static void *watch(void *argument) {
  Watchdog *watchdog = argument;
  double deadline = clock_seconds() + watchdog->seconds;
  bool in_time = true;
  pthread_mutex_lock(&watchdog->mutex);
  while (!watchdog->over && in_time)
    in_time = condition_wait_until(&watchdog->changed, &watchdog->mutex, deadline);
  bool over = watchdog->over;
  pthread_mutex_unlock(&watchdog->mutex);
  if (over) return NULL;
  log_error("%s has not returned within %.1f s (pid %d): another rank is stuck, gone or was "
            "never started",
            watchdog->what, watchdog->seconds, (int)getpid());
  _exit(ERROR_INTERNAL);
}

Status watchdog_start(Watchdog *watchdog, const char *what, double seconds, Error *error) {
  *watchdog = (Watchdog){.what = what, .seconds = seconds};
  pthread_mutex_init(&watchdog->mutex, NULL);
  condition_init(&watchdog->changed);
  Status status = thread_start(&watchdog->thread, "comm watchdog", watch, watchdog, error);
  if (status != OK) {
    pthread_cond_destroy(&watchdog->changed);
    pthread_mutex_destroy(&watchdog->mutex);
  }
  return status;
}

void watchdog_stop(Watchdog *watchdog) {
  pthread_mutex_lock(&watchdog->mutex);
  watchdog->over = true;
  pthread_cond_signal(&watchdog->changed);
  pthread_mutex_unlock(&watchdog->mutex);
  pthread_join(watchdog->thread, NULL);
  pthread_cond_destroy(&watchdog->changed);
  pthread_mutex_destroy(&watchdog->mutex);
}

typedef struct Leave {
  double seconds;
  int exit_code;
} Leave;

static void *leave(void *argument) {
  Leave *how = argument;
  struct timespec pause = {.tv_sec = (time_t)how->seconds};
  while (nanosleep(&pause, &pause) != 0) continue;
  _exit(how->exit_code);
}

bool leave_within(double seconds, int exit_code) {
  pthread_t thread;
  Error error;
  Leave *how = mem_new(1, sizeof *how); /* the process ends before it could be freed */
  *how = (Leave){seconds, exit_code};
  if (thread_start(&thread, "leave", leave, how, &error) == OK) return true;
  free(how);
  return false;
}
