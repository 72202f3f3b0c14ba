#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bulk_memory.h"
#include "base/memory.h"

/* By default the sanitizers end the process where malloc would return NULL. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
  return "allocator_may_return_null=1";
}

static void zeroed_and_never_null(void **state) {
  (void)state;
  int *numbers = mem_new(1000, sizeof *numbers);
  for (int i = 0; i < 1000; i++) assert_int_equal(numbers[i], 0);
  free(numbers);
  void *none = mem_new(0, 8);
  assert_non_null(none);
  none = mem_resize(none, 0, 8);
  assert_non_null(none);
  free(none);
}

static void lists_grow(void **state) {
  (void)state;
  int *items = NULL;
  size_t count = 0, capacity = 0;
  for (int i = 0; i < 1000; i++) {
    MEM_PUSH_SLOT(items, count, capacity);
    items[count++] = i;
  }
  assert_in_range(capacity, 1000, 2000);
  for (int i = 0; i < 1000; i++) assert_int_equal(items[i], i);
  free(items);
}

static void string_and_format_copy(void **state) {
  (void)state;
  char *copy = mem_string("celluloid");
  assert_string_equal(copy, "celluloid");
  char *text = mem_format("%s-%03d", copy, 7);
  assert_string_equal(text, "celluloid-007");
  free(copy);
  free(text);
}

static void bulk_is_zeroed_and_aligned(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, 63, 64, 65, 4097, 1 << 20};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    Error error;
    void *memory = NULL;
    assert_int_equal(mem_bulk(sizes[i], "a frame", &memory, &error), OK);
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % 64, 0);
    for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(((char *)memory)[j], 0);
    free(memory);
  }
}

static void bulk_without_zeros_is_aligned(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, 65, (4 << 20) - 1, 4 << 20, (9 << 20) + 1};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    Error error;
    void *memory = NULL;
    assert_int_equal(mem_bulk_unset(sizes[i], "a file", &memory, &error), OK);
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % 64, 0);
    memset(memory, 1, sizes[i]);
    free(memory);
  }
}

static void bulk_reports_what_did_not_fit(void **state) {
  (void)state;
  static const size_t sizes[] = {(size_t)1 << 60, PTRDIFF_MAX, SIZE_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    Error error = {0};
    void *memory = &error;
    assert_int_equal(mem_bulk(sizes[i], "the activation arena", &memory, &error), ERROR_INTERNAL);
    assert_null(memory);
    memory = &error;
    assert_int_equal(mem_bulk_unset(sizes[i], "a file", &memory, NULL), ERROR_INTERNAL);
    assert_null(memory);
    assert_non_null(strstr(error.message, "the activation arena: cannot allocate "));
    assert_non_null(strstr(error.message, "EiB (this machine has "));
  }
}

/* Runs `action` in a child process, captures its standard error, and returns its wait status. */
static int run_in_child(void (*action)(void), char *output, size_t size) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGABRT, SIG_DFL); /* not cmocka's handler */
    dup2(ends[1], STDERR_FILENO);
    action();
    _exit(0);
  }
  close(ends[1]);
  size_t used = 0;
  ssize_t n;
  while ((n = read(ends[0], output + used, size - 1 - used)) > 0) used += (size_t)n;
  output[used] = '\0';
  close(ends[0]);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  return status;
}

static volatile size_t too_many =
    SIZE_MAX / 4; /* volatile: hides the value from compiler warnings */
static void ask_too_much(void) {
  free(mem_new(too_many, 16));
}
static void grow_too_much(void) {
  free(mem_resize(NULL, too_many, 16));
}

static void bookkeeping_aborts_with_one_line(void **state) {
  (void)state;
  char output[4096];
  void (*const actions[])(void) = {ask_too_much, grow_too_much};
  for (size_t i = 0; i < 2; i++) {
    int status = run_in_child(actions[i], output, sizeof output);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(output, "celforge: out of memory: cannot allocate"));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(zeroed_and_never_null),
      cmocka_unit_test(lists_grow),
      cmocka_unit_test(string_and_format_copy),
      cmocka_unit_test(bulk_is_zeroed_and_aligned),
      cmocka_unit_test(bulk_without_zeros_is_aligned),
      cmocka_unit_test(bulk_reports_what_did_not_fit),
      cmocka_unit_test(bookkeeping_aborts_with_one_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
