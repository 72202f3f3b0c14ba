/* Fused chains on the GPU give the bits of unfused ops, f32 and bf16, whatever else reads a value.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/files.h"
#include "engine/backend/backend.h"
#include "tests/gpu/support_gpu.h"
#include "tests/unit/engine/support_rounding.h"

static Backend *backend;
static char cache[] = "/tmp/celforge-test-XXXXXX"; /* compiled kernels */

/* Each chain compiles about 20 kernels; the emulator's compiler takes a second for each. */
static void test_chains(void **state) {
  (void)state;
  check_random_chains(backend, gpu_is_emulated() ? 2 : 60);
}

static void test_recurrent_layer(void **state) {
  (void)state;
  check_recurrent_layer(backend);
}

static int set_up(void **state) {
  (void)state;
  const CudaOptions options = {
      .deterministic = true, .no_graphs = true, .cache = cache, .timeout = 60};
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
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_chains),
      cmocka_unit_test(test_recurrent_layer),
  };
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, set_up, tear_down);
}
