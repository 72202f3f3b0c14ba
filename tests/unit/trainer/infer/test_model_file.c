/* Model files: weights and metadata as written, and the files that the reader must reject. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/random.h"
#include "checkpoints/half_float.h"
#include "tests/unit/trainer/infer/support_generator.h"
#include "trainer/gan/checkpoint_weights.h"

enum { SIDE = 16, PIXELS = SIDE * SIDE * 3 };

static Backend *backend;
static Error error;
static char path[64];

static int open_backend(void **state) {
  (void)state;
  snprintf(path, sizeof path, "/tmp/model-%d.safetensors", (int)getpid());
  return backend_cpu_new(1, &backend, &error) == OK ? 0 : -1;
}

static int close_backend(void **state) {
  (void)state;
  unlink(path);
  backend->free(backend);
  return 0;
}

static void check(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

#define FAILS(call, status, text) fails((call), (status), (text), __LINE__)
static void fails(Status found, Status expected, const char *text, int line) {
  if (found == expected && strstr(error.message, text)) return;
  fail_msg("line %d: status %d, expected %d: \"%s\" does not contain \"%s\"", line, (int)found,
           (int)expected, error.message, text);
}

/* --- Files ------------------------------------------------------------------------------------ */

/* `config` is that of a small celnet. */
static json_t *good_metadata(const Config *config) {
  json_t *metadata = json_pack(
      "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "format", "celforge-model",
      "celforge.format_version", "1", "celforge.version", "0.2", "celforge.weights",
      "running average", "celforge.step", "12", "celforge.scale", "1", "celforge.source_channels",
      "3", "celforge.range", "-1 1", "celforge.seed", "7", "card.name", "comic", "card.date",
      "2026-11-30", "card.look", "ink and flat colour \xe2\x80\x94 caf\xc3\xa9");
  for (const char *const *key = model_config_keys(config); *key; key++) {
    Text value = {0};
    char *member = mem_format(MODEL_KEY_CONFIG "%s", *key);
    config_write_value(&config_schema, *key, config, &value);
    json_object_set_new(metadata, member, json_string(value.data));
    free(member);
    text_free(&value);
  }
  return metadata;
}

/* The tensors of a generator in F16; `halves` holds their data. */
static NamedTensor *half_tensors(const Parameters *parameters, const float *flat,
                                 uint16_t *halves) {
  NamedTensor *tensors = mem_new((size_t)parameters->count, sizeof *tensors);
  for (int64_t i = 0; i < parameters->total; i++) halves[i] = half_from_f32(flat[i]);
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    tensors[i] = parameter_tensor(parameter, parameter->name, flat);
    tensors[i].type = TENSOR_F16;
    tensors[i].data = halves + parameter->offset;
  }
  return tensors;
}

typedef struct Fixture {
  SmallGenerator generator;
  int64_t total;
  float *flat; /* the generator's weights */
  uint16_t *halves;
  NamedTensor *tensors;
  int count;
  json_t *metadata;
} Fixture;

static Fixture *fixture_new(void) {
  static const char *const ASSIGNMENTS[] = {"model.noise_channels=1", "run.seed=7", NULL};
  Fixture *f = mem_new(1, sizeof *f);
  small_generator_open(&f->generator, ASSIGNMENTS, 3, backend);
  Parameters *parameters = &f->generator.parameters;
  f->total = parameters->total;
  f->count = parameters->count;
  f->flat = mem_new((size_t)f->total, sizeof *f->flat);
  f->halves = mem_new((size_t)f->total, sizeof *f->halves);
  check(buffer_download(&parameters->master, 0, f->flat, f->total, &error));
  f->tensors = half_tensors(parameters, f->flat, f->halves);
  f->metadata = good_metadata(&f->generator.config);
  return f;
}

static void fixture_free(Fixture *f) {
  small_generator_close(&f->generator);
  json_decref(f->metadata);
  free(f->flat);
  free(f->halves);
  free(f->tensors);
  free(f);
}

