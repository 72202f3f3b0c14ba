/* Datasets with sources alone, or targets alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/build/build.h"
#include "data/dataset/dataset.h"
#include "support_dataset.h"

static int set_up(void **state) {
  *state = temporary_folder();
  return 0;
}

static int tear_down(void **state) {
  remove_folder(*state);
  return 0;
}

static Dataset *open_good(const char *path) {
  Error error;
  Dataset *dataset = NULL;
  if (dataset_open(path, &dataset, &error) != OK) fail_msg("%s", error.message);
  return dataset;
}

static size_t side_bytes(const ClipShape *shape, int side) {
  return side == 0 ? clip_source_bytes(shape) : clip_target_bytes(shape);
}

static Status read_side(const Dataset *dataset, int64_t clip, int side, uint8_t *out,
                        Error *error) {
  return dataset_read(dataset, clip, side == 0 ? out : NULL, side == 1 ? out : NULL, error);
}

/* Asserts that clip `index` of the dataset has the bytes of clip `made` on the side. */
static void assert_clip(const Dataset *dataset, int64_t index, int side, int64_t made) {
  Error error;
  size_t size = side_bytes(&dataset_info(dataset)->shape, side);
  uint8_t *found = mem_new(size, 1), *expected = mem_new(size, 1);
  if (read_side(dataset, index, side, found, &error) != OK) fail_msg("%s", error.message);
  clip_bytes(made, side, expected, size);
  assert_memory_equal(found, expected, size);
  free(found);
  free(expected);
}

/* Asserts that the dataset has clips 0 .. 9 of one side, and nothing of the other. */
static void check_ten_clips(const char *path, int side, bool deflated) {
  Error error;
  uint8_t untouched = 77;
  Dataset *dataset = open_good(path);
  const DatasetInfo *info = dataset_info(dataset);
  assert_int_equal(info->clips, 10);
  assert_int_equal(info->deflated, deflated);
  assert_int_equal(clip_has_source(&info->shape), side == 0);
  assert_int_equal(clip_has_target(&info->shape), side == 1);
  assert_false(clip_is_paired(&info->shape));
  assert_int_equal(side_bytes(&info->shape, 1 - side), 0);
  for (int64_t i = 9; i >= 0; i--) assert_clip(dataset, i, side, i);
  assert_int_equal(read_side(dataset, 3, 1 - side, &untouched, &error), OK);
  assert_int_equal(untouched, 77);
  dataset_close(dataset);
  if (dataset_verify(path, NULL, &error) != OK) fail_msg("%s", error.message);
}

static void clips_of_one_side_round_trip(void **state) {
  Error error;
  for (int side = 0; side < 2; side++)
    for (int deflate = 0; deflate < 2; deflate++) {
      DatasetSpec spec = one_sided_spec(side);
      spec.deflate = deflate;
      make_dataset(*state, &spec, 10);
      check_ten_clips(inside(*state, "data"), side, deflate);
      assert_int_equal(folder_remove(inside(*state, "data"), &error), OK);
    }
}

/* The clip `index` of shard 1 of `folder`/data, damaged on one side. */
static void damage(const char *folder, int64_t index, int side, size_t size) {
  uint8_t *bytes = mem_new(size, 1);
  const char *shard = inside(folder, "data/shard-00001.h5");
  clip_bytes(index, side, bytes, size);
  flip_byte(shard, find_bytes(shard, bytes, size) + 1);
  free(bytes);
}

static void damage_is_found(void **state) {
  Error error;
  Text report = {0};
  DatasetSpec spec = one_sided_spec(1);
  make_dataset(*state, &spec, 10);
  damage(*state, 6, 1, clip_target_bytes(&spec.shape));
  assert_int_equal(dataset_verify(inside(*state, "data"), &report, &error), ERROR_DATA);
  assert_says(&error, "2 checksums are wrong", NULL); /* the clip's and the file's */
  assert_non_null(strstr(report.data, "shard-00001.h5: clip 2 (target)"));
  text_free(&report);
}

/* A side that the caller does not ask for is not read, and cannot fail. */
static void sides_of_pairs_are_read_alone(void **state) {
  Error error;
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 10);
  damage(*state, 6, 1, clip_target_bytes(&spec.shape));
  Dataset *dataset = open_good(inside(*state, "data"));
  uint8_t *target = mem_new(clip_target_bytes(&spec.shape), 1);
  assert_clip(dataset, 6, 0, 6);
  assert_clip(dataset, 7, 1, 7);
  assert_int_equal(read_side(dataset, 6, 1, target, &error), ERROR_DATA);
  assert_says(&error, "clip 2 (target)", NULL);
  free(target);
  dataset_close(dataset);
}

