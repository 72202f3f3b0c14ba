/* join: several datasets become one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/files.h"
#include "data/make.h"
#include "support_dataset.h"

/* A part with clips first .. first+count-1. */
static void make_part(const char *folder, const char *name, const DatasetSpec *spec, int64_t first,
                      int64_t count) {
  Error error = {0};
  DatasetWriter *writer = NULL;
  int64_t already = 0;
  assert_int_equal(dataset_writer_open(inside(folder, name), spec, &writer, &already, &error), OK);
  add_clips(writer, &spec->shape, first, count);
  assert_int_equal(dataset_writer_finish(writer, &error), OK);
}

/* 5 + 4 + 1 clips in shards of 4: in none of the parts does the last shard end where it ends in the
 * whole. */
static char *make_parts(void) {
  char *folder = temporary_folder();
  DatasetSpec spec = small_spec();
  make_part(folder, "parts/a", &spec, 0, 5);
  spec.maker = "test --seed 2";
  spec.deflate = true;
  make_part(folder, "parts/b", &spec, 5, 4);
  spec.maker = "test --seed 3";
  spec.deflate = false;
  make_part(folder, "parts/c", &spec, 9, 1);
  return folder;
}

static Status join(const char *folder, const char *out, int64_t count, Error *error) {
  JoinOptions options = {.out = inside(folder, out),
                         .parts = inside(folder, "parts"),
                         .count = count,
                         .clips_per_shard = 4};
  return join_run(&options, error);
}

static void test_joined(void **state) {
  (void)state;
  Error error = {0};
  Dataset *dataset = NULL;
  char *folder = make_parts();
  assert_int_equal(join(folder, "whole", 3, &error), OK);
  assert_int_equal(dataset_verify(inside(folder, "whole"), NULL, &error), OK);
  assert_int_equal(dataset_open(inside(folder, "whole"), &dataset, &error), OK);
  const DatasetInfo *info = dataset_info(dataset);
  assert_int_equal(info->clips, 10);
  assert_int_equal(info->shards, 3);
  size_t source = clip_source_bytes(&info->shape), target = clip_target_bytes(&info->shape);
  uint8_t *found = malloc(source + target), *expected = malloc(source + target);
  for (int64_t i = 0; i < 10; i++) {
    assert_int_equal(dataset_read(dataset, i, found, found + source, &error), OK);
    clip_bytes(i, 0, expected, source);
    clip_bytes(i, 1, expected + source, target);
    assert_memory_equal(found, expected, source + target);
  }
  free(found);
  free(expected);
  dataset_close(dataset);
  remove_folder(folder);
}

static void test_names_stay(void **state) {
  (void)state;
  Error error = {0};
  Dataset *whole = NULL, *part = NULL;
  ClipName found, expected;
  char *folder = make_parts();
  assert_int_equal(join(folder, "whole", 0, &error), OK);
  assert_int_equal(dataset_open(inside(folder, "whole"), &whole, &error), OK);
  assert_int_equal(dataset_open(inside(folder, "parts/b"), &part, &error), OK);
  for (int64_t i = 0; i < 4; i++) {
    assert_int_equal(dataset_clip_name(whole, 5 + i, &found, &error), OK);
    assert_int_equal(dataset_clip_name(part, i, &expected, &error), OK);
    assert_string_equal(found.id, expected.id);
    assert_string_equal(found.origin, expected.origin);
    assert_int_equal(found.start_frame, expected.start_frame);
  }
  dataset_close(part);
  dataset_close(whole);
  remove_folder(folder);
}

/* What an interruption leaves: whole shards without a manifest. */
static void test_goes_on(void **state) {
  (void)state;
  static const char *const files[] = {"shard-00000.h5", "shard-00001.h5", "shard-00002.h5",
                                      "manifest.json"};
  Error error = {0};
  char *folder = make_parts(), name[64];
  assert_int_equal(join(folder, "whole", 0, &error), OK);
  assert_int_equal(join(folder, "again", 0, &error), OK);
  assert_int_equal(unlink(inside(folder, "again/manifest.json")), 0);
  assert_int_equal(unlink(inside(folder, "again/shard-00002.h5")), 0);
  assert_int_equal(join(folder, "again", 0, &error), OK);
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    strcpy(name, "whole/");
    const char *whole = inside(folder, strcat(name, files[i]));
    strcpy(name, "again/");
    assert_same_file(whole, inside(folder, strcat(name, files[i])));
  }
  remove_folder(folder);
}

static void assert_refused(const char *folder, int64_t count, const char *a, const char *b) {
  Error error = {0};
  assert_int_equal(join(folder, "whole", count, &error), ERROR_DATA);
  assert_says(&error, a, b, NULL);
  assert_false(path_exists(inside(folder, "whole")));
}

static void test_refused(void **state) {
  (void)state;
  char *folder = make_parts();
  assert_refused(folder, 4, "parts: holds 3 parts", "must be 4");
  DatasetSpec spec = small_spec();
  spec.shape.frames = 2;
  make_part(folder, "parts/d", &spec, 0, 1);
  assert_refused(folder, 0, "parts/d: frames: 2", "parts/a: 3");
  remove_folder(folder);

  folder = make_parts();
  spec = small_spec();
  spec.fps_numerator = 30;
  make_part(folder, "parts/d", &spec, 0, 1);
  assert_refused(folder, 0, "parts/d: 30/1 frames a second", "parts/a: 25/1");
  remove_folder(folder);

  folder = make_parts();
  assert_int_equal(unlink(inside(folder, "parts/b/manifest.json")), 0);
  assert_refused(folder, 0, "parts/b", "not a dataset");
  remove_folder(folder);

  folder = temporary_folder();
  assert_refused(folder, 0, "parts", "no such folder");
  remove_folder(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_joined),
      cmocka_unit_test(test_names_stay),
      cmocka_unit_test(test_goes_on),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests_name("join", tests, NULL, NULL);
}
