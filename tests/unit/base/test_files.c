#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/temporary.h"
#include "tests/unit/base/temporary.h"

static Error error;
static char *folder; /* a new one for each test */

static int make_folder(void **state) {
  (void)state;
  folder = temporary_folder();
  return 0;
}

static int drop_folder(void **state) {
  (void)state;
  temporary_folder_end(folder);
  return 0;
}

static char *inside(const char *name) {
  return path_join(folder, name);
}

static bool is_folder(const char *path) {
  bool found;
  assert_int_equal(path_is_folder(path, &found, &error), OK);
  return found;
}

/* The names in the folder are `expected`, "a b c". */
static void assert_holds(const char *expected) {
  char **names, held[1000] = "";
  size_t count;
  assert_int_equal(folder_list(folder, &names, &count, &error), OK);
  for (size_t i = 0; i < count; i++) {
    strcat(held, i ? " " : "");
    strcat(held, names[i]);
  }
  folder_list_free(names, count);
  assert_string_equal(held, expected);
}

static void assert_content(const char *path, const char *expected) {
  char *data;
  size_t size;
  assert_int_equal(file_read(path, 1 << 20, &data, &size, &error), OK);
  assert_int_equal(size, strlen(expected));
  assert_string_equal(data, expected);
  free(data);
}

static void assert_message(const char *part) {
  if (!strstr(error.message, part)) fail_msg("\"%s\" lacks \"%s\"", error.message, part);
}

static void path_join_adds_one_slash(void **state) {
  (void)state;
  static const char *const cases[][3] = {
      {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}};
  for (size_t i = 0; i < 4; i++) {
    char *path = path_join(cases[i][0], cases[i][1]);
    assert_string_equal(path, cases[i][2]);
    free(path);
  }
}

static void content_appears_at_commit(void **state) {
  (void)state;
  char *path = inside("final");
  AtomicFile file;
  assert_int_equal(atomic_file_replace(path, "old", 3, &error), OK);
  assert_int_equal(atomic_file_open(path, &file, &error), OK);
  char *temporary = temporary_name(path, (int)getpid());
  assert_string_equal(file.temporary, temporary);
  assert_int_equal(atomic_file_write(&file, "new", 3, &error), OK);
  assert_int_equal(atomic_file_write(&file, "er", 2, &error), OK);
  assert_int_equal(access(temporary, F_OK), 0);
  assert_content(path, "old");
  assert_int_equal(atomic_file_commit(&file, &error), OK);
  assert_content(path, "newer");
  atomic_file_abort(&file);
  assert_holds("final");
  free(temporary);
  free(path);
}

static void abort_leaves_nothing(void **state) {
  (void)state;
  char *path = inside("final");
  AtomicFile file;
  assert_int_equal(atomic_file_open(path, &file, &error), OK);
  assert_int_equal(atomic_file_write(&file, "half", 4, &error), OK);
  atomic_file_abort(&file);
  atomic_file_abort(&file);
  AtomicFile zeroed = {0};
  atomic_file_abort(&zeroed);
  assert_holds("");
  free(path);
}

static void zeroed_file_keeps_descriptor_0(void **state) {
  (void)state;
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  int before = dup(STDIN_FILENO);
  dup2(ends[0], STDIN_FILENO);
  AtomicFile zeroed = {0};
  atomic_file_abort(&zeroed);
  assert_true(fcntl(STDIN_FILENO, F_GETFD) >= 0);
  if (before >= 0) dup2(before, STDIN_FILENO);
  close(before);
  close(ends[0]);
  close(ends[1]);
}

static void failed_commit_leaves_nothing(void **state) {
  (void)state;
  char *path = inside("final");
  AtomicFile file;
  assert_int_equal(atomic_file_open(path, &file, &error), OK);
  assert_int_equal(mkdir(path, 0777), 0); /* after the open */
  assert_int_equal(atomic_file_commit(&file, &error), ERROR_IO);
  assert_message("cannot rename to");
  assert_holds("final");
  free(path);
}

static void missing_folders_and_folders_are_refused(void **state) {
  (void)state;
  char *path = inside("none/final");
  assert_int_equal(atomic_file_replace(path, "x", 1, &error), ERROR_IO);
  assert_message("none/final: cannot create"); /* not the temporary file's name */
  assert_message("No such file or directory");
  assert_int_equal(atomic_file_replace(folder, "x", 1, &error), ERROR_IO);
  assert_message("is a folder, not a file");
  assert_holds("");
  free(path);
}

