/* Writing checkpoints: retention, runs that go back, full disks, and kills at any moment. */
#include "support_checkpoints.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/thread.h"

enum { ELEMENTS = 1000 };

static const CheckpointOptions OLDER = {.allow_older = true};

static CheckpointWriter *open_writer(int keep, const char *protected) {
  CheckpointWriter *writer;
  MUST_OK(checkpoint_writer_open(in_folder("checkpoints"), keep, protected, &writer, &error));
  return writer;
}

/* Compares the names in checkpoints/, without "latest" and "step-", with "a b c". */
static void must_hold(const char *expected) {
  char **names;
  size_t count;
  Text found = {0};
  text_append(&found, "%s", "");
  MUST_OK(folder_list(in_folder("checkpoints"), &names, &count, &error));
  for (size_t i = 0; i < count; i++) {
    if (strcmp(names[i], "latest") != 0)
      text_append(&found, "%s%s", found.length ? " " : "",
                  strncmp(names[i], "step-", 5) == 0 ? names[i] + 5 : names[i]);
  }
  folder_list_free(names, count);
  assert_string_equal(found.data, expected);
  text_free(&found);
}

static void must_open(int64_t step, int64_t elements) {
  Checkpoint *checkpoint;
  MUST_OK(checkpoint_open(step_path(step), &checkpoint, &error));
  assert_int_equal(checkpoint->step, step);
  check_content(checkpoint, elements);
  checkpoint_close(checkpoint);
}

static void test_retention(void **state) {
  (void)state;
  CheckpointWriter *writer = open_writer(3, NULL);
  for (int64_t step = 10; step <= 60; step += 10) {
    write_step(writer, step, ELEMENTS);
    must_open(step, ELEMENTS);
  }
  must_hold("00000040 00000050 00000060");
  MUST_OK(checkpoint_writer_close(writer, &error));
}

/* A submit waits for the previous write, and close for the last one. */
static void test_submits_are_written_in_order(void **state) {
  (void)state;
  CheckpointWriter *writer = open_writer(2, NULL);
  for (int64_t step = 1; step <= 8; step++) MUST_OK(submit(writer, step, step * 50000));
  MUST_OK(checkpoint_writer_close(writer, &error));
  must_hold("00000007 00000008");
  must_open(7, 7 * 50000);
  must_open(8, 8 * 50000);
}

static void test_protected_checkpoint_is_kept(void **state) {
  (void)state;
  CheckpointWriter *writer = open_writer(2, NULL);
  write_step(writer, 10, ELEMENTS);
  write_step(writer, 20, ELEMENTS);
  MUST_OK(checkpoint_writer_close(writer, &error));
  writer = open_writer(2, "step-00000020");
  for (int64_t step = 30; step <= 60; step += 10) write_step(writer, step, ELEMENTS);
  MUST_OK(checkpoint_writer_close(writer, &error));
  must_hold("00000020 00000050 00000060");
}

static void write_40(void *writer) {
  write_step(writer, 40, ELEMENTS);
}

/* keep = 2, and the newest is damaged: the valid one before it must be kept. */
static void test_damaged_checkpoints_do_not_count(void **state) {
  (void)state;
  CheckpointWriter *writer = open_writer(4, NULL);
  for (int64_t step = 10; step <= 30; step += 10) write_step(writer, step, ELEMENTS);
  MUST_OK(checkpoint_writer_close(writer, &error));
  flip_bit(step_file(30, "generator.safetensors"), 300, 1);
  writer = open_writer(2, NULL);
  char *log = logged_by(write_40, writer);
  assert_non_null(strstr(log, "step-00000030/generator.safetensors: CRC-32C"));
  assert_non_null(strstr(log, "does not count towards checkpoint.keep"));
  free(log);
  must_hold("00000020 00000030 00000040");
  write_step(writer, 50, ELEMENTS);
  must_hold("00000040 00000050");
  MUST_OK(checkpoint_writer_close(writer, &error));
}

static void write_in_trouble(CheckpointWriter *writer, int64_t step, int64_t rollback_step) {
  TestContent made = make_content(step, ELEMENTS);
  made.files[0] = (CheckpointFile){"generator.safetensors", made.tensors[0], 3};
  made.content.files = made.files;
  made.content.file_count = 1;
  made.content.rollback_step = rollback_step;
  MUST_OK(checkpoint_writer_submit(writer, &made.content, &error));
  MUST_OK(checkpoint_writer_wait(writer, 60, &error));
  free_content(&made);
}

