#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <regex.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

enum { OUTPUT_SIZE = 1 << 17 };
static char output[OUTPUT_SIZE];

/* The state of the log belongs to the process, so each case runs `action` in a child process. Its
 * standard error is `descriptor`, whose other end is read into `output`. */
static void collect(void (*action)(void), int descriptor, int other_end) {
  pid_t child = fork();
  if (child == 0) {
    dup2(descriptor, STDERR_FILENO);
    action();
    _exit(0);
  }
  close(descriptor);
  size_t used = 0;
  ssize_t n;
  while (used + 1 < OUTPUT_SIZE && (n = read(other_end, output + used, OUTPUT_SIZE - 1 - used)) > 0)
    used += (size_t)n;
  output[used] = '\0';
  close(other_end);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
}

static void log_of(void (*action)(void)) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  collect(action, ends[1], ends[0]);
}

static bool matches(const char *pattern) {
  regex_t regex;
  assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
  bool found = regexec(&regex, output, 0, NULL, 0) == 0;
  regfree(&regex);
  return found;
}

#define TIME "[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9]{3} "

static void one_of_each(void) {
  log_debug("d%d", 1);
  log_info("i%d", 2);
  log_warning("w%d", 3);
  log_error("e%d", 4);
}

static void lines_have_time_level_and_text(void **state) {
  (void)state;
  log_of(one_of_each);
  assert_true(matches("^" TIME "info: i2\n" TIME "warning: w3\n" TIME "error: e4\n$"));
}

static void environment_sets_the_level(void **state) {
  (void)state;
  static const char *const levels[] = {"debug", "info", "warning", "error"};
  for (int i = 0; i < 4; i++) {
    setenv("CELFORGE_LOG", levels[i], 1);
    log_of(one_of_each);
    assert_int_equal(strstr(output, "d1") != NULL, i <= 0);
    assert_int_equal(strstr(output, "i2") != NULL, i <= 1);
    assert_int_equal(strstr(output, "w3") != NULL, i <= 2);
    assert_non_null(strstr(output, "e4"));
  }
  setenv("CELFORGE_LOG", "loud", 1);
  log_of(one_of_each);
  assert_true(matches("^" TIME "warning: CELFORGE_LOG=loud: not a level; allowed: debug, info, "
                      "warning, error\n" TIME "info: i2\n"));
  setenv("CELFORGE_LOG", "", 1);
  log_of(one_of_each);
  assert_true(matches("^" TIME "info: i2\n"));
  unsetenv("CELFORGE_LOG");
}

static void as_rank_0(void) {
  log_set_rank(0, 4);
  one_of_each();
}

static void as_rank_2(void) {
  log_set_rank(2, 4);
  one_of_each();
}

static void as_the_only_rank(void) {
  log_set_rank(0, 1);
  one_of_each();
}

static void ranks_above_0_print_no_info(void **state) {
  (void)state;
  log_of(as_rank_0);
  assert_true(
      matches("^" TIME "\\[0\\] info: i2\n" TIME "\\[0\\] warning: w3\n" TIME "\\[0\\] error: e4"));
  log_of(as_rank_2);
  assert_true(matches("^" TIME "\\[2\\] warning: w3\n" TIME "\\[2\\] error: e4\n$"));
  log_of(as_the_only_rank);
  assert_true(matches("^" TIME "info: i2\n"));
}

static void keep_errno(void) {
  errno = ENOSPC;
  log_info("x");
  if (errno != ENOSPC) _exit(1);
}

static void errno_is_preserved(void **state) {
  (void)state;
  log_of(keep_errno);
}

static void log_long(void) {
  char *text = calloc(1, 20001);
  memset(text, 'z', 20000);
  log_info("%s", text);
  free(text);
}

static void long_messages_are_whole(void **state) {
  (void)state;
  log_of(log_long);
  assert_true(matches("^" TIME "info: z+\n$"));
  assert_true(strlen(output) > 20000);
}

static void *log_often(void *argument) {
  for (int i = 0; i < 200; i++) log_info("thread %s says %d", (char *)argument, i);
  return NULL;
}

static void many_threads(void) {
  pthread_t threads[4];
  char names[4][2] = {"a", "b", "c", "d"};
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, log_often, names[i]);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

static void lines_of_threads_do_not_mix(void **state) {
  (void)state;
  log_of(many_threads);
  int lines = 0;
  regex_t regex;
  assert_int_equal(regcomp(&regex, "^" TIME "info: thread [abcd] says [0-9]+$", REG_EXTENDED), 0);
  char *rest = output;
  for (char *line; (line = strsep(&rest, "\n")) && *line; lines++)
    assert_int_equal(regexec(&regex, line, 0, NULL, 0), 0);
  regfree(&regex);
  assert_int_equal(lines, 4 * 200);
}

static void with_status(void) {
  if (log_is_terminal()) log_info("terminal");
  log_status_line("50 %");
  log_info("message");
  log_status_line("60 %");
  log_status_line(NULL);
  log_status_line(NULL);
  log_info("end");
}

static void no_status_line_in_a_file(void **state) {
  (void)state;
  log_of(with_status);
  assert_true(matches("^" TIME "info: message\n" TIME "info: end\n$"));
}

/* Logs to a pseudo-terminal of `columns`; returns false if the system has none. */
static bool terminal_log_of(void (*action)(void), unsigned short columns) {
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) return false;
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  if (slave < 0) return false;
  struct winsize window = {.ws_row = 24, .ws_col = columns};
  ioctl(slave, TIOCSWINSZ, &window);
  collect(action, slave, master);
  return true;
}

static void status_line_on_a_terminal(void **state) {
  (void)state;
  setenv("TERM", "xterm", 1);
  if (!terminal_log_of(with_status, 80)) {
    print_message("no pseudo-terminal\n");
    skip();
  }
  assert_true(matches("^" TIME "info: terminal\r\n"
                      "\r\033\\[K50 %"
                      "\r\033\\[K" TIME "info: message\r\n50 %"
                      "\r\033\\[K60 %"
                      "\r\033\\[K" TIME "info: end\r\n$"));
}

static void dumb_terminals_have_no_status_line(void **state) {
  (void)state;
  setenv("TERM", "dumb", 1);
  bool has_terminal = terminal_log_of(with_status, 80);
  setenv("TERM", "xterm", 1);
  if (!has_terminal) skip();
  assert_true(matches("^" TIME "info: message\r\n" TIME "info: end\r\n$"));
}

static void wide_status(void) {
  log_status_line("\xe2\x96\x88\xe2\x96\x88\xe2\x96\x88 and more");
}

static void status_line_does_not_wrap(void **state) {
  (void)state;
  setenv("TERM", "xterm", 1);
  if (!terminal_log_of(wide_status, 6)) skip();
  assert_string_equal(output, "\r\033[K\xe2\x96\x88\xe2\x96\x88\xe2\x96\x88 a");
}

int main(void) {
  unsetenv("CELFORGE_LOG");
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lines_have_time_level_and_text),
      cmocka_unit_test(environment_sets_the_level),
      cmocka_unit_test(ranks_above_0_print_no_info),
      cmocka_unit_test(errno_is_preserved),
      cmocka_unit_test(long_messages_are_whole),
      cmocka_unit_test(lines_of_threads_do_not_mix),
      cmocka_unit_test(no_status_line_in_a_file),
      cmocka_unit_test(status_line_on_a_terminal),
      cmocka_unit_test(dumb_terminals_have_no_status_line),
      cmocka_unit_test(status_line_does_not_wrap),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
