#include "trainer/run/status_line.h"

#include <math.h>

void status_line_append(const MetricsRecord *record, Text *line) {
  static const struct {
    Metric metric;
    const char *name;
  } SHOWN[] = {{METRIC_LOSS_G, "g"}, {METRIC_LOSS_D, "d"}, {METRIC_L1, "l1"}};
  if (record->step <= 0) return;
  for (size_t i = 0; i < sizeof SHOWN / sizeof *SHOWN; i++) {
    double value = record->values[SHOWN[i].metric];
    if (!isnan(value)) text_append(line, "  %s %.4g", SHOWN[i].name, value);
  }
  text_append(line, "  %.3g clips/s", record->clips_per_second);
  text_append(line, "  data %.0f%%  comm %.0f%%", 100 * record->time_data,
              100 * record->time_comm_exposed);
  if (record->straggler_rank >= 0) text_append(line, "  straggler rank %d", record->straggler_rank);
}
