#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
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

static Dataset *open_good(const char *folder) {
  Error error;
  Dataset *dataset = NULL;
  if (dataset_open(inside(folder, "data"), &dataset, &error) != OK) fail_msg("%s", error.message);
  return dataset;
}

static void assert_clip(const Dataset *dataset, int64_t index) {
  Error error;
  const ClipShape *shape = &dataset_info(dataset)->shape;
  size_t size[2] = {clip_source_bytes(shape), clip_target_bytes(shape)};
  uint8_t *found[2], *expected = mem_new(size[0] + size[1], 1);
  for (int side = 0; side < 2; side++) found[side] = mem_new(size[side], 1);
  if (dataset_read(dataset, index, found[0], found[1], &error) != OK) fail_msg("%s", error.message);
  for (int side = 0; side < 2; side++) {
    clip_bytes(index, side, expected, size[side]);
    assert_memory_equal(found[side], expected, size[side]);
    free(found[side]);
  }
  free(expected);
}

static void check_ten_clips(const char *folder, bool deflate) {
  Error error;
  ClipName name;
  Dataset *dataset = open_good(folder);
  const DatasetInfo *info = dataset_info(dataset);
  assert_int_equal(info->clips, 10);
  assert_int_equal(info->shards, 3);
  assert_int_equal(info->deflated, deflate);
  assert_int_equal(info->fps_numerator, 25);
  assert_int_equal(info->shape.target_width, 16);
  assert_int_equal(strlen(info->uuid), 36);
  for (int64_t i = 9; i >= 0; i--) assert_clip(dataset, i);
  assert_int_equal(dataset_clip_name(dataset, 9, &name, &error), OK);
  assert_string_equal(name.id, "clip-9");
  assert_string_equal(name.origin, "live 4.mp4");
  assert_int_equal(name.start_frame, 27);
  uint8_t byte;
  assert_int_equal(dataset_read(dataset, 10, &byte, &byte, &error), ERROR_INTERNAL);
  assert_int_equal(dataset_read(dataset, -1, &byte, &byte, &error), ERROR_INTERNAL);
  dataset_close(dataset);
  if (dataset_verify(inside(folder, "data"), NULL, &error) != OK) fail_msg("%s", error.message);
}

static void plain_clips_round_trip(void **state) {
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 10);
  check_ten_clips(*state, false);
}

static void deflated_clips_round_trip(void **state) {
  DatasetSpec spec = small_spec();
  spec.deflate = true;
  make_dataset(*state, &spec, 10);
  check_ten_clips(*state, true);
}

/* Asserts that two folders have the same files. */
static void assert_same_folders(const char *a, const char *b) {
  Error error;
  char **names, **others;
  size_t count, other_count;
  assert_int_equal(folder_list(a, &names, &count, &error), OK);
  assert_int_equal(folder_list(b, &others, &other_count, &error), OK);
  assert_int_equal(count, other_count);
  for (size_t i = 0; i < count; i++) {
    assert_string_equal(names[i], others[i]);
    assert_same_file(inside(a, names[i]), inside(b, names[i]));
  }
  folder_list_free(names, count);
  folder_list_free(others, other_count);
}

static void equal_runs_give_equal_bytes(void **state) {
  for (int deflate = 0; deflate < 2; deflate++) {
    DatasetSpec spec = small_spec();
    spec.deflate = deflate;
    char *one = temporary_folder(), *two = temporary_folder();
    make_dataset(one, &spec, 10);
    usleep(1100000); /* HDF5 would store times in complete seconds by default */
    make_dataset(two, &spec, 10);
    assert_same_folders(inside(one, "data"), inside(two, "data"));
    remove_folder(one);
    remove_folder(two);
  }
  (void)state;
}

static void uuid_depends_on_the_maker(void **state) {
  DatasetSpec spec = small_spec();
  char *other = temporary_folder();
  make_dataset(*state, &spec, 2);
  spec.maker = "test --seed 2";
  make_dataset(other, &spec, 2);
  Dataset *a = open_good(*state), *b = open_good(other);
  assert_string_not_equal(dataset_info(a)->uuid, dataset_info(b)->uuid);
  dataset_close(a);
  dataset_close(b);
  remove_folder(other);
}

