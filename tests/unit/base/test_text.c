#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "base/text.h"

static void append_grows_the_text(void **state) {
  (void)state;
  Text text = {0};
  for (int i = 0; i < 1000; i++) text_append(&text, "%d,", i % 10);
  assert_int_equal(text.length, 2000);
  assert_int_equal(strlen(text.data), 2000);
  for (size_t i = 0; i < 1000; i++) assert_int_equal(text.data[2 * i], '0' + (int)(i % 10));
  text_append(&text, "%s", "");
  assert_int_equal(text.length, 2000);
  text_free(&text);
  assert_null(text.data);
  text_free(&text);
}

static void words_wrap_at_the_width(void **state) {
  (void)state;
  Text text = {0};
  text_append(&text, "--a ");
  text_append_wrapped(&text, "one two three four", 4, 12);
  assert_string_equal(text.data, "--a one two\n    three\n    four");
  text_clear(&text);
  text_append_wrapped(&text, "  longer-than-a-line  a", 0, 6);
  assert_string_equal(text.data, "longer-than-a-line\na");
  text_clear(&text);
  text_append_wrapped(&text, "", 4, 12);
  assert_int_equal(text.length, 0);
  text_free(&text);
}

static void bytes_may_hold_nul(void **state) {
  (void)state;
  Text text = {0};
  text_append_bytes(&text, NULL, 0);
  assert_string_equal(text.data, "");
  text_append_bytes(&text, "a\0b", 3);
  assert_int_equal(text.length, 3);
  assert_memory_equal(text.data, "a\0b", 4);
  text_clear(&text);
  assert_int_equal(text.length, 0);
  assert_string_equal(text.data, "");
  text_free(&text);
  text_clear(&text);
}

typedef struct Sized {
  double value;
  const char *expected;
} Sized;

static void check(void (*append)(Text *, double), const Sized *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    Text text = {0};
    append(&text, cases[i].value);
    assert_string_equal(text.data, cases[i].expected);
    text_free(&text);
  }
}

static void sizes_and_counts_have_units(void **state) {
  (void)state;
  static const Sized bytes[] = {
      {0, "0 B"},
      {640, "640 B"},
      {1023, "1023 B"},
      {1024, "1.0 KiB"},
      {1536, "1.5 KiB"},
      {1024 * 1023.96, "1.0 MiB"},
      {1.5 * 1024 * 1024 * 1024, "1.5 GiB"},
      {0x1p60, "1.0 EiB"},
      {0x1p75, "32768.0 EiB"},
      {-2048, "-2.0 KiB"},
      {INFINITY, "inf B"},
  };
  check(text_append_size, bytes, sizeof bytes / sizeof *bytes);
  static const Sized counts[] = {
      {0, "0"},           {12.5, "12.5"},      {999, "999"},          {1000, "1.0 K"},
      {12.3e9, "12.3 G"}, {999.96e3, "1.0 M"}, {999.94e3, "999.9 K"}, {2.5e12, "2.5 T"},
  };
  check(text_append_count, counts, sizeof counts / sizeof *counts);
}

static void code_points_are_decoded(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    int32_t code;
    size_t length;
  } cases[] = {
      {"a", 'a', 1},
      {"\xc3\xa9", 0xe9, 2},
      {"\xe2\x82\xac", 0x20ac, 3},
      {"\xf0\x9f\x8e\xac", 0x1f3ac, 4},
      {"\xff", -1, 1},
      {"\xc3", -1, 1},
      {"\xe2\x82", -1, 1},
      {"\xc0\x80", -1, 1},
      {"\xed\xa0\x80", -1, 1},
      {"\xf4\x90\x80\x80", -1, 1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *at = cases[i].bytes;
    assert_int_equal(text_next_code_point(&at), cases[i].code);
    assert_int_equal(at - cases[i].bytes, cases[i].length);
  }
}

static int least(int a, int b) {
  return a < b ? a : b;
}

/* The recursive definition of the optimal string alignment distance. */
static int distance(const char *a, size_t n, const char *b, size_t m) {
  if (n == 0 || m == 0) return (int)(n + m);
  int best = distance(a, n - 1, b, m - 1) + (a[n - 1] != b[m - 1]);
  best = least(best, distance(a, n - 1, b, m) + 1);
  best = least(best, distance(a, n, b, m - 1) + 1);
  if (n > 1 && m > 1 && a[n - 1] == b[m - 2] && a[n - 2] == b[m - 1])
    best = least(best, distance(a, n - 2, b, m - 2) + 1);
  return best;
}

static void distance_agrees_with_its_definition(void **state) {
  (void)state;
  assert_int_equal(text_distance("", ""), 0);
  assert_int_equal(text_distance("steps", "steps"), 0);
  assert_int_equal(text_distance("modle", "model"), 1);
  assert_int_equal(text_distance("", "abc"), 3);
  assert_int_equal(text_distance("abc", ""), 3);
  assert_int_equal(text_distance("kitten", "sitting"), 3);
  assert_int_equal(text_distance("ca", "abc"), 3); /* no edit between the swapped two */
  Random random = random_stream(1, RANDOM_TEST, 0, 0);
  for (int i = 0; i < 500; i++) {
    char words[2][8] = {0};
    for (int w = 0; w < 2; w++) {
      size_t length = random_below(&random, 6);
      for (size_t j = 0; j < length; j++) words[w][j] = (char)('a' + random_below(&random, 3));
    }
    assert_int_equal(text_distance(words[0], words[1]),
                     distance(words[0], strlen(words[0]), words[1], strlen(words[1])));
  }
}

static void printable_texts_have_no_control_characters(void **state) {
  (void)state;
  static const struct {
    const char *text, *printable;
  } cases[] = {
      {"", ""},
      {"a b\\c ~", "a b\\c ~"},
      {"a\nb\r\t", "a\\nb\\r\\t"},
      {"\033[2J\001\177", "\\x1b[2J\\x01\\x7f"},
      {"caf\xc3\xa9 \xe6\xbc\xab", "caf\xc3\xa9 \xe6\xbc\xab"},
      {"\xc2\x9b caf\xe9 \xc3", "\\xc2\\x9b caf\\xe9 \\xc3"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Text text = {0};
    text_append_printable(&text, cases[i].text);
    assert_string_equal(text.data, cases[i].printable);
    text_free(&text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(printable_texts_have_no_control_characters),
      cmocka_unit_test(append_grows_the_text),
      cmocka_unit_test(words_wrap_at_the_width),
      cmocka_unit_test(bytes_may_hold_nul),
      cmocka_unit_test(sizes_and_counts_have_units),
      cmocka_unit_test(code_points_are_decoded),
      cmocka_unit_test(distance_agrees_with_its_definition),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