static void pipes_and_devices_are_not_replaced(void **state) {
  (void)state;
  struct stat info;
  char *pipe_path = inside("pipe"), *link = inside("link");
  assert_int_equal(mkfifo(pipe_path, 0666), 0);
  assert_int_equal(symlink("/dev/null", link), 0);
  assert_int_equal(atomic_file_replace(pipe_path, "x", 1, &error), ERROR_IO);
  assert_message("pipe: is not a regular file");
  assert_int_equal(atomic_file_replace(link, "x", 1, &error), ERROR_IO);
  assert_message("link: is not a regular file");
  assert_int_equal(lstat(pipe_path, &info), 0);
  assert_true(S_ISFIFO(info.st_mode));
  assert_int_equal(lstat(link, &info), 0);
  assert_true(S_ISLNK(info.st_mode));
  free(link);
  free(pipe_path);
}

static void old_temporary_is_not_followed(void **state) {
  (void)state;
  char *path = inside("final"), *victim = inside("victim");
  char *temporary = temporary_name(path, (int)getpid());
  assert_int_equal(atomic_file_replace(victim, "precious", 8, &error), OK);
  assert_int_equal(symlink(victim, temporary), 0);
  assert_int_equal(atomic_file_replace(path, "x", 1, &error), OK);
  assert_content(victim, "precious");
  assert_content(path, "x");
  assert_holds("final victim");
  free(temporary);
  free(victim);
  free(path);
}

/* A writer killed before the commit: the old content stays, and the leftover ends in ".tmp". */
static void killed_writer_leaves_the_old_content(void **state) {
  (void)state;
  char *path = inside("final");
  assert_int_equal(atomic_file_replace(path, "old", 3, &error), OK);
  pid_t child = fork();
  if (child == 0) {
    AtomicFile file;
    if (atomic_file_open(path, &file, NULL) == OK) atomic_file_write(&file, "half", 4, NULL);
    kill(getpid(), SIGKILL);
  }
  assert_int_equal(waitpid(child, NULL, 0), child);
  assert_content(path, "old");
  char *name = temporary_name("final", (int)child), *left = mem_format("final %s", name);
  free(name);
  assert_holds(left);
  free(left);
  free(path);
}

static void write_reports_a_full_device(void **state) {
  (void)state;
  int descriptor = open("/dev/full", O_WRONLY);
  if (descriptor < 0) skip();
  assert_int_equal(file_write(descriptor, "/dev/full", "x", 1, &error), ERROR_IO);
  assert_string_equal(error.message, "/dev/full: cannot write: No space left on device");
  close(descriptor);
}

static void file_size_limit_leaves_nothing(void **state) {
  (void)state;
  char *path = inside("final"), data[10000] = {0};
  struct rlimit before, small = {.rlim_cur = 4096};
  getrlimit(RLIMIT_FSIZE, &before);
  small.rlim_max = before.rlim_max;
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  Status status = atomic_file_replace(path, data, sizeof data, &error);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  assert_int_equal(status, ERROR_IO);
  assert_message("cannot write: File too large");
  assert_holds("");
  free(path);
}

enum { NO_MOUNT = 77 };

/* Runs in a child process with its own mount namespace: writes a small file to a 64 KiB disk, then
 * one that does not fit. Returns the exit code: 0, NO_MOUNT, or the number of the failed check. */
static int on_a_small_disk(const char *disk) {
  static char data[1 << 20];
  char *path = path_join(disk, "final"), **names;
  size_t count;
  if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return NO_MOUNT;
  mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL);
  if (mount("tmpfs", disk, "tmpfs", 0, "size=64k") != 0) return NO_MOUNT;
  if (atomic_file_replace(path, "old", 3, &error) != OK) return 1;
  if (atomic_file_replace(path, data, sizeof data, &error) != ERROR_IO) return 2;
  if (!strstr(error.message, "No space left on device")) return 3;
  if (folder_list(disk, &names, &count, &error) != OK) return 4;
  if (count != 1 || strcmp(names[0], "final") != 0) return 5;
  folder_list_free(names, count);
  free(path);
  return 0;
}

static void full_disk_leaves_the_old_content(void **state) {
  (void)state;
  char *disk = inside("disk");
  int status;
  assert_int_equal(mkdir(disk, 0777), 0);
  pid_t child = fork();
  if (child == 0) {
    int result = on_a_small_disk(disk);
    free(disk);
    _exit(result);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  free(disk);
  assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == NO_MOUNT) {
    print_message("cannot mount a small tmpfs here\n");
    skip();
  }
  assert_int_equal(WEXITSTATUS(status), 0);
}

