/* Reading checkpoints: missing, truncated or damaged files are named, and the previous checkpoint
 * is used; a checkpoint of another format version is refused instead. */
#include "support_checkpoints.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "checkpoints/internal.h"

enum { ELEMENTS = 1000 };

static const CheckpointOptions OLDER = {.allow_older = true};

/* Writes checkpoints of these steps; 0 ends the list. */
static void make_steps(const int64_t *steps) {
  CheckpointWriter *writer;
  MUST_OK(checkpoint_writer_open(in_folder("checkpoints"), 9, NULL, &writer, &error));
  for (; *steps; steps++) write_step(writer, *steps, ELEMENTS);
  MUST_OK(checkpoint_writer_close(writer, &error));
}

static int make_two(void **state) {
  int result = make_folder(state);
  if (result == 0) make_steps((const int64_t[]){100, 200, 0});
  return result;
}

static void replace(const char *path, const char *from, const char *to) {
  char *text, *place;
  size_t size;
  MUST_OK(file_read(path, 1 << 20, &text, &size, &error));
  place = strstr(text, from);
  assert_non_null(place);
  char *changed = mem_format("%.*s%s%s", (int)(place - text), text, to, place + strlen(from));
  write_bytes(path, changed, strlen(changed));
  free(changed);
  free(text);
}

static void open_latest(void *result) {
  MUST_OK(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, result, &error));
}

/* The newest, 200, is damaged: it must be named with the reason, and 100 opened instead. */
static void must_fall_back(const char *reason) {
  Checkpoint *checkpoint = NULL;
  MUST_FAIL(checkpoint_open(step_path(200), &checkpoint, &error), ERROR_DATA, reason);
  assert_non_null(strstr(error.message, step_path(200)));
  assert_null(checkpoint);
  char *log = logged_by(open_latest, &checkpoint);
  assert_non_null(strstr(log, "warning: "));
  assert_non_null(strstr(log, reason));
  assert_non_null(strstr(log, "trying the previous checkpoint"));
  free(log);
  assert_non_null(checkpoint);
  assert_int_equal(checkpoint->step, 100);
  check_content(checkpoint, ELEMENTS);
  checkpoint_close(checkpoint);
  MUST_FAIL(checkpoint_open_path(step_path(200), &OLDER, &checkpoint, &error), ERROR_DATA, reason);
}

/* Without allow_older, the error names the damaged file and says what to do. */
static void test_older_is_not_taken_unasked(void **state) {
  (void)state;
  Checkpoint *checkpoint;
  const CheckpointOptions strict = {.advice = "use --some-option"};
  flip_bit(step_file(200, "generator.safetensors"), 300, 1);
  MUST_FAIL(checkpoint_open_path(in_folder("."), NULL, &checkpoint, &error), ERROR_DATA,
            "step-00000200/generator.safetensors: CRC-32C is ");
  assert_null(checkpoint);
  MUST_FAIL(checkpoint_open_latest(in_folder("checkpoints"), &strict, &checkpoint, &error),
            ERROR_DATA,
            "the content has changed: the newest checkpoint is damaged; use --some-option");
  MUST_FAIL(checkpoint_describe(in_folder("."), &strict, &(Text){0}, &error), ERROR_DATA,
            "step-00000200/generator.safetensors: CRC-32C is ");
  MUST_OK(checkpoint_open_path(step_path(100), &strict, &checkpoint, &error));
  checkpoint_close(checkpoint);
}

/* The other files are validated, too, but not kept. */
static void test_only_the_needed_file_is_kept(void **state) {
  (void)state;
  Checkpoint *checkpoint;
  float kept[ELEMENTS];
  const CheckpointOptions one = {.needed_file = "generator.safetensors"};
  MUST_OK(checkpoint_open_path(step_path(200), &one, &checkpoint, &error));
  const Safetensors *needed = checkpoint_file(checkpoint, "generator.safetensors");
  const Safetensors *other = checkpoint_file(checkpoint, "optimizer.safetensors");
  const NamedTensor *tensor = safetensors_find(needed, "parameters");
  const NamedTensor *without = safetensors_find(other, "parameters");
  assert_non_null(tensor->data);
  assert_null(without->data);
  MUST_OK(safetensors_read(other, without, kept, &error));
  assert_memory_equal(kept, tensor->data, sizeof kept); /* both files hold the same tensors */
  MUST_OK(safetensors_read(needed, tensor, kept, &error));
  assert_memory_equal(kept, tensor->data, sizeof kept);
  assert_int_equal(truncate(step_file(200, "optimizer.safetensors"), 400), 0);
  MUST_FAIL(safetensors_read(other, without, kept, &error), ERROR_DATA, "ends too early");
  checkpoint_close(checkpoint);
  MUST_FAIL(checkpoint_open_path(step_path(200), &one, &checkpoint, &error), ERROR_DATA,
            "optimizer.safetensors: has 400 bytes");
}

