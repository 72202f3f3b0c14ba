/* Ends the process when a call hangs, or after a fixed time. */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/internal.h"

static void *enforce(void *argument) {
  CallDeadline *deadline = argument;
  double end = clock_seconds() + deadline->seconds;
  bool in_time = true;
  pthread_mutex_lock(&deadline->mutex);
  while (!deadline->returned && in_time)
    in_time = condition_wait_until(&deadline->changed, &deadline->mutex, end);
  bool returned = deadline->returned;
  pthread_mutex_unlock(&deadline->mutex);
  if (returned) return NULL;
  log_error("%s has not returned within %.1f s (pid %d): another rank hangs, has ended or was "
            "never started",
            deadline->call, deadline->seconds, (int)getpid());
  _exit(ERROR_INTERNAL);
}

Status call_deadline_start(CallDeadline *deadline, const char *call, double seconds, Error *error) {
  *deadline = (CallDeadline){.call = call, .seconds = seconds};
  pthread_mutex_init(&deadline->mutex, NULL);
  condition_init(&deadline->changed);
  Status status = thread_start(&deadline->thread, "comm deadline", enforce, deadline, error);
  if (status != OK) {
    pthread_cond_destroy(&deadline->changed);
    pthread_mutex_destroy(&deadline->mutex);
  }
  return status;
}

void call_deadline_stop(CallDeadline *deadline) {
  pthread_mutex_lock(&deadline->mutex);
  deadline->returned = true;
  pthread_cond_signal(&deadline->changed);
  pthread_mutex_unlock(&deadline->mutex);
  pthread_join(deadline->thread, NULL);
  pthread_cond_destroy(&deadline->changed);
  pthread_mutex_destroy(&deadline->mutex);
}

typedef struct Exit {
  double seconds;
  int code;
} Exit;

static void *sleep_and_exit(void *argument) {
  Exit *planned = argument;
  struct timespec pause = {.tv_sec = (time_t)planned->seconds};
  while (nanosleep(&pause, &pause) != 0) continue;
  _exit(planned->code);
}

bool exit_after(double seconds, int exit_code) {
  pthread_t thread;
  Error error;
  Exit *planned = mem_new(1, sizeof *planned); /* the process ends before it could be freed */
  *planned = (Exit){seconds, exit_code};
  if (thread_start(&thread, "exit", sleep_and_exit, planned, &error) == OK) return true;
  free(planned);
  return false;
}