/* Stops after `clips` of 10 clips, continues, and compares with an uninterrupted run. */
static void continue_after(int64_t clips, bool deflate, bool finish_last_shard) {
  Error error;
  DatasetWriter *writer;
  int64_t already;
  DatasetSpec spec = small_spec();
  spec.deflate = deflate;
  char *complete = temporary_folder(), *interrupted = temporary_folder();
  make_dataset(complete, &spec, 10);
  const char *data = inside(interrupted, "data");
  assert_int_equal(dataset_writer_open(data, &spec, &writer, &already, &error), OK);
  add_clips(writer, &spec.shape, 0, clips);
  if (finish_last_shard) { /* killed between the last shard and the manifest */
    assert_int_equal(dataset_writer_finish(writer, &error), OK);
    assert_int_equal(unlink(inside(interrupted, "data/manifest.json")), 0);
  } else {
    dataset_writer_abandon(writer);
  }
  FILE *temporary =
      fopen(inside(interrupted, "data/shard-00001.h5.77.tmp"), "w"); /* killed in a shard */
  if (temporary) fclose(temporary);
  if (clips == 0) folder_create(data, NULL);
  if (dataset_writer_open(data, &spec, &writer, &already, &error) != OK)
    fail_msg("%s", error.message);
  assert_int_equal(already, clips / 4 * 4);
  add_clips(writer, &spec.shape, already, 10 - already);
  assert_int_equal(dataset_writer_finish(writer, &error), OK);
  assert_same_folders(inside(complete, "data"), inside(interrupted, "data"));
  remove_folder(complete);
  remove_folder(interrupted);
}

static void interrupted_writing_continues_with_equal_bytes(void **state) {
  (void)state;
  const int64_t stops[] = {0, 1, 4, 7, 8, 10};
  for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
    continue_after(stops[i], false, false);
    continue_after(stops[i], true, false);
  }
  continue_after(10, false, true);
  continue_after(6, true, true);
}

static void damaged_shards_of_an_interrupted_run_are_rewritten(void **state) {
  Error error;
  DatasetWriter *writer;
  int64_t already;
  uint8_t bytes[3 * 6 * 8 * 3];
  DatasetSpec spec = small_spec();
  char *complete = temporary_folder();
  make_dataset(complete, &spec, 10);
  make_dataset(*state, &spec, 10);
  unlink(inside(*state, "data/manifest.json"));
  clip_bytes(5, 0, bytes, sizeof bytes); /* in shard 1 */
  const char *shard = inside(*state, "data/shard-00001.h5");
  flip_byte(shard, find_bytes(shard, bytes, sizeof bytes) + 3);
  assert_int_equal(dataset_writer_open(inside(*state, "data"), &spec, &writer, &already, &error),
                   OK);
  assert_int_equal(already, 4);
  add_clips(writer, &spec.shape, 4, 6);
  assert_int_equal(dataset_writer_finish(writer, &error), OK);
  assert_same_folders(inside(complete, "data"), inside(*state, "data"));
  remove_folder(complete);
}

static Status open_writer(const char *folder, const DatasetSpec *spec, Error *error) {
  DatasetWriter *writer = NULL;
  int64_t already;
  Status status = dataset_writer_open(folder, spec, &writer, &already, error);
  if (status == OK) dataset_writer_abandon(writer);
  return status;
}

