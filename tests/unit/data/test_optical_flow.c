/* Optical flow of images with known motion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/flow/optical_flow.h"

static Error error;

static void check(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* Waves of several lengths and directions, so that every region is distinct. */
static uint8_t wave_at(double x, double y) {
  double value = sin(0.31 * x + 0.12 * y) + sin(0.08 * x - 0.27 * y + 1) + sin(0.19 * (x + y) + 2) +
                 sin(0.05 * x - 0.06 * y);
  return (uint8_t)lrint(127.5 + 31 * value);
}

typedef struct Fixture {
  int height, width;
  uint8_t *a, *b;
  float *flow; /* [height,width,2] */
} Fixture;

static Fixture begin(int height, int width) {
  size_t pixels = (size_t)height * (size_t)width;
  return (Fixture){height, width, mem_new(pixels, 1), mem_new(pixels, 1),
                   mem_new(2 * pixels, sizeof(float))};
}

static void end(Fixture *f) {
  free(f->a);
  free(f->b);
  free(f->flow);
}

/* Pixel (x, y) of a is found at (x + dx, y + dy) in b. */
static Fixture translated(int height, int width, double dx, double dy) {
  Fixture f = begin(height, width);
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
      f.a[y * width + x] = wave_at(x, y);
      f.b[y * width + x] = wave_at(x - dx, y - dy);
    }
  return f;
}

static void compute(const Fixture *f, int threads) {
  Flow *flow = NULL;
  FlowPyramid *a = NULL, *b = NULL;
  check(flow_new(f->height, f->width, threads, &flow, &error));
  check(flow_pyramid_new(flow, &a, &error));
  check(flow_pyramid_new(flow, &b, &error));
  flow_expand(flow, f->a, a);
  flow_expand(flow, f->b, b);
  flow_between(flow, a, b, f->flow);
  flow_pyramid_free(a);
  flow_pyramid_free(b);
  flow_free(flow);
}

/* Checks the flow away from the borders, across which content enters and leaves. */
static void check_translation(int height, int width, double dx, double dy, double tolerance) {
  Fixture f = translated(height, width, dx, dy);
  int margin = 24;
  compute(&f, 1);
  for (int y = margin; y < height - margin; y++)
    for (int x = margin; x < width - margin; x++) {
      const float *d = f.flow + 2 * (size_t)(y * width + x);
      if (fabs(d[0] - dx) > tolerance || fabs(d[1] - dy) > tolerance)
        fail_msg("%dx%d at (%d, %d): (%g, %g), expected (%g, %g)", width, height, x, y,
                 (double)d[0], (double)d[1], dx, dy);
    }
  end(&f);
}

static void test_translation(void **state) {
  (void)state;
  check_translation(96, 128, 1, 0, 0.06);
  check_translation(96, 128, 0, -2, 0.06);
  check_translation(97, 131, 0.5, 0.25, 0.06); /* odd sides */
  check_translation(256, 320, -9, 6, 0.1);     /* farther than one window */
}

static void test_forward_and_backward_flow_cancel(void **state) {
  (void)state;
  Fixture f = translated(96, 128, 2, -1), back = translated(96, 128, 2, -1);
  memcpy(back.a, f.b, 96 * 128);
  memcpy(back.b, f.a, 96 * 128);
  compute(&f, 1);
  compute(&back, 1);
  for (size_t i = 0; i < 2; i++) {
    size_t middle = 2 * (size_t)(48 * 128 + 64) + i;
    assert_true(fabsf(f.flow[middle] + back.flow[middle]) < 0.02F);
  }
  end(&f);
  end(&back);
}

/* A flat image has no motion. */
static void check_flat(int height, int width) {
  Fixture f = begin(height, width);
  memset(f.a, 200, (size_t)(height * width));
  memset(f.b, 200, (size_t)(height * width));
  compute(&f, 1);
  for (int i = 0; i < 2 * height * width; i++)
    if (!(fabsf(f.flow[i]) <= 1e-6F)) fail_msg("%dx%d: %g", width, height, (double)f.flow[i]);
  end(&f);
}

/* The second image counts as unknown in the last column and row, hence the tolerance. */
static void test_static_images_have_no_flow(void **state) {
  (void)state;
  check_flat(64, 80);
  check_flat(33, 65);
  check_translation(96, 128, 0, 0, 0.03);
}

static void test_tiny_images(void **state) {
  (void)state;
  static const int SIDES[] = {1, 2, 3, 8, 9, 10, 11, 31};
  for (size_t h = 0; h < sizeof SIDES / sizeof *SIDES; h++)
    for (size_t w = 0; w < sizeof SIDES / sizeof *SIDES; w++) {
      check_flat(SIDES[h], SIDES[w]);
      Fixture f = translated(SIDES[h], SIDES[w], 1, 0);
      compute(&f, 2);
      for (int i = 0; i < 2 * SIDES[h] * SIDES[w]; i++) assert_true(isfinite(f.flow[i]));
      end(&f);
    }
}

static void test_result_does_not_depend_on_threads(void **state) {
  (void)state;
  Fixture one = translated(100, 90, 3, 1), four = translated(100, 90, 3, 1);
  compute(&one, 1);
  compute(&four, 4);
  assert_memory_equal(one.flow, four.flow, (size_t)2 * 100 * 90 * sizeof(float));
  end(&one);
  end(&four);
}

static void test_grey_is_rounded_luma(void **state) {
  (void)state;
  const uint8_t rgb[5 * 3] = {0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 255, 0, 10, 20, 33};
  const uint8_t expected[5] = {0, 255, 76, 150, 18}; /* 76.2, 149.7, 18.5 */
  uint8_t grey[5];
  flow_grey(rgb, 5, grey);
  assert_memory_equal(grey, expected, sizeof grey);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_translation),
      cmocka_unit_test(test_forward_and_backward_flow_cancel),
      cmocka_unit_test(test_static_images_have_no_flow),
      cmocka_unit_test(test_tiny_images),
      cmocka_unit_test(test_result_does_not_depend_on_threads),
      cmocka_unit_test(test_grey_is_rounded_luma),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
