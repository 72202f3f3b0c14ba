/* The CPU's elementary functions against libm in double, over all magnitudes of f32. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/cpu/vector_math.h"

enum { STEP = 1999 }; /* of the bit pattern; prime, so that all mantissas come up */

/* The distance of two numbers in units of the last place of `exact`; below the smallest normal
 * number the unit stays what it is there. */
static double ulps(float value, double exact) {
  if (isnan(exact)) return isnan(value) ? 0 : INFINITY;
  if ((double)value == exact || (isinf(value) && (float)exact == value)) return 0;
  int exponent;
  frexp(exact, &exponent);
  const double unit = ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
  return fabs((double)value - exact) / unit;
}

static void check(float (*function)(float), double (*exact)(double), double allowed) {
  double worst = 0;
  float worst_at = 0;
  for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += STEP) {
    const float x = float_from_bits((uint32_t)bits);
    const double error = ulps(function(x), exact((double)x));
    if (error > worst) {
      worst = error;
      worst_at = x;
    }
  }
  const float special[] = {0.0f, -0.0f, INFINITY,  -INFINITY, NAN,
                           1.0f, -1.0f, 0x1p-149f, 0x1p-126f};
  for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
    const double error = ulps(function(special[i]), exact((double)special[i]));
    if (error > worst) {
      worst = error;
      worst_at = special[i];
    }
  }
  if (worst > allowed) {
    fail_msg("error of %.3g ulp at %a, allowed are %.3g", worst, (double)worst_at, allowed);
  }
  print_message("# at most %.2f ulp, at %a\n", worst, (double)worst_at);
}

static double exact_sigmoid(double x) {
  return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

static double exact_softplus(double x) {
  return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static void test_exp(void **state) {
  (void)state;
  check(float_exp, exp, 2);
}
static void test_log(void **state) {
  (void)state;
  check(float_log, log, 3);
}
static void test_tanh(void **state) {
  (void)state;
  check(float_tanh, tanh, 4);
}
static void test_sigmoid(void **state) {
  (void)state;
  check(float_sigmoid, exact_sigmoid, 4);
}
static void test_softplus(void **state) {
  (void)state;
  check(float_softplus, exact_softplus, 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_exp),     cmocka_unit_test(test_log),      cmocka_unit_test(test_tanh),
      cmocka_unit_test(test_sigmoid), cmocka_unit_test(test_softplus),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
