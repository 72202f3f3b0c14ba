/* The CPU's elementary functions against libm in double, over all magnitudes of f32. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/cpu/vector_math.h"

enum { STEP = 1999 }; /* between the bit patterns tested; prime, so that all mantissas occur */

/* The distance of two numbers in units of the last place of `exact`; below the smallest normal
 * number in units of that number's last place. */
static double ulps(float value, double exact) {
  if (isnan(exact)) return isnan(value) ? 0 : INFINITY;
  if ((double)value == exact || (isinf(value) && (float)exact == value)) return 0;
  int exponent;
  frexp(exact, &exponent);
  const double unit = ldexp(1, (exponent < -125 ? -125 : exponent) - 24);
  return fabs((double)value - exact) / unit;
}

/* The largest error over a sample of all floats is below the documented one, and above `sharp`: the
 * documented number is no empty promise. */
static void assert_error(float (*function)(float), double (*exact)(double), double sharp,
                         double documented) {
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
  print_message("# at most %.2f ulp, at %a\n", worst, (double)worst_at);
  if (worst > documented || worst < sharp)
    fail_msg("largest error %.3g ulp, at %a; expected %.3g to %.3g", worst, (double)worst_at, sharp,
             documented);
}

static void assert_bits(float value, float expected) {
  if (float_bits(value) != float_bits(expected))
    fail_msg("%a, expected %a", (double)value, (double)expected);
}

static double exact_sigmoid(double x) {
  return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x));
}

static double exact_softplus(double x) {
  return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static void exp_within_2_ulp(void **state) {
  (void)state;
  assert_error(float_exp, exp, 0.5, 2);
}

static void exp_of_special_values(void **state) {
  (void)state;
  assert_bits(float_exp(0.0f), 1.0f);
  assert_bits(float_exp(-0.0f), 1.0f);
  assert_bits(float_exp(INFINITY), INFINITY);
  assert_bits(float_exp(89.0f), INFINITY); /* e^88.72 is the largest float */
  assert_bits(float_exp(-INFINITY), 0.0f);
  assert_bits(float_exp(-104.0f), 0.0f);
  assert_true(float_exp(-103.0f) > 0); /* a denormal number */
  assert_true(isnan(float_exp(NAN)));
}

static void log_within_2_ulp(void **state) {
  (void)state;
  assert_error(float_log, log, 0.5, 2);
}

static void log_of_special_values(void **state) {
  (void)state;
  assert_bits(float_log(1.0f), 0.0f);
  assert_bits(float_log(0.0f), -INFINITY);
  assert_bits(float_log(-0.0f), -INFINITY);
  assert_bits(float_log(INFINITY), INFINITY);
  assert_true(isnan(float_log(-0x1p-149f)));
  assert_true(isnan(float_log(-INFINITY)));
  assert_true(isnan(float_log(NAN)));
}

static void tanh_within_4_ulp(void **state) {
  (void)state;
  assert_error(float_tanh, tanh, 0.5, 4);
}

static void tanh_is_odd_and_bounded(void **state) {
  (void)state;
  for (uint64_t bits = 0; bits <= 0x7f800000u; bits += STEP) {
    const float x = float_from_bits((uint32_t)bits), y = float_tanh(x);
    assert_true(y >= 0 && y <= 1);
    assert_bits(float_tanh(-x), -y);
  }
  assert_bits(float_tanh(0.0f), 0.0f);
  assert_bits(float_tanh(-0.0f), -0.0f);
  assert_bits(float_tanh(INFINITY), 1.0f);
  assert_bits(float_tanh(-INFINITY), -1.0f);
  assert_true(isnan(float_tanh(NAN)));
}

static void sigmoid_within_4_ulp(void **state) {
  (void)state;
  assert_error(float_sigmoid, exact_sigmoid, 0.5, 4);
}

static void sigmoid_is_bounded(void **state) {
  (void)state;
  for (uint64_t bits = 0; bits <= 0x7f800000u; bits += STEP) {
    const float x = float_from_bits((uint32_t)bits);
    assert_true(float_sigmoid(x) >= 0.5f && float_sigmoid(x) <= 1);
    assert_true(float_sigmoid(-x) >= 0 && float_sigmoid(-x) <= 0.5f);
  }
  assert_bits(float_sigmoid(0.0f), 0.5f);
  assert_bits(float_sigmoid(INFINITY), 1.0f);
  assert_bits(float_sigmoid(-INFINITY), 0.0f);
  assert_true(isnan(float_sigmoid(NAN)));
}

static void softplus_within_4_ulp(void **state) {
  (void)state;
  assert_error(float_softplus, exact_softplus, 0.5, 4);
}

static void softplus_of_special_values(void **state) {
  (void)state;
  assert_bits(float_softplus(INFINITY), INFINITY);
  assert_bits(float_softplus(-INFINITY), 0.0f);
  assert_bits(float_softplus(100.0f), 100.0f); /* x itself: no overflow of e^x */
  assert_true(float_softplus(-80.0f) > 0);     /* e^x: no cancellation */
  assert_true(isnan(float_softplus(NAN)));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(exp_within_2_ulp),      cmocka_unit_test(exp_of_special_values),
      cmocka_unit_test(log_within_2_ulp),      cmocka_unit_test(log_of_special_values),
      cmocka_unit_test(tanh_within_4_ulp),     cmocka_unit_test(tanh_is_odd_and_bounded),
      cmocka_unit_test(sigmoid_within_4_ulp),  cmocka_unit_test(sigmoid_is_bounded),
      cmocka_unit_test(softplus_within_4_ulp), cmocka_unit_test(softplus_of_special_values),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