static void unusable_folders_and_specs_are_rejected(void **state) {
  Error error;
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 5);
  const char *data = inside(*state, "data");
  assert_int_equal(open_writer(data, &spec, &error), ERROR_USAGE);
  assert_says(&error, "already holds a dataset", NULL);
  unlink(inside(*state, "data/manifest.json"));
  spec.maker = "another";
  assert_int_equal(open_writer(data, &spec, &error), ERROR_USAGE);
  assert_says(&error, "shard-00000.h5", "run with other options", NULL);
  assert_true(is_there(inside(*state, "data/shard-00000.h5")));
  assert_int_equal(open_writer(*state, &spec, &error), ERROR_USAGE);
  assert_says(&error, "\"data\"", "not part of a dataset", NULL);
  spec.shape.source_channels = 4;
  assert_int_equal(open_writer(inside(*state, "new"), &spec, &error), ERROR_USAGE);
  assert_says(&error, "source channels is 4", NULL);
  assert_false(is_there(inside(*state, "new")));
  spec = small_spec();
  spec.shape.frames = 0;
  assert_int_equal(open_writer(inside(*state, "new"), &spec, &error), ERROR_USAGE);
  assert_says(&error, "frames is 0", "1 to 65536", NULL);
  spec = small_spec();
  spec.deflate = true;
  spec.clips_per_shard = 16385;
  assert_int_equal(open_writer(inside(*state, "new"), &spec, &error), ERROR_USAGE);
  assert_says(&error, "16385 compressed clips per shard", "0 to 16384", NULL);
}

static void second_writer_is_rejected(void **state) {
  Error error;
  DatasetWriter *writer;
  int64_t already;
  DatasetSpec spec = small_spec();
  const char *data = inside(*state, "data");
  assert_int_equal(dataset_writer_open(data, &spec, &writer, &already, &error), OK);
  assert_int_equal(open_writer(data, &spec, &error), ERROR_USAGE);
  assert_says(&error, "another process is writing", NULL);
  assert_int_equal(dataset_writer_finish(writer, &error), ERROR_DATA);
  assert_says(&error, "at least one", NULL);
  assert_false(is_there(inside(*state, "data"))); /* the empty folder was removed */
}

static void expect_open(const char *folder, ...) {
  Error error = {0};
  Dataset *dataset = NULL;
  va_list texts;
  assert_int_equal(dataset_open(inside(folder, "data"), &dataset, &error), ERROR_DATA);
  assert_null(dataset);
  va_start(texts, folder);
  for (const char *text; (text = va_arg(texts, const char *));) assert_says(&error, text, NULL);
  va_end(texts);
}

static void missing_files_are_named(void **state) {
  DatasetSpec spec = small_spec();
  expect_open(*state, "data: no such folder", NULL);
  make_dataset(*state, &spec, 5);
  unlink(inside(*state, "data/shard-00001.h5"));
  expect_open(*state, "shard-00001.h5: missing, but listed in the manifest", NULL);
  unlink(inside(*state, "data/manifest.json"));
  expect_open(
      *state,
      "not a dataset: no manifest.json; if synth, pack or join was interrupted, run it again",
      NULL);
}

static void truncated_shards_are_named(void **state) {
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 5);
  const char *shard = inside(*state, "data/shard-00000.h5");
  int64_t bytes = file_bytes(shard);
  char expected[64];
  snprintf(expected, sizeof expected, "%lld bytes, expected %lld (manifest)",
           (long long)bytes - 100, (long long)bytes);
  assert_int_equal(truncate(shard, bytes - 100), 0);
  expect_open(*state, "shard-00000.h5", expected, "truncated", NULL);
}

static void foreign_shards_are_named(void **state) {
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 5);
  const char *shard = inside(*state, "data/shard-00000.h5");
  size_t bytes = (size_t)file_bytes(shard);
  char *noise = mem_new(bytes, 1);
  memset(noise, 'x', bytes);
  FILE *file = fopen(shard, "wb");
  fwrite(noise, 1, bytes, file);
  fclose(file);
  free(noise);
  expect_open(*state, "shard-00000.h5: not an HDF5 file", NULL);
  char *other = temporary_folder();
  spec.maker = "other --seed1"; /* of equal length, so that the file's size is equal */
  make_dataset(other, &spec, 5);
  rename(inside(other, "data/shard-00000.h5"), shard);
  expect_open(*state, "shard-00000.h5: shard of another dataset", NULL);
  remove_folder(other);
}

static void swapped_shards_are_named(void **state) {
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 8);
  const char *a = inside(*state, "data/shard-00000.h5"), *b = inside(*state, "data/shard-00001.h5");
  const char *between = inside(*state, "between");
  rename(a, between);
  rename(b, a);
  rename(between, b);
  expect_open(*state, "shard-00000.h5: shard is 1, expected 0 (manifest)", NULL);
}