static void folder_commit_does_not_replace(void **state) {
  (void)state;
  char *temporary = inside("f.tmp"), *final = inside("f"), *file = inside("f.tmp/a");
  assert_int_equal(folder_create(temporary, &error), OK);
  assert_int_equal(atomic_file_replace(file, "1", 1, &error), OK);
  assert_int_equal(file_sync(file, &error), OK);
  assert_int_equal(folder_commit(temporary, final, &error), OK);
  assert_holds("f");
  assert_int_equal(folder_create(temporary, &error), OK);
  assert_int_equal(folder_commit(temporary, final, &error), ERROR_IO);
  assert_message("File exists");
  assert_holds("f f.tmp");
  free(file);
  file = inside("f/a");
  assert_content(file, "1");
  assert_int_equal(unlink(file), 0); /* an empty folder is not replaced either */
  assert_int_equal(folder_commit(temporary, final, &error), ERROR_IO);
  assert_int_equal(folder_remove(temporary, &error), OK);
  assert_int_equal(folder_commit(temporary, final, &error), ERROR_IO);
  assert_message("No such file or directory");
  free(file);
  free(final);
  free(temporary);
}

static void folder_commit_moves_between_parents(void **state) {
  (void)state;
  char *temporary = inside("a/f.tmp"), *to = inside("b"), *final = inside("b/f");
  assert_int_equal(folder_create(temporary, &error), OK);
  assert_int_equal(folder_create(to, &error), OK);
  assert_int_equal(folder_commit(temporary, final, &error), OK);
  assert_true(is_folder(final));
  free(final);
  free(to);
  free(temporary);
}

static void folder_remove_does_not_follow_links(void **state) {
  (void)state;
  static const char *const folders[] = {"keep", "f/a/b/c", "f/empty"};
  for (size_t i = 0; i < 3; i++) {
    char *path = inside(folders[i]);
    assert_int_equal(folder_create(path, &error), OK);
    free(path);
  }
  char *kept = inside("keep/file"), *link = inside("f/a/link"), *whole = inside("f");
  char *direct = inside("direct"), *target = inside("keep");
  assert_int_equal(atomic_file_replace(kept, "kept", 4, &error), OK);
  assert_int_equal(symlink(target, link), 0);
  assert_int_equal(symlink(target, direct), 0);
  for (int i = 0; i < 300; i++) {
    char *path = mem_format("%s/f/a/b/%03d", folder, i);
    assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0666)), 0);
    free(path);
  }
  assert_int_equal(folder_remove(whole, &error), OK);
  assert_int_equal(folder_remove(whole, &error), OK); /* no longer exists */
  assert_int_equal(folder_remove(direct, &error), ERROR_IO);
  assert_message("Not a directory");
  assert_int_equal(folder_remove(kept, &error), ERROR_IO);
  assert_content(kept, "kept");
  assert_holds("direct keep");
  free(kept);
  free(link);
  free(whole);
  free(direct);
  free(target);
}

static void folder_create_makes_parents(void **state) {
  (void)state;
  char *deep = inside("a/b//c/"), *file = inside("file"), *below = inside("file/sub");
  assert_int_equal(folder_create(deep, &error), OK);
  assert_int_equal(folder_create(deep, &error), OK);
  assert_true(is_folder(deep));
  assert_int_equal(folder_create("/", &error), OK);
  assert_int_equal(atomic_file_replace(file, "", 0, &error), OK);
  assert_false(is_folder(file));
  assert_int_equal(folder_create(below, &error), ERROR_IO);
  assert_message("file: cannot create the folder: Not a directory");
  assert_int_equal(folder_create(file, &error), ERROR_IO);
  free(deep);
  free(file);
  free(below);
}

/* Root may write everywhere, so it becomes nobody meanwhile. */
static void missing_permission_is_reported(void **state) {
  (void)state;
  enum { NOBODY = 65534 };
  uid_t self = geteuid();
  char *closed = inside("closed"), *path = inside("closed/sub"), **names;
  size_t count;
  Error errors[4];
  bool found;
  assert_int_equal(mkdir(closed, 0), 0);
  if (self == 0 && seteuid(NOBODY) != 0) skip();
  Status created = folder_create(path, &errors[0]);
  Status replaced = atomic_file_replace(path, "x", 1, &errors[1]);
  Status listed = folder_list(closed, &names, &count, &errors[2]);
  Status looked_up = path_exists(path, &found, &errors[3]);
  assert_int_equal(seteuid(self), 0);
  assert_int_equal(looked_up, ERROR_IO);
  assert_int_equal(created, ERROR_IO);
  assert_int_equal(replaced, ERROR_IO);
  assert_int_equal(listed, ERROR_IO);
  for (int i = 0; i < 4; i++) assert_non_null(strstr(errors[i].message, "Permission denied"));
  assert_int_equal(chmod(closed, 0777), 0);
  free(closed);
  free(path);
}

