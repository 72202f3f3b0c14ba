/* Runs one CPU kernel on host arrays, for the tests of engine/cpu/. */
#ifndef CELFORGE_TESTS_SUPPORT_CPU_KERNEL_H
#define CELFORGE_TESTS_SUPPORT_CPU_KERNEL_H

#include "engine/backend/backend.h"

/* A small random generator; its seed names a failing case. */
typedef struct Dice {
  uint64_t state;
} Dice;
int64_t dice_range(Dice *dice, int64_t low, int64_t high); /* both included */
double dice_unit(Dice *dice);                              /* -1 .. 1 */
int64_t dice_pick(Dice *dice, const int64_t *choices, int count);

Backend *cpu_backend(void); /* two threads; created once */
void cpu_backend_done(void);

Tensor tensor_random(Dice *dice, Shape shape, DType dtype);
Tensor tensor_poisoned(Shape shape, DType dtype); /* every element NaN */
void tensor_free(Tensor *tensor);
double tensor_at(const Tensor *tensor, int64_t index);
int64_t place(Shape shape, int64_t n, int64_t t, int64_t h, int64_t w, int64_t c);

/* Creates the kernel, runs it twice with a poisoned workspace, checks that both runs give equal
 * bytes and that nothing after the outputs changed, and frees it. */
void run_kernel(const Op *op, const Tensor *inputs, const Tensor *outputs);
/* Fails the test, naming `label` and the element, if |got - expected| exceeds tolerance[i]. */
void check_tensor(const char *label, const Tensor *got, const double *expected,
                  const double *tolerance);
/* The largest rounding error of `value` in `dtype`. */
double rounding(DType dtype, double value);

#endif
