#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/unit/base/temporary.h"

static Error error;

static json_t *parse(const char *text) {
  json_t *value = NULL;
  assert_int_equal(json_parse("m.json", text, strlen(text), &value, &error), OK);
  return value;
}

static void assert_rejected(const char *text, size_t size, const char *start) {
  json_t *value = (json_t *)&error;
  assert_int_equal(json_parse("m.json", text, size, &value, &error), ERROR_DATA);
  assert_null(value);
  if (strncmp(error.message, start, strlen(start)) != 0)
    fail_msg("\"%s\" does not start with \"%s\"", error.message, start);
}

static void invalid_texts_are_rejected(void **state) {
  (void)state;
  assert_rejected("", 0, "m.json:1:1: ");
  assert_rejected("{\"a\": 1,\n  \"b\" 2}", 17, "m.json:2:7: ':' expected");
  assert_rejected("{\"a\": 1", 7, "m.json:1:");
  assert_rejected("{\"a\": 1} x", 10, "m.json:1:10: ");
  assert_rejected("{\"a\": 1, \"a\": 2}", 16, "m.json:1:12: duplicate object key");
  assert_rejected("{\"a\": \"\xff\"}", 10, "m.json:1:");
  assert_rejected("{\"a\": \"b\0c\"}", 12, "m.json:1:");
  assert_rejected("{\"a\": NaN}", 10, "m.json:1:");
  assert_rejected("{\"a\": 99999999999999999999}", 27, "m.json:1:");
  assert_rejected("[1]", 3, "m.json:1:1: the root must be an object");
  assert_rejected("3", 1, "m.json:1:");
}

static void deep_nesting_is_rejected(void **state) {
  (void)state;
  enum { DEPTH = 100000 };
  char *text = malloc(5 + DEPTH);
  memcpy(text, "{\"a\":", 5);
  memset(text + 5, '[', DEPTH);
  assert_rejected(text, 5 + DEPTH, "m.json:1:");
  free(text);
}

static void getters_return_values(void **state) {
  (void)state;
  json_t *root =
      parse("{\"i\": -5, \"r\": 0.1, \"s\": \"caf\xc3\xa9\", \"a\": [1], \"o\": {\"k\": 2}}");
  int64_t integer;
  double real;
  const char *string;
  json_t *array, *object;
  assert_int_equal(json_get_int(root, "m.json", "i", -5, -5, &integer, &error), OK);
  assert_int_equal(integer, -5);
  assert_int_equal(json_get_double(root, "m.json", "r", &real, &error), OK);
  assert_true(real == 0.1);
  assert_int_equal(json_get_double(root, "m.json", "i", &real, &error), OK);
  assert_true(real == -5);
  assert_int_equal(json_get_string(root, "m.json", "s", &string, &error), OK);
  assert_string_equal(string, "caf\xc3\xa9");
  assert_int_equal(json_get_array(root, "m.json", "a", &array, &error), OK);
  assert_int_equal(json_array_size(array), 1);
  assert_int_equal(json_get_object(root, "m.json", "o", &object, &error), OK);
  assert_int_equal(json_get_int(object, "m.json: o", "k", 0, 9, &integer, &error), OK);
  json_decref(root);
}

static void wrong_values_name_their_key(void **state) {
  (void)state;
  json_t *root = parse("{\"i\": 12, \"s\": \"x\", \"a\": [], \"o\": {}, \"n\": null, \"r\": 1.5}");
  int64_t integer = 7;
  double real = 7;
  const char *string = NULL;
  json_t *value = NULL;
  assert_int_equal(json_get_int(root, "m.json", "i", 0, 10, &integer, &error), ERROR_DATA);
  assert_string_equal(error.message, "m.json: i: is 12; must be an integer from 0 to 10");
  assert_int_equal(json_get_int(root, "m.json", "r", 0, 10, &integer, &error), ERROR_DATA);
  assert_string_equal(error.message, "m.json: r: is 1.5; must be an integer from 0 to 10");
  assert_int_equal(json_get_int(root, "m.json: shards[3]", "clips", 1, 9, &integer, &error),
                   ERROR_DATA);
  assert_string_equal(error.message,
                      "m.json: shards[3].clips: missing; must be an integer from 1 to 9");
  assert_int_equal(json_get_double(root, "m.json", "s", &real, &error), ERROR_DATA);
  assert_string_equal(error.message, "m.json: s: is \"x\"; must be a number");
  assert_int_equal(json_get_string(root, "m.json", "n", &string, &error), ERROR_DATA);
  assert_string_equal(error.message, "m.json: n: is null; must be a string");
  assert_int_equal(json_get_array(root, "m.json", "o", &value, &error), ERROR_DATA);
  assert_string_equal(error.message, "m.json: o: is an object; must be an array");
  assert_int_equal(json_get_object(root, "m.json", "a", &value, &error), ERROR_DATA);
  assert_string_equal(error.message, "m.json: a: is an array; must be an object");
  assert_int_equal(json_get_object(root, "m.json", "i", &value, &error), ERROR_DATA);
  assert_true(integer == 7 && real == 7 && !string && !value);
  json_decref(root);
}

