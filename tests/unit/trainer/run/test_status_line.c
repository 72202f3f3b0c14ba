#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "trainer/run/status_line.h"

static void assert_line(const MetricsRecord *record, const char *expected) {
  Text line = {0};
  text_append(&line, "train 3");
  status_line_append(record, &line);
  assert_string_equal(line.data, expected);
  text_free(&line);
}

static void numbers_and_straggler_are_shown(void **state) {
  (void)state;
  MetricsRecord record = {.step = 3,
                          .clips_per_second = 12.34,
                          .time_data = 0.014,
                          .time_comm_exposed = 0.3,
                          .straggler_rank = 5};
  for (int i = 0; i < METRIC_COUNT; i++) record.values[i] = NAN;
  record.values[METRIC_LOSS_G] = 1.23456;
  record.values[METRIC_L1] = 0.1;
  assert_line(&record,
              "train 3  g 1.235  l1 0.1  12.3 clips/s  data 1%  comm 30%  straggler rank 5");
  record.straggler_rank = -1;
  record.values[METRIC_LOSS_D] = 2;
  assert_line(&record, "train 3  g 1.235  d 2  l1 0.1  12.3 clips/s  data 1%  comm 30%");
}

static void no_metrics_append_nothing(void **state) {
  (void)state;
  assert_line(&(MetricsRecord){0}, "train 3");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(numbers_and_straggler_are_shown),
      cmocka_unit_test(no_metrics_append_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
