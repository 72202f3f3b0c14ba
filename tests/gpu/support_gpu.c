#include "tests/gpu/support_gpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/backend.h"

int gpu_run_tests(const struct CMUnitTest *tests, size_t count, int (*set_up)(void **state),
                  int (*tear_down)(void **state)) {
  Error why = {0};
  if (backend_cuda_device_count(&why) > 0)
    return _cmocka_run_group_tests("tests", tests, count, set_up, tear_down);
  printf("1..%zu\n", count);
  for (size_t i = 0; i < count; i++)
    printf("ok %zu - %s # SKIP %s\n", i + 1, tests[i].name, why.message);
  return 0;
}

void gpu_skip(const char *reason) {
  printf("# skipped: %s\n", reason);
  fflush(stdout);
  skip();
  abort(); /* cmocka does not declare skip as noreturn */
}

bool gpu_is_emulated(void) {
  const CudaOptions options = {.no_graphs = true, .timeout = 60};
  Backend *backend = NULL;
  Error error;
  if (backend_cuda_new(&options, &backend, &error) != OK) return false;
  bool is_emulated = strstr(backend->describe(backend), "emulated") != NULL;
  backend->free(backend);
  return is_emulated;
}
