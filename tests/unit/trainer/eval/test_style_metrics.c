/* Ink lines and flat areas of drawn pictures whose masks are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/random.h"
#include "trainer/eval/style_metrics.h"

enum { SIDE = 64, PIXELS = SIDE * SIDE };

static uint8_t picture[3 * PIXELS], mask[PIXELS];

static void fill(uint8_t value) {
  memset(picture, value, sizeof picture);
}

static void box(int top, int left, int height, int width, uint8_t value) {
  for (int y = top; y < top + height; y++)
    memset(picture + 3 * (y * SIDE + left), value, 3 * (size_t)width);
}

static int64_t lines(void) {
  return style_metrics_lines(picture, SIDE, SIDE, mask);
}

static int64_t flats(void) {
  return style_metrics_flats(picture, SIDE, SIDE, mask);
}

static int ones(int top, int left, int height, int width) {
  int count = 0;
  for (int y = top; y < top + height; y++)
    for (int x = left; x < left + width; x++) count += mask[y * SIDE + x];
  return count;
}

/* Strokes of one to five pixels are found over their length, and nothing far from them. */
static void test_strokes_are_lines(void **state) {
  (void)state;
  for (int thick = 1; thick <= 5; thick++) {
    fill(200);
    box(10, 30, 40, thick, 20);
    int64_t count = lines();
    assert_int_equal(count, ones(0, 0, SIDE, SIDE));
    assert_int_equal(ones(0, 0, SIDE, 27) + ones(0, 34 + thick, SIDE, SIDE - 34 - thick), 0);
    assert_true(count >= 36 && count <= 40 * (thick + 2));
    for (int y = 13; y < 47; y++) assert_true(ones(y, 30, 1, thick) > 0);
  }
}

static void test_diagonals_are_lines(void **state) {
  (void)state;
  for (int sign = -1; sign <= 1; sign += 2) {
    fill(180);
    for (int i = 8; i < 56; i++) box(i, sign > 0 ? i : SIDE - i, 1, 2, 10);
    lines();
    for (int i = 12; i < 52; i++) assert_true(ones(i, sign > 0 ? i : SIDE - i, 1, 2) > 0);
  }
}

/* Edges between areas, bright strokes, faint strokes and dots are none. */
static void test_others_are_no_lines(void **state) {
  (void)state;
  fill(200);
  box(0, 0, SIDE, 30, 20); /* a step */
  assert_int_equal(lines(), 0);
  fill(60);
  box(10, 30, 40, 2, 220);
  assert_int_equal(ones(10, 30, 40, 2), 0);
  fill(200);
  box(10, 30, 40, 2, 160); /* 80 % of the sides */
  assert_int_equal(lines(), 0);
  fill(24);
  box(10, 30, 40, 2, 12); /* less than 16 grey levels */
  assert_int_equal(lines(), 0);
  fill(200);
  box(30, 30, 2, 2, 10); /* a dot is shorter than a stroke */
  assert_true(ones(0, 0, SIDE, SIDE) == 0 && lines() <= 16);
  fill(200);
  box(30, 30, 1, 1, 10);
  assert_int_equal(lines(), 0);
}

/* One pixel above or below both limits: a wide plateau between its sides keeps its values. */
static void test_limits_of_contrast(void **state) {
  (void)state;
  const struct {
    uint8_t paper, ink;
    bool found;
  } cases[] = {{200, 60, true}, {200, 190, false}, {40, 8, true}, {20, 8, false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    fill(cases[i].paper);
    box(10, 30, 40, 3, cases[i].ink);
    assert_int_equal(lines() > 0, cases[i].found);
  }
}

static void test_flat_areas(void **state) {
  (void)state;
  fill(90);
  assert_int_equal(flats(), PIXELS);
  box(0, 32, SIDE, 32, 120); /* within 2 pixels of the edge nothing is flat: columns 30 to 33 */
  assert_int_equal(flats(), PIXELS - 4 * SIDE);
  assert_int_equal(ones(0, 30, SIDE, 4), 0);
  fill(90);
  box(20, 20, 1, 1, 92); /* a difference of 2 is flat, one of 3 is not */
  assert_int_equal(flats(), PIXELS);
  box(20, 20, 1, 1, 93);
  assert_int_equal(flats(), PIXELS - 25);
  assert_int_equal(style_metrics_flats(picture, SIDE, SIDE, NULL), PIXELS - 25);
}

static void test_slopes_and_noise_are_not_flat(void **state) {
  (void)state;
  for (int x = 0; x < SIDE; x++) box(0, x, SIDE, 1, (uint8_t)(2 * x));
  assert_int_equal(flats(), 0);
  for (int x = 0; x < SIDE; x++) box(0, x, SIDE, 1, (uint8_t)(x / 4));
  assert_int_equal(flats(), PIXELS);
  Random random = random_stream(1, RANDOM_TEST, 0, 0);
  for (int i = 0; i < PIXELS; i++) memset(picture + 3 * i, 100 + (int)random_below(&random, 12), 3);
  assert_int_equal(flats(), 0);
}

static void test_small_frames(void **state) {
  (void)state;
  fill(50);
  assert_int_equal(style_metrics_lines(picture, 1, 1, mask), 0);
  assert_int_equal(style_metrics_flats(picture, 1, 1, mask), 1);
  assert_int_equal(style_metrics_flats(picture, 3, 2, mask), 6);
}

static void set_column(uint8_t *to, int x, int first, int last) {
  for (int y = first; y < last; y++) to[y * SIDE + x] = 1;
}

static void test_matches_within_a_pixel(void **state) {
  (void)state;
  static uint8_t a[PIXELS], b[PIXELS];
  LineMatch sums = {0};
  set_column(a, 10, 0, 40);
  set_column(b, 11, 0, 20); /* found, one pixel away */
  set_column(b, 30, 0, 10); /* not found */
  style_metrics_match(a, b, SIDE, SIDE, &sums);
  /* Rows 0 to 20 of `a` have a neighbour in `b`. */
  assert_true(line_match_precision(&sums) == 21.0 / 40);
  assert_true(line_match_recall(&sums) == 20.0 / 30);
  double f1 = 2 * (21.0 / 40) * (20.0 / 30) / (21.0 / 40 + 20.0 / 30);
  assert_true(fabs(line_match_f1(&sums) - f1) < 1e-12);
  style_metrics_match(a, b, SIDE, SIDE, &sums); /* sums of frames, not means of ratios */
  assert_int_equal(sums.lines, 80);
  assert_true(line_match_precision(&sums) == 21.0 / 40);
}

static void test_ratios_without_lines(void **state) {
  (void)state;
  LineMatch none = {0}, only_target = {.target_lines = 5}, apart = {3, 0, 5, 0};
  assert_true(isnan(line_match_precision(&none)) && isnan(line_match_f1(&none)));
  assert_true(line_match_f1(&only_target) == 0 && isnan(line_match_precision(&only_target)));
  assert_true(line_match_f1(&apart) == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_strokes_are_lines),
      cmocka_unit_test(test_diagonals_are_lines),
      cmocka_unit_test(test_others_are_no_lines),
      cmocka_unit_test(test_limits_of_contrast),
      cmocka_unit_test(test_flat_areas),
      cmocka_unit_test(test_slopes_and_noise_are_not_flat),
      cmocka_unit_test(test_small_frames),
      cmocka_unit_test(test_matches_within_a_pixel),
      cmocka_unit_test(test_ratios_without_lines),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
