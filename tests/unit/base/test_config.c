#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "tests/unit/base/config_example.h"
#include "tests/unit/base/temporary.h"

static Error error;

static void assert_ok(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static Example defaults(void) {
  Example config = {0};
  assert_ok(config_set_defaults(&example, &config, &error));
  return config;
}

static void parse(const char *yaml, Example *config) {
  assert_ok(config_parse(&example, "run.yaml", yaml, strlen(yaml), config, NULL, &error));
}

static void defaults_set_every_key(void **state) {
  (void)state;
  Example config = defaults();
  assert_int_equal(config.seed, 1);
  assert_string_equal(config.dir, "runs/demo");
  assert_true(config.resume);
  assert_int_equal(config.steps, 400);
  assert_true(config.rate == 2e-4);
  assert_true(config.weight == 10);
  assert_int_equal(config.adversarial, 1);
  assert_string_equal(config.notes, "");
}

static void bad_default_is_an_internal_error(void **state) {
  (void)state;
  ConfigKey keys[2] = {example_keys[3], example_keys[4]};
  ConfigSchema schema = {.keys = keys, .count = 2};
  Example config, before;
  memset(&config, 0x55, sizeof config);
  before = config;
  keys[1].default_text = "0";
  assert_int_equal(config_set_defaults(&schema, &config, &error), ERROR_INTERNAL);
  assert_int_equal(error.status, ERROR_INTERNAL);
  assert_string_equal(
      error.message,
      "defaults:2:21: train.global_batch: \"0\" is out of range; allowed: 1 to 4096");
  assert_memory_equal(&config, &before, sizeof config);
}

static void nested_dotted_and_flow_forms_are_equal(void **state) {
  (void)state;
  static const char *const forms[] = {
      "seed: 7\ntrain:\n  steps: 12\n  global_batch: 16\nloss:\n  adversarial: hinge\n",
      "seed: 7\ntrain.steps: 12\ntrain.global_batch: 16\nloss.adversarial: hinge\n",
      "{seed: 7, train: {steps: 12, global_batch: 16}, loss.adversarial: 'hinge'}",
      "---\n\"seed\": 7 #\ntrain: {steps: 12}\ntrain.global_batch: 16\r\nloss.adversarial: hinge",
      "\xef\xbb\xbfseed: 7\ntrain: {steps: +12, global_batch: 16}\nloss: {adversarial: hinge}",
  };
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    Example config = defaults(), expected = config;
    expected.seed = 7;
    expected.steps = 12;
    expected.batch = 16;
    expected.adversarial = 2;
    parse(forms[i], &config);
    assert_memory_equal(&config, &expected, sizeof config);
  }
}

static void empty_files_set_nothing(void **state) {
  (void)state;
  static const char *const forms[] = {"", "# only words\n", "---\n", "{}", "train:\n", "train: {}"};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    Example config = defaults(), expected = config;
    parse(forms[i], &config);
    assert_memory_equal(&config, &expected, sizeof config);
  }
  Example config = defaults();
  assert_ok(config_parse(&example, "x", NULL, 0, &config, NULL, &error));
}

static void numbers_reach_their_bounds(void **state) {
  (void)state;
  Example config = defaults();
  parse("{train.offset: -9223372036854775808, seed: 9223372036854775807}", &config);
  assert_true(config.offset == INT64_MIN && config.seed == INT64_MAX);
  parse("{optim.generator_lr: 1, loss.weight: -1.5E+3}", &config);
  assert_true(config.rate == 1 && config.weight == -1500);
  parse("{optim.generator_lr: .5, loss.weight: 5.}", &config);
  assert_true(config.rate == 0.5 && config.weight == 5);
  parse("{optim.generator_lr: 4.9406564584124654e-324}", &config);
  assert_true(config.rate == 0x1p-1074);
}

static void strings_plain_quoted_and_folded(void **state) {
  (void)state;
  Example config = defaults();
  parse("run: {dir: yes}\nloss: {notes: \"null\"}", &config);
  assert_string_equal(config.dir, "yes");
  assert_string_equal(config.notes, "null");
  parse("run: {dir: 12}\nloss:\n  notes: >-\n    two\n    lines\n", &config);
  assert_string_equal(config.dir, "12");
  assert_string_equal(config.notes, "two lines");
  parse("loss: {notes: \"\"}", &config);
  ConfigString empty = {0}; /* zero-filled: the old value is gone */
  assert_memory_equal(config.notes, empty, sizeof empty);
}

