/* System calls that fail: only bad data makes a run resume from an older checkpoint, and an old
 * checkpoint that cannot be removed does not end a run. The calls are replaced in this program. */
#include "support_checkpoints.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/files.h"
#include "checkpoints/internal.h"

enum { ELEMENTS = 1000, FOREVER = 1000000 };

static const CheckpointOptions OLDER = {.allow_older = true};

/* --- Faults ----------------------------------------------------------------------------------- */

/* The next `times` calls of this name on paths that contain `part` fail with `errnum`. */
static struct {
  const char *call, *part;
  int errnum;
  atomic_int times;
} fault;

static void set_fault(const char *call, const char *part, int errnum, int times) {
  fault.call = call;
  fault.part = part;
  fault.errnum = errnum;
  atomic_store(&fault.times, times);
}

static bool fails(const char *call, const char *path) {
  if (!fault.call || strcmp(fault.call, call) != 0 || !strstr(path, fault.part)) return false;
  if (atomic_load(&fault.times) <= 0) return false;
  atomic_fetch_sub(&fault.times, 1);
  errno = fault.errnum;
  return true;
}

/* Returns whether the call on the open file fails. */
static bool fails_on(const char *call, int descriptor) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  path[length > 0 ? length : 0] = '\0';
  return fails(call, path);
}

int openat(int folder, const char *path, int flags, ...) {
  if (fails("open", path)) return -1;
  return (int)syscall(SYS_openat, folder, path, flags, 0666);
}

int stat(const char *restrict path, struct stat *restrict out) {
  if (fails("stat", path)) return -1;
  return fstatat(AT_FDCWD, path, out, 0);
}

/* errnum 0: the file has been truncated. */
ssize_t pread(int descriptor, void *data, size_t size, off_t offset) {
  if (fails_on("pread", descriptor)) return fault.errnum ? -1 : 0;
  return syscall(SYS_pread64, descriptor, data, size, offset);
}

int unlink(const char *path) {
  if (fails("unlink", path)) return -1;
  return (int)syscall(SYS_unlink, path);
}

int unlinkat(int folder, const char *path, int flags) {
  if (fails("unlinkat", path)) return -1;
  return (int)syscall(SYS_unlinkat, folder, path, flags);
}

int fsync(int descriptor) {
  if (fails_on("fsync", descriptor)) return -1;
  return (int)syscall(SYS_fsync, descriptor);
}

int rename(const char *from, const char *to) {
  if (fails("rename", to)) {
    /* An interrupted rename may have been executed. */
    if (fault.errnum == EINTR) syscall(SYS_rename, from, to);
    errno = fault.errnum;
    return -1;
  }
  return (int)syscall(SYS_rename, from, to);
}

/* --- Reading ---------------------------------------------------------------------------------- */

static int make_two(void **state) {
  CheckpointWriter *writer;
  int result = make_folder(state);
  if (result != 0) return result;
  MUST_OK(checkpoint_writer_open(in_folder("checkpoints"), 9, NULL, &writer, &error));
  write_step(writer, 100, ELEMENTS);
  write_step(writer, 200, ELEMENTS);
  MUST_OK(checkpoint_writer_close(writer, &error));
  return 0;
}

static int remove_all(void **state) {
  set_fault(NULL, "", 0, 0);
  return remove_folder(state);
}

static void assert_newest_opens(void) {
  Checkpoint *checkpoint;
  MUST_OK(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint, &error));
  assert_int_equal(checkpoint->step, 200);
  check_content(checkpoint, ELEMENTS);
  checkpoint_close(checkpoint);
}

/* Whichever call on the newest checkpoint fails, no older one is taken, and the next try succeeds.
 */