static void test_round_trip(void **state) {
  (void)state;
  Checkpoint *checkpoint;
  MUST_OK(checkpoint_open(step_path(100), &checkpoint, &error));
  assert_int_equal(checkpoint->step, 100);
  check_content(checkpoint, ELEMENTS);
  assert_string_equal(json_string_value(json_object_get(checkpoint->manifest, "dataset")),
                      "0c6f-uuid");
  checkpoint_close(checkpoint);
  char *latest;
  size_t size;
  MUST_OK(file_read(in_folder("checkpoints/latest"), 100, &latest, &size, &error));
  assert_string_equal(latest, "step-00000200\n");
  free(latest);
}

static void test_truncated(void **state) {
  (void)state;
  const char *path = step_file(200, "generator.safetensors");
  assert_int_equal(truncate(path, (off_t)size_of(path) - 4), 0);
  must_fall_back("generator.safetensors: has 4");
}

static void test_bit_flipped(void **state) {
  (void)state;
  const char *path = step_file(200, "optimizer.safetensors");
  flip_bit(path, size_of(path) / 2, 3);
  must_fall_back("optimizer.safetensors: CRC-32C is ");
}

static void test_state_flipped(void **state) {
  (void)state;
  replace(step_file(200, "state.json"), "train", "eval!");
  must_fall_back("state.json: CRC-32C is ");
}

static void test_state_truncated(void **state) {
  (void)state;
  assert_int_equal(truncate(step_file(200, "state.json"), 3), 0);
  must_fall_back("state.json: has 3 bytes; its manifest says");
}

static void test_file_missing(void **state) {
  (void)state;
  unlink(step_file(200, "generator.safetensors"));
  must_fall_back("generator.safetensors: is missing; the manifest lists it");
}

static void test_state_missing(void **state) {
  (void)state;
  unlink(step_file(200, "state.json"));
  must_fall_back("state.json: is missing; the manifest lists it");
}

static void test_manifest_missing(void **state) {
  (void)state;
  unlink(step_file(200, "manifest.json"));
  must_fall_back("has no manifest.json: not a checkpoint, or one whose writing or removal was "
                 "interrupted");
}

static void test_manifest_bad_json(void **state) {
  (void)state;
  replace(step_file(200, "manifest.json"), "\"step\":", "\"step\"");
  must_fall_back("manifest.json:4:");
}

static void test_manifest_truncated(void **state) {
  (void)state;
  assert_int_equal(truncate(step_file(200, "manifest.json"), 0), 0);
  must_fall_back("manifest.json:1:1: ");
}

static void test_manifest_changed(void **state) {
  (void)state;
  replace(step_file(200, "manifest.json"), "0c6f-uuid", "0c7f-uuid");
  must_fall_back("manifest.json: its CRC-32C is ");
}

static void test_manifest_of_another_format(void **state) {
  (void)state;
  replace(step_file(200, "manifest.json"), "celforge checkpoint", "other checkpoint");
  must_fall_back("format is \"other checkpoint\"; must be \"celforge checkpoint\"");
}

/* A version that does not match the checksum is damage, not another version. */
static void test_damaged_version(void **state) {
  (void)state;
  replace(step_file(200, "manifest.json"), "\"version\": 2", "\"version\": 3");
  must_fall_back("manifest.json: its CRC-32C is ");
}

/* Changes an integer of the manifest, which keeps a valid checksum. */
static void set_number(int64_t step, const char *key, json_int_t value) {
  const char *path = step_file(step, "manifest.json");
  json_t *manifest;
  MUST_OK(json_read_file(path, 1 << 20, &manifest, &error));
  json_object_set_new(manifest, key, json_integer(value));
  json_object_set_new(manifest, "crc32c",
                      json_integer((json_int_t)checkpoint_manifest_crc(manifest)));
  MUST_OK(json_write_file(path, manifest, &error));
  json_decref(manifest);
}

static void set_version(int64_t step, int version) {
  set_number(step, "version", version);
}

