/* Metrics against values computed by hand, and SSIM against a direct implementation of the paper.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/random.h"
#include "trainer/eval/image_metrics.h"

static void assert_near(double actual, double expected, double tolerance) {
  if (!(fabs(actual - expected) <= tolerance)) fail_msg("%.12g, expected %.12g", actual, expected);
}

static void fill(uint8_t *image, int pixels, uint8_t r, uint8_t g, uint8_t b) {
  for (int i = 0; i < pixels; i++) {
    image[3 * i] = r;
    image[3 * i + 1] = g;
    image[3 * i + 2] = b;
  }
}

static void test_mse_is_of_luma(void **state) {
  (void)state;
  /* A difference of 10 levels in each channel in turn: 2.99, 5.87 and 1.14 of luma. */
  const uint8_t a[4 * 3] = {10, 20, 30, 10, 20, 30, 10, 20, 30, 10, 20, 30};
  const uint8_t b[4 * 3] = {20, 20, 30, 10, 30, 30, 10, 20, 40, 10, 20, 30};
  assert_near(image_metrics_luma_mse(a, b, 4), (2.99 * 2.99 + 5.87 * 5.87 + 1.14 * 1.14) / 4, 1e-9);
  assert_near(image_metrics_luma_mse(b, a, 4), image_metrics_luma_mse(a, b, 4), 0);
  assert_near(image_metrics_luma_mse(a, a, 4), 0, 0);
}

static void test_psnr(void **state) {
  (void)state;
  assert_near(image_metrics_psnr(255.0 * 255.0), 0, 1e-12); /* black against white */
  assert_near(image_metrics_psnr(1), 48.1308036087, 1e-9);
  assert_near(image_metrics_psnr(65.025), 30, 1e-9); /* 255^2 / 1000 */
  assert_near(image_metrics_psnr(0), 100, 0);
}

static void test_temporal_error(void **state) {
  (void)state;
  uint8_t dark[2 * 3], grey[2 * 3], light[2 * 3];
  fill(dark, 2, 10, 10, 10);
  fill(grey, 2, 50, 50, 50);
  fill(light, 2, 90, 90, 90);
  /* Both rise by 40: only the change counts, not the level. */
  assert_near(image_metrics_temporal_error(dark, grey, grey, light, 2), 0, 1e-9);
  /* One is static, the other rises or falls by 80. */
  assert_near(image_metrics_temporal_error(grey, grey, dark, light, 2), 80, 1e-9);
  assert_near(image_metrics_temporal_error(grey, grey, light, dark, 2), 80, 1e-9);
  /* A flicker of opposite signs does not cancel. */
  grey[0] = grey[1] = grey[2] = 60;
  uint8_t other[2 * 3] = {50, 50, 50, 60, 60, 60};
  assert_near(image_metrics_temporal_error(other, grey, dark, dark, 2), 10, 1e-9);
}

static void test_ssim_of_flat_images(void **state) {
  (void)state;
  enum { W = 20, H = 13 };
  uint8_t a[W * H * 3], b[W * H * 3];
  fill(a, W * H, 100, 100, 100);
  fill(b, W * H, 120, 120, 120);
  /* No variance, so only the means count: (2 m n + C1) / (m^2 + n^2 + C1), C1 = 2.55^2. */
  assert_near(image_metrics_ssim(a, b, H, W), 24006.5025 / 24406.5025, 1e-6);
  assert_near(image_metrics_ssim(a, a, H, W), 1, 1e-9);
}

static double grey_of(const uint8_t *image, int i) {
  return 0.299 * image[3 * i] + 0.587 * image[3 * i + 1] + 0.114 * image[3 * i + 2];
}

/* SSIM of one window as in the paper: weighted means, variances about them, covariance. */
static double reference_window(const uint8_t *a, const uint8_t *b, int width, int top, int left,
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
      sum += reference_window(a, b, width, y, x, size_y, size_x);
  assert_near(image_metrics_ssim(a, b, height, width), sum / count, 1e-9);
}

