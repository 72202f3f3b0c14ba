/* Every kind of op on the CUDA backend, with the random cases of tests/unit/engine/support_cases.c,
 * against loops in double (outputs are filled with NaN first, and every kernel runs twice); then
 * first and second derivatives of small networks, with and without fusion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/files.h"
#include "tests/gpu/support_gpu.h"
#include "tests/unit/engine/support_cases.h"
#include "tests/unit/engine/support_gradients.h"

enum { TESTS = CASE_FAMILIES + GRADIENT_CASES };
/* Cases per family, or GPU_CASES. Each pointwise or reduce case compiles a kernel of its own. */
enum { DEFAULT_CASES = 50 };

/* GPU_KERNELS=ours: leaves out convolutions, for compute-sanitizer's racecheck and initcheck. */
static bool only_ours;

static Backend *backend;
static char cache[] = "/tmp/celforge-test-XXXXXX"; /* compiled kernels */

static void test_family(void **state) {
  const char *cases = getenv("GPU_CASES");
  family_check(*state, cases ? atoi(cases) : DEFAULT_CASES, &backend, 1);
}

static void test_gradient(void **state) {
  gradient_check(*state, backend);
}

static int set_up(void **state) {
  (void)state;
  const CudaOptions options = {.deterministic = true,
                               .no_graphs = true,
                               .skip_selftest = only_ours,
                               .cache = cache,
                               .timeout = 60};
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

static void add_test(struct CMUnitTest *tests, size_t *count, const char *name,
                     CMUnitTestFunction function, const void *state) {
  if (only_ours && (strstr(name, "conv") || strstr(name, "block"))) return;
  tests[(*count)++] = (struct CMUnitTest){
      .name = name, .test_func = function, .initial_state = (void *)(uintptr_t)state};
}

int main(void) {
  struct CMUnitTest tests[TESTS] = {0};
  size_t count = 0;
  const char *kernels = getenv("GPU_KERNELS");
  only_ours = kernels && strcmp(kernels, "ours") == 0;
  for (int i = 0; i < CASE_FAMILIES; i++)
    add_test(tests, &count, case_families[i].name, test_family, &case_families[i]);
  for (int i = 0; i < GRADIENT_CASES; i++)
    add_test(tests, &count, gradient_cases[i].name, test_gradient, &gradient_cases[i]);
  return gpu_run_tests(tests, count, set_up, tear_down);
}
