/* Scores against numbers worked out by hand, and SSIM against its definition written plainly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/random.h"
#include "trainer/quality.h"

static void assert_near(double actual, double expected, double tolerance) {
  if (!(fabs(actual - expected) <= tolerance)) fail_msg("%.12g, not %.12g", actual, expected);
}

static void fill(uint8_t *picture, int pixels, uint8_t r, uint8_t g, uint8_t b) {
  for (int i = 0; i < pixels; i++) {
    picture[3 * i] = r;
    picture[3 * i + 1] = g;
    picture[3 * i + 2] = b;
  }
}

static void test_mse_is_of_luma(void **state) {
  (void)state;
  /* 10 levels of each channel in turn: 2.99, 5.87 and 1.14 of luma. */
  const uint8_t a[4 * 3] = {10, 20, 30, 10, 20, 30, 10, 20, 30, 10, 20, 30};
  const uint8_t b[4 * 3] = {20, 20, 30, 10, 30, 30, 10, 20, 40, 10, 20, 30};
  assert_near(quality_luma_mse(a, b, 4), (2.99 * 2.99 + 5.87 * 5.87 + 1.14 * 1.14) / 4, 1e-9);
  assert_near(quality_luma_mse(b, a, 4), quality_luma_mse(a, b, 4), 0);
  assert_near(quality_luma_mse(a, a, 4), 0, 0);
}

static void test_psnr(void **state) {
  (void)state;
  assert_near(quality_psnr(255.0 * 255.0), 0, 1e-12); /* black against white */
  assert_near(quality_psnr(1), 48.1308036087, 1e-9);
  assert_near(quality_psnr(65.025), 30, 1e-9); /* 255^2 / 1000 */
  assert_near(quality_psnr(0), 100, 0);
}

static void test_temporal_error(void **state) {
  (void)state;
  uint8_t dark[2 * 3], grey[2 * 3], light[2 * 3];
  fill(dark, 2, 10, 10, 10);
  fill(grey, 2, 50, 50, 50);
  fill(light, 2, 90, 90, 90);
  /* Both rise by 40: the level does not count, only the change. */
  assert_near(quality_temporal(dark, grey, grey, light, 2), 0, 1e-9);
  /* One stands still, the other rises by 80, or falls by it. */
  assert_near(quality_temporal(grey, grey, dark, light, 2), 80, 1e-9);
  assert_near(quality_temporal(grey, grey, light, dark, 2), 80, 1e-9);
  /* A flicker of opposite signs does not cancel. */
  grey[0] = grey[1] = grey[2] = 60;
  uint8_t other[2 * 3] = {50, 50, 50, 60, 60, 60};
  assert_near(quality_temporal(other, grey, dark, dark, 2), 10, 1e-9);
}

static void test_ssim_of_flat_pictures(void **state) {
  (void)state;
  enum { W = 20, H = 13 };
  uint8_t a[W * H * 3], b[W * H * 3];
  fill(a, W * H, 100, 100, 100);
  fill(b, W * H, 120, 120, 120);
  /* No variance: only the means speak, (2 m n + C1) / (m^2 + n^2 + C1), C1 = 2.55^2. */
  assert_near(quality_ssim(a, b, H, W), 24006.5025 / 24406.5025, 1e-6);
  assert_near(quality_ssim(a, a, H, W), 1, 1e-9);
}

static double grey_of(const uint8_t *picture, int i) {
  return 0.299 * picture[3 * i] + 0.587 * picture[3 * i + 1] + 0.114 * picture[3 * i + 2];
}

/* One window, as in the paper: weighted means, variances about them, and their covariance. */
static double plain_window(const uint8_t *a, const uint8_t *b, int width, int top, int left,
                           int size_y, int size_x) {
  double total = 0, mean_a = 0, mean_b = 0, var_a = 0, var_b = 0, both = 0;
  for (int pass = 0; pass < 3; pass++)
    for (int y = 0; y < size_y; y++)
      for (int x = 0; x < size_x; x++) {
        double dy = y - (size_y - 1) / 2.0, dx = x - (size_x - 1) / 2.0;
        double w = exp(-(dx * dx + dy * dy) / (2 * 1.5 * 1.5));
        int at = (top + y) * width + left + x;
        double p = grey_of(a, at), q = grey_of(b, at);
        if (pass == 0) {
          total += w;
        } else if (pass == 1) {
          mean_a += w * p / total;
          mean_b += w * q / total;
        } else {
          var_a += w * (p - mean_a) * (p - mean_a) / total;
          var_b += w * (q - mean_b) * (q - mean_b) / total;
          both += w * (p - mean_a) * (q - mean_b) / total;
        }
      }
  double c1 = 2.55 * 2.55, c2 = 7.65 * 7.65;
  return (2 * mean_a * mean_b + c1) * (2 * both + c2) /
         ((mean_a * mean_a + mean_b * mean_b + c1) * (var_a + var_b + c2));
}

static void check_ssim(int height, int width) {
  enum { MOST = 17 * 23 };
  uint8_t a[MOST * 3], b[MOST * 3];
  Random random = random_stream(3, RANDOM_TEST, (uint64_t)(height * 100 + width), 0);
  for (int i = 0; i < height * width * 3; i++) {
    a[i] = (uint8_t)random_below(&random, 256);
    b[i] = (uint8_t)(a[i] / 2 + random_below(&random, 100));
  }
  int size_y = height < 11 ? height : 11, size_x = width < 11 ? width : 11, count = 0;
  double sum = 0;
  for (int y = 0; y + size_y <= height; y++)
    for (int x = 0; x + size_x <= width; x++, count++)
      sum += plain_window(a, b, width, y, x, size_y, size_x);
  assert_near(quality_ssim(a, b, height, width), sum / count, 1e-9);
}

static void test_ssim_against_its_definition(void **state) {
  (void)state;
  check_ssim(11, 11);
  check_ssim(17, 23);
  check_ssim(5, 20); /* smaller than the window one way */
  check_ssim(3, 4);
  check_ssim(1, 1);
}

static void test_ssim_of_a_negative(void **state) {
  (void)state;
  enum { SIDE = 16 };
  uint8_t a[SIDE * SIDE * 3], b[SIDE * SIDE * 3];
  for (int i = 0; i < SIDE * SIDE; i++) {
    uint8_t value = (i + i / SIDE) % 2 ? 200 : 55;
    memset(a + 3 * i, value, 3);
    memset(b + 3 * i, 255 - value, 3);
  }
  assert_true(quality_ssim(a, b, SIDE, SIDE) < -0.9);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_mse_is_of_luma),
      cmocka_unit_test(test_psnr),
      cmocka_unit_test(test_temporal_error),
      cmocka_unit_test(test_ssim_of_flat_pictures),
      cmocka_unit_test(test_ssim_against_its_definition),
      cmocka_unit_test(test_ssim_of_a_negative),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