/* Looks `path` up in all ways; each must return `status` and `found`. */
static void assert_looked_up(const char *path, Status status, bool exists, bool folder_there) {
  bool found;
  assert_int_equal(path_exists(path, &found, &error), status);
  assert_int_equal(found, exists);
  assert_int_equal(path_is_folder(path, &found, &error), status);
  assert_int_equal(found, folder_there);
  assert_int_equal(path_is_same(path, path, &found, &error), status);
  assert_int_equal(found, exists);
}

/* Only ENOENT and ENOTDIR mean that nothing is there. */
static void failed_look_up_is_not_absence(void **state) {
  (void)state;
  char *file = inside("file"), *loop = inside("loop"), *dangling = inside("dangling");
  char *missing = inside("none/sub"), *below = inside("file/sub"), *name = mem_new(301, 1);
  assert_int_equal(atomic_file_replace(file, "", 0, &error), OK);
  assert_int_equal(symlink("loop", loop), 0);
  assert_int_equal(symlink("none", dangling), 0);
  memset(name, 'n', 300);
  char *too_long = inside(name);
  assert_looked_up(folder, OK, true, true);
  assert_looked_up(file, OK, true, false);
  assert_looked_up(missing, OK, false, false);
  assert_looked_up(below, OK, false, false);
  assert_looked_up(dangling, OK, false, false);
  assert_looked_up(too_long, ERROR_IO, false, false);
  assert_message("cannot be looked up: File name too long");
  assert_looked_up(loop, ERROR_IO, false, false);
  assert_message("loop: cannot be looked up: Too many levels of symbolic links");
  assert_int_equal(folder_create(loop, &error), ERROR_IO);
  assert_message("loop: cannot create the folder: ");
  free(file);
  free(loop);
  free(dangling);
  free(missing);
  free(below);
  free(name);
  free(too_long);
}

static void folder_list_is_sorted(void **state) {
  (void)state;
  static const char *const names[] = {"b", "a", ".hidden", "10", "9"};
  char **listed, *missing = inside("none");
  size_t count;
  for (size_t i = 0; i < 5; i++) {
    char *path = inside(names[i]);
    assert_int_equal(atomic_file_replace(path, "", 0, &error), OK);
    free(path);
  }
  assert_holds(".hidden 10 9 a b");
  assert_int_equal(folder_list(missing, &listed, &count, &error), ERROR_IO);
  assert_message("none: cannot list: No such file or directory");
  assert_null(listed);
  free(missing);
}

static void file_read_returns_all_bytes(void **state) {
  (void)state;
  char *path = inside("file"), *data;
  size_t size;
  assert_int_equal(atomic_file_replace(path, "ab\0cd", 5, &error), OK);
  assert_int_equal(file_read(path, 5, &data, &size, &error), OK);
  assert_int_equal(size, 5);
  assert_memory_equal(data, "ab\0cd", 6);
  free(data);
  assert_int_equal(file_read(path, SIZE_MAX, &data, &size, &error), OK);
  free(data);
  assert_int_equal(file_read(path, 4, &data, &size, &error), ERROR_DATA);
  assert_message("has 5 bytes; at most 4 are allowed");
  assert_null(data);
  assert_int_equal(atomic_file_replace(path, "", 0, &error), OK);
  assert_int_equal(file_read(path, 0, &data, &size, &error), OK);
  assert_string_equal(data, "");
  free(data);
  free(path);
}

/* Files in /proc report a size of 0. */
static void file_read_does_not_trust_the_size(void **state) {
  (void)state;
  char *data;
  size_t size;
  if (access("/proc/self/maps", F_OK) != 0) skip();
  assert_int_equal(file_read("/proc/self/maps", 1 << 24, &data, &size, &error), OK);
  assert_true(size > 500);
  assert_int_equal(size, strlen(data));
  free(data);
  assert_int_equal(file_read("/proc/self/maps", 100, &data, &size, &error), ERROR_DATA);
  assert_message("too long: at most 100 bytes are allowed");
}

