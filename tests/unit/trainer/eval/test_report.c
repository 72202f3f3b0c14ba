/* The table and the JSON of a report. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "trainer/eval/report.h"

static Report *example(void) {
  char title[] = "ink lines";
  Report *report = report_new();
  report_group(report, "style");
  report_row(report, &(ReportRow){.key = "lines",
                                  .title = title,
                                  .best = "as the cartoons",
                                  .decimals = 1,
                                  .scale = 100,
                                  .columns = 1u << COLUMN_INPUT | 1u << COLUMN_CARTOONS,
                                  .values = {[COLUMN_INPUT] = 0.0421, [COLUMN_CARTOONS] = 0.5}});
  memset(title, 'x', sizeof title - 1); /* texts are copied */
  report_note(report, "%s", "a sentence");
  report_group(report, "time");
  report_row(report, &(ReportRow){.key = "flicker",
                                  .title = "flicker",
                                  .best = "lower",
                                  .decimals = 2,
                                  .columns = 1u << COLUMN_INPUT,
                                  .values = {[COLUMN_INPUT] = NAN}});
  report_number(report, "visible", 0.75);
  report_number(report, "unknown", NAN);
  return report;
}

static void test_table(void **state) {
  (void)state;
  Report *report = example();
  Text text = {0};
  report_print(report, &text);
  assert_string_equal(text.data,
                      "                                 source   cartoons  best\n"
                      "style\n"
                      "  ink lines                         4.2       50.0  as the cartoons\n"
                      "    a sentence\n"
                      "\n"
                      "time\n"
                      "  flicker                             -             lower\n");
  text_free(&text);
  report_free(report);
}

static void test_width(void **state) {
  (void)state;
  Report *report = report_new();
  Text text = {0};
  report_group(report, "group");
  report_row(report, &(ReportRow){.key = "k",
                                  .title = "a title of 26 characters a",
                                  .best = "as the cartoons",
                                  .decimals = 3,
                                  .columns = (1u << REPORT_COLUMNS) - 1,
                                  .values = {-99999.999, 1, 2, 3, 99999.999}});
  report_note(report, "%s",
              "many words, many words, many words, many words, many words, many words, "
              "many words, many words, many words, many words, many words");
  report_print(report, &text);
  int lines = 0;
  for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n"), lines++)
    assert_true(strlen(line) <= 100);
  assert_int_equal(lines, 5);
  text_free(&text);
  report_free(report);
}

static void test_json(void **state) {
  (void)state;
  Report *report = example();
  json_t *object = json_object();
  Error error;
  assert_int_equal(report_json(report, object, &error), OK);
  assert_int_equal(json_object_size(object), 5);
  assert_true(json_real_value(json_object_get(object, "lines_input")) == 0.0421);
  assert_true(json_real_value(json_object_get(object, "lines_cartoons")) == 0.5);
  assert_true(json_is_null(json_object_get(object, "flicker_input")));
  assert_true(json_real_value(json_object_get(object, "visible")) == 0.75);
  assert_true(json_is_null(json_object_get(object, "unknown")));
  json_decref(object);
  report_free(report);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_table),
      cmocka_unit_test(test_width),
      cmocka_unit_test(test_json),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
