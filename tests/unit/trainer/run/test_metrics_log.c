/* metrics.jsonl: the content of a line, truncation by a resumed run, reading the last line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
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
  if (metrics_log_open(folder, step, &log, &error) != OK) fail_msg("%s", error.message);
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
                          .augment_probability = 0.75,
                          .time_compute = 0.625,
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
    if (metrics_log_write(log, &record, &error) != OK) fail_msg("%s", error.message);
  }
}

/* Returns the steps in the file. Every line must be JSON and end with a newline. */
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

static void test_line_content(void **state) {
  (void)state;
  MetricsLog *log = open_log(0);
  MetricsRecord record = record_of(7);
  record.values[METRIC_L1] = INFINITY;
  assert_int_equal(metrics_log_write(log, &record, &error), OK);
  metrics_log_close(log);
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
                  {"augment/probability", 0.75},
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
  /* Values that were not computed or are not finite are omitted. */
  assert_int_equal(json_object_size(line), sizeof EXPECTED / sizeof *EXPECTED);
  json_decref(line);
}

static void test_lines_after_the_checkpoint_are_removed(void **state) {
  (void)state;
  int64_t steps[8];
  MetricsLog *log = open_log(0);
  write_steps(log, 1, 5);
  metrics_log_close(log);
  log = open_log(3);
  write_steps(log, 4, 4);
  metrics_log_close(log);
  assert_int_equal(read_steps(steps, 8), 4);
  for (int i = 0; i < 4; i++) assert_int_equal(steps[i], i + 1);
}

static void test_incomplete_line_is_removed(void **state) {
  (void)state;
  int64_t steps[8];
  const char torn[] = "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3, \"lo";
  assert_int_equal(atomic_file_replace(path, torn, strlen(torn), &error), OK);
  MetricsLog *log = open_log(3);
  write_steps(log, 3, 3);
  metrics_log_close(log);
  assert_int_equal(read_steps(steps, 8), 3);
  assert_int_equal(steps[2], 3);
}

/* Lines of every tenth step; the run resumes at a step between two of them. */
static void test_resume_between_two_lines(void **state) {
  (void)state;
  int64_t steps[8];
  MetricsLog *log = open_log(0);
  for (int64_t step = 10; step <= 50; step += 10) write_steps(log, step, step);
  metrics_log_close(log);
  log = open_log(37);
  assert_int_equal(metrics_log_sync(log, &error), OK);
  metrics_log_close(log);
  assert_int_equal(read_steps(steps, 8), 3);
  assert_int_equal(steps[2], 30);
}

static void test_file_is_created(void **state) {
  (void)state;
  int64_t steps[8];
  metrics_log_close(open_log(10)); /* resumed from a checkpoint in another folder */
  assert_int_equal(read_steps(steps, 8), 0);
  MetricsLog *log = open_log(10);
  write_steps(log, 11, 12);
  metrics_log_close(log);
  assert_int_equal(read_steps(steps, 8), 2);
}

static void test_invalid_lines_are_removed(void **state) {
  (void)state;
  int64_t steps[8];
  const char bad[] = "{\"step\": 1}\n{\"step\": 2}\n\n{\"steps\": 3}\n\0\0\n";
  assert_int_equal(atomic_file_replace(path, bad, sizeof bad - 1, &error), OK);
  metrics_log_close(open_log(9));
  assert_int_equal(read_steps(steps, 8), 2);
}

static void test_new_run_removes_all_lines(void **state) {
  (void)state;
  int64_t steps[8];
  assert_int_equal(atomic_file_replace(path, "{\"step\": 9}\n", 12, &error), OK);
  MetricsLog *log = open_log(0);
  write_steps(log, 1, 1);
  metrics_log_close(log);
  assert_int_equal(read_steps(steps, 8), 1);
  assert_int_equal(steps[0], 1);
}

static void test_missing_folder(void **state) {
  (void)state;
  MetricsLog *log = NULL;
  char *missing = path_join(folder, "missing");
  assert_int_equal(metrics_log_open(missing, 0, &log, &error), ERROR_IO);
  assert_non_null(strstr(error.message, "missing/metrics.jsonl"));
  assert_null(log);
  free(missing);
}

/* More than 1 GiB in front of the last lines, a hole that takes no disk space. */
static void test_large_file(void **state) {
  (void)state;
  static const char lines[] = "\n{\"step\": 10}\n{\"step\": 20}\n{\"step\": 30}\n{\"st";
  const off_t hole = (off_t)3 << 30;
  int descriptor = open(path, O_WRONLY | O_CREAT, 0600);
  assert_true(descriptor >= 0);
  assert_int_equal(pwrite(descriptor, lines, strlen(lines), hole), strlen(lines));
  close(descriptor);
  json_t *last = NULL;
  int64_t step = 0;
  assert_int_equal(metrics_log_read_last(path, &last, &error), OK);
  assert_int_equal(json_get_int(last, path, "step", 0, 1000, &step, &error), OK);
  assert_int_equal(step, 30);
  json_decref(last);
  MetricsLog *log = open_log(25);
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(info.st_size - hole, strlen("\n{\"step\": 10}\n{\"step\": 20}\n"));
  write_steps(log, 26, 26);
  metrics_log_close(log);
  assert_int_equal(metrics_log_read_last(path, &last, &error), OK);
  assert_int_equal(json_get_int(last, path, "step", 0, 1000, &step, &error), OK);
  assert_int_equal(step, 26);
  json_decref(last);
}

/* Lines that cross the borders of the blocks in which the file is read. */
static void test_many_lines(void **state) {
  (void)state;
  enum { LINES = 5000 };
  Text text = {0};
  size_t lengths[LINES + 1] = {0};
  for (int i = 1; i <= LINES; i++) {
    text_append(&text, "{\"step\": %d, \"pad\": \"%.*s\"}\n", i, i % 61,
                "01234567890123456789012345678901234567890123456789012345678901");
    lengths[i] = text.length;
  }
  for (int step = 0; step <= LINES; step += 357) {
    struct stat info;
    assert_int_equal(atomic_file_replace(path, text.data, text.length, &error), OK);
    metrics_log_close(open_log(step));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, lengths[step]);
  }
  text_free(&text);
}

static void test_last_line(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t step; /* -1: none, -2: an error */
  } CASES[] = {{"", -1},
               {"{\"step\": 1", -1},
               {"{\"step\": 1}\n", 1},
               {"{\"step\": 1}\n{\"step\": 2}\n", 2},
               {"{\"step\": 1}\n{\"step\": 2}\n{\"step\"", 2},
               {"{\"step\": 1}\nx\n", -2}};
  json_t *last = (json_t *)1;
  assert_int_equal(metrics_log_read_last(path, &last, &error), OK); /* the file is missing */
  assert_null(last);
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    int64_t step = -1;
    assert_int_equal(atomic_file_replace(path, CASES[i].text, strlen(CASES[i].text), &error), OK);
    Status status = metrics_log_read_last(path, &last, &error);
    assert_int_equal(status, CASES[i].step == -2 ? ERROR_DATA : OK);
    if (last) assert_int_equal(json_get_int(last, path, "step", 0, 1000, &step, &error), OK);
    if (status == OK) assert_int_equal(step, CASES[i].step);
    json_decref(last);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_line_content, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_lines_after_the_checkpoint_are_removed, set_up,
                                      tear_down),
      cmocka_unit_test_setup_teardown(test_incomplete_line_is_removed, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_resume_between_two_lines, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_file_is_created, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_invalid_lines_are_removed, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_new_run_removes_all_lines, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_missing_folder, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_large_file, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_many_lines, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_last_line, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