/* A flipped byte of a clip is found when the clip is read, and by verify, which lists it. */
static void flipped_byte(const char *folder, bool deflate, int64_t offset) {
  Error error;
  Text report = {0};
  Dataset *dataset = open_good(folder);
  const ClipShape *shape = &dataset_info(dataset)->shape;
  uint8_t *source = mem_new(clip_source_bytes(shape), 1);
  uint8_t *target = mem_new(clip_target_bytes(shape), 1);
  flip_byte(inside(folder, "data/shard-00001.h5"), offset);
  assert_int_equal(dataset_read(dataset, 5, source, target, &error), ERROR_DATA);
  assert_says(&error, "clip 5 of the dataset", "shard-00001.h5: clip 1 (source)", NULL);
  if (!deflate) assert_says(&error, "CRC-32C is ", ", expected ", NULL);
  assert_clip(dataset, 4);
  assert_clip(dataset, 6);
  dataset_close(dataset);
  assert_int_equal(dataset_verify(inside(folder, "data"), NULL, &error), ERROR_DATA);
  assert_says(&error, "shard-00001.h5: clip 1 (source)", NULL);
  assert_int_equal(dataset_verify(inside(folder, "data"), &report, &error), ERROR_DATA);
  assert_says(&error, "2 checksums are wrong", NULL); /* the clip's and the file's */
  assert_non_null(strstr(report.data, "clip 1 (source)"));
  assert_non_null(strstr(report.data, "CRC-32C of the file is "));
  text_free(&report);
  free(source);
  free(target);
}

static void flipped_bytes_are_named(void **state) {
  uint8_t bytes[3 * 6 * 8 * 3];
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 8);
  clip_bytes(5, 0, bytes, sizeof bytes);
  flipped_byte(*state, false,
               find_bytes(inside(*state, "data/shard-00001.h5"), bytes, sizeof bytes) + 7);
}

static void flipped_deflated_bytes_are_named(void **state) {
  DatasetSpec spec = small_spec();
  spec.deflate = true;
  make_dataset(*state, &spec, 8);
  Error error;
  json_t *manifest, *offsets;
  assert_int_equal(json_read_file(inside(*state, "data/manifest.json"), 1 << 20, &manifest, &error),
                   OK);
  offsets =
      json_object_get(json_array_get(json_object_get(manifest, "shards"), 1), "source_offsets");
  int64_t offset = json_integer_value(json_array_get(offsets, 1));
  json_decref(manifest);
  flipped_byte(*state, true, offset + 40);
}