static void read_errors_are_not_damage(void **state) {
  (void)state;
  static const struct {
    const char *call, *part;
    int errnum;
  } cases[] = {
      {"stat", "checkpoints", ESTALE},
      {"stat", "step-00000200", EIO},
      {"stat", "step-00000200/manifest.json", EACCES},
      {"stat", "step-00000200/state.json", ESTALE},
      {"stat", "step-00000200/generator.safetensors", ESTALE},
      {"open", "step-00000200/manifest.json", EMFILE},
      {"open", "step-00000200/state.json", EIO},
      {"open", "step-00000200/optimizer.safetensors", ESTALE},
      {"pread", "step-00000200/generator.safetensors", EIO},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Checkpoint *checkpoint;
    set_fault(cases[i].call, cases[i].part, cases[i].errnum, 1);
    MUST_FAIL(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, &checkpoint, &error),
              ERROR_IO, strerror(cases[i].errnum));
    assert_int_equal(atomic_load(&fault.times), 0);
    assert_non_null(strstr(error.message, cases[i].part));
    assert_null(checkpoint);
    assert_newest_opens();
    set_fault(cases[i].call, cases[i].part, cases[i].errnum, 1);
    MUST_FAIL(checkpoint_open_path(in_folder("."), &OLDER, &checkpoint, &error), ERROR_IO,
              strerror(cases[i].errnum));
  }
}

static void interrupted_calls_are_repeated(void **state) {
  (void)state;
  static const char *const calls[] = {"stat", "open", "pread"};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    set_fault(calls[i], "step-00000200", EINTR, 3);
    assert_newest_opens();
    assert_int_equal(atomic_load(&fault.times), 0);
  }
}

static void open_older(void *result) {
  MUST_OK(checkpoint_open_latest(in_folder("checkpoints"), &OLDER, result, &error));
}

/* With a mapping, this was a SIGBUS. */
static void file_that_shrinks_is_damaged(void **state) {
  (void)state;
  Checkpoint *checkpoint;
  set_fault("pread", "step-00000200/generator.safetensors", 0, FOREVER);
  char *log = logged_by(open_older, &checkpoint);
  assert_non_null(strstr(log, "step-00000200/generator.safetensors: ends too early"));
  assert_non_null(strstr(log, "an older checkpoint is used, of step 100 instead of 200"));
  free(log);
  assert_int_equal(checkpoint->step, 100);
  checkpoint_close(checkpoint);
  MUST_FAIL(checkpoint_open_path(in_folder("."), NULL, &checkpoint, &error), ERROR_DATA,
            "step-00000200/generator.safetensors: ends too early");
}

/* --- Writing ---------------------------------------------------------------------------------- */

static CheckpointWriter *writer;
static int64_t next_step;

static void write_next(void *unused) {
  (void)unused;
  write_step(writer, next_step, ELEMENTS);
}

/* Writes the next checkpoint and returns whether it logs a warning with both texts, or, if the
 * first is NULL, whether it logs nothing. */
static bool logs(const char *a, const char *b) {
  next_step += 100;
  char *log = logged_by(write_next, NULL);
  bool result = a ? strstr(log, a) && strstr(log, b) : log[0] == '\0';
  if (!result) print_error("%s", log);
  free(log);
  return result;
}

static bool is_there(const char *path) {
  return access(path, F_OK) == 0;
}

/* Step 100 cannot be removed: one warning, and it is tried again after each checkpoint. */
static void must_survive(const char *call, const char *part, int errnum) {
  next_step = 200;
  MUST_OK(checkpoint_writer_open(in_folder("checkpoints"), 2, NULL, &writer, &error));
  set_fault(call, part, errnum, FOREVER);
  assert_true(logs("step-00000100", strerror(errnum)));
  assert_true(logs(NULL, NULL)); /* the second time, nothing is said */
  set_fault(NULL, "", 0, 0);
  assert_true(is_there(step_path(100)));
  Error reason;
  Checkpoint *checkpoint;
  Status status = checkpoint_open(step_path(100), &checkpoint, &reason); /* whole, or refused */
  if (status == OK) {
    check_content(checkpoint, ELEMENTS);
    checkpoint_close(checkpoint);
  } else {
    assert_int_equal(status, ERROR_DATA);
    assert_non_null(strstr(reason.message, "has no manifest.json"));
  }
  assert_true(logs(NULL, NULL));
  assert_false(is_there(step_path(100)));
  assert_true(is_there(step_path(next_step)));
  assert_true(is_there(step_path(next_step - 100)));
  MUST_OK(checkpoint_writer_close(writer, &error));
}