static void write_file(const Fixture *f) {
  check(safetensors_write(path, f->tensors, f->count, f->metadata, NULL, NULL, &error));
}

/* Writes, opens and loads the fixture's file. */
static Status load(const Fixture *f, Inference **out) {
  ModelFile *file = NULL;
  *out = NULL;
  write_file(f);
  Status status = model_file_open(path, &file, &error);
  if (status == OK) status = inference_from_model_file(file, DTYPE_F32, backend, out, &error);
  model_file_close(file);
  return status;
}

static Status load_fails(const Fixture *f) {
  Inference *inference;
  Status status = load(f, &inference);
  inference_free(inference);
  return status;
}

/* Two frames of noise, translated. */
static void translate(Inference *inference, float *out) {
  const InferenceShape shape = {SIDE, SIDE, 3, SIDE, SIDE};
  uint8_t source[PIXELS];
  Random random = random_stream(3, RANDOM_TEST, 0, 0);
  check(inference_stream_begin(inference, &shape, &error));
  for (int t = 0; t < 2; t++) {
    for (int i = 0; i < PIXELS; i++) source[i] = (uint8_t)random_below(&random, 256);
    check(inference_stream_frame(inference, source, out + t * PIXELS, &error));
  }
}

/* --- Tests ------------------------------------------------------------------------------------ */

static void test_metadata_as_written(void **state) {
  (void)state;
  Fixture *f = fixture_new();
  ModelFile *file;
  write_file(f);
  check(model_file_open(path, &file, &error));
  assert_string_equal(file->card.name, "comic");
  assert_string_equal(file->card.date, "2026-11-30");
  assert_string_equal(file->card.look, "ink and flat colour \xe2\x80\x94 caf\xc3\xa9");
  assert_null(file->card.licence);
  assert_null(file->card.height);
  assert_int_equal(file->scale, 1);
  assert_int_equal(file->source_channels, 3);
  assert_int_equal(file->step, 12);
  assert_true(file->ema);
  assert_int_equal(file->config.model.channels, 4);
  assert_int_equal(file->config.model.noise_channels, 1);
  assert_int_equal(file->config.run.seed, 7);
  assert_true(file->bytes > (uint64_t)(2 * f->generator.parameters.items[0].count));
  model_file_close(file);
  fixture_free(f);
}

/* The output is that of the rounded weights, bit for bit, and near that of the weights in f32. */
static void test_weights(void **state) {
  (void)state;
  Fixture *f = fixture_new();
  float full[2 * PIXELS], rounded[2 * PIXELS], found[2 * PIXELS];
  double largest = 0;
  translate(f->generator.inference, full);
  float *flat = mem_new((size_t)f->total, sizeof *flat);
  for (int64_t i = 0; i < f->total; i++) flat[i] = half_to_f32(f->halves[i]);
  check(buffer_upload(&f->generator.parameters.master, 0, flat, f->total, &error));
  translate(f->generator.inference, rounded);
  free(flat);
  Inference *inference;
  check(load(f, &inference));
  assert_int_equal(inference_step(inference), 12);
  assert_string_equal(inference_path(inference), path);
  translate(inference, found);
  inference_free(inference);
  assert_memory_equal(found, rounded, sizeof found);
  for (int i = 0; i < 2 * PIXELS; i++) {
    double difference = fabs((double)full[i] - (double)found[i]);
    largest = difference > largest ? difference : largest;
  }
  assert_true(largest > 0);    /* F16 rounds */
  assert_true(largest < 0.02); /* 2.5 of 255; ten layers of 2^-11 each, the head scaled by ten */
  fixture_free(f);
}

