#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"

struct Queue {
  pthread_mutex_t mutex;
  pthread_cond_t not_full, not_empty;
  void **items; /* a ring of `capacity` */
  size_t capacity, first, length;
  bool closed;
};

Queue *queue_new(size_t capacity) {
  Queue *queue = mem_new(1, sizeof *queue);
  queue->capacity = capacity ? capacity : 1;
  queue->items = mem_new(queue->capacity, sizeof *queue->items);
  pthread_mutex_init(&queue->mutex, NULL);
  condition_init(&queue->not_full);
  condition_init(&queue->not_empty);
  return queue;
}

void queue_free(Queue *queue) {
  if (!queue) return;
  pthread_cond_destroy(&queue->not_empty);
  pthread_cond_destroy(&queue->not_full);
  pthread_mutex_destroy(&queue->mutex);
  free(queue->items);
  free(queue);
}

bool queue_push(Queue *queue, void *item) {
  pthread_mutex_lock(&queue->mutex);
  while (queue->length == queue->capacity && !queue->closed)
    pthread_cond_wait(&queue->not_full, &queue->mutex);
  bool taken = !queue->closed;
  if (taken) {
    queue->items[(queue->first + queue->length) % queue->capacity] = item;
    queue->length++;
    pthread_cond_signal(&queue->not_empty);
  }
  pthread_mutex_unlock(&queue->mutex);
  return taken;
}

bool queue_pop(Queue *queue, void **item) {
  pthread_mutex_lock(&queue->mutex);
  while (queue->length == 0 && !queue->closed) pthread_cond_wait(&queue->not_empty, &queue->mutex);
  bool found = queue->length > 0;
  if (found) {
    *item = queue->items[queue->first];
    queue->first = (queue->first + 1) % queue->capacity;
    queue->length--;
    pthread_cond_signal(&queue->not_full);
  }
  pthread_mutex_unlock(&queue->mutex);
  return found;
}

void queue_close(Queue *queue) {
  pthread_mutex_lock(&queue->mutex);
  queue->closed = true;
  pthread_cond_broadcast(&queue->not_full);
  pthread_cond_broadcast(&queue->not_empty);
  pthread_mutex_unlock(&queue->mutex);
}

/* All signals except those that a fault of the thread raises: if blocked, they would kill the
 * process without running a handler that reports the fault. */
static void asynchronous_signals(sigset_t *set) {
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
  sigfillset(set);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(set, faults[i]);
}

Status thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *argument,
                    Error *error) {
  sigset_t blocked, before;
  asynchronous_signals(&blocked);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  int errnum = pthread_create(thread, NULL, run, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (errnum != 0)
    return error_set(error, ERROR_INTERNAL, "thread \"%s\": cannot start: %s", name,
                     strerror(errnum));
  char short_name[16];
  snprintf(short_name, sizeof short_name, "%.15s", name);
  pthread_setname_np(*thread, short_name);
  return OK;
}

/* Polls: pthread_timedjoin_np waits on the wall clock, which may jump, and ThreadSanitizer does not
 * know pthread_clockjoin_np. */
bool thread_join_until(pthread_t thread, double deadline) {
  const double longest = 0.01;
  for (double pause = 0.0001;; pause = pause * 2 < longest ? pause * 2 : longest) {
    int errnum = pthread_tryjoin_np(thread, NULL);
    if (errnum != EBUSY) return errnum == 0;
    if (clock_seconds() >= deadline) return false;
    nanosleep(&(struct timespec){.tv_nsec = (long)(pause * 1e9)}, NULL);
  }
}

static double seconds_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double clock_seconds(void) {
  return seconds_of(CLOCK_MONOTONIC);
}

double clock_wall_seconds(void) {
  return seconds_of(CLOCK_REALTIME);
}

void condition_init(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

bool condition_wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, double deadline) {
  const double far_away = 1e9; /* 30 years of uptime: no deadline */
  double until = deadline > far_away ? far_away : deadline < 0 ? 0 : deadline;
  struct timespec when;
  when.tv_sec = (time_t)until;
  when.tv_nsec = (long)((until - (double)when.tv_sec) * 1e9);
  return pthread_cond_timedwait(condition, mutex, &when) == 0;
}
