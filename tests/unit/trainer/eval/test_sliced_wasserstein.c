/* The pyramid can be undone; the distance is 0 for equal sets, grows with the difference, ignores
 * what the normalisation removes, and does not depend on threads. NumPy: tests/oracle/test_eval.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/random.h"
#include "trainer/eval/laplacian_pyramid.h"
#include "trainer/eval/sliced_wasserstein.h"

enum { HEIGHT = 37, WIDTH = 50, PIXELS = HEIGHT * WIDTH, FRAMES = 3 };

static void noise(uint64_t seed, int amplitude, uint8_t *out) {
  Random random = random_stream(seed, RANDOM_TEST, 0, 0);
  for (int i = 0; i < 3 * PIXELS; i++)
    out[i] = (uint8_t)(128 + 2 * (int)random_below(&random, (uint64_t)(amplitude + 1)) - amplitude);
}

static PatchSet *set_of(const uint8_t *frame, int frames) {
  PatchSet *set;
  Error error;
  if (patch_set_new(HEIGHT, WIDTH, frames, &set, &error) != OK) fail_msg("%s", error.message);
  for (int i = 0; i < frames; i++) assert_int_equal(patch_set_add(set, frame, i, &error), OK);
  return set;
}

static void distances(const uint8_t *a, const uint8_t *b, int threads, double *out) {
  Error error;
  PatchSet *first = set_of(a, FRAMES), *second = set_of(b, FRAMES);
  assert_int_equal(swd_distance(first, second, threads, out, &error), OK);
  patch_set_free(first);
  patch_set_free(second);
}

static void test_levels(void **state) {
  (void)state;
  assert_int_equal(swd_levels(15, 100), 0);
  assert_int_equal(swd_levels(16, 100), 1);
  assert_int_equal(swd_levels(31, 31), 2); /* 31, 16 */
  assert_int_equal(swd_levels(136, 320), 4);
  assert_int_equal(swd_levels(HEIGHT, WIDTH), 2);
}

/* Adding the expanded next level to a level of the pyramid gives the image: what the pyramid keeps
 * of a constant image is its low-pass level, and of a ramp the differences vanish inside. */
static void test_pyramid_of_simple_images(void **state) {
  (void)state;
  static uint8_t frame[3 * PIXELS];
  LaplacianPyramid pyramid;
  Error error;
  assert_int_equal(laplacian_pyramid_new(HEIGHT, WIDTH, 3, &pyramid, &error), OK);
  memset(frame, 77, sizeof frame);
  laplacian_pyramid_build(&pyramid, frame);
  for (int i = 0; i < 3; i++) {
    const PyramidLevel *level = &pyramid.levels[i];
    for (int k = 0; k < 3 * level->height * level->width; k++)
      assert_true(fabsf(level->pixels[k] - (i == 2 ? 77 : 0)) < 1e-4f);
  }
  assert_int_equal(pyramid.levels[2].height, 10);
  assert_int_equal(pyramid.levels[2].width, 13);
  for (int i = 0; i < 3 * PIXELS; i++) frame[i] = (uint8_t)(i / 3 % WIDTH * 4);
  laplacian_pyramid_build(&pyramid, frame);
  for (int y = 8; y < HEIGHT - 8; y++)
    for (int x = 8; x < WIDTH - 8; x++)
      assert_true(fabsf(pyramid.levels[0].pixels[3 * (y * WIDTH + x)]) < 1e-3f);
  laplacian_pyramid_free(&pyramid);
}

static void test_equal_sets_have_distance_0(void **state) {
  (void)state;
  static uint8_t a[3 * PIXELS];
  double out[SWD_MAX_LEVELS];
  noise(1, 40, a);
  distances(a, a, 1, out);
  assert_true(out[0] == 0 && out[1] == 0);
}

/* Contrast and brightness of each channel are normalised away, differences of pattern are not. */
static void test_pattern_counts(void **state) {
  (void)state;
  static uint8_t a[3 * PIXELS], half[3 * PIXELS], other[3 * PIXELS], stripes[3 * PIXELS];
  double same[SWD_MAX_LEVELS], near[SWD_MAX_LEVELS], far[SWD_MAX_LEVELS];
  noise(1, 40, a);
  noise(2, 40, other);
  for (int i = 0; i < 3 * PIXELS; i++) {
    half[i] = (uint8_t)(a[i] / 2 + 20);
    stripes[i] = i / 3 % WIDTH / 4 % 2 ? 200 : 50;
  }
  distances(a, half, 1, same);
  distances(a, other, 1, near);
  distances(a, stripes, 1, far);
  for (int level = 0; level < 2; level++) {
    assert_true(same[level] < 0.01);
    assert_true(same[level] < near[level] && near[level] < 0.5 * far[level]);
  }
}

static void test_threads_change_nothing(void **state) {
  (void)state;
  static uint8_t a[3 * PIXELS], b[3 * PIXELS];
  double one[SWD_MAX_LEVELS], three[SWD_MAX_LEVELS], swapped[SWD_MAX_LEVELS];
  noise(1, 40, a);
  noise(2, 20, b);
  distances(a, b, 1, one);
  distances(a, b, 3, three);
  distances(b, a, 2, swapped);
  assert_memory_equal(one, three, 2 * sizeof *one);
  assert_memory_equal(one, swapped, 2 * sizeof *one);
}

static void test_limits(void **state) {
  (void)state;
  static uint8_t a[3 * PIXELS];
  Error error;
  PatchSet *small = NULL, *one = set_of(a, 1), *two = set_of(a, 2);
  double out[SWD_MAX_LEVELS];
  assert_int_equal(patch_set_new(15, 64, 1, &small, &error), ERROR_INTERNAL);
  assert_null(small);
  assert_int_equal(patch_set_add(one, a, 1, &error), ERROR_INTERNAL);
  assert_int_equal(swd_distance(one, two, 1, out, &error), ERROR_INTERNAL);
  patch_set_free(one);
  patch_set_free(two);
  /* A blank set has no deviation to divide by. */
  distances(a, a, 1, out);
  assert_true(out[0] == 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_levels),
      cmocka_unit_test(test_pyramid_of_simple_images),
      cmocka_unit_test(test_equal_sets_have_distance_0),
      cmocka_unit_test(test_pattern_counts),
      cmocka_unit_test(test_threads_change_nothing),
      cmocka_unit_test(test_limits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