static void test_ssim_equals_the_reference(void **state) {
  (void)state;
  check_ssim(11, 11);
  check_ssim(17, 23);
  check_ssim(5, 20); /* smaller than the window in one direction */
  check_ssim(3, 4);
  check_ssim(1, 1);
}

static void test_ssim_of_an_inverted_image_is_negative(void **state) {
  (void)state;
  enum { SIDE = 16 };
  uint8_t a[SIDE * SIDE * 3], b[SIDE * SIDE * 3];
  for (int i = 0; i < SIDE * SIDE; i++) {
    uint8_t value = (i + i / SIDE) % 2 ? 200 : 55;
    memset(a + 3 * i, value, 3);
    memset(b + 3 * i, 255 - value, 3);
  }
  assert_true(image_metrics_ssim(a, b, SIDE, SIDE) < -0.9);
}

static void test_endpoint_error_is_a_euclidean_distance(void **state) {
  (void)state;
  const float a[2 * 2] = {1, 2, -1, 0}, b[2 * 2] = {4, -2, -1, 0};
  assert_near(image_metrics_endpoint_error(a, b, 2), 5.0 / 2, 1e-9);
  assert_near(image_metrics_endpoint_error(a, a, 2), 0, 0);
}

enum { FLOW_H = 6, FLOW_W = 8, FLOW_PIXELS = FLOW_H * FLOW_W };

static void fill_flow(float *flow, float dx, float dy) {
  for (int i = 0; i < FLOW_PIXELS; i++) {
    flow[2 * i] = dx;
    flow[2 * i + 1] = dy;
  }
}

/* A horizontal ramp of 10 levels per pixel. */
static void fill_ramp(uint8_t *image, int shift, int level) {
  for (int i = 0; i < FLOW_PIXELS * 3; i++)
    image[i] = (uint8_t)(10 * (i / 3 % FLOW_W - shift) + level);
}

static void test_warp_error(void **state) {
  (void)state;
  float forward[2 * FLOW_PIXELS];
  uint8_t frame[FLOW_PIXELS * 3], next[FLOW_PIXELS * 3], visible[FLOW_PIXELS];
  memset(visible, 1, sizeof visible);
  /* Warped by half a pixel the ramp is exact, except in the last column, which is clamped. */
  fill_ramp(frame, 0, 50);
  fill_ramp(next, 0, 45);
  fill_flow(forward, 0.5F, 0);
  for (int y = 0; y < FLOW_H; y++) visible[y * FLOW_W + FLOW_W - 1] = 0;
  assert_near(image_metrics_warp_error(frame, next, forward, visible, FLOW_H, FLOW_W), 0, 1e-12);
  for (int y = 0; y < FLOW_H; y++) visible[y * FLOW_W + FLOW_W - 1] = 1;
  assert_near(image_metrics_warp_error(frame, next, forward, visible, FLOW_H, FLOW_W),
              5.0 * 5 / 255 / 255 / FLOW_W, 1e-12);
  /* A difference of 30 levels in one colour of all pixels; no error where nothing is visible. */
  memcpy(next, frame, sizeof next);
  for (int i = 0; i < FLOW_PIXELS; i++) next[3 * i + 1] = (uint8_t)(next[3 * i + 1] + 30);
  fill_flow(forward, 0, 0);
  assert_near(image_metrics_warp_error(frame, next, forward, visible, FLOW_H, FLOW_W),
              30.0 * 30 / 255 / 255 / 3, 1e-12);
  memset(visible, 0, sizeof visible);
  assert_near(image_metrics_warp_error(frame, next, forward, visible, FLOW_H, FLOW_W), 0, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_mse_is_of_luma),
      cmocka_unit_test(test_psnr),
      cmocka_unit_test(test_temporal_error),
      cmocka_unit_test(test_ssim_of_flat_images),
      cmocka_unit_test(test_ssim_equals_the_reference),
      cmocka_unit_test(test_ssim_of_an_inverted_image_is_negative),
      cmocka_unit_test(test_endpoint_error_is_a_euclidean_distance),
      cmocka_unit_test(test_warp_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