static void files_are_written_and_read_back(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "a.json"), *text;
  json_t *written = parse("{\"z\": [1, 2], \"a\": {\"pi\": 3.141592653589793, \"tiny\": 5e-324}}");
  json_t *value = NULL;
  size_t size;
  assert_int_equal(json_write_file(path, written, &error), OK);
  assert_int_equal(file_read(path, 1000, &text, &size, &error), OK);
  assert_string_equal(text, "{\n  \"z\": [\n    1,\n    2\n  ],\n  \"a\": {\n"
                            "    \"pi\": 3.1415926535897931,\n"
                            "    \"tiny\": 4.9406564584124654e-324\n  }\n}\n");
  free(text);
  assert_int_equal(json_read_file(path, 1000, &value, &error), OK);
  assert_true(json_equal(value, written));
  json_decref(value);
  json_decref(written);
  assert_int_equal(json_read_file(path, 10, &value, &error), ERROR_DATA);
  assert_int_equal(atomic_file_replace(path, "{]", 2, &error), OK);
  assert_int_equal(json_read_file(path, 1000, &value, &error), ERROR_DATA);
  assert_non_null(strstr(error.message, "a.json:1:2: "));
  free(path);
  path = path_join(folder, "none/a.json");
  assert_int_equal(json_read_file(path, 1000, &value, &error), ERROR_IO);
  value = json_object();
  assert_int_equal(json_write_file(path, value, &error), ERROR_IO);
  json_decref(value);
  free(path);
  temporary_folder_end(folder);
}

static void nan_and_infinity_are_not_dropped(void **state) {
  (void)state;
  const double bad[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    json_t *object = json_pack("{s:i}", "kept", 1), *array = json_array();
    json_t *packed = json_pack("{s:f}", "seconds", bad[i]);
    assert_int_equal(json_built(packed, "scores.json", &error), ERROR_INTERNAL);
    assert_string_equal(error.message, "scores.json: cannot be written as JSON: a number is NaN or "
                                       "infinite, or a text is not UTF-8");
    assert_int_equal(json_append(array, json_real(bad[i]), "scores.json", &error), ERROR_INTERNAL);
    assert_int_equal(json_array_size(array), 0);
    assert_int_equal(json_set(object, "psnr", json_real(bad[i]), "scores.json", &error),
                     ERROR_INTERNAL);
    assert_non_null(strstr(error.message, "scores.json: psnr cannot be written as JSON: a number"));
    assert_int_equal(json_object_size(object), 1);
    json_decref(array);
    json_decref(object);
  }
}

static void finite_values_are_added(void **state) {
  (void)state;
  json_t *object = json_object(), *array = json_array();
  assert_int_equal(json_append(array, json_real(0.5), "scores.json", &error), OK);
  assert_int_equal(json_set(object, "values", array, "scores.json", &error), OK);
  assert_int_equal(json_built(object, "scores.json", &error), OK);
  char *text = json_dumps(object, JSON_COMPACT);
  assert_string_equal(text, "{\"values\":[0.5]}");
  free(text);
  json_decref(object);
}

static void null_is_not_written(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "a.json"), *text;
  size_t size;
  assert_int_equal(atomic_file_replace(path, "old", 3, &error), OK);
  assert_int_equal(json_write_file(path, NULL, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "a.json: cannot be written as JSON: a number is NaN"));
  assert_int_equal(file_read(path, 100, &text, &size, &error), OK);
  assert_string_equal(text, "old");
  free(text);
  free(path);
  temporary_folder_end(folder);
}

static void invalid_utf8_is_not_written(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "a.json");
  json_t *value = json_object();
  json_object_set_new(value, "a", json_string_nocheck("\xff"));
  assert_int_equal(json_write_file(path, value, &error), ERROR_INTERNAL);
  assert_int_equal(access(path, F_OK), -1);
  json_decref(value);
  free(path);
  temporary_folder_end(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(invalid_texts_are_rejected),
      cmocka_unit_test(deep_nesting_is_rejected),
      cmocka_unit_test(getters_return_values),
      cmocka_unit_test(wrong_values_name_their_key),
      cmocka_unit_test(files_are_written_and_read_back),
      cmocka_unit_test(nan_and_infinity_are_not_dropped),
      cmocka_unit_test(finite_values_are_added),
      cmocka_unit_test(null_is_not_written),
      cmocka_unit_test(invalid_utf8_is_not_written),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
