#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/unit/base/config_example.h"

static Error error;

typedef struct Case {
  const char *yaml, *message;
} Case;

/* Every case fails with its message and leaves the config unchanged. */
static void check(const Case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    Example config, before;
    memset(&config, 0x55, sizeof config);
    before = config;
    const char *yaml = cases[i].yaml;
    Status status = config_parse(&example, "run.yaml", yaml, strlen(yaml), &config, NULL, &error);
    if (status != ERROR_USAGE) fail_msg("accepted: %s", yaml);
    assert_int_equal(error.status, ERROR_USAGE);
    assert_string_equal(error.message, cases[i].message);
    assert_memory_equal(&config, &before, sizeof config);
  }
}

#define CHECK(cases) check(cases, sizeof cases / sizeof *cases)

static void unknown_keys_suggest_the_nearest(void **state) {
  (void)state;
  static const Case cases[] = {
      {"seed: 1\n\ntrian:\n  steps: 3\n",
       "run.yaml:3:1: trian: unknown key; did you mean \"train\"?"},
      {"train:\n  stesp: 3\n",
       "run.yaml:2:3: train.stesp: unknown key; did you mean \"train.steps\"?"},
      {"train.globl_batch: 3\n",
       "run.yaml:1:1: train.globl_batch: unknown key; did you mean \"train.global_batch\"?"},
      {"steps: 3\n", "run.yaml:1:1: steps: unknown key; did you mean \"train.steps\"?"},
      {"train: {generator_lr: 1}\n",
       "run.yaml:1:9: train.generator_lr: unknown key; did you mean \"optim.generator_lr\"?"},
      {"optm.generator_lr: 1\n",
       "run.yaml:1:1: optm.generator_lr: unknown key; did you mean \"optim.generator_lr\"?"},
      {"Seed: 1\n", "run.yaml:1:1: Seed: unknown key; did you mean \"seed\"?"},
      {"train:\n  epochs: 3\n",
       "run.yaml:2:3: train.epochs: unknown key; section \"train\" has the keys "
       "steps, global_batch, offset"},
      {"colour: 3\n",
       "run.yaml:1:1: colour: unknown key; expected one of seed, run, train, optim, loss"},
      {"colour:\n  steps.x: 3\n",
       "run.yaml:1:1: colour: unknown key; expected one of seed, run, train, optim, loss"},
      {"\"a\\nb\\u00e9\": 3\n",
       "run.yaml:1:1: a?b\xc3\xa9: unknown key; expected one of seed, run, train, optim, loss"},
      {"<<: {seed: 1}\n",
       "run.yaml:1:1: <<: unknown key; expected one of seed, run, train, optim, loss"},
      {"? seed\n? 5\n", "run.yaml:2:1: seed: has no value; must be an integer"},
      {"\"\": 5\n",
       "run.yaml:1:1: \"\": unknown key; expected one of seed, run, train, optim, loss"},
  };
  CHECK(cases);
}