/* Steps have been skipped since step 25: the checkpoint to roll back to is kept. */
static void test_rollback_target_is_kept(void **state) {
  (void)state;
  Checkpoint *checkpoint = NULL;
  CheckpointWriter *writer = open_writer(2, NULL);
  for (int64_t step = 10; step <= 20; step += 10) write_step(writer, step, ELEMENTS);
  for (int64_t step = 26; step <= 29; step++) write_in_trouble(writer, step, 25);
  must_hold("00000020 00000028 00000029");
  MUST_OK(checkpoint_open_up_to(in_folder("checkpoints"), 25, &OLDER, &checkpoint, &error));
  assert_int_equal(checkpoint->step, 20);
  checkpoint_close(checkpoint);
  MUST_OK(checkpoint_open_up_to(in_folder("checkpoints"), 28, &OLDER, &checkpoint, &error));
  assert_int_equal(checkpoint->step, 28);
  checkpoint_close(checkpoint);
  MUST_OK(checkpoint_open_up_to(in_folder("checkpoints"), 19, &OLDER, &checkpoint, &error));
  assert_null(checkpoint);
  write_step(writer, 40, ELEMENTS);
  must_hold("00000029 00000040");
  MUST_OK(checkpoint_writer_close(writer, &error));
}

static void test_temporary_files_are_removed(void **state) {
  (void)state;
  MUST_OK(folder_create(in_folder("checkpoints/step-00000030.tmp/deep"), &error));
  write_bytes(in_folder("checkpoints/step-00000030.tmp/deep/x"), "x", 1);
  write_bytes(in_folder("checkpoints/latest.123.tmp"), "x", 1);
  write_bytes(in_folder("checkpoints/notes"), "x", 1);
  MUST_OK(checkpoint_writer_close(open_writer(2, NULL), &error));
  must_hold("notes");
}

static void test_latest_is_renewed(void **state) {
  (void)state;
  char *latest;
  size_t size;
  CheckpointWriter *writer = open_writer(2, NULL);
  for (int64_t step = 10; step <= 20; step += 10) write_step(writer, step, ELEMENTS);
  MUST_OK(checkpoint_writer_close(writer, &error));
  write_bytes(in_folder("checkpoints/latest"), "step-00000010\n", 14);
  MUST_OK(checkpoint_writer_close(open_writer(2, "step-00000020"), &error));
  MUST_OK(file_read(in_folder("checkpoints/latest"), 100, &latest, &size, &error));
  assert_string_equal(latest, "step-00000020\n");
  free(latest);
}

static void write_25(void *writer) {
  write_step(writer, 25, ELEMENTS);
}

/* Resumed from 20, the run saves 25: 30 is from before the rollback and must not be resumed. */
static void test_later_checkpoints_are_set_aside(void **state) {
  (void)state;
  Checkpoint *checkpoint;
  CheckpointWriter *writer = open_writer(3, NULL);
  for (int64_t step = 10; step <= 30; step += 10) write_step(writer, step, ELEMENTS);
  MUST_OK(checkpoint_writer_close(writer, &error));
  writer = open_writer(3, "step-00000020");
  char *log = logged_by(write_25, writer);
  assert_non_null(
      strstr(log, "step-00000030: from before a rollback to an earlier step (the run now saves "
                  "step 25): renamed to "));
  free(log);
  must_hold("00000010 00000020 00000025 00000030.left");
  MUST_OK(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint, &error));
  assert_int_equal(checkpoint->step, 25);
  checkpoint_close(checkpoint);
  write_step(writer, 30, 2 * ELEMENTS);
  write_step(writer, 30, 3 * ELEMENTS); /* the last one it wrote is replaced */
  must_hold("00000020 00000025 00000030 00000030.left");
  must_open(30, 3 * ELEMENTS);
  log = logged_by(write_25, writer);
  free(log);
  must_hold("00000020 00000025 00000025.left 00000030.left 00000030.left-2");
  MUST_OK(checkpoint_writer_close(writer, &error));
}