static void manifest_cannot_be_removed(void **state) {
  (void)state;
  must_survive("unlink", "step-00000100/manifest.json", EACCES);
}

static void folder_cannot_be_removed(void **state) {
  (void)state;
  must_survive("unlinkat", "step-00000100", ENOTEMPTY);
}

static void folder_cannot_be_flushed(void **state) {
  (void)state;
  must_survive("fsync", "/step-00000100", EIO);
}

/* A file of the second checkpoint is open on another host: the kernel of an NFS client refuses. */
static void replaced_checkpoint_cannot_be_removed(void **state) {
  (void)state;
  MUST_OK(checkpoint_writer_open(in_folder("checkpoints"), 2, NULL, &writer, &error));
  write_step(writer, 300, ELEMENTS);
  set_fault("unlinkat", "generator.safetensors", EBUSY, FOREVER);
  next_step = 200;
  assert_true(logs("step-00000300.old.tmp/generator.safetensors", strerror(EBUSY)));
  set_fault(NULL, "", 0, 0);
  Checkpoint *checkpoint;
  MUST_OK(checkpoint_open_latest(in_folder("checkpoints"), NULL, &checkpoint, &error));
  assert_int_equal(checkpoint->step, 300);
  checkpoint_close(checkpoint);
  MUST_OK(checkpoint_writer_close(writer, &error));
  MUST_OK(checkpoint_writer_open(in_folder("checkpoints"), 2, NULL, &writer, &error));
  assert_false(is_there(in_folder("checkpoints/step-00000300.old.tmp")));
  MUST_OK(checkpoint_writer_close(writer, &error));
}

static void leftovers_that_stay_do_not_end_the_run(void **state) {
  (void)state;
  MUST_OK(folder_create(in_folder("checkpoints/step-00000150.tmp"), &error));
  set_fault("unlinkat", "step-00000150.tmp", EBUSY, FOREVER);
  MUST_OK(checkpoint_writer_open(in_folder("checkpoints"), 2, NULL, &writer, &error));
  write_step(writer, 300, ELEMENTS);
  MUST_OK(checkpoint_writer_close(writer, &error));
}

static void interrupted_rename_is_no_error(void **state) {
  (void)state;
  char *data;
  size_t size;
  const char *path = in_folder("file");
  set_fault("rename", "file", EINTR, 1);
  MUST_OK(atomic_file_replace(path, "new", 3, &error));
  assert_int_equal(atomic_load(&fault.times), 0);
  MUST_OK(file_read(path, 10, &data, &size, &error));
  assert_string_equal(data, "new");
  free(data);
}

#define ON_TWO(test) cmocka_unit_test_setup_teardown(test, make_two, remove_all)

int main(void) {
  const struct CMUnitTest tests[] = {
      ON_TWO(read_errors_are_not_damage),
      ON_TWO(interrupted_calls_are_repeated),
      ON_TWO(file_that_shrinks_is_damaged),
      ON_TWO(manifest_cannot_be_removed),
      ON_TWO(folder_cannot_be_removed),
      ON_TWO(folder_cannot_be_flushed),
      ON_TWO(replaced_checkpoint_cannot_be_removed),
      ON_TWO(leftovers_that_stay_do_not_end_the_run),
      ON_TWO(interrupted_rename_is_no_error),
  };
  return cmocka_run_group_tests_name("checkpoint faults", tests, NULL, NULL);
}