static void wrong_types(void **state) {
  (void)state;
  static const Case cases[] = {
      {"train:\n  steps: fast\n",
       "run.yaml:2:10: train.steps: \"fast\" is not an integer; allowed: 1 to 1000000"},
      {"train.steps: 1_000",
       "run.yaml:1:14: train.steps: \"1_000\" is not an integer; allowed: 1 to 1000000"},
      {"train.steps: 4k",
       "run.yaml:1:14: train.steps: \"4k\" is not an integer; allowed: 1 to 1000000"},
      {"train.steps: 1.0",
       "run.yaml:1:14: train.steps: \"1.0\" is not an integer; allowed: 1 to 1000000"},
      {"train.steps: 0x10",
       "run.yaml:1:14: train.steps: \"0x10\" is not an integer; allowed: 1 to 1000000"},
      {"train.steps: 010",
       "run.yaml:1:14: train.steps: \"010\" is not an integer; allowed: 1 to 1000000"},
      {"train.steps: '10'", "run.yaml:1:14: train.steps: \"10\" is in quotes, which make it a "
                            "string; allowed: 1 to 1000000"},
      {"train.offset: -",
       "run.yaml:1:15: not valid YAML: block sequence entries are not allowed in "
       "this context"},
      {"train.offset: +-1", "run.yaml:1:15: train.offset: \"+-1\" is not an integer"},
      {"seed: x", "run.yaml:1:7: seed: \"x\" is not an integer; allowed: at least 0"},
      {"optim.generator_lr: fast",
       "run.yaml:1:21: optim.generator_lr: \"fast\" is not a number; allowed: 0 to 1"},
      {"optim.generator_lr: 1e",
       "run.yaml:1:21: optim.generator_lr: \"1e\" is not a number; allowed: 0 to 1"},
      {"loss.weight: .inf", "run.yaml:1:14: loss.weight: \".inf\" is not a number"},
      {"loss.weight: nan", "run.yaml:1:14: loss.weight: \"nan\" is not a number"},
      {"loss.weight: 0x1p3", "run.yaml:1:14: loss.weight: \"0x1p3\" is not a number"},
      {"loss.weight: 1.5 2", "run.yaml:1:14: loss.weight: \"1.5 2\" is not a number"},
      {"run.resume: yes",
       "run.yaml:1:13: run.resume: \"yes\" is not a boolean; allowed: true or false"},
      {"loss.adversarial: lsgn",
       "run.yaml:1:19: loss.adversarial: \"lsgn\" is not one of the choices; allowed: "
       "lsgan, bce, hinge"},
      {"loss.adversarial: lsgan|bce",
       "run.yaml:1:19: loss.adversarial: \"lsgan|bce\" is not one of the choices; "
       "allowed: lsgan, bce, hinge"},
      {"run.dir: [a, b]", "run.yaml:1:10: run.dir: must be a string, not a list"},
      {"train:\n  steps:\n    - 1\n    - 2\n",
       "run.yaml:3:5: train.steps: must be an integer, not a list"},
      {"train:\n  steps:\n    most: 1\n",
       "run.yaml:3:5: train.steps: must be an integer, not a section"},
      {"run.dir: \"a\\0b\"", "run.yaml:1:10: run.dir: holds a NUL character"},
  };
  CHECK(cases);
}

static void out_of_range(void **state) {
  (void)state;
  static const Case cases[] = {
      {"train:\n  steps: 0\n",
       "run.yaml:2:10: train.steps: \"0\" is out of range; allowed: 1 to 1000000"},
      {"train.steps: 1000001",
       "run.yaml:1:14: train.steps: \"1000001\" is out of range; allowed: 1 to 1000000"},
      {"seed: -1", "run.yaml:1:7: seed: \"-1\" is out of range; allowed: at least 0"},
      {"seed: 9223372036854775808",
       "run.yaml:1:7: seed: \"9223372036854775808\" is out of range; allowed: at least 0"},
      {"train.offset: -9223372036854775809",
       "run.yaml:1:15: train.offset: \"-9223372036854775809\" is out of range"},
      {"optim.generator_lr: 1.0000001",
       "run.yaml:1:21: optim.generator_lr: \"1.0000001\" is out of range; allowed: 0 to 1"},
      {"optim.generator_lr: -1e-9",
       "run.yaml:1:21: optim.generator_lr: \"-1e-9\" is out of range; allowed: 0 to 1"},
      {"loss.weight: 1e999", "run.yaml:1:14: loss.weight: \"1e999\" is out of range"},
  };
  CHECK(cases);
}

