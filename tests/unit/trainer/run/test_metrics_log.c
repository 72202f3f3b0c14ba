/* metrics.jsonl: what a line holds, and how a resumed run cuts it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "trainer/run/metrics_log.h"

static char *folder, *path;
static Error error;

static int set_up(void **state) {
  (void)state;
  const char *root = getenv("TMPDIR");
  folder = mem_format("%s/celforge-test-XXXXXX", root && *root ? root : "/tmp");
  if (!mkdtemp(folder)) return -1;
  path = path_join(folder, "metrics.jsonl");
  setenv("CELFORGE_LOG", "error", 1);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  Status status = folder_remove(folder, &error);
  free(folder);
  free(path);
  return status == OK ? 0 : -1;
}

static MetricsLog *open_log(int64_t step) {
  MetricsLog *log = NULL;
  if (metrics_open(folder, step, &log, &error) != OK) fail_msg("%s", error.message);
  return log;
}

static MetricsRecord record_of(int64_t step) {
  MetricsRecord record = {.step = step,
                          .clips_per_second = 2.5,
                          .seconds_per_step = 0.4,
                          .gflops = 123,
                          .generator_lr = 2e-4,
                          .discriminator_lr = 1e-4,
                          .time_data = 0.25,
                          .time_comm_exposed = 0.125,
                          .skipped_generator = 1,
                          .skipped_discriminator = 2,
                          .corrupt = 3,
                          .computing = 0.625,
                          .straggler_rank = 4,
                          .straggler_seconds = 0.375,
                          .rollbacks = 5,
                          .skipped_batches = 6};
  for (int i = 0; i < METRIC_COUNT; i++) record.values[i] = (double)NAN;
  record.values[METRIC_LOSS_G] = 0.1;
  return record;
}

static void write_steps(MetricsLog *log, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; step++) {
    MetricsRecord record = record_of(step);
    if (metrics_write(log, &record, &error) != OK) fail_msg("%s", error.message);
  }
}

/* The steps in the file, in order; every line must be JSON and end. */
static int read_steps(int64_t *steps, int most) {
  char *data = NULL;
  size_t size = 0;
  int count = 0;
  assert_int_equal(file_read(path, 1 << 20, &data, &size, &error), OK);
  for (char *line = data; line < data + size;) {
    char *end = strchr(line, '\n');
    json_t *record = NULL;
    assert_non_null(end);
    if (json_parse(path, line, (size_t)(end - line), &record, &error) != OK)
      fail_msg("%s", error.message);
    assert_true(count < most);
    assert_int_equal(json_get_int(record, path, "step", 0, 1000, &steps[count++], &error), OK);
    json_decref(record);
    line = end + 1;
  }
  free(data);
  return count;
}

static void test_a_line(void **state) {
  (void)state;
  MetricsLog *log = open_log(0);
  MetricsRecord record = record_of(7);
  record.values[METRIC_L1] = INFINITY;
  assert_int_equal(metrics_write(log, &record, &error), OK);
  metrics_close(log);
  json_t *line = NULL;
  if (json_read_file(path, 1 << 20, &line, &error) != OK) fail_msg("%s", error.message);
  static const struct {
    const char *key;
    double value;
  } EXPECTED[] = {{"step", 7},
                  {"loss/g", 0.1},
                  {"clips_per_second", 2.5},
                  {"gflops", 123},
                  {"lr/g", 2e-4},
                  {"lr/d", 1e-4},
                  {"time/data", 0.25},
                  {"skipped/g", 1},
                  {"skipped/d", 2},
                  {"corrupt", 3},
                  {"time/comm_exposed", .125},
                  {"step_seconds", 0.4},
                  {"time/compute", 0.625},
                  {"straggler/rank", 4},
                  {"straggler/seconds", 0.375},
                  {"rollbacks", 5},
                  {"skipped_batches", 6}};
  for (size_t i = 0; i < sizeof EXPECTED / sizeof *EXPECTED; i++) {
    double value = (double)NAN;
    if (json_get_double(line, path, EXPECTED[i].key, &value, &error) != OK)
      fail_msg("%s", error.message);
    assert_true(fabs(value - EXPECTED[i].value) < 1e-9);
  }
  /* What was not computed is not there, nor what JSON cannot say. */
  assert_int_equal(json_object_size(line), sizeof EXPECTED / sizeof *EXPECTED);
  json_decref(line);
}

static void test_lines_behind_the_checkpoint_go(void **state) {
  (void)state;
  int64_t steps[8];
  MetricsLog *log = open_log(0);
  write_steps(log, 1, 5);
  metrics_close(log);
  log = open_log(3);
  write_steps(log, 4, 4);
  metrics_close(log);
  assert_int_equal(read_steps(steps, 8), 4);
  for (int i = 0; i < 4; i++) assert_int_equal(steps[i], i + 1);
}

static void test_a_torn_line_goes(void **state) {
  (void)state;
  int64_t steps[8];
  const char torn[] = "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3, \"lo";
  assert_int_equal(atomic_file_replace(path, torn, strlen(torn), &error), OK);
  MetricsLog *log = open_log(3);
  write_steps(log, 3, 3);
  metrics_close(log);
  assert_int_equal(read_steps(steps, 8), 3);
  assert_int_equal(steps[2], 3);
}

/* Lines of every tenth step; the run goes on from between two of them. */
static void test_between_two_lines(void **state) {
  (void)state;
  int64_t steps[8];
  MetricsLog *log = open_log(0);
  for (int64_t step = 10; step <= 50; step += 10) write_steps(log, step, step);
  metrics_close(log);
  log = open_log(37);
  assert_int_equal(metrics_sync(log, &error), OK);
  metrics_close(log);
  assert_int_equal(read_steps(steps, 8), 3);
  assert_int_equal(steps[2], 30);
}

static void test_no_lines_yet(void **state) {
  (void)state;
  int64_t steps[8];
  metrics_close(open_log(10)); /* a checkpoint of another folder's run */
  assert_int_equal(read_steps(steps, 8), 0);
  MetricsLog *log = open_log(10);
  write_steps(log, 11, 12);
  metrics_close(log);
  assert_int_equal(read_steps(steps, 8), 2);
}

static void test_lines_that_cannot_be_read_go(void **state) {
  (void)state;
  int64_t steps[8];
  const char bad[] = "{\"step\": 1}\n{\"step\": 2}\n\n{\"steps\": 3}\n\0\0\n";
  assert_int_equal(atomic_file_replace(path, bad, sizeof bad - 1, &error), OK);
  metrics_close(open_log(9));
  assert_int_equal(read_steps(steps, 8), 2);
}

static void test_a_new_run_starts_empty(void **state) {
  (void)state;
  int64_t steps[8];
  assert_int_equal(atomic_file_replace(path, "{\"step\": 9}\n", 12, &error), OK);
  MetricsLog *log = open_log(0);
  write_steps(log, 1, 1);
  metrics_close(log);
  assert_int_equal(read_steps(steps, 8), 1);
  assert_int_equal(steps[0], 1);
}

static void test_no_folder(void **state) {
  (void)state;
  MetricsLog *log = NULL;
  char *missing = path_join(folder, "missing");
  assert_int_equal(metrics_open(missing, 0, &log, &error), ERROR_IO);
  assert_non_null(strstr(error.message, "missing/metrics.jsonl"));
  assert_null(log);
  free(missing);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_a_line, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_lines_behind_the_checkpoint_go, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_a_torn_line_goes, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_between_two_lines, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_no_lines_yet, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_lines_that_cannot_be_read_go, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_a_new_run_starts_empty, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_no_folder, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
