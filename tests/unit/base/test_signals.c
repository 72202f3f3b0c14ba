#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/signals.h"

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

static void one_signal(void) {
  signals_install();
  if (signals_stop_requested()) _exit(1);
  raise(SIGUSR1);
  if (!signals_stop_requested()) _exit(2);
}

static void the_same_signal_twice(void) {
  signals_install();
  raise(SIGTERM);
  raise(SIGTERM);
  if (!signals_stop_requested()) _exit(1);
}

static void two_different_signals(void) {
  signals_install();
  raise(SIGTERM);
  raise(SIGINT);
}

static void lost_reader_and_terminal(void) {
  signals_install();
  for (int i = 0; i < 3; i++) { /* every line of the log raises PIPE again */
    raise(i == 1 ? SIGHUP : SIGPIPE);
    if (!signals_stop_requested()) _exit(1);
    usleep(i == 0 ? 1100000 : 0); /* longer than a launcher takes to forward a signal */
  }
  raise(SIGTERM); /* the first request */
  raise(SIGPIPE);
  raise(SIGHUP);
}

static void hangup_alone(void) {
  signals_install();
  raise(SIGHUP);
  if (!signals_stop_requested()) _exit(1);
}

static void ignored_before(void) {
  signal(SIGHUP, SIG_IGN); /* as nohup does */
  signal(SIGPIPE, SIG_IGN);
  signals_install();
  raise(SIGHUP);
  raise(SIGPIPE);
  if (signals_stop_requested()) _exit(1);
}

static void first_signal_requests_a_stop(void **state) {
  (void)state;
  assert_int_equal(exit_code_of(one_signal), 0);
}

static void forwarded_copy_is_ignored(void **state) {
  (void)state;
  assert_int_equal(exit_code_of(the_same_signal_twice), 0);
}

static void second_signal_ends_the_process(void **state) {
  (void)state;
  assert_int_equal(exit_code_of(two_different_signals), 128 + SIGINT);
}

static void hangup_and_pipe_request_a_stop(void **state) {
  (void)state;
  assert_int_equal(exit_code_of(hangup_alone), 0);
  assert_int_equal(exit_code_of(lost_reader_and_terminal), 0);
}

static void ignored_hangup_and_pipe_stay_ignored(void **state) {
  (void)state;
  assert_int_equal(exit_code_of(ignored_before), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_signal_requests_a_stop),
      cmocka_unit_test(forwarded_copy_is_ignored),
      cmocka_unit_test(second_signal_ends_the_process),
      cmocka_unit_test(hangup_and_pipe_request_a_stop),
      cmocka_unit_test(ignored_hangup_and_pipe_stay_ignored),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