static void interrupted_writing_continues_with_equal_bytes(void **state) {
  static const char *const files[] = {"data/shard-00000.h5", "data/shard-00001.h5",
                                      "data/shard-00002.h5", "data/manifest.json"};
  for (int side = 0; side < 2; side++) {
    Error error;
    DatasetWriter *writer;
    int64_t already;
    DatasetSpec spec = one_sided_spec(side);
    char *complete = temporary_folder(), *interrupted = temporary_folder();
    make_dataset(complete, &spec, 10);
    const char *data = inside(interrupted, "data");
    assert_int_equal(dataset_writer_open(data, &spec, &writer, &already, &error), OK);
    add_clips(writer, &spec.shape, 0, 7);
    dataset_writer_abandon(writer);
    if (dataset_writer_open(data, &spec, &writer, &already, &error) != OK)
      fail_msg("%s", error.message);
    assert_int_equal(already, 4);
    add_clips(writer, &spec.shape, 4, 6);
    assert_int_equal(dataset_writer_finish(writer, &error), OK);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
      assert_same_file(inside(complete, files[i]), inside(interrupted, files[i]));
    remove_folder(complete);
    remove_folder(interrupted);
  }
  (void)state;
}

static void expect_bad_spec(const char *folder, const DatasetSpec *spec, const char *says) {
  Error error;
  DatasetWriter *writer = NULL;
  int64_t already;
  assert_int_equal(dataset_writer_open(inside(folder, "data"), spec, &writer, &already, &error),
                   ERROR_USAGE);
  assert_says(&error, says, NULL);
}

static void bad_specs_and_clips_are_rejected(void **state) {
  Error error;
  DatasetWriter *writer;
  int64_t already;
  uint8_t *clip = mem_new(3 * 12 * 16 * 3, 1);
  const ClipName name = {.id = "x"};
  DatasetSpec spec = one_sided_spec(0);
  spec.shape.source_height = spec.shape.source_width = spec.shape.source_channels = 0;
  expect_bad_spec(*state, &spec, "no source and no target; expected at least one");
  spec = one_sided_spec(0);
  spec.shape.target_width = 8;
  expect_bad_spec(*state, &spec, "target height is 0, expected 1 to 65536");
  spec = one_sided_spec(1);
  spec.shape.source_channels = 3;
  expect_bad_spec(*state, &spec, "source height is 0, expected 1 to 65536");
  spec = one_sided_spec(1);
  assert_int_equal(dataset_writer_open(inside(*state, "data"), &spec, &writer, &already, &error),
                   OK);
  assert_int_equal(dataset_writer_add(writer, clip, NULL, &name, &error), ERROR_INTERNAL);
  assert_says(&error, "clip 0 has no target", NULL);
  dataset_writer_abandon(writer);
  free(clip);
}

/* Replaces the first occurrence of a text in the manifest. */
static void edit_manifest(const char *folder, const char *from, const char *to) {
  Error error;
  char *data;
  size_t size;
  const char *path = inside(folder, "data/manifest.json");
  assert_int_equal(file_read(path, 1 << 20, &data, &size, &error), OK);
  char *at = strstr(data, from);
  assert_non_null(at);
  char *edited = mem_format("%.*s%s%s", (int)(at - data), data, to, at + strlen(from));
  assert_int_equal(atomic_file_replace(path, edited, strlen(edited), &error), OK);
  free(edited);
  free(data);
}

static void bad_manifests_are_named(void **state) {
  static const struct {
    int side;
    const char *from, *to, *says;
  } edits[] = {
      {0, "\"schema_version\": 3", "\"schema_version\": 1", "target: missing"},
      {1, "\"schema_version\": 3", "\"schema_version\": 2", "source: missing"},
      {0, "\"fps\"", "\"target\": [4, 4, 3], \"fps\"", "either source or target, found both"},
      {0, "\"source\": [", "\"x\": [", "no source and no target"},
      {1, "\"target\": [", "\"source\": [", "source_offset: missing"},
      {1, "\"target_offset\"", "\"source_offset\"", "target_offset: missing"},
  };
  for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
    Error error;
    Dataset *dataset = NULL;
    DatasetSpec spec = one_sided_spec(edits[i].side);
    make_dataset(*state, &spec, 5);
    edit_manifest(*state, edits[i].from, edits[i].to);
    Status status = dataset_open(inside(*state, "data"), &dataset, &error);
    if (status != ERROR_DATA) fail_msg("edit %zu: status %d", i, (int)status);
    assert_says(&error, edits[i].says, NULL);
    assert_int_equal(folder_remove(inside(*state, "data"), &error), OK);
  }
}