static void test_invalid_arguments_are_rejected(void **state) {
  (void)state;
  CheckpointWriter *writer;
  MUST_FAIL(checkpoint_writer_open(in_folder("checkpoints"), 1, NULL, &writer, &error), ERROR_USAGE,
            "checkpoints: keep is 1; must be at least 2");
  MUST_FAIL(checkpoint_writer_open(in_folder("checkpoints"), 2, "30", &writer, &error),
            ERROR_INTERNAL, "\"30\" is not a checkpoint name");
  write_bytes(in_folder("file"), "x", 1);
  MUST_FAIL(checkpoint_writer_open(in_folder("file"), 2, NULL, &writer, &error), ERROR_IO,
            "file: cannot create the folder: Not a directory");

  writer = open_writer(2, NULL);
  TestContent made = make_content(5, 10);
  CheckpointFile file = {"generator.safetensors", made.tensors[0], 3};
  CheckpointFile twice[2] = {file, file};
  CheckpointContent content = made.content;
  content.files = twice;
#define REFUSED(text)                                                                              \
  MUST_FAIL(checkpoint_writer_submit(writer, &content, &error), ERROR_INTERNAL, text)
  REFUSED("two files named generator.safetensors");
  content.file_count = 1;
  twice[0].name = "a/b.safetensors";
  REFUSED("must be a file name ending in .safetensors");
  twice[0].name = "weights";
  REFUSED("must be a file name ending in .safetensors");
  twice[0] = file;
  content.file_count = 9;
  REFUSED("9 files; at most 8");
  content.file_count = 1;
  content.step = -1;
  REFUSED("checkpoint of step -1");
  content.step = 5;
  json_object_set_new((json_t *)content.manifest, "step", json_integer(6));
  REFUSED("manifest member \"step\" is reserved");
#undef REFUSED
  free_content(&made);
  must_hold("");
  MUST_OK(checkpoint_writer_close(writer, &error));
}

/* The failed write of 30 is reported once and leaves 10 and 20 unchanged. */
static void check_failed_write(CheckpointWriter *writer, const char *reason) {
  MUST_FAIL(checkpoint_writer_wait(writer, 60, &error), ERROR_IO, reason);
  assert_non_null(strstr(error.message, "checkpoint of step 30: "));
  must_hold("00000010 00000020");
  must_open(10, ELEMENTS);
  must_open(20, ELEMENTS);
  MUST_OK(checkpoint_writer_wait(writer, 60, &error));
}

/* RLIMIT_FSIZE makes a write fail, also for root. */
static void test_failed_write(void **state) {
  (void)state;
  struct rlimit before, small;
  CheckpointWriter *writer = open_writer(2, NULL);
  write_step(writer, 10, ELEMENTS);
  write_step(writer, 20, ELEMENTS);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = 100000;
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  Status status = submit(writer, 30, 100000);
  Status waited = checkpoint_writer_wait(writer, 60, &error);
  setrlimit(RLIMIT_FSIZE, &before);
  assert_int_equal(status, OK);
  MUST_FAIL(waited, ERROR_IO, "generator.safetensors: cannot write: File too large");
  must_hold("00000010 00000020");
  must_open(20, ELEMENTS);
  write_step(writer, 40, ELEMENTS);
  must_hold("00000020 00000040");
  MUST_OK(checkpoint_writer_close(writer, &error));
}

/* The next submit reports the failure and writes nothing. */
static void test_next_submit_reports_the_failure(void **state) {
  (void)state;
  CheckpointWriter *writer = open_writer(2, NULL);
  write_bytes(in_folder("checkpoints/step-00000010.tmp"), "in the way", 10);
  MUST_OK(submit(writer, 10, ELEMENTS));
  MUST_FAIL(submit(writer, 20, ELEMENTS), ERROR_IO, "checkpoint of step 10: ");
  unlink(in_folder("checkpoints/step-00000010.tmp"));
  MUST_OK(submit(writer, 20, ELEMENTS));
  MUST_OK(checkpoint_writer_close(writer, &error));
  must_open(20, ELEMENTS);
}

/* checkpoint_writer_check reports the failure once, without waiting. */
static void test_check_reports_the_failure(void **state) {
  (void)state;
  CheckpointWriter *writer = open_writer(2, NULL);
  MUST_OK(checkpoint_writer_check(writer, &error));
  write_bytes(in_folder("checkpoints/step-00000010.tmp"), "in the way", 10);
  MUST_OK(submit(writer, 10, ELEMENTS));
  Status status = OK;
  for (int i = 0; i < 6000 && status == OK; i++) {
    status = checkpoint_writer_check(writer, &error);
    usleep(10000);
  }
  MUST_FAIL(status, ERROR_IO, "checkpoint of step 10: ");
  MUST_OK(checkpoint_writer_check(writer, &error));
  MUST_OK(checkpoint_writer_close(writer, &error));
}

