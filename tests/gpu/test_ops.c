/* The CUDA backend: each kind of op with the random cases of tests/unit/engine/support_cases.c
 * against loops in double, poisoned outputs, every kernel run twice; then first and second
 * derivatives of small networks, with and without fusion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/files.h"
#include "tests/gpu/support_gpu.h"
#include "tests/unit/engine/support_cases.h"
#include "tests/unit/engine/support_gradients.h"

enum { TESTS = CASE_FAMILIES + GRADIENT_CASES };
/* Of each family: a pointwise or reduce case is a program of its own to compile. */
enum { MOST_CASES = 50 }; /* or GPU_CASES */

static Backend *backend;
static char cache[] = "/tmp/celforge-test-XXXXXX"; /* compiled kernels */

static void test_family(void **state) {
  const char *cases = getenv("GPU_CASES");
  family_check(*state, cases ? atoi(cases) : MOST_CASES, &backend, 1);
}

static void test_gradient(void **state) {
  gradient_check(*state, backend);
}

static int set_up(void **state) {
  (void)state;
  const CudaOptions options = {
      .deterministic = true, .plain_streams = true, .cache = cache, .timeout = 60};
  Error error = {0};
  if (!mkdtemp(cache)) return 1;
  if (backend_cuda_new(&options, &backend, &error) == OK) return 0;
  fprintf(stderr, "# %s\n", error.message);
  return 1;
}

static int tear_down(void **state) {
  (void)state;
  backend->free(backend);
  return folder_remove(cache, NULL) == OK ? 0 : 1;
}

int main(void) {
  struct CMUnitTest tests[TESTS] = {0};
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
  return gpu_run_tests(tests, TESTS, set_up, tear_down);
}