static void strings_have_511_bytes_at_most(void **state) {
  (void)state;
  Example config = defaults();
  char yaml[CONFIG_STRING_SIZE + 20] = "run.dir: ";
  memset(yaml + 9, 'a', CONFIG_STRING_SIZE - 1);
  parse(yaml, &config);
  assert_int_equal(strlen(config.dir), CONFIG_STRING_SIZE - 1);
  yaml[9 + CONFIG_STRING_SIZE - 1] = 'a';
  assert_int_equal(config_parse(&example, "x", yaml, strlen(yaml), &config, NULL, &error),
                   ERROR_USAGE);
  assert_string_equal(error.message, "x:1:10: run.dir: has 512 bytes; allowed: at most 511");
}

static void assignments_set_their_keys(void **state) {
  (void)state;
  static const char *const sets[] = {
      "train.steps=5",   "run.resume=false", "loss.adversarial=lsgan",
      "run.dir=a=b: #c", "loss.notes=",      "optim.generator_lr=0.5",
      "seed=3"};
  Example config = defaults();
  strcpy(config.notes, "old");
  for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
    assert_ok(config_assign(&example, sets[i], &config, NULL, &error));
  assert_int_equal(config.steps, 5);
  assert_false(config.resume);
  assert_int_equal(config.adversarial, 0);
  assert_string_equal(config.dir, "a=b: #c");
  assert_string_equal(config.notes, "");
  assert_true(config.rate == 0.5);
  assert_int_equal(config.seed, 3);
}

static void comments_show_help_range_and_default(void **state) {
  (void)state;
  Example config = defaults();
  Text text = {0};
  config_write(&example, &config, true, &text);
  const char *start = "# Seed of all random numbers; at least 0; default: 1\n"
                      "seed: 1\n"
                      "\n"
                      "run:\n"
                      "  # Run folder; default: runs/demo\n"
                      "  dir: runs/demo\n"
                      "  # Resume the run; true or false; default: true\n"
                      "  resume: true\n"
                      "\n"
                      "# Length and batch size.\n"
                      "train:\n"
                      "  # Training steps; 1 to 1000000; default: 400\n"
                      "  steps: 400\n";
  assert_int_equal(strncmp(text.data, start, strlen(start)), 0);
  assert_non_null(strstr(text.data, "  # Learning rate of the generator; 0 to 1; default: 2e-4\n"
                                    "  generator_lr: 0.0002\n"));
  assert_non_null(
      strstr(text.data, "; one of lsgan, bce, hinge; default: bce\n  adversarial: bce\n"));
  assert_non_null(strstr(text.data, "  notes: \"\"\n"));
  text_free(&text);
}

static void long_comments_wrap(void **state) {
  (void)state;
  ConfigKey key = example_keys[3];
  ConfigSchema schema = {.keys = &key, .count = 1};
  Example config = defaults();
  char help[601] = "";
  for (int i = 0; i < 60; i++) strcat(help, "words and ");
  key.help = help;
  Text text = {0};
  config_write(&schema, &config, true, &text);
  size_t lines = 0;
  char *rest = text.data;
  for (char *line; (line = strsep(&rest, "\n")) && *line; lines++) assert_true(strlen(line) <= 100);
  assert_in_range(lines, 8, 10);
  text_free(&text);
}

static void help_has_one_line_per_key(void **state) {
  (void)state;
  Text text = {0};
  config_help(&example, &text);
  size_t lines = 0;
  for (char *p = text.data; *p; p++) lines += *p == '\n';
  assert_int_equal(lines, example.count);
  for (size_t i = 0; i < example.count; i++)
    assert_non_null(strstr(text.data, example_keys[i].key));
  assert_non_null(strstr(text.data, "Clips per step over all ranks; 1 to 4096; default: 8\n"));
  text_free(&text);
}

/* Any finite double. */
static double any_double(Random *random) {
  for (;;) {
    uint64_t bits = (uint64_t)random_u32(random) << 32 | random_u32(random);
    double value;
    memcpy(&value, &bits, sizeof value);
    if (isfinite(value)) return value;
  }
}

