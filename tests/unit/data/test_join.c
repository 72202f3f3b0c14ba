/* Joining datasets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/build/build.h"
#include "support_dataset.h"

/* Writes a part with clips first .. first+count-1. */
static void make_part(const char *folder, const char *name, const DatasetSpec *spec, int64_t first,
                      int64_t count) {
  Error error = {0};
  DatasetWriter *writer = NULL;
  int64_t already = 0;
  assert_int_equal(dataset_writer_open(inside(folder, name), spec, &writer, &already, &error), OK);
  add_clips(writer, &spec->shape, first, count);
  assert_int_equal(dataset_writer_finish(writer, &error), OK);
}

/* 5 + 4 + 1 clips in shards of 4 + 1, 4 and 1. */
static void make_parts_in(const char *folder, bool deflated) {
  DatasetSpec spec = small_spec();
  spec.deflate = deflated;
  make_part(folder, "parts/a", &spec, 0, 5);
  spec.maker = "test --seed 2";
  make_part(folder, "parts/b", &spec, 5, 4);
  spec.maker = "test --seed 3";
  make_part(folder, "parts/c", &spec, 9, 1);
}

static char *make_parts(void) {
  char *folder = temporary_folder();
  make_parts_in(folder, false);
  return folder;
}

/* The joined shards and the parts' shards they come from. */
static const char *const sources[4] = {"parts/a/shard-00000.h5", "parts/a/shard-00001.h5",
                                       "parts/b/shard-00000.h5", "parts/c/shard-00000.h5"};
static const char *const shards[4] = {"joined/shard-00000.h5", "joined/shard-00001.h5",
                                      "joined/shard-00002.h5", "joined/shard-00003.h5"};

static JoinOptions options(const char *folder) {
  return (JoinOptions){.out = inside(folder, "joined"), .parts = inside(folder, "parts")};
}

static void must_join(const JoinOptions *o) {
  Error error = {0};
  if (join_run(o, &error) != OK) fail_msg("%s", error.message);
}

/* Asserts that the dataset has clips 0 .. 9, intact and with their names. */
static void check_joined(const char *path, int shard_count) {
  Error error = {0};
  Dataset *dataset = NULL;
  ClipName name;
  char id[32];
  assert_int_equal(dataset_verify(path, NULL, &error), OK);
  assert_int_equal(dataset_open(path, &dataset, &error), OK);
  const DatasetInfo *info = dataset_info(dataset);
  assert_int_equal(info->clips, 10);
  assert_int_equal(info->shards, shard_count);
  size_t source = clip_source_bytes(&info->shape), target = clip_target_bytes(&info->shape);
  uint8_t *found = malloc(source + target), *expected = malloc(source + target);
  for (int64_t i = 0; i < 10; i++) {
    assert_int_equal(dataset_read(dataset, i, found, found + source, &error), OK);
    clip_bytes(i, 0, expected, source);
    clip_bytes(i, 1, expected + source, target);
    assert_memory_equal(found, expected, source + target);
    assert_int_equal(dataset_clip_name(dataset, i, &name, &error), OK);
    snprintf(id, sizeof id, "clip-%lld", (long long)i);
    assert_string_equal(name.id, id);
    assert_int_equal(name.start_frame, i * 3);
  }
  free(found);
  free(expected);
  dataset_close(dataset);
}

static ino_t file_of(const char *path) {
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  return info.st_ino;
}

/* --- Linking and copying ---------------------------------------------------------------------- */

static void check_linked(bool deflated) {
  char *folder = temporary_folder();
  make_parts_in(folder, deflated);
  JoinOptions o = options(folder);
  o.count = 3;
  must_join(&o);
  check_joined(o.out, 4);
  for (int i = 0; i < 4; i++)
    assert_true(file_of(inside(folder, shards[i])) == file_of(inside(folder, sources[i])));
  Error error;
  assert_int_equal(folder_remove(o.parts, &error), OK);
  check_joined(o.out, 4);
  remove_folder(folder);
}

static void shard_files_are_linked(void **state) {
  (void)state;
  check_linked(false);
  check_linked(true);
}

/* A part may be a joined dataset itself, with symbolic links as shards. */
static void joined_datasets_can_be_joined_again(void **state) {
  (void)state;
  Error error;
  char *folder = make_parts();
  const JoinOptions o = options(folder);
  must_join(&o);
  assert_int_equal(folder_create(inside(folder, "more"), &error), OK);
  assert_int_equal(rename(o.out, inside(folder, "more/1")), 0);
  const char *shard = inside(folder, "more/1/shard-00002.h5");
  const char *elsewhere = inside(folder, "elsewhere.h5");
  assert_int_equal(rename(shard, elsewhere), 0);
  assert_int_equal(symlink("../../elsewhere.h5", shard), 0);
  const JoinOptions again = {.out = inside(folder, "twice"), .parts = inside(folder, "more")};
  must_join(&again);
  check_joined(again.out, 4);
  assert_true(file_of(inside(folder, "twice/shard-00002.h5")) == file_of(elsewhere));
  remove_folder(folder);
}