static void file_read_takes_regular_files_only(void **state) {
  (void)state;
  char *pipe_path = inside("pipe"), *missing = inside("none"), *data;
  size_t size;
  assert_int_equal(mkfifo(pipe_path, 0666), 0);
  assert_int_equal(file_read(pipe_path, 10, &data, &size, &error), ERROR_IO); /* does not block */
  assert_message("is not a regular file");
  assert_int_equal(file_read(folder, 10, &data, &size, &error), ERROR_IO);
  assert_message("is a folder, not a file");
  assert_int_equal(file_read(missing, 10, &data, &size, &error), ERROR_IO);
  assert_message("none: cannot open: No such file or directory");
  assert_int_equal(file_sync(missing, &error), ERROR_IO);
  free(pipe_path);
  free(missing);
}

static void pread_reads_exactly_or_fails(void **state) {
  (void)state;
  char *path = inside("file"), data[8] = {0};
  assert_int_equal(atomic_file_replace(path, "0123456789", 10, &error), OK);
  int descriptor = open(path, O_RDONLY);
  assert_int_equal(file_pread(descriptor, path, data, 4, 6, &error), OK);
  assert_string_equal(data, "6789");
  assert_int_equal(file_pread(descriptor, path, data, 0, 100, &error), OK);
  assert_int_equal(file_pread(descriptor, path, data, 4, 7, &error), ERROR_DATA);
  assert_message("ends too early: expected 4 bytes at offset 7, found 3");
  assert_int_equal(file_pread(descriptor, path, data, 4, UINT64_MAX - 2, &error), ERROR_DATA);
  close(descriptor);
  assert_int_equal(file_pread(descriptor, path, data, 4, 0, &error), ERROR_IO);
  assert_message("Bad file descriptor");
  free(path);
}

static void tick(int signal_number) {
  (void)signal_number;
}

static void *drain_slowly(void *argument) {
  int descriptor = *(int *)argument;
  size_t *total = calloc(1, sizeof *total);
  char buffer[5000];
  ssize_t n;
  while ((n = read(descriptor, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR)) {
    for (ssize_t i = 0; i < n; i++) *total += buffer[i] == 'x';
    usleep(200);
  }
  return total;
}

/* A timer interrupts writes that block on the reader. */
static void write_resumes_after_signals(void **state) {
  (void)state;
  enum { SIZE = 500000 };
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pthread_t reader;
  void *total;
  struct sigaction before, action = {.sa_handler = tick}; /* without SA_RESTART */
  sigset_t alarms;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  sigaction(SIGALRM, &action, &before);
  pthread_sigmask(SIG_BLOCK, &alarms, NULL);
  assert_int_equal(pthread_create(&reader, NULL, drain_slowly, &ends[0]), 0);
  pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
  struct itimerval often = {{0, 1000}, {0, 1000}}, never = {0};
  setitimer(ITIMER_REAL, &often, NULL);
  char *data = malloc(SIZE);
  memset(data, 'x', SIZE);
  Status status = file_write(ends[1], "pipe", data, SIZE, &error);
  setitimer(ITIMER_REAL, &never, NULL);
  close(ends[1]);
  pthread_join(reader, &total);
  sigaction(SIGALRM, &before, NULL);
  assert_int_equal(status, OK);
  assert_int_equal(*(size_t *)total, SIZE);
  free(total);
  free(data);
  close(ends[0]);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(path_join_adds_one_slash),
      IN_FOLDER(content_appears_at_commit),
      IN_FOLDER(abort_leaves_nothing),
      IN_FOLDER(failed_commit_leaves_nothing),
      IN_FOLDER(missing_folders_and_folders_are_refused),
      IN_FOLDER(pipes_and_devices_are_not_replaced),
      IN_FOLDER(old_temporary_is_not_followed),
      IN_FOLDER(killed_writer_leaves_the_old_content),
      cmocka_unit_test(zeroed_file_keeps_descriptor_0),
      cmocka_unit_test(write_reports_a_full_device),
      IN_FOLDER(file_size_limit_leaves_nothing),
      IN_FOLDER(full_disk_leaves_the_old_content),
      IN_FOLDER(folder_commit_does_not_replace),
      IN_FOLDER(folder_commit_moves_between_parents),
      IN_FOLDER(folder_remove_does_not_follow_links),
      IN_FOLDER(folder_create_makes_parents),
      IN_FOLDER(missing_permission_is_reported),
      IN_FOLDER(failed_look_up_is_not_absence),
      IN_FOLDER(folder_list_is_sorted),
      IN_FOLDER(file_read_returns_all_bytes),
      cmocka_unit_test(file_read_does_not_trust_the_size),
      IN_FOLDER(file_read_takes_regular_files_only),
      IN_FOLDER(pread_reads_exactly_or_fails),
      cmocka_unit_test(write_resumes_after_signals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