static void descriptions_name_the_side(void **state) {
  Error error;
  for (int side = 0; side < 2; side++) {
    Text text = {0};
    DatasetSpec spec = one_sided_spec(side);
    make_dataset(*state, &spec, 5);
    assert_int_equal(dataset_describe(inside(*state, "data"), &text, &error), OK);
    assert_int_equal(dataset_describe(inside(*state, "data/shard-00001.h5"), &text, &error), OK);
    const char *first = strstr(text.data, side == 0 ? "source only, 8x6" : "target only, 16x12");
    assert_non_null(first);
    assert_non_null(strstr(first + 1, side == 0 ? "source only, 8x6" : "target only, 16x12"));
    assert_null(strstr(text.data, side == 0 ? "target" : "source"));
    text_free(&text);
    assert_int_equal(folder_remove(inside(*state, "data"), &error), OK);
  }
}

static void missing_pairs_are_named(void **state) {
  Error error;
  for (int side = 0; side < 3; side++) {
    DatasetSpec spec = side == 2 ? small_spec() : one_sided_spec(side);
    make_dataset(*state, &spec, 1);
    Dataset *dataset = open_good(inside(*state, "data"));
    assert_string_equal(dataset_path(dataset), inside(*state, "data"));
    Status status = dataset_require_pairs(dataset, "eval", &error);
    assert_int_equal(status, side == 2 ? OK : ERROR_USAGE);
    if (side < 2)
      assert_says(&error, inside(*state, "data"),
                  side == 0 ? "has sources only, no targets" : "has targets only, no sources",
                  "eval needs pairs", NULL);
    dataset_close(dataset);
    assert_int_equal(folder_remove(inside(*state, "data"), &error), OK);
  }
}

/* --- Joining ---------------------------------------------------------------------------------- */

static void make_part(const char *folder, const char *name, int side, int64_t first,
                      int64_t count) {
  Error error;
  DatasetWriter *writer;
  int64_t already;
  DatasetSpec spec = side == 2 ? small_spec() : one_sided_spec(side);
  spec.maker = name;
  assert_int_equal(dataset_writer_open(inside(folder, name), &spec, &writer, &already, &error), OK);
  add_clips(writer, &spec.shape, first, count);
  assert_int_equal(dataset_writer_finish(writer, &error), OK);
}

static void one_sided_datasets_are_joined(void **state) {
  Error error;
  for (int side = 0; side < 2; side++) {
    make_part(*state, "parts/a", side, 0, 6);
    make_part(*state, "parts/b", side, 6, 4);
    JoinOptions o = {.out = inside(*state, "joined"), .parts = inside(*state, "parts")};
    if (join_run(&o, &error) != OK) fail_msg("%s", error.message);
    check_ten_clips(o.out, side, false);
    o.out = inside(*state, "rewritten");
    o.deflate = true;
    if (join_run(&o, &error) != OK) fail_msg("%s", error.message);
    check_ten_clips(o.out, side, true);
    for (int i = 0; i < 3; i++) {
      static const char *const folders[] = {"parts", "joined", "rewritten"};
      assert_int_equal(folder_remove(inside(*state, folders[i]), &error), OK);
    }
  }
}

static void other_sides_are_not_joined(void **state) {
  static const char *const has[] = {"sources only", "targets only", "pairs"};
  Error error;
  for (int a = 0; a < 3; a++)
    for (int b = 0; b < 3; b++) {
      if (a == b) continue;
      make_part(*state, "parts/a", a, 0, 2);
      make_part(*state, "parts/b", b, 0, 2);
      JoinOptions o = {.out = inside(*state, "joined"), .parts = inside(*state, "parts")};
      assert_int_equal(join_run(&o, &error), ERROR_DATA);
      char *says = mem_format("parts/b: has %s, expected %s as in", has[b], has[a]);
      assert_says(&error, says, "parts/a", NULL);
      free(says);
      assert_int_equal(folder_remove(o.parts, &error), OK);
    }
}

int main(void) {
#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      WITH_FOLDER(clips_of_one_side_round_trip),
      WITH_FOLDER(damage_is_found),
      WITH_FOLDER(sides_of_pairs_are_read_alone),
      WITH_FOLDER(interrupted_writing_continues_with_equal_bytes),
      WITH_FOLDER(bad_specs_and_clips_are_rejected),
      WITH_FOLDER(bad_manifests_are_named),
      WITH_FOLDER(descriptions_name_the_side),
      WITH_FOLDER(missing_pairs_are_named),
      WITH_FOLDER(one_sided_datasets_are_joined),
      WITH_FOLDER(other_sides_are_not_joined),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
