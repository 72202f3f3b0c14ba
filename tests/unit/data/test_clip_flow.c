/* The flow between the frames of a clip: its direction, its mask, and the estimator it comes from.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/flow/clip_flow.h"
#include "data/flow/optical_flow.h"
#include "data/flow/visibility.h"

enum { HEIGHT = 96, WIDTH = 128, PIXELS = HEIGHT * WIDTH, FRAMES = 3 };

static Error error;

static void check(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* Waves of several lengths and directions, so that every region is distinct. */
static double wave_at(double x, double y) {
  double value = sin(0.31 * x + 0.12 * y) + sin(0.08 * x - 0.27 * y + 1) + sin(0.19 * (x + y) + 2) +
                 sin(0.05 * x - 0.06 * y);
  return 127.5 + 31 * value;
}

/* A pattern that moves by (dx, dy) pixels a frame, with its colours in the first three channels and
 * noise in the others. */
static uint8_t *moving_clip(int channels, double dx, double dy) {
  uint8_t *clip = mem_new((size_t)FRAMES * PIXELS, (size_t)channels), *out = clip;
  for (int t = 0; t < FRAMES; t++)
    for (int y = 0; y < HEIGHT; y++)
      for (int x = 0; x < WIDTH; x++) {
        uint8_t value = (uint8_t)lrint(wave_at(x - t * dx, y - t * dy));
        for (int c = 0; c < channels; c++) *out++ = c < 3 ? value : (uint8_t)(37 * x + 91 * y * t);
      }
  return clip;
}

typedef struct Result {
  float *flow, *mask;
} Result;

static Result compute(const uint8_t *clip, int channels) {
  ClipFlow *clip_flow = NULL;
  Result result = {mem_new((size_t)(FRAMES - 1) * PIXELS * 2, sizeof(float)),
                   mem_new((size_t)(FRAMES - 1) * PIXELS, sizeof(float))};
  check(clip_flow_new(HEIGHT, WIDTH, &clip_flow, &error));
  clip_flow_compute(clip_flow, clip, FRAMES, channels, result.flow, result.mask);
  clip_flow_free(clip_flow);
  return result;
}

static void free_result(Result *result) {
  free(result->flow);
  free(result->mask);
}

/* The flow points from a frame back to the frame before it: against the motion. */
static void test_frame_sampled_at_the_flow_is_the_next_frame(void **state) {
  (void)state;
  uint8_t *clip = moving_clip(3, 2, -1);
  Result found = compute(clip, 3);
  for (int t = 0; t < FRAMES - 1; t++)
    for (int y = 24; y < HEIGHT - 24; y++)
      for (int x = 24; x < WIDTH - 24; x++) {
        size_t pixel = (size_t)((t * HEIGHT + y) * WIDTH + x);
        const float *f = found.flow + 2 * pixel;
        if (fabs(f[0] + 2.0) > 0.06 || fabs(f[1] - 1.0) > 0.06 || found.mask[pixel] != 1)
          fail_msg("t %d at (%d, %d): (%g, %g), mask %g", t, x, y, (double)f[0], (double)f[1],
                   (double)found.mask[pixel]);
        double from_x = x + (double)f[0], from_y = y + (double)f[1];
        double sampled = wave_at(from_x - t * 2, from_y + t), next = clip[3 * (pixel + PIXELS)];
        assert_true(fabs(sampled - next) < 2);
      }
  free_result(&found);
  free(clip);
}

/* A square that moves over a still pattern by 6 pixels a frame hides some of it and uncovers some.
 */
static void test_mask_is_zero_at_motion_boundaries(void **state) {
  (void)state;
  uint8_t *clip = moving_clip(3, 0, 0);
  enum { REACH = 16 }; /* the estimator averages over windows of 15 pixels */
  int left = 0, right = 0, elsewhere = 0;
  for (int t = 0; t < FRAMES; t++)
    for (int y = 32; y < 64; y++)
      for (int x = 40; x < 72; x++)
        memset(clip + 3 * ((t * HEIGHT + y) * WIDTH + x + 6 * t),
               (int)lrint(255 - wave_at(1.7 * x, 1.3 * y)), 3);
  Result found = compute(clip, 3);
  for (int y = 36; y < 60; y++)
    for (int x = 0; x < WIDTH; x++) {
      float mask = found.mask[y * WIDTH + x];
      assert_true(mask == 0 || mask == 1);
      left += abs(x - 46) <= REACH && mask == 0;
      right += abs(x - 78) <= REACH && mask == 0;
      elsewhere += abs(x - 46) > REACH && abs(x - 78) > REACH && mask == 0;
    }
  assert_true(left > 24 * 6 && right > 24 * 4);
  assert_int_equal(elsewhere, 0);
  free_result(&found);
  free(clip);
}

/* The same bytes as from the estimator and the visibility test, frame by frame; channels above the
 * third do not matter. */
static void test_equals_the_estimator(void **state) {
  (void)state;
  uint8_t *three = moving_clip(3, 1.5, 2), *six = moving_clip(6, 1.5, 2);
  Result found = compute(three, 3), stacked = compute(six, 6);
  Flow *flow = NULL;
  FlowPyramid *pyramids[FRAMES] = {NULL};
  uint8_t *grey = mem_new(PIXELS, 1), *visible = mem_new(PIXELS, 1);
  float *back = mem_new(2 * PIXELS, sizeof *back), *forth = mem_new(2 * PIXELS, sizeof *forth);
  check(flow_new(HEIGHT, WIDTH, 1, &flow, &error));
  for (int t = 0; t < FRAMES; t++) {
    check(flow_pyramid_new(flow, &pyramids[t], &error));
    flow_grey(three + (size_t)t * 3 * PIXELS, PIXELS, grey);
    flow_expand(flow, grey, pyramids[t]);
  }
  for (int t = 0; t < FRAMES - 1; t++) {
    flow_between(flow, pyramids[t + 1], pyramids[t], back);
    flow_between(flow, pyramids[t], pyramids[t + 1], forth);
    flow_visibility(back, forth, HEIGHT, WIDTH, visible);
    assert_memory_equal(found.flow + (size_t)t * 2 * PIXELS, back, 2 * PIXELS * sizeof *back);
    for (int i = 0; i < PIXELS; i++) assert_true(found.mask[t * PIXELS + i] == (float)visible[i]);
  }
  assert_memory_equal(found.flow, stacked.flow, (FRAMES - 1) * 2 * PIXELS * sizeof(float));
  assert_memory_equal(found.mask, stacked.mask, (FRAMES - 1) * PIXELS * sizeof(float));
  for (int t = 0; t < FRAMES; t++) flow_pyramid_free(pyramids[t]);
  flow_free(flow);
  free(grey);
  free(visible);
  free(back);
  free(forth);
  free_result(&found);
  free_result(&stacked);
  free(three);
  free(six);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_frame_sampled_at_the_flow_is_the_next_frame),
      cmocka_unit_test(test_mask_is_zero_at_motion_boundaries),
      cmocka_unit_test(test_equals_the_estimator),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
