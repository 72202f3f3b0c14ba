/* Helpers of tests that need a GPU. */
#ifndef CELFORGE_TESTS_GPU_SUPPORT_GPU_H
#define CELFORGE_TESTS_GPU_SUPPORT_GPU_H

#include <stdbool.h>
#include <stddef.h>

struct CMUnitTest;

/* Runs the tests; without a GPU, reports each as skipped, with the reason. Returns the exit code.
 */
int gpu_run_tests(const struct CMUnitTest *tests, size_t count, int (*set_up)(void **state),
                  int (*tear_down)(void **state));

/* Skips the running test and prints the reason. */
void gpu_skip(const char *reason) __attribute__((noreturn));

/* True if the GPU is emulated: tests then use smaller cases. */
bool gpu_is_emulated(void);

#endif