/* Any flipped byte, of metadata too, is rejected when the dataset is opened, or does not matter. */
static void flipped_metadata_never_crashes(void **state) {
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 4);
  char *path = mem_string(inside(*state, "data/shard-00000.h5"));
  int64_t bytes = file_bytes(path);
  int rejected = 0;
  for (int64_t offset = 0; offset < bytes; offset += offset < 4096 ? 7 : 311) {
    Error error;
    Dataset *dataset = NULL;
    flip_byte(path, offset);
    Status status = dataset_open(inside(*state, "data"), &dataset, &error);
    assert_true(status == OK || status == ERROR_DATA);
    rejected += status != OK;
    dataset_close(dataset);
    flip_byte(path, offset);
  }
  assert_true(rejected > 10);
  free(path);
  dataset_close(open_good(*state));
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
    const char *from, *to, *says;
  } edits[] = {
      {"celforge-dataset", "other", "format is \"other\", expected \"celforge-dataset\""},
      {"\"schema_version\": 1", "\"schema_version\": 4", "schema_version: is 4"},
      {"\"schema_version\": 1", "\"schema_version\": 3", "expected either source or target"},
      {"\"target\": ", "\"x\": ", "target: missing"},
      {"\"file\": ", "\"dataset_uuid\": \"x\", \"file\": ", "shards[0]: dataset_uuid is \"x\""},
      {"\"file\": ", "\"shard\": 0, \"file\": ", "shards[0].dataset_uuid: missing"},
      {"\"file\": ",
       "\"dataset_uuid\": \"00000000-0000-8000-8000-000000000000\", \"shard\": 0, \"file\": ",
       "shard-00000.h5: shard of another dataset"},
      {"\"file\": ", "\"dataset_uuid\": \"00000000-0000-8000-8000-000000000000\", \"file\": ",
       "shards[0].shard: missing"},
      {"\"clips\": 5", "\"clips\": 6", "clips is 6, expected 5 (the sum over the shards)"},
      {"\"frames\": 3", "\"frames\": 0", "frames: is 0"},
      {"\"frames\": 3", "\"frames\": 4", "frames is 3, expected 4 (manifest)"},
      {"25/1", "25", "fps is \"25\", expected a form such as \"25/1\""},
      {"25/1", "24/1", "fps numerator is 25, expected 24 (manifest)"},
      {"\"none\"", "\"zstd\"", "compression is \"zstd\""},
      {"shard-00000.h5", "../shard-0.h5", "file is \"../shard-0.h5\", expected \"shard-00000.h5\""},
      {"\"source_offset\": ", "\"source_offset\": 9", "source_offset"},
      {"\"source_offset\": ", "\"source_offset\": \"\", \"x\": ", "source_offset"},
      {"\"shards\"", "\"no\"", "shards: missing"},
      {"{", "{{", "manifest.json:1:"},
  };
  for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
    DatasetSpec spec = small_spec();
    make_dataset(*state, &spec, 5);
    edit_manifest(*state, edits[i].from, edits[i].to);
    expect_open(*state, "data", edits[i].says, NULL);
    Error error;
    assert_int_equal(folder_remove(inside(*state, "data"), &error), OK);
  }
}

/* A full disk, simulated by a limit on file sizes, gives an error, no shard and no crash at exit.
 */
static void full_disk_leaves_no_files(void **state) {
  struct rlimit before, small;
  Error error;
  DatasetWriter *writer;
  int64_t already;
  DatasetSpec spec = small_spec();
  spec.shape.target_height = spec.shape.target_width = 256;
  spec.shape.source_height = spec.shape.source_width = 256;
  size_t bytes = clip_source_bytes(&spec.shape);
  uint8_t *clip = mem_new(bytes, 1);
  ClipName name = {0};
  signal(SIGXFSZ, SIG_IGN);
  getrlimit(RLIMIT_FSIZE, &before);
  small = before;
  small.rlim_cur = 3 * bytes;
  for (int deflate = 0; deflate < 2; deflate++) {
    spec.deflate = deflate;
    for (size_t i = 0; i < bytes; i++) clip[i] = (uint8_t)rand();
    assert_int_equal(dataset_writer_open(inside(*state, "data"), &spec, &writer, &already, &error),
                     OK);
    setrlimit(RLIMIT_FSIZE, &small);
    Status status = OK;
    for (int i = 0; i < 4 && status == OK; i++)
      status = dataset_writer_add(writer, clip, clip, &name, &error);
    setrlimit(RLIMIT_FSIZE, &before); /* on a full disk, truncating the file frees space */
    dataset_writer_abandon(writer);
    assert_int_equal(status, ERROR_IO);
    assert_says(&error, "shard-00000.h5: cannot write", "File too large", NULL);
    assert_false(is_there(inside(*state, "data")));
  }
  free(clip);
}

/* Runs in a child process, since the limit cannot be raised again. */
static void too_many_open_shards_name_the_limit(void **state) {
  DatasetSpec spec = small_spec();
  spec.clips_per_shard = 1;
  make_dataset(*state, &spec, 20);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    const struct rlimit few = {16, 16};
    Error error = {0};
    Dataset *dataset = NULL;
    if (setrlimit(RLIMIT_NOFILE, &few) != 0) _exit(1);
    Status status = dataset_open(inside(*state, "data"), &dataset, &error);
    bool said = strstr(error.message, "data: 20 shards need as many open files; the limit is 16");
    _exit(status == ERROR_IO && said ? 0 : 1);
  }
  int result = 0;
  assert_int_equal(waitpid(child, &result, 0), child);
  assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
}

