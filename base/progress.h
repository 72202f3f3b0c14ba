/* What a person watches: on a terminal a bar with step, losses, clips a second, time left and the
 * shares of time spent waiting, and the slowest rank; without one a log line every ten seconds. */
#ifndef CELFORGE_BASE_PROGRESS_H
#define CELFORGE_BASE_PROGRESS_H

#include "trainer/run/metrics_log.h"

typedef struct Progress Progress;

/* `what` is being done ("train"; copied), from `first` to `total` steps, frames or clips; a total
 * below 1 is not known. */
Progress *progress_new(const char *what, int64_t first, int64_t total);
/* `done` of them. `record` may be NULL (no losses to show). Cheap: call it for every step, frame or
 * clip. */
void progress_update(Progress *progress, int64_t done, const MetricsRecord *record);
/* Removes the bar, logs the last state, frees. NULL is allowed. */
void progress_end(Progress *progress);

#endif
