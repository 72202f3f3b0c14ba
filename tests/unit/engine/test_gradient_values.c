/* First and second derivatives of small networks on the CPU backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "support_gradients.h"

static Backend *backend;

static void test_case(void **state) {
  const GradientCase *test = *state;
  if (test->bf16 && !backend->supports_bf16(backend)) skip();
  gradient_check(test, backend);
}

static int set_up(void **state) {
  (void)state;
  return backend_cpu_new(2, &backend, NULL) == OK ? 0 : 1;
}

static int tear_down(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

int main(void) {
  struct CMUnitTest tests[GRADIENT_CASES] = {0};
  for (int i = 0; i < GRADIENT_CASES; i++) {
    tests[i].name = gradient_cases[i].name;
    tests[i].test_func = test_case;
    tests[i].initial_state = (void *)(uintptr_t)&gradient_cases[i];
  }
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