/* A teardown, so that it also runs after a failed test. */
static int unmount_and_remove(void **state) {
  umount2(in_folder("checkpoints"), MNT_DETACH);
  return remove_folder(state);
}

static void test_full_disk(void **state) {
  (void)state;
  const char *folder = in_folder("checkpoints");
  MUST_OK(folder_create(folder, &error));
  if (mount("celforge-test", folder, "tmpfs", 0, "size=1m") != 0) {
    print_message("# mounting a small tmpfs: %s\n", strerror(errno));
    skip();
  }
  CheckpointWriter *writer = open_writer(2, NULL);
  write_step(writer, 10, ELEMENTS);
  write_step(writer, 20, ELEMENTS);
  MUST_OK(submit(writer, 30, 300000));
  check_failed_write(writer, "cannot write: No space left on device");
  write_step(writer, 40, ELEMENTS);
  must_hold("00000020 00000040");
  MUST_OK(checkpoint_writer_close(writer, &error));
}

static void test_wait_has_a_deadline(void **state) {
  (void)state;
  CheckpointWriter *writer = open_writer(2, NULL);
  MUST_OK(submit(writer, 10, 4000000));
  double began = clock_seconds();
  Status status = checkpoint_writer_wait(writer, 0.001, &error);
  if (status != OK) { /* OK if the disk wrote 32 MB within a millisecond */
    assert_true(clock_seconds() - began < 60);
    MUST_FAIL(status, ERROR_IO, "a checkpoint is still being written after 0.0 s");
  }
  MUST_OK(checkpoint_writer_close(writer, &error));
}

/* --- Kills ------------------------------------------------------------------------------------ */

static int64_t elements_of(int64_t step) {
  return 20000 + step % 7 * 10000;
}

/* Writes checkpoints from `step` on until it is killed. */
static void write_until_killed(int64_t step) {
  CheckpointWriter *writer;
  if (checkpoint_writer_open(in_folder("checkpoints"), 2, NULL, &writer, &error) != OK) _exit(1);
  while (submit(writer, step, elements_of(step)) == OK) step++;
  _exit(1);
}

static void test_kills(void **state) {
  (void)state;
  Random random = random_stream(1, RANDOM_TEST, 0, 0);
  int64_t newest = 1;
  CheckpointWriter *writer = open_writer(2, NULL);
  double began = clock_seconds();
  write_step(writer, newest, elements_of(newest));
  double duration = clock_seconds() - began;
  MUST_OK(checkpoint_writer_close(writer, &error));
  /* Thirty kills, and more if the disk has become slower: as long as no checkpoint is completed,
   * the kills come later and later. */
  for (int round = 0; round < 30 || newest <= 10; round++) {
    assert_true(round < 300);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) write_until_killed(newest + 1);
    usleep((useconds_t)(random_uniform(&random) * 4 * duration * 1e6));
    assert_int_equal(kill(child, SIGKILL), 0);
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    if (!WIFSIGNALED(result)) fail_msg("the writer ended by itself: %d", WEXITSTATUS(result));

    Checkpoint *checkpoint;
    MUST_OK(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint, &error));
    assert_non_null(checkpoint);
    assert_true(checkpoint->step >= newest); /* no complete checkpoint is lost */
    if (checkpoint->step == newest) duration *= 1.1;
    newest = checkpoint->step;
    assert_null(strstr(checkpoint->path, ".tmp"));
    check_content(checkpoint, elements_of(newest));
    checkpoint_close(checkpoint);
  }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_FOLDER(test_retention),
      IN_FOLDER(test_submits_are_written_in_order),
      IN_FOLDER(test_protected_checkpoint_is_kept),
      IN_FOLDER(test_damaged_checkpoints_do_not_count),
      IN_FOLDER(test_rollback_target_is_kept),
      IN_FOLDER(test_temporary_files_are_removed),
      IN_FOLDER(test_latest_is_renewed),
      IN_FOLDER(test_later_checkpoints_are_set_aside),
      IN_FOLDER(test_invalid_arguments_are_rejected),
      IN_FOLDER(test_failed_write),
      IN_FOLDER(test_next_submit_reports_the_failure),
      IN_FOLDER(test_check_reports_the_failure),
      cmocka_unit_test_setup_teardown(test_full_disk, make_folder, unmount_and_remove),
      IN_FOLDER(test_wait_has_a_deadline),
      IN_FOLDER(test_kills),
  };
  return cmocka_run_group_tests_name("checkpoint writer", tests, NULL, NULL);
}