static void keys_without_a_value(void **state) {
  (void)state;
  static const Case cases[] = {
      {"train:\n  steps:\n  global_batch: 2\n",
       "run.yaml:2:9: train.steps: has no value; must be an integer"},
      {"loss.adversarial: ~",
       "run.yaml:1:19: loss.adversarial: has no value; must be one of its choices"},
      {"run.dir: null",
       "run.yaml:1:10: run.dir: has no value; must be a string (\"\" is the empty string)"},
      {"run.resume: NULL", "run.yaml:1:13: run.resume: has no value; must be true or false"},
      {"loss.weight: Null", "run.yaml:1:14: loss.weight: has no value; must be a number"},
  };
  CHECK(cases);
}

static void keys_set_twice(void **state) {
  (void)state;
  static const Case cases[] = {
      {"train:\n  steps: 1\n  global_batch: 2\n  steps: 1\n",
       "run.yaml:4:3: train.steps: set twice; first on line 2"},
      {"train:\n  steps: 1\ntrain.steps: 1\n",
       "run.yaml:3:1: train.steps: set twice; first on line 2"},
      {"train: {steps: 1}\nseed: 1\ntrain: {offset: 1}\n",
       "run.yaml:3:1: train: set twice; first on line 1"},
      {"train:\nseed: 1\ntrain: {offset: 1}\n", "run.yaml:3:1: train: set twice; first on line 1"},
  };
  CHECK(cases);
}

static void wrong_structure(void **state) {
  (void)state;
  static const Case cases[] = {
      {"train: 5\n",
       "run.yaml:1:8: train: is a section, not a key; it has the keys steps, global_batch, "
       "offset"},
      {"run: [dir]\n", "run.yaml:1:6: run: is a section, not a key; it has the keys dir, resume"},
      {"run: ~\n", "run.yaml:1:6: run: is a section, not a key; it has the keys dir, resume"},
      {"- seed\n", "run.yaml:1:1: must hold keys and sections (\"key: value\"), not a list or a "
                   "bare value"},
      {"seed\n", "run.yaml:1:1: must hold keys and sections (\"key: value\"), not a list or a bare "
                 "value"},
      {"[seed]: 1\n", "run.yaml:1:1: a key must be a string, not a list or a mapping"},
      {"\"a\\0b\": 1\n", "run.yaml:1:1: a key holds a NUL character"},
      {"seed: 1\n---\nseed: 2\n", "run.yaml:2:1: a second YAML document; a config file has one"},
      {"seed: &a 1\n", "run.yaml:1:7: anchors (&name) are not supported; remove it"},
      {"train: &a {steps: 1}\n", "run.yaml:1:8: anchors (&name) are not supported; remove it"},
      {"seed: *a\n", "run.yaml:1:7: aliases (*name) are not supported; write the value out"},
      {"seed: !!int 1\n", "run.yaml:1:7: tags (!name) are not supported; remove it"},
      {"run.dir: ! [1]\n", "run.yaml:1:10: tags (!name) are not supported; remove it"},
  };
  CHECK(cases);
}

static void invalid_yaml(void **state) {
  (void)state;
  static const Case cases[] = {
      {"seed: 1\ntrain:\n\tsteps: 2\n",
       "run.yaml:3:1: not valid YAML: found character that cannot start any token while scanning "
       "for the next token"},
      {"run.dir: a\n  steps: 2\n",
       "run.yaml:2:8: not valid YAML: mapping values are not allowed in this context"},
      {"run: {dir: a\n",
       "run.yaml:2:1: not valid YAML: did not find expected ',' or '}' while parsing a flow "
       "mapping"},
      {"run.dir: \"a\nb: 2\n",
       "run.yaml:3:1: not valid YAML: found unexpected end of stream while scanning a quoted "
       "scalar"},
      {"seed: 1\nrun.dir: \xc3\xa9\xff\n",
       "run.yaml:2:11: not valid YAML: invalid leading UTF-8 octet"},
      {"seed: 1\nrun.dir: \x01\n",
       "run.yaml:2:10: not valid YAML: control characters are not allowed"},
  };
  CHECK(cases);
}

