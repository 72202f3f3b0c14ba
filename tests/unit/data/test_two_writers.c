/* Several processes write a dataset into one folder at once: one of them succeeds, or all that fail
 * say why, and none takes away another one's folder or files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/files.h"
#include "support_dataset.h"

enum { WRITERS = 6, ROUNDS = 25, CLIPS = 3 };

/* Writes a dataset; without clips, finishing fails and removes the folder. */
static Status write_dataset(const char *folder, int64_t clips, Error *error) {
  DatasetWriter *writer;
  int64_t already;
  DatasetSpec spec = small_spec();
  Status status = dataset_writer_open(folder, &spec, &writer, &already, error);
  if (status != OK) return status;
  add_clips(writer, &spec.shape, 0, clips);
  return dataset_writer_finish(writer, error);
}

/* Waits until all writers were started, so that they meet. */
static void child(const char *folder, int start, int64_t clips) {
  Error error;
  char byte;
  if (read(start, &byte, 1) != 0) _exit(1);
  Status status = write_dataset(folder, clips, &error);
  bool expected = status == OK || (status == ERROR_DATA && clips == 0) || status == ERROR_USAGE;
  if (!expected) fprintf(stderr, "status %d: %s\n", status, error.message);
  _exit((int)status);
}

/* Returns how many of the writers succeeded; the first `failing` ones write no clips. */
static int write_at_once(const char *folder, int failing) {
  pid_t children[WRITERS];
  int start[2], done = 0;
  assert_int_equal(pipe(start), 0);
  for (int i = 0; i < WRITERS; i++) {
    children[i] = fork();
    assert_true(children[i] >= 0);
    if (children[i] > 0) continue;
    close(start[1]);
    child(folder, start[0], i < failing ? 0 : CLIPS);
  }
  close(start[0]);
  close(start[1]);
  for (int i = 0; i < WRITERS; i++) {
    int result = 0;
    assert_int_equal(waitpid(children[i], &result, 0), children[i]);
    assert_true(WIFEXITED(result));
    int status = WEXITSTATUS(result);
    if (status == OK) done++;
    assert_true(status == OK || status == ERROR_USAGE || (i < failing && status == ERROR_DATA));
  }
  return done;
}

static void verify(const char *folder) {
  Error error;
  if (dataset_verify(folder, NULL, &error) != OK) fail_msg("%s", error.message);
}

static void one_of_several_writers_succeeds(void **state) {
  (void)state;
  Error error;
  char *root = temporary_folder();
  const char *folder = inside(root, "new/data");
  for (int round = 0; round < ROUNDS; round++) {
    assert_int_equal(write_at_once(folder, 0), 1);
    verify(folder);
    assert_int_equal(folder_remove(inside(root, "new"), &error), OK);
  }
  remove_folder(root);
}

/* Writers that fail remove the folder they created, only while they hold its lock. */
static void failing_writers_do_not_disturb_others(void **state) {
  (void)state;
  Error error;
  char *root = temporary_folder();
  const char *folder = inside(root, "data");
  int all = 0;
  for (int round = 0; round < ROUNDS; round++) {
    int done = write_at_once(folder, WRITERS / 2);
    assert_in_range(done, 0, 1); /* 0: all others met one that was about to fail */
    if (done == 1) verify(folder);
    all += done;
    assert_int_equal(folder_remove(folder, &error), OK);
  }
  assert_true(all > 0);
  remove_folder(root);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_of_several_writers_succeeds),
      cmocka_unit_test(failing_writers_do_not_disturb_others),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
