#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/statistics.h"

static void median_of_odd_and_even_counts(void **state) {
  (void)state;
  double one[] = {7}, two[] = {4, 1}, three[] = {9, -2, 5}, four[] = {8, 1, 4, 2};
  assert_true(median(one, 1) == 7);
  assert_true(median(two, 2) == 2.5);
  assert_true(median(three, 3) == 5);
  assert_true(median(four, 4) == 3);
}

static void median_sorts_ascending(void **state) {
  (void)state;
  double values[] = {3, -1, INFINITY, 3, -INFINITY, 0.5, 1e300};
  const double sorted[] = {-INFINITY, -1, 0.5, 3, 3, 1e300, INFINITY};
  assert_true(median(values, 7) == 3);
  for (int i = 0; i < 7; i++) assert_true(values[i] == sorted[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(median_of_odd_and_even_counts),
      cmocka_unit_test(median_sorts_ascending),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
