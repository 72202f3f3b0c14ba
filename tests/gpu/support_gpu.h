/* What the tests that need a GPU share. */
#ifndef CELFORGE_TESTS_GPU_SUPPORT_GPU_H
#define CELFORGE_TESTS_GPU_SUPPORT_GPU_H

#include <stdbool.h>
#include <stddef.h>

struct CMUnitTest;

/* Runs the tests, or, where there is no GPU, reports each as skipped with the reason. What main
 * returns. */
int gpu_run_tests(const struct CMUnitTest *tests, size_t count, int (*set_up)(void **state),
                  int (*tear_down)(void **state));

/* Skips the test it is called in, and says why. */
void gpu_skip(const char *reason) __attribute__((noreturn));

/* Whether the GPU is the emulator's: threads are fibers of the CPU, so a test takes smaller cases.
 */
bool gpu_is_emulated(void);

#endif
