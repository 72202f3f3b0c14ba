/* Threads, a bounded queue, and clocks. */
#ifndef CELFORGE_BASE_THREAD_H
#define CELFORGE_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* A bounded first-in-first-out queue of pointers between threads. */
typedef struct Queue Queue;

Queue *queue_new(size_t capacity); /* 0 counts as 1 */
void queue_free(Queue *queue);     /* no thread may wait on it; does not free items */
/* Waits while the queue is full. Returns false if it is closed; the item is then not queued. */
bool queue_push(Queue *queue, void *item);
/* Waits while the queue is empty. Returns false once it is closed and empty. */
bool queue_pop(Queue *queue, void **item);
void queue_close(Queue *queue); /* wakes all waiting threads; queued items can still be popped */

/* Starts a joinable thread. All signals are blocked in it, so that the main thread handles them,
 * except those that its own faults raise. `name`, cut to 15 characters, is shown by debuggers.
 * ERROR_INTERNAL if the system cannot start a thread. */
Status thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *argument,
                    Error *error);

/* Joins the thread; returns false if it has not ended at `deadline` (clock_seconds). */
bool thread_join_until(pthread_t thread, double deadline);

double clock_seconds(void);      /* monotonic */
double clock_wall_seconds(void); /* since the epoch */
/* Initialises a condition variable that waits on the monotonic clock. */
void condition_init(pthread_cond_t *condition);
/* Waits until the condition is signalled, or until `deadline` (clock_seconds); returns false on
 * timeout. May wake up spuriously. */
bool condition_wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, double deadline);

#endif