/* The manifest depends only on the parts, not on their paths. */
static void manifest_does_not_depend_on_paths(void **state) {
  (void)state;
  char *here = make_parts(), *there = make_parts();
  const JoinOptions a = options(here), b = options(there);
  must_join(&a);
  must_join(&b);
  assert_same_file(inside(here, "joined/manifest.json"), inside(there, "joined/manifest.json"));
  remove_folder(here);
  remove_folder(there);
}

/* Writes the parts to another file system; NULL if there is none. */
static char *parts_elsewhere(const char *folder) {
  char *other = mem_format("/dev/shm/celforge-join-XXXXXX");
  struct stat a, b;
  if (!mkdtemp(other)) {
    free(other);
    return NULL;
  }
  assert_int_equal(stat(folder, &a) + stat(other, &b), 0);
  if (a.st_dev == b.st_dev) {
    remove_folder(other);
    return NULL;
  }
  make_parts_in(other, false);
  return other;
}

static void shard_files_are_copied_across_file_systems(void **state) {
  (void)state;
  Error error = {0};
  char *folder = temporary_folder(), *other = parts_elsewhere(folder);
  if (!other) {
    remove_folder(folder);
    print_message("# skipped: /dev/shm is on the same file system\n");
    skip();
  }
  JoinOptions o = options(folder);
  o.parts = inside(other, "parts");
  must_join(&o);
  check_joined(o.out, 4);
  for (int i = 0; i < 4; i++)
    assert_same_file(inside(folder, shards[i]), inside(other, sources[i]));
  /* Intact copies of an interrupted join are kept, damaged ones are copied again. */
  ino_t kept = file_of(inside(folder, shards[0]));
  assert_int_equal(unlink(inside(folder, "joined/manifest.json")), 0);
  flip_byte(inside(folder, shards[2]), file_bytes(inside(folder, shards[2])) / 2);
  must_join(&o);
  check_joined(o.out, 4);
  assert_true(file_of(inside(folder, shards[0])) == kept);
  /* A part that is damaged is not copied. */
  assert_int_equal(folder_remove(o.out, &error), OK);
  flip_byte(inside(other, sources[2]), file_bytes(inside(other, sources[2])) / 2);
  assert_int_equal(join_run(&o, &error), ERROR_DATA);
  assert_says(&error, sources[2], "CRC-32C of the file is", NULL);
  assert_false(is_there(inside(folder, "joined/manifest.json")));
  assert_false(is_there(inside(folder, shards[2])));
  remove_folder(other);
  remove_folder(folder);
}

/* An interrupted join leaves shards without a manifest. */
static void interrupted_join_continues(void **state) {
  (void)state;
  Error error = {0};
  char *folder = make_parts();
  const JoinOptions o = options(folder);
  must_join(&o);
  const char *manifest = inside(folder, "joined/manifest.json");
  const char *first = inside(folder, "first.json");
  assert_int_equal(rename(manifest, first), 0);
  assert_int_equal(unlink(inside(folder, shards[3])), 0);
  assert_int_equal(unlink(inside(folder, shards[1])), 0);
  assert_int_equal(
      atomic_file_replace(inside(folder, "joined/shard-00001.h5.7.tmp"), "x", 1, &error), OK);
  must_join(&o);
  check_joined(o.out, 4);
  assert_same_file(first, manifest);
  assert_false(is_there(inside(folder, "joined/shard-00001.h5.7.tmp")));
  remove_folder(folder);
}

static void output_may_lie_among_the_parts(void **state) {
  (void)state;
  char *folder = make_parts();
  JoinOptions o = options(folder);
  o.out = inside(folder, "parts/b-joined");
  o.count = 3;
  must_join(&o);
  assert_int_equal(unlink(inside(folder, "parts/b-joined/manifest.json")), 0);
  must_join(&o);
  check_joined(o.out, 4);
  remove_folder(folder);
}

static void expect_usage_error(const char *folder, const char *shard, const char *says) {
  Error error = {0};
  const JoinOptions o = options(folder);
  assert_int_equal(join_run(&o, &error), ERROR_USAGE);
  assert_says(&error, says, NULL);
  assert_true(is_there(inside(folder, shard))); /* not touched */
}

