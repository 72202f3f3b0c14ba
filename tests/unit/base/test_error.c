#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static void set_formats_message_and_status(void **state) {
  (void)state;
  Error error = {0};
  assert_int_equal(error_set(&error, ERROR_DATA, "%s: %d clips", "a.h5", 7), ERROR_DATA);
  assert_int_equal(error.status, ERROR_DATA);
  assert_string_equal(error.message, "a.h5: 7 clips");
}

static void null_error_is_allowed(void **state) {
  (void)state;
  assert_int_equal(error_set(NULL, ERROR_USAGE, "%d", 1), ERROR_USAGE);
  assert_int_equal(error_errno(NULL, ENOENT, "x"), ERROR_IO);
  assert_int_equal(error_context(NULL, "x"), ERROR_INTERNAL);
}

static void errno_text_is_appended(void **state) {
  (void)state;
  Error error;
  assert_int_equal(error_errno(&error, ENOSPC, "%s: cannot write", "x"), ERROR_IO);
  assert_int_equal(error.status, ERROR_IO);
  assert_string_equal(error.message, "x: cannot write: No space left on device");
}

static void context_is_prepended(void **state) {
  (void)state;
  Error error;
  error_set(&error, ERROR_DATA, "ends early");
  assert_int_equal(error_context(&error, "shard %d", 3), ERROR_DATA);
  assert_string_equal(error.message, "shard 3: ends early");
  error_context(&error, "%s", error.message); /* the argument points into the message */
  assert_string_equal(error.message, "shard 3: ends early: shard 3: ends early");
}

static void arguments_may_point_into_the_message(void **state) {
  (void)state;
  Error error;
  error_set(&error, ERROR_DATA, "inner");
  error_set(&error, ERROR_IO, "outer (%s)", error.message);
  assert_string_equal(error.message, "outer (inner)");
}

/* Returns a text that is too long: `lead` bytes of ASCII, then copies of `character`. */
static char *long_text(size_t lead, const char *character) {
  size_t width = strlen(character), count = ERROR_MESSAGE_SIZE;
  char *text = calloc(lead + count * width + 1, 1);
  memset(text, 'a', lead);
  for (size_t i = 0; i < count; i++) memcpy(text + lead + i * width, character, width);
  return text;
}

/* The message ends in "..." after a whole character and fills the buffer. */
static void check_cut(const char *message, size_t lead, size_t width) {
  size_t length = strlen(message);
  assert_in_range(length, ERROR_MESSAGE_SIZE - 1 - (width - 1), ERROR_MESSAGE_SIZE - 1);
  assert_string_equal(message + length - 3, "...");
  assert_int_equal((length - 3 - lead) % width, 0);
}

static void long_messages_are_cut_between_characters(void **state) {
  (void)state;
  static const char *const characters[] = {"b", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8e\xac"};
  Error error;
  for (size_t width = 1; width <= 4; width++) {
    for (size_t lead = 0; lead < 8; lead++) {
      char *text = long_text(lead, characters[width - 1]);
      error_set(&error, ERROR_DATA, "%s", text);
      check_cut(error.message, lead, width);
      error_set(&error, ERROR_DATA, "%s", text + lead);
      error_context(&error, "%.*s", (int)lead, text);
      if (lead > 0) check_cut(error.message, lead + 2, width);
      free(text);
    }
  }
}

static void exact_fit_is_not_cut(void **state) {
  (void)state;
  Error error;
  char text[ERROR_MESSAGE_SIZE + 1];
  memset(text, 'x', sizeof text);
  error_set(&error, ERROR_DATA, "%.*s", ERROR_MESSAGE_SIZE - 1, text);
  assert_int_equal(strlen(error.message), ERROR_MESSAGE_SIZE - 1);
  assert_int_equal(error.message[ERROR_MESSAGE_SIZE - 2], 'x');
  error_set(&error, ERROR_DATA, "%.*s", ERROR_MESSAGE_SIZE, text);
  assert_string_equal(error.message + ERROR_MESSAGE_SIZE - 4, "...");
}

static void errno_text_survives_a_long_path(void **state) {
  (void)state;
  Error error;
  char *path = long_text(0, "\xe2\x82\xac");
  error_errno(&error, ENOENT, "%s", path);
  const char *end = "...: No such file or directory";
  assert_string_equal(error.message + strlen(error.message) - strlen(end), end);
  free(path);
}

static Status fails_late(int *ends, Error *error) {
  Status status = OK;
  TRY(OK);
  TRY(error_set(error, STOPPED, "first"));
  FAIL(error, ERROR_DATA, "never");
done:
  ++*ends;
  return status;
}

static void failure_jumps_to_done_once(void **state) {
  (void)state;
  Error error;
  int ends = 0;
  assert_int_equal(fails_late(&ends, &error), STOPPED);
  assert_int_equal(ends, 1);
  assert_string_equal(error.message, "first");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(set_formats_message_and_status),
      cmocka_unit_test(null_error_is_allowed),
      cmocka_unit_test(errno_text_is_appended),
      cmocka_unit_test(context_is_prepended),
      cmocka_unit_test(arguments_may_point_into_the_message),
      cmocka_unit_test(long_messages_are_cut_between_characters),
      cmocka_unit_test(exact_fit_is_not_cut),
      cmocka_unit_test(errno_text_survives_a_long_path),
      cmocka_unit_test(failure_jumps_to_done_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
