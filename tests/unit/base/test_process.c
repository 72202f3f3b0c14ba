#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host.h"
#include "base/process.h"

/* Runs `action` in a child process and returns its exit code. */
static int exit_code_of(void (*action)(void)) {
  pid_t child = fork();
  if (child == 0) {
    action();
    _exit(0);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

/* --- Standard streams ------------------------------------------------------------------------- */

static int closed; /* bit n: descriptor n is closed */

static void open_streams(void) {
  struct stat null, before[3], after;
  if (stat("/dev/null", &null) != 0) _exit(1);
  for (int i = 0; i < 3; i++) {
    if (closed >> i & 1)
      close(i);
    else if (fstat(i, &before[i]) != 0)
      _exit(2);
  }
  if (process_open_standard_streams() != OK) _exit(3);
  for (int i = 0; i < 3; i++) {
    const struct stat *expected = closed >> i & 1 ? &null : &before[i];
    if (fstat(i, &after) != 0 || after.st_ino != expected->st_ino ||
        after.st_dev != expected->st_dev)
      _exit(4);
  }
  if (open("/dev/null", O_RDONLY) < 3) _exit(5);
}

static void closed_streams_become_null_devices(void **state) {
  (void)state;
  for (closed = 0; closed < 8; closed++) assert_int_equal(exit_code_of(open_streams), 0);
}

/* --- The limit of file sizes ------------------------------------------------------------------ */

static void write_too_much(void) {
  char path[] = "/tmp/celforge-process-XXXXXX", bytes[200] = {0};
  int descriptor = mkstemp(path);
  unlink(path);
  process_ignore_file_size_signal();
  if (setrlimit(RLIMIT_FSIZE, &(struct rlimit){100, 100}) != 0) _exit(1);
  if (write(descriptor, bytes, 200) != 100) _exit(2);
  if (write(descriptor, bytes, 100) != -1 || errno != EFBIG) _exit(3);
}

static void file_size_limit_is_an_error(void **state) {
  (void)state;
  assert_int_equal(exit_code_of(write_too_much), 0);
}

/* --- OMP_NUM_THREADS -------------------------------------------------------------------------- */

static void usual_thread_counts_are_kept(void **state) {
  (void)state;
  static const char *const GOOD[] = {"1", "8", "64", " 4 ", "4,2", "4, 2,1", ""};
  Error error = {0};
  bool changed = true;
  for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
    setenv("OMP_NUM_THREADS", GOOD[i], 1);
    assert_int_equal(process_check_openmp(&changed, &error), OK);
    assert_false(changed);
    assert_string_equal(getenv("OMP_NUM_THREADS"), GOOD[i]);
  }
  unsetenv("OMP_NUM_THREADS");
  assert_int_equal(process_check_openmp(&changed, &error), OK);
  assert_false(changed);
}

static void other_texts_are_refused(void **state) {
  (void)state;
  static const char *const BAD[] = {"many", "0", "-3", "+3", "4x", "4,", ",4", "4,0", "4;2", " "};
  for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
    Error error = {0};
    bool changed;
    setenv("OMP_NUM_THREADS", BAD[i], 1);
    if (process_check_openmp(&changed, &error) != ERROR_USAGE) fail_msg("accepted: %s", BAD[i]);
    assert_non_null(strstr(error.message, BAD[i]));
    assert_non_null(strstr(error.message, "OMP_NUM_THREADS"));
  }
}

static void large_thread_counts_are_bounded(void **state) {
  (void)state;
  static const char *const LARGE[] = {"100000000", "2,100000000", "99999999999999999999999999"};
  char expected[16];
  snprintf(expected, sizeof expected, "%d", host_processor_count());
  for (size_t i = 0; i < sizeof LARGE / sizeof *LARGE; i++) {
    Error error = {0};
    bool changed = false;
    setenv("OMP_NUM_THREADS", LARGE[i], 1);
    assert_int_equal(process_check_openmp(&changed, &error), OK);
    assert_true(changed);
    assert_string_equal(getenv("OMP_NUM_THREADS"), expected);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(closed_streams_become_null_devices),
      cmocka_unit_test(file_size_limit_is_an_error),
      cmocka_unit_test(usual_thread_counts_are_kept),
      cmocka_unit_test(other_texts_are_refused),
      cmocka_unit_test(large_thread_counts_are_bounded),
  };
  return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