static void test_impossible_steps_are_refused(void **state) {
  (void)state;
  Checkpoint *checkpoint;
  assert_int_equal(rename(step_path(200), in_folder("checkpoints/best")), 0);
  const int64_t steps[] = {INT64_MAX, CHECKPOINT_MAX_STEP + 1, -1};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(rename(in_folder("checkpoints/best"), step_path(200)), 0);
    set_number(200, "step", steps[i]);
    assert_int_equal(rename(step_path(200), in_folder("checkpoints/best")), 0);
    MUST_FAIL(checkpoint_open(in_folder("checkpoints/best"), &checkpoint, &error), ERROR_DATA,
              "best/manifest.json: step: ");
  }
}

static void test_other_versions_are_refused(void **state) {
  (void)state;
  Checkpoint *checkpoint;
  CheckpointWriter *writer = NULL;
  char *old =
      mem_format("%s: was written by Celforge 0.1 (checkpoint version 1); this version reads "
                 "version 2: continue training with 0.1, or start a new run",
                 step_path(200));
  set_version(200, 1);
  MUST_FAIL(checkpoint_open(step_path(200), &checkpoint, &error), ERROR_DATA, old);
  MUST_FAIL(checkpoint_open_path(in_folder(""), &OLDER, &checkpoint, &error), ERROR_DATA, old);
  MUST_FAIL(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint, &error),
            ERROR_DATA, old);
  assert_null(checkpoint);
  MUST_FAIL(checkpoint_writer_open(in_folder("checkpoints"), 2, NULL, &writer, &error), ERROR_DATA,
            old);
  assert_null(writer);
  MUST_OK(checkpoint_open_up_to(in_folder("checkpoints"), 199, &OLDER, &checkpoint, &error));
  assert_int_equal(checkpoint->step, 100);
  checkpoint_close(checkpoint);
  set_version(200, 3);
  MUST_FAIL(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint, &error),
            ERROR_DATA, "step-00000200: was written by a later Celforge (checkpoint version 3)");
  free(old);
}

static void open_latest_into_status(void *result) {
  Checkpoint *checkpoint = NULL;
  *(Status *)result = checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint, &error);
  assert_null(checkpoint);
}

/* The newest is damaged, and the previous one is of version 1: still no fresh start. */
static void test_other_version_behind_a_damaged_checkpoint(void **state) {
  (void)state;
  Status status = OK;
  set_version(100, 1);
  unlink(step_file(200, "manifest.json"));
  free(logged_by(open_latest_into_status, &status));
  MUST_FAIL(status, ERROR_DATA, "step-00000100: was written by Celforge 0.1");
}

static void test_renamed_to_another_step(void **state) {
  (void)state;
  assert_int_equal(rename(step_path(100), step_path(300)), 0);
  Checkpoint *checkpoint;
  MUST_FAIL(checkpoint_open(step_path(300), &checkpoint, &error), ERROR_DATA,
            "step is 100, but the folder is named step-00000300");
}

/* Flips single bits all over each file. */
static void test_any_bit_flip_is_detected(void **state) {
  (void)state;
  static const char *const files[] = {"manifest.json", "state.json", "generator.safetensors",
                                      "optimizer.safetensors"};
  for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
    const char *path = step_file(200, files[f]);
    size_t size = size_of(path), stride = size > 600 ? size / 250 : 1;
    for (size_t byte = 0; byte < size; byte += stride) {
      Checkpoint *checkpoint;
      int bit = (int)(byte / stride % 8);
      flip_bit(path, byte, bit);
      Status status = checkpoint_open(step_path(200), &checkpoint, &error);
      flip_bit(path, byte, bit);
      if (status == OK) fail_msg("%s: byte %zu, bit %d was not detected", files[f], byte, bit);
    }
  }
  Checkpoint *checkpoint;
  MUST_OK(checkpoint_open(step_path(200), &checkpoint, &error));
  checkpoint_close(checkpoint);
}

static void test_all_damaged(void **state) {
  (void)state;
  Status status;
  flip_bit(step_file(100, "state.json"), 5, 0);
  unlink(step_file(200, "manifest.json"));
  char *log = logged_by(open_latest_into_status, &status);
  MUST_FAIL(status, ERROR_DATA, "checkpoints: all checkpoints are damaged (tried 2");
  assert_non_null(strstr(log, "step-00000200: has no manifest.json"));
  assert_non_null(strstr(log, "step-00000100/state.json: CRC-32C"));
  free(log);
}