static void other_files_are_not_touched(void **state) {
  (void)state;
  Error error = {0};
  char *folder = make_parts();
  DatasetSpec spec = small_spec();
  spec.maker = "something else";
  make_part(folder, "joined", &spec, 0, 4);
  expect_usage_error(folder, "joined/manifest.json", "already holds a dataset");
  assert_int_equal(unlink(inside(folder, "joined/manifest.json")), 0);
  expect_usage_error(folder, shards[0], "shard of an interrupted run with other options");
  assert_int_equal(rename(inside(folder, shards[0]), inside(folder, "joined/shard-00004.h5")), 0);
  expect_usage_error(folder, "joined/shard-00004.h5", "the parts have only 4 shards");
  assert_int_equal(rename(inside(folder, "joined/shard-00004.h5"), inside(folder, "joined/x")), 0);
  expect_usage_error(folder, "joined/x", "not part of a dataset");
  assert_int_equal(folder_remove(inside(folder, "joined"), &error), OK);
  const JoinOptions o = options(folder);
  must_join(&o);
  remove_folder(folder);
}

/* --- Rewriting -------------------------------------------------------------------------------- */

/* The new shards cut the clips at other places than the parts' shards. */
static void clips_are_rewritten_on_request(void **state) {
  (void)state;
  char *folder = make_parts();
  DatasetSpec spec = small_spec();
  Error error;
  assert_int_equal(folder_remove(inside(folder, "parts/b"), &error), OK);
  spec.deflate = true;
  make_part(folder, "parts/b", &spec, 5, 4);
  JoinOptions o = options(folder);
  o.clips_per_shard = 4;
  must_join(&o);
  check_joined(o.out, 3);
  o.out = inside(folder, "deflated");
  o.clips_per_shard = 0;
  o.deflate = true;
  must_join(&o);
  check_joined(o.out, 1);
  remove_folder(folder);
}

static void interrupted_rewriting_continues(void **state) {
  (void)state;
  static const char *const files[] = {"shard-00000.h5", "shard-00001.h5", "shard-00002.h5",
                                      "manifest.json"};
  char *folder = make_parts(), name[64];
  JoinOptions o = options(folder);
  o.clips_per_shard = 4;
  must_join(&o);
  o.out = inside(folder, "again");
  must_join(&o);
  assert_int_equal(unlink(inside(folder, "again/manifest.json")), 0);
  assert_int_equal(unlink(inside(folder, "again/shard-00002.h5")), 0);
  must_join(&o);
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    strcpy(name, "joined/");
    const char *joined = inside(folder, strcat(name, files[i]));
    strcpy(name, "again/");
    assert_same_file(joined, inside(folder, strcat(name, files[i])));
  }
  remove_folder(folder);
}

/* --- Errors ----------------------------------------------------------------------------------- */

static void expect_data_error(const char *folder, int64_t count, const char *a, const char *b) {
  JoinOptions o = options(folder);
  o.count = count;
  Error error = {0};
  assert_int_equal(join_run(&o, &error), ERROR_DATA);
  assert_says(&error, a, b, NULL);
  assert_false(is_there(o.out));
}

static void incompatible_parts_are_rejected(void **state) {
  (void)state;
  char *folder = make_parts();
  expect_data_error(folder, 4, "parts: 3 parts", "expected 4");
  DatasetSpec spec = small_spec();
  spec.shape.frames = 2;
  make_part(folder, "parts/d", &spec, 0, 1);
  expect_data_error(folder, 0, "parts/d: frames is 2, expected 3", "parts/a");
  remove_folder(folder);

  folder = make_parts();
  spec = small_spec();
  spec.fps_numerator = 30;
  make_part(folder, "parts/d", &spec, 0, 1);
  expect_data_error(folder, 0, "parts/d: frame rate 30/1, expected 25/1", "parts/a");
  remove_folder(folder);

  folder = make_parts();
  spec = small_spec();
  spec.deflate = true;
  make_part(folder, "parts/d", &spec, 0, 1);
  expect_data_error(folder, 0, "parts/d: clips are deflated, expected uncompressed", "parts/a");
  remove_folder(folder);

  folder = make_parts();
  assert_int_equal(unlink(inside(folder, "parts/b/manifest.json")), 0);
  expect_data_error(folder, 0, "parts/b", "not a dataset");
  remove_folder(folder);

  folder = make_parts();
  assert_int_equal(unlink(inside(folder, "parts/a/shard-00001.h5")), 0);
  expect_data_error(folder, 0, "parts/a/shard-00001.h5", "missing");
  remove_folder(folder);

  folder = temporary_folder();
  expect_data_error(folder, 0, "parts", "no such folder");
  remove_folder(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shard_files_are_linked),
      cmocka_unit_test(joined_datasets_can_be_joined_again),
      cmocka_unit_test(manifest_does_not_depend_on_paths),
      cmocka_unit_test(shard_files_are_copied_across_file_systems),
      cmocka_unit_test(interrupted_join_continues),
      cmocka_unit_test(output_may_lie_among_the_parts),
      cmocka_unit_test(other_files_are_not_touched),
      cmocka_unit_test(clips_are_rewritten_on_request),
      cmocka_unit_test(interrupted_rewriting_continues),
      cmocka_unit_test(incompatible_parts_are_rejected),
  };
  return cmocka_run_group_tests_name("join", tests, NULL, NULL);
}
