/* FID and KID of small sets by hand; clean-fid: tests/oracle/test_pretrained_scores.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "trainer/eval/kernel_distance.h"

static Error error;

static void near(double found, double expected, double tolerance) {
  if (!(fabs(found - expected) <= tolerance))
    fail_msg("%.17g, expected %.17g within %g", found, expected, tolerance);
}

static double fid(FeatureSet a, FeatureSet b, int threads) {
  double out = -1;
  if (frechet_distance(&a, &b, threads, &out, &error) != OK) fail_msg("%s", error.message);
  return out;
}

static double kid(FeatureSet a, FeatureSet b, int64_t size, int threads) {
  double out = -1;
  if (kernel_distance(&a, &b, size, threads, &out, &error) != OK) fail_msg("%s", error.message);
  return out;
}

static void fill(uint64_t seed, float scale, float shift, float *out, int count) {
  Random random = random_stream(seed, RANDOM_TEST, 0, 0);
  for (int i = 0; i < count; i++) out[i] = scale * random_normal(&random) + shift;
}

/* --- FID -------------------------------------------------------------------------------------- */

/* In one dimension (m1 - m2)^2 + (s1 - s2)^2. */
static void test_fid_of_numbers(void **state) {
  (void)state;
  float a[] = {1, 3}, b[] = {5, 6, 7}; /* deviations sqrt(2) and 1, means 2 and 6 */
  double expected = 16 + (sqrt(2) - 1) * (sqrt(2) - 1);
  near(fid((FeatureSet){2, 1, a}, (FeatureSet){3, 1, b}, 1), expected, 1e-12);
}

/* Variances 2 and 8 along one axis, 2 and 0 along the other: the root sees the first alone. */
static void test_fid_of_axes(void **state) {
  (void)state;
  float a[] = {1, 0, -1, 0, 0, 1, 0, -1}, b[] = {2, 0, -2, 0};
  double va = 2.0 / 3, vb = 8; /* of a along both axes, of b along the first */
  double expected = va + va + vb - 2 * sqrt(va * vb);
  near(fid((FeatureSet){4, 2, a}, (FeatureSet){2, 2, b}, 1), expected, 1e-12);
}

/* More samples than features go by the covariance, fewer by the samples themselves; zeros beside
 * the features change the way and not the distance. */
static void test_fid_of_few_and_many_samples(void **state) {
  (void)state;
  enum { SAMPLES = 40, LENGTH = 6, WIDE = 64 };
  static float a[SAMPLES * LENGTH], b[SAMPLES * LENGTH], wide_a[SAMPLES * WIDE],
      wide_b[SAMPLES * WIDE];
  fill(1, 1, 0, a, SAMPLES * LENGTH);
  fill(2, 2, 1, b, SAMPLES * LENGTH);
  for (int i = 0; i < SAMPLES; i++)
    for (int j = 0; j < LENGTH; j++) {
      wide_a[i * WIDE + 7 * j] = a[i * LENGTH + j];
      wide_b[i * WIDE + 7 * j] = b[i * LENGTH + j];
    }
  FeatureSet x = {SAMPLES, LENGTH, a}, y = {SAMPLES, LENGTH, b};
  double narrow = fid(x, y, 1);
  near(narrow, fid((FeatureSet){SAMPLES, WIDE, wide_a}, (FeatureSet){SAMPLES, WIDE, wide_b}, 1),
       1e-11);
  assert_true(narrow > 5 && narrow == fid(x, y, 3));
  near(fid(x, x, 1), 0, 1e-11);
  near(fid(y, x, 1), narrow, 1e-11);
}

static void test_fid_without_covariance(void **state) {
  (void)state;
  float a[] = {1, 2};
  assert_true(isnan(fid((FeatureSet){1, 1, a}, (FeatureSet){2, 1, a}, 1)));
}

/* --- KID -------------------------------------------------------------------------------------- */

static void test_kid_of_numbers(void **state) {
  (void)state;
  float x[] = {1, 2}, y[] = {0, 3};
  /* k(1,2) = 27, k(0,3) = 1; between the sets 1, 64, 1, 343. */
  double expected = 27 + 1 - 2 * (1 + 64 + 1 + 343) / 4.0;
  near(kid((FeatureSet){2, 1, x}, (FeatureSet){2, 1, y}, 1000, 1), expected, 1e-12);
}

/* Equal samples: every subset gives k(1,1) + k(2,2) - 2 k(1,2), with a length of 2 features. */
static void test_kid_of_subsets(void **state) {
  (void)state;
  float x[10], y[14];
  for (int i = 0; i < 10; i++) x[i] = 1;
  for (int i = 0; i < 14; i++) y[i] = 2;
  double expected = 8 + 125 - 2 * 27;
  near(kid((FeatureSet){5, 2, x}, (FeatureSet){7, 2, y}, 3, 1), expected, 1e-11);
  near(kid((FeatureSet){5, 2, x}, (FeatureSet){7, 2, y}, 1000, 1), expected, 1e-11);
}

/* Two halves of one distribution are at distance 0 on average; shifted ones are not. Subsets of
 * many samples differ from all samples, but not by much. */
static void test_kid_is_unbiased(void **state) {
  (void)state;
  enum { SAMPLES = 300, LENGTH = 8 };
  static float a[SAMPLES * LENGTH], b[SAMPLES * LENGTH], c[SAMPLES * LENGTH];
  fill(3, 1, 0, a, SAMPLES * LENGTH);
  fill(4, 1, 0, b, SAMPLES * LENGTH);
  fill(5, 1, 1, c, SAMPLES * LENGTH);
  FeatureSet x = {SAMPLES, LENGTH, a}, y = {SAMPLES, LENGTH, b}, z = {SAMPLES, LENGTH, c};
  double same = kid(x, y, 1000, 1), far = kid(x, z, 1000, 1), sampled = kid(x, z, 50, 1);
  assert_true(fabs(same) < 0.05 && far > 1);
  assert_true(sampled != far && fabs(sampled - far) < 0.2 * far);
  assert_true(sampled == kid(x, z, 50, 3));
}

static void test_kid_without_pairs(void **state) {
  (void)state;
  float x[] = {1, 2, 3};
  assert_true(isnan(kid((FeatureSet){1, 1, x}, (FeatureSet){3, 1, x}, 1000, 1)));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_fid_of_numbers),
                                     cmocka_unit_test(test_fid_of_axes),
                                     cmocka_unit_test(test_fid_of_few_and_many_samples),
                                     cmocka_unit_test(test_fid_without_covariance),
                                     cmocka_unit_test(test_kid_of_numbers),
                                     cmocka_unit_test(test_kid_of_subsets),
                                     cmocka_unit_test(test_kid_is_unbiased),
                                     cmocka_unit_test(test_kid_without_pairs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