static void test_metadata_are_checked(void **state) {
  (void)state;
  static const struct {
    const char *key, *value, *message; /* value NULL: the member is removed */
  } CASES[] = {
      {"format", NULL, "\"format\" is missing, expected \"celforge-model\""},
      {"format", "pt", "\"format\" is \"pt\", expected \"celforge-model\""},
      {"celforge.format_version", "2", "has version 2 of the format"},
      {"celforge.format_version", "", "celforge.format_version: has 0 bytes"},
      {"celforge.model.channels", NULL, "lack \"celforge.model.channels\""},
      {"celforge.model.channels", "0", "model.channels=0"},
      {"celforge.model.channels", "99999999999", "model.channels=99999999999"},
      {"celforge.model.norm", "batch", "\"batch\""},
      {"celforge.model.generator", "unet", "\"unet\""},
      {"celforge.model.generator", "pix2pixhd", "lack \"celforge.model.downsamplings\""},
      {"celforge.model.downsamplings", "3", "unknown metadata \"celforge.model.downsamplings\""},
      {"celforge.train.steps", "3", "unknown metadata \"celforge.train.steps\""},
      {"note", "x", "unknown metadata \"note\""},
      {"celforge.scale", "0", "\"celforge.scale\" is \"0\"; allowed: 1 to 64"},
      {"celforge.scale", "1x", "\"celforge.scale\" is \"1x\""},
      {"celforge.scale", " 1", "\"celforge.scale\" is \" 1\""},
      {"celforge.scale", "-1", "\"celforge.scale\" is \"-1\""},
      {"celforge.step", "99999999999999999999", "\"celforge.step\" is"},
      {"celforge.source_channels", "4", "expected a multiple of 3"},
      {"celforge.weights", "ema", "allowed: running average, plain"},
      {"celforge.range", "0 1", "expected \"-1 1\""},
      {"celforge.seed", NULL, "lack \"celforge.seed\""},
      {"card.name", NULL, "card.name: is missing"},
      {"card.name", "Comic", "card.name: \"Comic\"; allowed"},
      {"card.name", "../comic", "card.name: \"../comic\"; allowed"},
      {"card.name", "-comic", "card.name: \"-comic\"; allowed"},
      {"card.date", "2026-13-01", "card.date: \"2026-13-01\"; expected YYYY-MM-DD"},
      {"card.date", "30.11.2026", "expected YYYY-MM-DD"},
      {"card.look", "two\nlines", "card.look: byte 3 is not printable"},
      {"card.look", "\x1b[2J", "card.look: byte 0 is not printable"},
      {"card.look",
       "abc\xe2\x80\xae"
       "cba",
       "card.look: byte 3 is not printable"},
      {"card.height", "180-", "card.height: \"180-\"; expected pixels"},
      {"card.height", "360-180", "card.height: \"360-180\"; expected pixels"},
      {"card.height", "0", "card.height: \"0\"; expected pixels"},
      {"card.height", "99999999999999999999", "expected pixels"},
      {"card.mood", "x", "unknown metadata \"card.mood\""},
      {"\x1b[2J", "x", "name of a member: byte 0 is not printable"},
  };
  Fixture *f = fixture_new();
  for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
    json_object_clear(f->metadata);
    json_t *good = good_metadata(&f->generator.config);
    json_object_update(f->metadata, good);
    json_decref(good);
    if (CASES[i].value)
      json_object_set_new(f->metadata, CASES[i].key, json_string(CASES[i].value));
    else
      json_object_del(f->metadata, CASES[i].key);
    FAILS(load_fails(f), ERROR_DATA, CASES[i].message);
    assert_non_null(strstr(error.message, path));
    assert_null(strchr(error.message, '\x1b'));
  }
  json_object_clear(f->metadata);
  FAILS(load_fails(f), ERROR_DATA, "no model file");
  fixture_free(f);
}

/* A file of a version that did not know the key: it has no tone curve. */
static void test_later_keys_may_be_absent(void **state) {
  (void)state;
  Fixture *f = fixture_new();
  ModelFile *file;
  assert_int_equal(json_object_del(f->metadata, "celforge.model.tones"), 0);
  write_file(f);
  check(model_file_open(path, &file, &error));
  assert_int_equal(file->config.model.tones, 0);
  model_file_close(file);
  fixture_free(f);
}

