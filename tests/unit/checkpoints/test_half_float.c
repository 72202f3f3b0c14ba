/* F16 against its definition: every number, and rounding around every border between two of them.
 */
#include "support_checkpoints.h"

#include "base/bf16.h"
#include "checkpoints/half_float.h"

/* (-1)^sign 2^(exponent - 15) (1 + fraction / 1024), or 2^-14 fraction / 1024 for exponent 0. */
static double by_definition(uint16_t half) {
  int exponent = half >> 10 & 31, fraction = half & 1023;
  double magnitude =
      exponent ? ldexp(1 + fraction / 1024.0, exponent - 15) : ldexp(fraction / 1024.0, -14);
  return half & 0x8000 ? -magnitude : magnitude;
}

static void test_every_number(void **state) {
  (void)state;
  for (uint32_t bits = 0; bits < 0x10000; bits++) {
    uint16_t half = (uint16_t)bits;
    float value = half_to_f32(half);
    if ((bits & 0x7fff) > 0x7c00) { /* NaN: kept, and quiet on the way back */
      assert_true(isnan(value));
      assert_int_equal(half_from_f32(value), half | 0x200);
      continue;
    }
    if ((bits & 0x7fff) == 0x7c00)
      assert_true(isinf(value));
    else
      assert_true((double)value == by_definition(half));
    assert_int_equal(!!signbit(value), half >> 15);
    assert_int_equal(half_from_f32(value), half);
  }
}

/* For both signs. */
static void check_rounding(float value, uint16_t expected) {
  assert_int_equal(half_from_f32(value), expected);
  assert_int_equal(half_from_f32(-value), expected | 0x8000);
}

static void test_rounding(void **state) {
  (void)state;
  for (uint16_t half = 0; half < 0x7c00; half++) {
    /* Beyond the largest number, infinity takes the place of 65536. */
    double next = half == 0x7bff ? 65536 : by_definition((uint16_t)(half + 1));
    float middle = (float)((by_definition(half) + next) / 2); /* exact */
    check_rounding(middle, (uint16_t)(half + (half & 1)));
    check_rounding(nextafterf(middle, INFINITY), (uint16_t)(half + 1));
    check_rounding(nextafterf(middle, 0), half);
  }
}

static void test_extremes(void **state) {
  (void)state;
  check_rounding(HALF_MAX, 0x7bff);
  check_rounding(3.0e38f, 0x7c00);
  check_rounding(INFINITY, 0x7c00);
  check_rounding(float_from_bits(1), 0); /* the smallest f32 */
  check_rounding(0x1p-25f, 0);           /* half of the smallest F16: ties to even */
  check_rounding(0x1p-24f, 1);
  assert_int_equal(half_from_f32(float_from_bits(0x7f800001u)), 0x7e00); /* a signalling NaN */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_number),
      cmocka_unit_test(test_rounding),
      cmocka_unit_test(test_extremes),
  };
  return cmocka_run_group_tests_name("half_float", tests, NULL, NULL);
}
