/* The progress line of a training run: the numbers after the step count. */
#ifndef CELFORGE_TRAINER_RUN_STATUS_LINE_H
#define CELFORGE_TRAINER_RUN_STATUS_LINE_H

#include "base/text.h"
#include "trainer/run/metrics_log.h"

/* Appends losses, clips/s, the percentages of the time spent waiting for data and for
 * communication, and the straggler rank: "  g 1.2  d 0.5  l1 0.1  12 clips/s  data 1%  comm 3%".
 * Losses that are NaN are left out. Appends nothing for a zeroed record: no metrics yet. */
void status_line_append(const MetricsRecord *record, Text *line);

#endif