static void test_tensors_are_checked(void **state) {
  (void)state;
  Fixture *f = fixture_new();
  NamedTensor *first = &f->tensors[0], good = *first;
  char *others = mem_new(1, 1 << 20);
  first->type = TENSOR_BF16;
  FAILS(load_fails(f), ERROR_DATA, "is BF16 [");
  first->type = TENSOR_F32;
  first->data = others;
  FAILS(load_fails(f), ERROR_DATA, ", expected F16 [");
  *first = good;
  first->shape[0]++;
  first->data = others;
  FAILS(load_fails(f), ERROR_DATA, good.name);
  *first = good;
  first->name = "other.\x1b";
  FAILS(load_fails(f), ERROR_DATA, "has no tensor \"");
  *first = good;
  f->count--;
  FAILS(load_fails(f), ERROR_DATA, "has no tensor \"");
  f->count++;
  NamedTensor *more = mem_new((size_t)f->count + 1, sizeof *more), *before = f->tensors;
  memcpy(more, before, (size_t)f->count * sizeof *more);
  more[f->count] = (NamedTensor){"extra\x1b", TENSOR_U8, 1, {1}, others};
  f->tensors = more;
  f->count++;
  FAILS(load_fails(f), ERROR_DATA, "tensor \"?\" does not belong to its config");
  f->tensors = before;
  f->count--;
  json_object_set_new(f->metadata, "celforge.model.channels", json_string("512"));
  FAILS(load_fails(f), ERROR_DATA, ", expected F16 [512, "); /* before memory is allocated */
  free(more);
  free(others);
  fixture_free(f);
}

static void test_weights_must_be_finite(void **state) {
  (void)state;
  Fixture *f = fixture_new();
  uint16_t *middle = &f->halves[f->generator.parameters.items[1].offset], before = *middle;
  *middle = 0x7c00;
  FAILS(load_fails(f), ERROR_DATA, "element 0 is inf");
  *middle = 0xfe00;
  FAILS(load_fails(f), ERROR_DATA, "element 0 is -nan");
  *middle = before;
  check(load_fails(f));
  fixture_free(f);
}

/* Files with some bytes changed at random are rejected with a message, or load; a sanitizer sees
 * reads out of bounds. */
static void test_damaged_files(void **state) {
  (void)state;
  Fixture *f = fixture_new();
  char *bytes;
  size_t size, loaded = 0, rejected = 0;
  write_file(f);
  check(file_read(path, 1 << 24, &bytes, &size, &error));
  uint64_t header;
  memcpy(&header, bytes, sizeof header);
  for (uint64_t round = 0; round < 1500; round++) {
    Random random = random_stream(1, RANDOM_TEST, round, 0);
    char *damaged = mem_new(size, 1);
    memcpy(damaged, bytes, size);
    int changes = 1 + (int)random_below(&random, 3);
    for (int i = 0; i < changes; i++)
      damaged[8 + random_below(&random, (uint32_t)header)] ^= (char)(1 << random_below(&random, 7));
    ModelFile *file = NULL;
    Inference *inference = NULL;
    Status status = model_file_parse("damaged", damaged, size, &file, &error);
    if (status == OK)
      status = inference_from_model_file(file, DTYPE_F32, backend, &inference, &error);
    if (status != OK && (status != ERROR_DATA || strncmp(error.message, "damaged:", 8) != 0))
      fail_msg("round %d: status %d: %s", (int)round, (int)status, error.message);
    loaded += status == OK;
    rejected += status != OK;
    inference_free(inference);
    model_file_close(file);
    free(damaged);
  }
  assert_true(rejected > 1000);
  assert_true(loaded > 0); /* such as one with another seed */
  free(bytes);
  fixture_free(f);
}

/* --- Config keys -------------------------------------------------------------------------------
 */

static bool is_written(const Config *config, const char *key) {
  for (const char *const *k = model_config_keys(config); *k; k++)
    if (strcmp(*k, key) == 0) return true;
  return false;
}

