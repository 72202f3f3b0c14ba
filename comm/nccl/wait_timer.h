/* Measures how long a stream waits for all-reduces, with a pair of CUDA events around each wait. */
#ifndef CELFORGE_COMM_NCCL_WAIT_TIMER_H
#define CELFORGE_COMM_NCCL_WAIT_TIMER_H

#include <cuda_runtime.h>

#include "base/error.h"

typedef struct WaitTimer WaitTimer;
typedef struct TimedWait TimedWait;

Status wait_timer_new(WaitTimer **out, Error *error);
/* NULL is allowed. */
void wait_timer_free(WaitTimer *timer);

/* Records the start of a wait on `stream`; wait_timer_end records its end. May be captured into a
 * CUDA graph. `data` identifies the wait: if the same data is captured again after a call of
 * wait_timer_collect, the new graph records the events of the earlier one. */
Status wait_timer_begin(WaitTimer *timer, cudaStream_t stream, const void *data, TimedWait **out,
                        Error *error);
Status wait_timer_end(TimedWait *wait, cudaStream_t stream, Error *error);

/* Returns the seconds of the waits that have ended on the device since the last call. Waits still
 * under way are counted by a later call. Of a captured wait only the last complete run is known, so
 * call it at least once per launch of a graph. Waits neither for the stream nor for all-reduces. */
Status wait_timer_collect(WaitTimer *timer, double *seconds, Error *error);

#endif