/* A command line in the manifest, and names from a stranger's shard, may have any bytes. */
static void texts_with_control_characters_are_escaped(void **state) {
  Error error;
  Text text = {0};
  DatasetWriter *writer;
  int64_t already;
  DatasetSpec spec = small_spec();
  const ClipName name = {.id = "clip\n1", .origin = "live\033[2J\r.mp4"};
  uint8_t clip[3 * 12 * 16 * 3] = {0};
  const char *data = inside(*state, "a\nb");
  spec.maker = "synth a\nb caf\xc3\xa9 caf\xe9";
  assert_int_equal(dataset_writer_open(data, &spec, &writer, &already, &error), OK);
  assert_int_equal(dataset_writer_add(writer, clip, clip, &name, &error), OK);
  if (dataset_writer_finish(writer, &error) != OK) fail_msg("%s", error.message);
  assert_int_equal(dataset_describe(data, &text, &error), OK);
  assert_non_null(strstr(text.data, "a\\nb\n"));
  assert_non_null(strstr(text.data, "made by      synth a\\nb caf\xc3\xa9 caf\\xe9\n"));
  assert_non_null(strstr(text.data, "clip\\n1, from live\\x1b[2J\\r.mp4, frame 0\n"));
  assert_int_equal(open_writer(data, &spec, &error), ERROR_USAGE); /* the same run, complete */
  text_clear(&text);
  flip_byte(inside(data, "shard-00000.h5"), file_bytes(inside(data, "shard-00000.h5")) - 1);
  assert_int_equal(dataset_verify(data, &text, &error), ERROR_DATA);
  assert_int_equal(strcspn(text.data, "\n") + 1, strlen(text.data)); /* one line per mismatch */
  text_free(&text);
}

static void descriptions_list_contents_and_origin(void **state) {
  Error error;
  Text text = {0};
  DatasetSpec spec = small_spec();
  make_dataset(*state, &spec, 10);
  assert_int_equal(dataset_describe(inside(*state, "data"), &text, &error), OK);
  assert_non_null(strstr(text.data, "10 in 3 shards"));
  assert_non_null(strstr(text.data, "made by      test --seed 1"));
  assert_non_null(strstr(text.data, "clip-0, from live 0.mp4, frame 0"));
  text_clear(&text);
  assert_int_equal(dataset_describe(inside(*state, "data/shard-00002.h5"), &text, &error), OK);
  assert_non_null(strstr(text.data, ", shard 2\n"));
  assert_non_null(strstr(text.data, "source       8x6, 3 channels"));
  assert_int_equal(dataset_describe(inside(*state, "nothing"), &text, &error), ERROR_DATA);
  text_free(&text);
}

int main(void) {
#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      WITH_FOLDER(plain_clips_round_trip),
      WITH_FOLDER(deflated_clips_round_trip),
      WITH_FOLDER(equal_runs_give_equal_bytes),
      WITH_FOLDER(uuid_depends_on_the_maker),
      WITH_FOLDER(interrupted_writing_continues_with_equal_bytes),
      WITH_FOLDER(damaged_shards_of_an_interrupted_run_are_rewritten),
      WITH_FOLDER(unusable_folders_and_specs_are_rejected),
      WITH_FOLDER(second_writer_is_rejected),
      WITH_FOLDER(missing_files_are_named),
      WITH_FOLDER(truncated_shards_are_named),
      WITH_FOLDER(foreign_shards_are_named),
      WITH_FOLDER(swapped_shards_are_named),
      WITH_FOLDER(flipped_bytes_are_named),
      WITH_FOLDER(flipped_deflated_bytes_are_named),
      WITH_FOLDER(flipped_metadata_never_crashes),
      WITH_FOLDER(bad_manifests_are_named),
      WITH_FOLDER(full_disk_leaves_no_files),
      WITH_FOLDER(too_many_open_shards_name_the_limit),
      WITH_FOLDER(texts_with_control_characters_are_escaped),
      WITH_FOLDER(descriptions_list_contents_and_origin),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
