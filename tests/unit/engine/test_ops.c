/* Each kind of op with random shapes, dtypes and attributes, against loops in double: the CPU
 * backend with one, two and three threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "support_cases.h"

enum { MOST_THREADS = 3 };
static Backend *backends[MOST_THREADS];

static void test_family(void **state) {
  const CaseFamily *family = *state;
  family_check(family, family->count, backends, MOST_THREADS);
}

static int set_up(void **state) {
  (void)state;
  for (int i = 0; i < MOST_THREADS; i++) {
    Error error;
    if (backend_cpu_new(i + 1, &backends[i], &error) != OK) {
      fprintf(stderr, "# %s\n", error.message);
      return 1;
    }
  }
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  for (int i = 0; i < MOST_THREADS; i++) backends[i]->free(backends[i]);
  return 0;
}

int main(void) {
  struct CMUnitTest tests[CASE_FAMILIES] = {0};
  for (int i = 0; i < CASE_FAMILIES; i++) {
    tests[i].name = case_families[i].name;
    tests[i].test_func = test_family;
    tests[i].initial_state = (void *)(uintptr_t)&case_families[i];
  }
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
