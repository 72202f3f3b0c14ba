/* Structure, colour shift and flicker of changes whose effect is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/random.h"
#include "trainer/eval/content_metrics.h"

enum { HEIGHT = 50, WIDTH = 68, PIXELS = HEIGHT * WIDTH };

static uint8_t a[3 * PIXELS], b[3 * PIXELS];

static void assert_near(double actual, double expected, double tolerance) {
  if (!(fabs(actual - expected) <= tolerance)) fail_msg("%.12g, expected %.12g", actual, expected);
}

static void scene(uint8_t *out, int shift) {
  for (int i = 0; i < 3 * PIXELS; i++) {
    int x = i / 3 % WIDTH + shift, y = i / 3 / WIDTH;
    out[i] = (uint8_t)lrint(120 + 30 * sin(0.31 * x + 0.2 * y) + 30 * sin(0.27 * y - 0.11 * x));
  }
}

static double structure(void) {
  return content_metrics_structure(a, b, HEIGHT, WIDTH);
}

static void test_structure(void **state) {
  (void)state;
  scene(a, 0);
  memcpy(b, a, sizeof b);
  assert_near(structure(), 1, 1e-12);
  for (int i = 0; i < 3 * PIXELS; i++) b[i] = (uint8_t)(a[i] / 2 + 90); /* contrast, brightness */
  assert_true(structure() > 0.99);
  for (int i = 0; i < 3 * PIXELS; i++) b[i] = (uint8_t)(255 - a[i]);
  assert_true(structure() < -0.8);
  scene(b, 7); /* moved */
  assert_true(structure() < 0.5);
  memset(b, 128, sizeof b); /* nothing is left */
  assert_near(structure(), 0, 1e-9);
  memcpy(a, b, sizeof a); /* nothing was there */
  assert_true(structure() == 1);
}

/* Reference values: Bruce Lindbloom's calculator for sRGB and D65. */
static void test_lab(void **state) {
  (void)state;
  const struct {
    double rgb[3], lab[3];
  } cases[] = {{{255, 255, 255}, {100, 0, 0}},
               {{0, 0, 0}, {0, 0, 0}},
               {{255, 0, 0}, {53.2408, 80.0925, 67.2032}},
               {{0, 255, 0}, {87.7347, -86.1827, 83.1793}},
               {{0, 0, 255}, {32.2970, 79.1875, -107.8602}},
               {{119, 119, 119}, {50.0344, 0, 0}},
               {{5, 5, 5}, {1.3709, 0, 0}}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    double lab[3];
    content_metrics_lab(cases[i].rgb, lab);
    for (int c = 0; c < 3; c++) assert_near(lab[c], cases[i].lab[c], 0.005);
  }
}

static void test_cells_are_means(void **state) {
  (void)state;
  double cells[7 * 9 * 3]; /* the last row is 2 high, the last column 4 wide */
  assert_int_equal(content_metrics_cell_count(HEIGHT, WIDTH), 63);
  for (int i = 0; i < PIXELS; i++) {
    a[3 * i] = (uint8_t)(i % WIDTH);
    a[3 * i + 1] = (uint8_t)(i / WIDTH);
    a[3 * i + 2] = 9;
  }
  content_metrics_cells(a, HEIGHT, WIDTH, cells);
  assert_near(cells[0], 3.5, 1e-12);
  assert_near(cells[1], 3.5, 1e-12);
  assert_near(cells[3 * 62], 65.5, 1e-12);
  assert_near(cells[3 * 62 + 1], 48.5, 1e-12);
  assert_near(cells[3 * 62 + 2], 9, 1e-12);
}

static void test_color_shift_has_signs(void **state) {
  (void)state;
  const double grey[6] = {119, 119, 119, 119, 119, 119};
  const double mixed[6] = {128, 119, 119, 110, 119, 119}; /* one redder, one greener */
  const double light[6] = {140, 140, 140, 140, 140, 140};
  ColorShift none = content_metrics_color_shift(grey, grey, 2);
  ColorShift both = content_metrics_color_shift(grey, mixed, 2);
  ColorShift up = content_metrics_color_shift(grey, light, 2);
  ColorShift down = content_metrics_color_shift(light, grey, 2);
  assert_true(none.delta_e == 0);
  assert_true(both.delta_e > 3 &&
              fabs(both.lab[1]) < 0.5); /* opposite shifts cancel in the drift */
  assert_true(up.lab[0] > 5 && fabs(up.lab[1]) < 1e-3 && fabs(up.lab[2]) < 1e-3);
  assert_near(up.lab[0], up.delta_e, 1e-6);
  assert_near(down.lab[0], -up.lab[0], 1e-12);
}

static void test_flicker(void **state) {
  (void)state;
  const double dark[3] = {10, 10, 10}, middle[3] = {20, 20, 20}, bright[3] = {30, 30, 30};
  assert_near(content_metrics_flicker(dark, dark, dark, 1), 0, 0);
  assert_near(content_metrics_flicker(dark, middle, bright, 1), 0, 1e-12); /* a fade */
  assert_near(content_metrics_flicker(dark, middle, dark, 1), 20, 1e-12);
  assert_near(content_metrics_flicker(dark, dark, bright, 1), 20, 1e-12);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_structure),       cmocka_unit_test(test_lab),
      cmocka_unit_test(test_cells_are_means), cmocka_unit_test(test_color_shift_has_signs),
      cmocka_unit_test(test_flicker),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
