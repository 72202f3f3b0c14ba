#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <regex.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/progress.h"

static char output[1 << 16];

/* Runs `action` in a child process and captures its log, which is not a terminal. */
static void capture(void (*action)(void)) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    action();
    _exit(0);
  }
  close(ends[1]);
  size_t used = 0;
  ssize_t n;
  while ((n = read(ends[0], output + used, sizeof output - 1 - used)) > 0) used += (size_t)n;
  output[used] = '\0';
  close(ends[0]);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
}

static void assert_output(const char *pattern) {
  regex_t regex;
  assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
  bool matches = regexec(&regex, output, 0, NULL, 0) == 0;
  regfree(&regex);
  if (!matches) fail_msg("\"%s\" does not match \"%s\"", output, pattern);
}

#define LINE "[0-9:.]+ info: "

static void many_updates(void) {
  Progress *progress = progress_new("pack", 0, 1000);
  for (int64_t i = 1; i <= 1000; i++) progress_update(progress, i);
  progress_end(progress);
  progress_end(NULL);
}

static void first_and_last_state_are_logged(void **state) {
  (void)state;
  capture(many_updates);
  assert_output("^" LINE "pack 1/1000  [0-9.e+]+/s  [0-9]+:[0-9]{2} left\n" LINE
                "pack 1000/1000  [0-9.e+]+/s  0:00 in all\n$");
}

static void unknown_total(void) {
  Progress *progress = progress_new("translate", 5, 0);
  progress_update(progress, 8);
  progress_end(progress);
}

static void unknown_totals_show_no_time_left(void **state) {
  (void)state;
  capture(unknown_total);
  assert_output("^" LINE "translate 8  [0-9.e+]+/s\n$"); /* the end repeats nothing */
}

static void never_updated(void) {
  progress_end(progress_new("eval", 0, 10));
}

static void nothing_is_logged_without_updates(void **state) {
  (void)state;
  capture(never_updated);
  assert_string_equal(output, "");
}

typedef struct Loss {
  double value; /* below 0: none yet */
  int *calls;
} Loss;

static void append_loss(const void *context, Text *line) {
  const Loss *loss = context;
  ++*loss->calls;
  if (loss->value >= 0) text_append(line, "  loss %g", loss->value);
}

static void with_details(void) {
  int calls = 0;
  Loss loss = {.value = -1, .calls = &calls};
  Progress *progress = progress_new("train", 100, 200);
  progress_set_details(progress, append_loss, &loss);
  progress_update(progress, 101);
  loss.value = 0.25;
  for (int64_t step = 102; step <= 200; step++) progress_update(progress, step);
  progress_end(progress);
  if (calls != 2) _exit(1); /* formatted only for the two lines that are printed */
}

static void details_replace_the_rate(void **state) {
  (void)state;
  capture(with_details);
  assert_output("^" LINE "train 101/200  [0-9.e+]+/s  [0-9:]+ left\n" LINE
                "train 200/200  loss 0.25  0:00 in all\n$");
}

int main(void) {
  unsetenv("CELFORGE_LOG");
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_and_last_state_are_logged),
      cmocka_unit_test(unknown_totals_show_no_time_left),
      cmocka_unit_test(nothing_is_logged_without_updates),
      cmocka_unit_test(details_replace_the_rate),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