/* The output of a generator of this kind with one more assignment, from the same initial weights.
 */
static void output_with(const char *kind, const char *assignment, float *out) {
  const char *const assignments[] = {kind, "model.temporal=none", "model.downsamplings=2",
                                     assignment, NULL};
  SmallGenerator generator;
  small_generator_open(&generator, assignments, 3, backend);
  translate(generator.inference, out);
  small_generator_close(&generator);
}

static bool is_allowed(const char *kind, const char *assignment) {
  const char *const assignments[] = {kind, "model.temporal=none", assignment};
  Config config;
  check(config_set_defaults(&config_schema, &config, &error));
  for (int i = 0; i < 3; i++)
    check(config_assign(&config_schema, assignments[i], &config, NULL, &error));
  return config_check(&config, NULL, 1, &error) == OK;
}

/* An assignment of another value than the default; the caller frees it. */
static char *other_value(const ConfigKey *key) {
  if (key->type == CONFIG_BOOL)
    return mem_format("%s=%s", key->key, strcmp(key->default_text, "true") ? "true" : "false");
  if (key->type == CONFIG_INT) {
    long long value = atoll(key->default_text);
    return mem_format("%s=%lld", key->key, (double)value < key->maximum ? value + 1 : value - 1);
  }
  const char *last = key->type == CONFIG_CHOICE ? strrchr(key->choices, '|') : NULL;
  if (!last) fail_msg("%s: teach this test its type", key->key);
  bool is_last = strcmp(last + 1, key->default_text) == 0;
  return is_last ? mem_format("%s=%.*s", key->key, (int)strcspn(key->choices, "|"), key->choices)
                 : mem_format("%s=%s", key->key, last + 1);
}

/* A key that changes the generator must be written to model files. */
static void test_other_keys_do_not_matter(void **state) {
  (void)state;
  static const char *const KINDS[] = {"model.generator=celnet", "model.generator=pix2pixhd"};
  float usual[2 * PIXELS], found[2 * PIXELS];
  int checked = 0;
  for (int kind = 0; kind < 2; kind++) {
    Config config = {.model.generator = kind};
    output_with(KINDS[kind], KINDS[kind], usual);
    for (size_t i = 0; i < config_schema.count; i++) {
      const ConfigKey *key = &config_schema.keys[i];
      if (strncmp(key->key, "model.", 6) != 0 || is_written(&config, key->key)) continue;
      char *assignment = other_value(key);
      bool allowed = is_allowed(KINDS[kind], assignment);
      if (allowed) output_with(KINDS[kind], assignment, found);
      if (allowed && memcmp(found, usual, sizeof usual) != 0)
        fail_msg("%s with %s changes the generator: add it to model_config_keys", KINDS[kind],
                 assignment);
      free(assignment);
      checked += allowed;
    }
  }
  assert_true(checked >= 10);
}

static void test_heights(void **state) {
  (void)state;
  int64_t minimum, maximum;
  assert_true(model_card_parse_height("270", &minimum, &maximum));
  assert_true(minimum == 270 && maximum == 270);
  assert_true(model_card_parse_height("180-65536", &minimum, &maximum));
  assert_true(minimum == 180 && maximum == 65536);
  static const char *const BAD[] = {"",   "-",     "180-", "-180", "1 80",
                                    "+1", "65537", "0",    "01",   "2-1"};
  for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
    assert_false(model_card_parse_height(BAD[i], &minimum, &maximum));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_metadata_as_written),
      cmocka_unit_test(test_weights),
      cmocka_unit_test(test_later_keys_may_be_absent),
      cmocka_unit_test(test_metadata_are_checked),
      cmocka_unit_test(test_tensors_are_checked),
      cmocka_unit_test(test_weights_must_be_finite),
      cmocka_unit_test(test_damaged_files),
      cmocka_unit_test(test_other_keys_do_not_matter),
      cmocka_unit_test(test_heights),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
