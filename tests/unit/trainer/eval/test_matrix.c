/* Products, nuclear norms and pivoted Cholesky factors of f64 matrices, against loops and against
 * matrices of known singular values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "trainer/eval/matrix.h"

static Error error;

static void near(double found, double expected, double tolerance) {
  if (!(fabs(found - expected) <= tolerance))
    fail_msg("%.17g, expected %.17g within %g", found, expected, tolerance);
}

static double *random_matrix(uint64_t seed, int64_t rows, int64_t columns) {
  Random random = random_stream(seed, RANDOM_TEST, 0, 0);
  double *a = mem_new((size_t)(rows * columns), sizeof *a);
  for (int64_t i = 0; i < rows * columns; i++) a[i] = (double)random_normal(&random);
  return a;
}

/* Applies I - 2 v v^T / |v|^2 to the rows (v of length `rows`) or columns of a. */
static void reflect(double *a, int64_t rows, int64_t columns, const double *v, bool to_rows) {
  int64_t length = to_rows ? rows : columns, others = to_rows ? columns : rows;
  int64_t step = to_rows ? columns : 1, next = to_rows ? 1 : columns;
  double square = 0;
  for (int64_t i = 0; i < length; i++) square += v[i] * v[i];
  for (int64_t j = 0; j < others; j++) {
    double sum = 0;
    for (int64_t i = 0; i < length; i++) sum += v[i] * a[i * step + j * next];
    for (int64_t i = 0; i < length; i++) a[i * step + j * next] -= 2 * sum / square * v[i];
  }
}

/* A full matrix [rows,columns] with these singular values: reflected on both sides. */
static double *with_singular_values(const double *values, int count, int64_t rows,
                                    int64_t columns) {
  double *a = mem_new((size_t)(rows * columns), sizeof *a);
  for (int i = 0; i < count; i++) a[i * columns + i] = values[i];
  for (uint64_t seed = 1; seed <= 3; seed++) {
    double *left = random_matrix(seed, rows, 1), *right = random_matrix(seed + 9, columns, 1);
    reflect(a, rows, columns, left, true);
    reflect(a, rows, columns, right, false);
    free(left);
    free(right);
  }
  return a;
}

static double nuclear_norm(double *a, int64_t rows, int64_t columns, int threads) {
  double norm = -1;
  if (matrix_nuclear_norm(a, rows, columns, threads, &norm, &error) != OK)
    fail_msg("%s", error.message);
  return norm;
}

static void check_norm(const double *values, int count, int64_t rows, int64_t columns) {
  double *a = with_singular_values(values, count, rows, columns), sum = 0;
  double *copy = mem_new((size_t)(rows * columns), sizeof *copy);
  memcpy(copy, a, (size_t)(rows * columns) * sizeof *copy);
  for (int i = 0; i < count; i++) sum += values[i];
  double found = nuclear_norm(a, rows, columns, 1);
  if (!(fabs(found - sum) <= 1e-14 * sum * (double)(rows + columns)))
    fail_msg("%dx%d: %.17g, expected %.17g", (int)rows, (int)columns, found, sum);
  assert_true(found == nuclear_norm(copy, rows, columns, 3));
  free(a);
  free(copy);
}

static void test_nuclear_norms(void **state) {
  (void)state;
  double descending[70];
  for (int i = 0; i < 70; i++) descending[i] = pow(0.7, i);
  check_norm((const double[]){3}, 1, 1, 1);
  check_norm((const double[]){3}, 1, 1, 5);
  check_norm((const double[]){4, 3}, 2, 2, 2);
  check_norm((const double[]){5, 5, 5, 5}, 4, 6, 4);    /* equal ones */
  check_norm((const double[]){2, 1, 0, 0, 0}, 5, 9, 5); /* low rank */
  check_norm((const double[]){1e8, 1, 1e-8}, 3, 3, 7);  /* not squared on the way */
  check_norm(descending, 70, 70, 70);
  check_norm(descending, 40, 131, 40);
  check_norm(descending, 40, 40, 131);
  double zeros[12] = {0};
  assert_true(nuclear_norm(zeros, 3, 4, 1) == 0);
}

/* A 2 x 2 matrix by hand: the sum of its singular values is sqrt(|a|^2 + 2 |det a|). */
static void test_norm_by_hand(void **state) {
  (void)state;
  double a[4] = {1, 2, 3, 4};
  near(nuclear_norm(a, 2, 2, 1), sqrt(30 + 2 * 2), 1e-14);
}

static void test_numbers_that_are_not_finite(void **state) {
  (void)state;
  double *a = random_matrix(1, 6, 6), norm;
  a[7] = (double)NAN;
  assert_int_equal(matrix_nuclear_norm(a, 6, 6, 1, &norm, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "do not converge"));
  free(a);
}

static void check_product(int64_t rows, int64_t columns, int64_t depth) {
  double *a = random_matrix(1, rows, depth), *b = random_matrix(2, columns, depth);
  double *c = random_matrix(3, rows, columns), *d = random_matrix(3, rows, columns);
  double *before = random_matrix(3, rows, columns);
  assert_int_equal(matrix_product(a, rows, b, columns, depth, c, 1, &error), OK);
  assert_int_equal(matrix_product(a, rows, b, columns, depth, d, 4, &error), OK);
  assert_memory_equal(c, d, (size_t)(rows * columns) * sizeof *c);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) {
      double sum = before[i * columns + j];
      for (int64_t k = 0; k < depth; k++) sum += a[i * depth + k] * b[j * depth + k];
      near(c[i * columns + j], sum, 1e-12);
    }
  free(a);
  free(b);
  free(c);
  free(d);
  free(before);
}

static void test_products(void **state) {
  (void)state;
  check_product(1, 1, 1);
  check_product(4, 16, 8);
  check_product(5, 17, 3);
  check_product(23, 50, 31);
}

/* A covariance of rank 5 in 12 dimensions. */
static void test_factors(void **state) {
  (void)state;
  enum { N = 12, RANK_OF_A = 5 };
  double *samples = random_matrix(7, N, RANK_OF_A), a[N * N] = {0}, factor[N * N], copy[N * N];
  assert_int_equal(matrix_product(samples, N, samples, N, RANK_OF_A, a, 1, &error), OK);
  memcpy(copy, a, sizeof copy);
  assert_int_equal(matrix_factor(copy, N, factor, 2), RANK_OF_A);
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) {
      double sum = 0;
      for (int k = 0; k < RANK_OF_A; k++) sum += factor[k * N + i] * factor[k * N + j];
      near(sum, a[i * N + j], 1e-12);
    }
  double zeros[4] = {0};
  assert_int_equal(matrix_factor(zeros, 2, factor, 1), 0);
  free(samples);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_nuclear_norms), cmocka_unit_test(test_norm_by_hand),
      cmocka_unit_test(test_numbers_that_are_not_finite), cmocka_unit_test(test_products),
      cmocka_unit_test(test_factors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
