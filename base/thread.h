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

Queue *queue_new(size_t capacity); /* at least 1 */
void queue_free(Queue *queue);     /* must be empty of waiters; does not free the items */
/* Waits while full. False when the queue was closed: the item was not taken. */
bool queue_push(Queue *queue, void *item);
/* Waits while empty. False when the queue is closed and empty. */
bool queue_pop(Queue *queue, void **item);
void queue_close(Queue *queue); /* wakes every waiter; items inside can still be popped */

/* Starts a joinable thread with all signals blocked (signals are the main thread's) but those of
 * its own faults, and a name (cut to 15 characters) that debuggers show. ERROR_INTERNAL if the
 * system has no thread to give. */
Status thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *argument,
                    Error *error);

double clock_seconds(void);      /* monotonic */
double clock_wall_seconds(void); /* since the epoch */
/* Condition variables made by this wait on the monotonic clock. */
void condition_init(pthread_cond_t *condition);
/* False on timeout. `deadline` is in clock_seconds. */
bool condition_wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, double deadline);

#endif