/* Up to 511 bytes of UTF-8 characters of every length, and ones that are special in YAML. */
static void any_string(Random *random, ConfigString out) {
  static const char *const odd[] = {
      "\n",
      "\t",
      "\r",
      "\"",
      "\\",
      "'",
      ":",
      "#",
      " ",
      "{",
      "\x01",
      "\x7f",
      "\xc2\x85",
      "\xc2\xa0",
      "\xe2\x80\xa8",
      "\xef\xbb\xbf",
      "\xc3\xa9",
      "\xf0\x9f\x8e\xac",
      "\xef\xbf\xbe",
      "\xe2\x80\xa9",
      "-",
      "null",
      "~",
      "%",
  };
  memset(out, 0, CONFIG_STRING_SIZE);
  uint64_t pieces = random_below(random, 120);
  for (uint64_t i = 0; i < pieces; i++) {
    if (random_below(random, 3) == 0)
      strcat(out, odd[random_below(random, sizeof odd / sizeof *odd)]);
    else
      out[strlen(out)] = (char)('a' + random_below(random, 26));
  }
}

static void written_is_read_back_bit_for_bit(void **state) {
  (void)state;
  Random random = random_stream(21, RANDOM_TEST, 0, 0);
  for (int i = 0; i < 300; i++) {
    Example config = defaults(), back = config;
    config.seed = (int64_t)(random_u32(&random));
    config.offset = (int64_t)((uint64_t)random_u32(&random) << 32 | random_u32(&random));
    config.steps = 1 + (int64_t)random_below(&random, 1000000);
    config.rate = random_uniform(&random) * pow(10, -(double)random_below(&random, 20));
    config.weight = i == 0 ? -0.0 : any_double(&random);
    config.resume = random_below(&random, 2);
    config.adversarial = (int)random_below(&random, 3);
    any_string(&random, config.dir);
    any_string(&random, config.notes);
    Text text = {0};
    config_write(&example, &config, i % 2, &text);
    parse(text.data, &back);
    assert_memory_equal(&config, &back, sizeof config);
    text_free(&text);
  }
}

static void invalid_utf8_is_replaced(void **state) {
  (void)state;
  static const char *const bad[] = {"a\xff",           "\xc3",     "\xe2\x82",
                                    "\xed\xa0\x80",    "\xc0\x80", "\xf4\x90\x80\x80",
                                    "\xf0\x80\x80\x80"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    Example config = defaults();
    strcpy(config.dir, bad[i]);
    Text text = {0};
    config_write(&example, &config, false, &text);
    parse(text.data, &config);
    assert_non_null(strstr(config.dir, "\xef\xbf\xbd"));
    text_free(&text);
  }
}

static void load_reads_a_file_or_names_its_error(void **state) {
  (void)state;
  char *folder = temporary_folder(), *path = path_join(folder, "run.yaml");
  Example config = defaults(), back = config;
  config.steps = 77;
  Text text = {0};
  config_write(&example, &config, true, &text);
  assert_ok(atomic_file_replace(path, text.data, text.length, &error));
  assert_ok(config_load(&example, path, &back, NULL, &error));
  assert_memory_equal(&config, &back, sizeof config);
  assert_ok(atomic_file_replace(path, "train:\n  steps: x\n", 18, &error));
  assert_int_equal(config_load(&example, path, &back, NULL, &error), ERROR_USAGE);
  assert_non_null(strstr(error.message, "/run.yaml:2:10: train.steps: \"x\" is not an integer"));
  assert_memory_equal(&config, &back, sizeof config);
  assert_int_equal(config_load(&example, folder, &back, NULL, &error), ERROR_IO);
  free(path);
  path = path_join(folder, "none.yaml");
  assert_int_equal(config_load(&example, path, &back, NULL, &error), ERROR_IO);
  assert_non_null(strstr(error.message, "none.yaml: cannot open: No such file or directory"));
  free(path);
  text_free(&text);
  temporary_folder_end(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults_set_every_key),
      cmocka_unit_test(bad_default_is_an_internal_error),
      cmocka_unit_test(nested_dotted_and_flow_forms_are_equal),
      cmocka_unit_test(empty_files_set_nothing),
      cmocka_unit_test(numbers_reach_their_bounds),
      cmocka_unit_test(strings_plain_quoted_and_folded),
      cmocka_unit_test(strings_have_511_bytes_at_most),
      cmocka_unit_test(assignments_set_their_keys),
      cmocka_unit_test(comments_show_help_range_and_default),
      cmocka_unit_test(long_comments_wrap),
      cmocka_unit_test(help_has_one_line_per_key),
      cmocka_unit_test(written_is_read_back_bit_for_bit),
      cmocka_unit_test(invalid_utf8_is_replaced),
      cmocka_unit_test(load_reads_a_file_or_names_its_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
