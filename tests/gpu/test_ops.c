/* The CUDA backend: each kind of op with the random cases of tests/unit/engine/support_cases.c
 * against loops in double, poisoned outputs, every kernel run twice; then first and second
 * derivatives of small networks, with and without fusion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/unit/engine/support_cases.h"
#include "tests/unit/engine/support_gradients.h"

enum { TESTS = CASE_FAMILIES + GRADIENT_CASES };

static Backend *backend;

static void test_family(void **state) {
  family_check(*state, &backend, 1);
}

static void test_gradient(void **state) {
  gradient_check(*state, backend);
}

static int set_up(void **state) {
  (void)state;
  const CudaOptions options = {.deterministic = true, .plain_streams = true, .timeout = 60};
  Error error = {0};
  if (backend_cuda_new(&options, &backend, &error) == OK) return 0;
  fprintf(stderr, "# %s\n", error.message);
  return 1;
}

static int tear_down(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

static void skip_all(const struct CMUnitTest *tests, const char *reason) {
  printf("1..%d\n", TESTS);
  for (int i = 0; i < TESTS; i++) printf("ok %d - %s # SKIP %s\n", i + 1, tests[i].name, reason);
}

int main(void) {
  struct CMUnitTest tests[TESTS] = {0};
  Error why = {0};
  for (int i = 0; i < CASE_FAMILIES; i++) {
    tests[i].name = case_families[i].name;
    tests[i].test_func = test_family;
    tests[i].initial_state = (void *)(uintptr_t)&case_families[i];
  }
  for (int i = 0; i < GRADIENT_CASES; i++) {
    tests[CASE_FAMILIES + i].name = gradient_cases[i].name;
    tests[CASE_FAMILIES + i].test_func = test_gradient;
    tests[CASE_FAMILIES + i].initial_state = (void *)(uintptr_t)&gradient_cases[i];
  }
  if (backend_cuda_devices(&why) == 0) {
    skip_all(tests, why.message);
    return 0;
  }
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