static void columns_count_characters_not_bytes(void **state) {
  (void)state;
  static const Case cases[] = {
      {"{run.dir: \xc3\xa9\xe2\x82\xac\xf0\x9f\x8e\xac, seed: x}",
       "run.yaml:1:22: seed: \"x\" is not an integer; allowed: at least 0"},
  };
  CHECK(cases);
}

static void bad_assignments(void **state) {
  (void)state;
  static const Case cases[] = {
      {"train.steps", "--set train.steps: has no value; write KEY=VALUE"},
      {"train.steps=", "--set train.steps=: \"\" is not an integer; allowed: 1 to 1000000"},
      {"train.steps=x", "--set train.steps=x: \"x\" is not an integer; allowed: 1 to 1000000"},
      {"train.steps= 5", "--set train.steps= 5: \" 5\" is not an integer; allowed: 1 to 1000000"},
      {"loss.weight= 5", "--set loss.weight= 5: \" 5\" is not a number"},
      {"loss.weight=", "--set loss.weight=: \"\" is not a number"},
      {"loss.adversarial=",
       "--set loss.adversarial=: \"\" is not one of the choices; allowed: lsgan, bce, "
       "hinge"},
      {"train.stpes=5", "--set train.stpes=5: unknown key; did you mean \"train.steps\"?"},
      {"train=5",
       "--set train=5: is a section, not a key; it has the keys steps, global_batch, offset"},
      {"=5", "--set =5: unknown key; expected one of seed, run, train, optim, loss"},
      {"run.dir=\xff", "--set run.dir=?: is not valid UTF-8"},
      {"run.dir=\xed\xa0\x80", "--set run.dir=???: is not valid UTF-8"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Example config, before;
    memset(&config, 0x55, sizeof config);
    before = config;
    assert_int_equal(config_assign(&example, cases[i].yaml, &config, NULL, &error), ERROR_USAGE);
    assert_string_equal(error.message, cases[i].message);
    assert_memory_equal(&config, &before, sizeof config);
  }
}

static void long_values_are_cut(void **state) {
  (void)state;
  Example config;
  char yaml[3000] = "train.steps: ";
  for (size_t i = strlen(yaml); i + 2 < sizeof yaml; i += 2) memcpy(yaml + i, "\xc3\xa9", 3);
  assert_int_equal(config_parse(&example, "x", yaml, strlen(yaml), &config, NULL, &error),
                   ERROR_USAGE);
  assert_non_null(strstr(error.message, "\xc3\xa9...\" is not an integer"));
  assert_true(strlen(error.message) < 200);
  memset(yaml, 'k', 1000); /* too long for a suggestion */
  memcpy(yaml + 1000, ": 1", 4);
  assert_int_equal(config_parse(&example, "x", yaml, strlen(yaml), &config, NULL, &error),
                   ERROR_USAGE);
  assert_non_null(strstr(error.message, "kkk...: unknown key; expected one of seed"));
}

static void renamed_keys_name_the_new_key(void **state) {
  (void)state;
  static const Case cases[] = {
      {"optim:\n  step_size: 1\n",
       "run.yaml:2:3: optim.step_size: this key is now optim.generator_lr"},
      {"optim.step_size: [x]\n",
       "run.yaml:1:1: optim.step_size: this key is now optim.generator_lr"},
      /* one letter from train.steps, but no misspelling */
      {"train: {stepz: 3}\n", "run.yaml:1:9: train.stepz: this key is now train.steps"},
      {"velocity: 3\n", "run.yaml:1:1: velocity: this key is now optim.generator_lr"},
      {"train.velocity: 3\n",
       "run.yaml:1:1: train.velocity: unknown key; section \"train\" has the keys "
       "steps, global_batch, offset"},
  };
  CHECK(cases);
  Example config = {0};
  assert_int_equal(config_assign(&example, "optim.step_size=1", &config, NULL, &error),
                   ERROR_USAGE);
  assert_string_equal(error.message, "--set optim.step_size=1: this key is now optim.generator_lr");
}

/* --- ConfigSources ---------------------------------------------------------------------------- */

static void check_source(const ConfigSources *sources, const char *key, const char *message) {
  assert_int_equal(config_error(sources, key, &error, "must be %d", 3), ERROR_USAGE);
  assert_string_equal(error.message, message);
}

static void parse(const char *name, const char *yaml, Example *config, ConfigSources *sources) {
  assert_int_equal(config_parse(&example, name, yaml, strlen(yaml), config, sources, &error), OK);
}

static void sources_name_where_a_key_was_last_set(void **state) {
  (void)state;
  Example config = {0};
  ConfigSources *sources = config_sources_new();
  check_source(sources, "train.steps", "default: train.steps: must be 3");
  parse("a.yaml", "train:\n  steps: 5\n  offset: 2\n", &config, sources);
  check_source(sources, "train.steps", "a.yaml:2:10: train.steps: must be 3");
  check_source(sources, "train.offset", "a.yaml:3:11: train.offset: must be 3");
  check_source(sources, "seed", "default: seed: must be 3");
  assert_int_equal(config_assign(&example, "train.steps=9", &config, sources, &error), OK);
  check_source(sources, "train.steps", "--set train.steps=9: must be 3");
  config_sources_free(sources);
}

static void failures_leave_the_sources_unchanged(void **state) {
  (void)state;
  Example config = {0};
  ConfigSources *sources = config_sources_new();
  const char *bad = "train: {steps: 6, offset: x}";
  parse("a.yaml", "train:\n  steps: 5\n  offset: 2\n", &config, sources);
  assert_int_equal(config_assign(&example, "train.offset=x", &config, sources, &error),
                   ERROR_USAGE);
  assert_int_equal(config_parse(&example, "b.yaml", bad, strlen(bad), &config, sources, &error),
                   ERROR_USAGE);
  check_source(sources, "train.steps", "a.yaml:2:10: train.steps: must be 3");
  check_source(sources, "train.offset", "a.yaml:3:11: train.offset: must be 3");
  config_sources_free(sources);
}

static void two_configs_have_their_own_sources(void **state) {
  (void)state;
  Example config = {0}, other = {0};
  ConfigSources *sources = config_sources_new(), *other_sources = config_sources_new();
  parse("a.yaml", "train:\n  steps: 5\n", &config, sources);
  parse("b.yaml", "train:\n  offset: 2\n  steps: 7\n", &other, other_sources);
  check_source(other_sources, "train.steps", "b.yaml:3:10: train.steps: must be 3");
  check_source(sources, "train.steps", "a.yaml:2:10: train.steps: must be 3");
  check_source(sources, "train.offset", "default: train.offset: must be 3");
  config_sources_free(other_sources);
  config_sources_free(sources);
}

static void no_sources_name_the_key_alone(void **state) {
  (void)state;
  check_source(NULL, "train.steps", "train.steps: must be 3");
  config_sources_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(unknown_keys_suggest_the_nearest),
      cmocka_unit_test(wrong_types),
      cmocka_unit_test(out_of_range),
      cmocka_unit_test(keys_without_a_value),
      cmocka_unit_test(keys_set_twice),
      cmocka_unit_test(wrong_structure),
      cmocka_unit_test(invalid_yaml),
      cmocka_unit_test(columns_count_characters_not_bytes),
      cmocka_unit_test(bad_assignments),
      cmocka_unit_test(long_values_are_cut),
      cmocka_unit_test(renamed_keys_name_the_new_key),
      cmocka_unit_test(sources_name_where_a_key_was_last_set),
      cmocka_unit_test(failures_leave_the_sources_unchanged),
      cmocka_unit_test(two_configs_have_their_own_sources),
      cmocka_unit_test(no_sources_name_the_key_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