static void test_no_checkpoint(void **state) {
  (void)state;
  Checkpoint *checkpoint = (Checkpoint *)1;
  MUST_OK(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint,
                                 &error)); /* the folder is missing */
  assert_null(checkpoint);
  MUST_OK(folder_create(in_folder("checkpoints"), &error));
  MUST_OK(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint, &error));
  assert_null(checkpoint);
  MUST_FAIL(checkpoint_open_path(in_folder("."), &OLDER, &checkpoint, &error), ERROR_DATA,
            "checkpoints: contains no checkpoint");
  MUST_OK(folder_create(in_folder("elsewhere"), &error));
  MUST_FAIL(checkpoint_open_path(in_folder("elsewhere"), &OLDER, &checkpoint, &error), ERROR_DATA,
            "elsewhere: is neither a checkpoint (no manifest.json) nor a run (no checkpoints/)");
  MUST_FAIL(checkpoint_open_path(in_folder("gone"), &OLDER, &checkpoint, &error), ERROR_IO,
            "gone: cannot open as a checkpoint or a run: No such file");
  write_bytes(in_folder("file"), "x", 1);
  MUST_FAIL(checkpoint_open_path(in_folder("file"), &OLDER, &checkpoint, &error), ERROR_DATA,
            "file: is a file; must be the folder of a checkpoint or a run");
}

/* Only exact names count: not .tmp, not .left, not a step number of another width. */
static void test_only_exact_names(void **state) {
  (void)state;
  static const char *const names[] = {
      "step-00000300.tmp", "step-00000300.left", "step-300", "step-000000300",
      "step-0000030x",     "step--0000300",      "300"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char *copy = mem_format("cp -r %s %s/%s", step_path(200), in_folder("checkpoints"), names[i]);
    assert_int_equal(system(copy), 0);
    free(copy);
  }
  Checkpoint *checkpoint;
  unlink(step_file(200, "manifest.json"));
  char *log = logged_by(open_latest, &checkpoint);
  free(log);
  assert_int_equal(checkpoint->step, 100);
  checkpoint_close(checkpoint);
}

static void test_paths(void **state) {
  (void)state;
  Checkpoint *checkpoint;
  static const char *const names[] = {".", "checkpoints", "checkpoints/",
                                      "checkpoints/step-00000200", "checkpoints/step-00000200/"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    MUST_OK(checkpoint_open_path(in_folder(names[i]), &OLDER, &checkpoint, &error));
    assert_int_equal(checkpoint->step, 200);
    checkpoint_close(checkpoint);
  }
  assert_int_equal(rename(step_path(100), in_folder("best")), 0); /* a copy with another name */
  MUST_OK(checkpoint_open_path(in_folder("best"), &OLDER, &checkpoint, &error));
  assert_int_equal(checkpoint->step, 100);
  checkpoint_close(checkpoint);
}

static void test_describe(void **state) {
  (void)state;
  Text text = {0};
  MUST_OK(checkpoint_describe(in_folder("."), NULL, &text, &error));
  static const char *const parts[] = {"step-00000200\n",
                                      "step: 200\n",
                                      "generator.safetensors: 3 tensors, ",
                                      "F32  [1000] parameters\n",
                                      "F32  [] counter\n",
                                      "BF16 [0, 3] empty\n",
                                      "dataset: 0c6f-uuid\n",
                                      "config:\n    train:\n      steps: 400\n"};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    if (!strstr(text.data, parts[i])) fail_msg("no \"%s\" in:\n%s", parts[i], text.data);
  }
  text_free(&text);
  MUST_FAIL(checkpoint_describe(in_folder("gone"), NULL, &text, &error), ERROR_IO, "gone");
}

#define ON_TWO(test) cmocka_unit_test_setup_teardown(test, make_two, remove_folder)

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_TWO(test_round_trip),
      ON_TWO(test_older_is_not_taken_unasked),
      ON_TWO(test_only_the_needed_file_is_kept),
      ON_TWO(test_impossible_steps_are_refused),
      ON_TWO(test_truncated),
      ON_TWO(test_bit_flipped),
      ON_TWO(test_state_flipped),
      ON_TWO(test_state_truncated),
      ON_TWO(test_file_missing),
      ON_TWO(test_state_missing),
      ON_TWO(test_manifest_missing),
      ON_TWO(test_manifest_bad_json),
      ON_TWO(test_manifest_truncated),
      ON_TWO(test_manifest_changed),
      ON_TWO(test_manifest_of_another_format),
      ON_TWO(test_damaged_version),
      ON_TWO(test_other_versions_are_refused),
      ON_TWO(test_other_version_behind_a_damaged_checkpoint),
      ON_TWO(test_renamed_to_another_step),
      ON_TWO(test_any_bit_flip_is_detected),
      ON_TWO(test_all_damaged),
      cmocka_unit_test_setup_teardown(test_no_checkpoint, make_folder, remove_folder),
      ON_TWO(test_only_exact_names),
      ON_TWO(test_paths),
      ON_TWO(test_describe),
  };
  return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
