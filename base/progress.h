/* Progress of a long command: a bar at the bottom of a terminal, or a log line every ten seconds
 * where standard error is not a terminal. It shows what is done of the total, the rate or the
 * caller's own details, and the time left. */
#ifndef CELFORGE_BASE_PROGRESS_H
#define CELFORGE_BASE_PROGRESS_H

#include <stdint.h>

#include "base/text.h"

typedef struct Progress Progress;

/* Appends the caller's details to a line, each with two spaces before it: "  loss 0.2". Appends
 * nothing to have the rate shown instead. */
typedef void ProgressDetails(const void *context, Text *line);

/* `task` names the work ("train"; copied), which starts at `first` and ends at `total` steps,
 * frames or clips; a total below 1 is unknown. */
Progress *progress_new(const char *task, int64_t first, int64_t total);
/* Shows details from now on. They are only formatted for a line that is printed, so `context` must
 * outlive the progress. */
void progress_set_details(Progress *progress, ProgressDetails *details, const void *context);
/* Reports that `done` are done. Cheap: call it for every step, frame or clip. */
void progress_update(Progress *progress, int64_t done);
/* Removes the bar, logs the last state, frees. NULL is allowed. */
void progress_end(Progress *progress);

#endif
