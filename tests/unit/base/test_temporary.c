#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/temporary.h"
#include "tests/unit/base/temporary.h"

static Error error;
static char *folder;

static int make_folder(void **state) {
  (void)state;
  folder = temporary_folder();
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  temporary_folder_end(folder);
  return 0;
}

/* Returns a path in the folder, in one of eight static buffers in turn. */
static const char *inside(const char *name) {
  static char buffers[8][512];
  static int next;
  char *buffer = buffers[next++ % 8];
  snprintf(buffer, sizeof buffers[0], "%s/%s", folder, name);
  return buffer;
}

static bool is_there(const char *path) {
  struct stat info;
  return lstat(path, &info) == 0;
}

static size_t count_names(void) {
  char **names;
  size_t count;
  assert_int_equal(folder_list(folder, &names, &count, &error), OK);
  folder_list_free(names, count);
  return count;
}

/* Starts a process that creates a temporary file of `path`, and waits until it exists. */
static pid_t start_writer(const char *path) {
  int ready[2];
  char byte;
  assert_int_equal(pipe(ready), 0);
  pid_t child = fork();
  if (child == 0) {
    int descriptor;
    char *temporary;
    if (temporary_create(path, &descriptor, &temporary, NULL) != OK) _exit(1);
    if (write(ready[1], "x", 1) != 1) _exit(2);
    for (;;) pause();
  }
  close(ready[1]);
  assert_int_equal(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  return child;
}

static void kill_writer(pid_t child) {
  kill(child, SIGKILL);
  assert_int_equal(waitpid(child, NULL, 0), child);
}

static void leftovers_of_killed_processes_are_removed(void **state) {
  (void)state;
  pid_t killed = start_writer(inside("a.mp4")), alive = start_writer(inside("a.mp4"));
  pid_t other = start_writer(inside("b.mp4"));
  char *of_killed = temporary_name(inside("a.mp4"), killed);
  char *of_alive = temporary_name(inside("a.mp4"), alive);
  char *of_other = temporary_name(inside("b.mp4"), other);
  kill_writer(killed);
  kill_writer(other);
  assert_true(is_there(of_killed) && is_there(of_alive) && is_there(of_other));
  temporary_remove_leftovers_of(inside("a.mp4"));
  assert_false(is_there(of_killed));
  assert_true(is_there(of_alive));
  assert_true(is_there(of_other)); /* of another file */
  temporary_remove_leftovers(folder, NULL);
  assert_false(is_there(of_other));
  assert_true(is_there(of_alive));
  kill_writer(alive);
  temporary_remove_leftovers_of(inside("a.mp4"));
  assert_int_equal(count_names(), 0);
  free(of_killed);
  free(of_alive);
  free(of_other);
}

static void other_files_are_kept(void **state) {
  (void)state;
  char *own = temporary_name("a.mp4", 7), *elsewhere = mem_format("%s", own);
  char *digit = elsewhere + strlen("a.mp4.");
  *digit = *digit == '1' ? '2' : '1'; /* another host */
  const char *names[] = {"a.mp4",     "a.mp4.tmp",     "a.mp4.7.tmp", "a.mp4.7-8.tmp",
                         "notes.tmp", "a.mp4.1-x.tmp", elsewhere};
  const size_t count = sizeof names / sizeof *names;
  for (size_t i = 0; i < count; i++)
    assert_int_equal(close(open(inside(names[i]), O_WRONLY | O_CREAT, 0666)), 0);
  char *folder_name = temporary_name("f", 7), *link_name = temporary_name("l", 7);
  assert_int_equal(mkdir(inside(folder_name), 0777), 0);
  assert_int_equal(symlink("a.mp4", inside(link_name)), 0);
  temporary_remove_leftovers(folder, NULL);
  temporary_remove_leftovers_of(inside("a.mp4"));
  for (size_t i = 0; i < count; i++)
    if (!is_there(inside(names[i]))) fail_msg("%s was removed", names[i]);
  assert_int_equal(count_names(), count + 2);
  free(folder_name);
  free(link_name);
  free(elsewhere);
  free(own);
}

static void a_name_in_use_is_not_taken(void **state) {
  (void)state;
  AtomicFile first, second;
  assert_int_equal(atomic_file_open(inside("a"), &first, &error), OK);
  assert_int_equal(atomic_file_open(inside("a"), &second, &error), OK);
  assert_string_not_equal(first.temporary, second.temporary);
  temporary_remove_leftovers_of(inside("a"));
  assert_true(is_there(first.temporary) && is_there(second.temporary));
  assert_int_equal(atomic_file_write(&first, "one", 3, &error), OK);
  assert_int_equal(atomic_file_write(&second, "two", 3, &error), OK);
  assert_int_equal(atomic_file_commit(&second, &error), OK);
  assert_int_equal(atomic_file_commit(&first, &error), OK);
  char *data;
  size_t size;
  assert_int_equal(file_read(inside("a"), 100, &data, &size, &error), OK);
  assert_string_equal(data, "one");
  free(data);
  assert_int_equal(count_names(), 1);
}

/* A file of this process's own name: left by an earlier process with the same PID. */
static void a_leftover_of_the_same_name_is_replaced(void **state) {
  (void)state;
  char *name = temporary_name(inside("a"), (int)getpid());
  for (int is_link = 0; is_link < 2; is_link++) {
    if (is_link)
      assert_int_equal(symlink("elsewhere", name), 0);
    else
      assert_int_equal(close(open(name, O_WRONLY | O_CREAT, 0666)), 0);
    AtomicFile file;
    assert_int_equal(atomic_file_open(inside("a"), &file, &error), OK);
    assert_string_equal(file.temporary, name);
    atomic_file_abort(&file);
    assert_int_equal(count_names(), 0);
  }
  free(name);
}

/* Processes that write, and others that remove leftovers, at the same time: no write is lost. */
static void nothing_is_lost_between_processes(void **state) {
  (void)state;
  enum { WRITERS = 3, CLEANERS = 3, ROUNDS = 300 };
  pid_t children[WRITERS + CLEANERS];
  for (int i = 0; i < WRITERS + CLEANERS; i++) {
    if ((children[i] = fork()) != 0) continue;
    for (int round = 0; round < ROUNDS; round++) {
      int descriptor;
      char *temporary;
      if (i >= WRITERS) {
        temporary_remove_leftovers_of(inside("a"));
        continue;
      }
      if (temporary_create(inside("a"), &descriptor, &temporary, NULL) != OK) _exit(1);
      if (rename(temporary, inside("a")) != 0) _exit(2);
      close(descriptor);
      free(temporary);
    }
    _exit(0);
  }
  for (int i = 0; i < WRITERS + CLEANERS; i++) {
    int status;
    assert_int_equal(waitpid(children[i], &status, 0), children[i]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
  }
  assert_int_equal(count_names(), 1);
}

/* --- Links -------------------------------------------------------------------------------------
 */

static void links_are_refused(void **state) {
  (void)state;
  assert_int_equal(mkdir(inside("real"), 0777), 0);
  assert_int_equal(symlink("real", inside("link")), 0);
  assert_int_equal(symlink("nowhere", inside("dangling")), 0);
  assert_int_equal(path_refuse_link(inside("real"), &error), OK);
  assert_int_equal(path_refuse_link(inside("missing"), &error), OK);
  assert_int_equal(path_refuse_link(inside("link/below"), &error), OK);
  assert_int_equal(path_refuse_link(inside("link"), &error), ERROR_USAGE);
  assert_non_null(strstr(error.message, inside("link: is a symbolic link")));
  assert_int_equal(path_refuse_link(inside("dangling"), &error), ERROR_USAGE);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_folder, remove_folder)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(leftovers_of_killed_processes_are_removed),
      TEST(other_files_are_kept),
      TEST(a_name_in_use_is_not_taken),
      TEST(a_leftover_of_the_same_name_is_replaced),
      TEST(nothing_is_lost_between_processes),
      TEST(links_are_refused),
  };
  return cmocka_run_group_tests_name("temporary", tests, NULL, NULL);
}
