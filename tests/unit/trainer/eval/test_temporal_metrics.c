/* Motion metrics of videos that follow the source, stand still, are blank or flicker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "trainer/eval/temporal_metrics.h"

enum { HEIGHT = 56, WIDTH = 64, FRAMES = 4, FRAME = HEIGHT * WIDTH * 3 };
enum { SOURCE, TARGET, INVERTED, STILL, BLANK, FLICKER, VIDEOS };

static uint8_t clips[VIDEOS][FRAMES * FRAME];
static const uint8_t *const CLIPS[VIDEOS] = {clips[SOURCE], clips[TARGET], clips[INVERTED],
                                             clips[STILL],  clips[BLANK],  clips[FLICKER]};
static const TemporalMetricsOptions OPTIONS = {
    .height = HEIGHT, .width = WIDTH, .videos = VIDEOS, .source = SOURCE, .target = TARGET};

static double wave(int x, int y) {
  return sin(0.31 * x + 0.12 * y) + sin(0.08 * x - 0.27 * y + 1) + sin(0.19 * (x + y) + 2);
}

/* Source and target move right by one pixel per frame; the target has half the contrast. */
static int make_clips(void **state) {
  (void)state;
  for (int t = 0; t < FRAMES; t++)
    for (int i = 0; i < FRAME; i++) {
      int x = i / 3 % WIDTH, y = i / 3 / WIDTH, at = t * FRAME + i;
      uint8_t moving = (uint8_t)lrint(127.5 + 40 * wave(x - t, y));
      clips[SOURCE][at] = moving;
      clips[TARGET][at] = (uint8_t)(moving / 2 + 60);
      clips[INVERTED][at] = (uint8_t)(255 - moving);
      clips[STILL][at] = clips[SOURCE][i];
      clips[BLANK][at] = 90;
      clips[FLICKER][at] = (uint8_t)(moving + (t % 2 ? 4 : -4));
    }
  return 0;
}

static TemporalMetrics *score(int frames) {
  TemporalMetrics *metrics;
  Error error;
  if (temporal_metrics_new(&OPTIONS, 1, &metrics, &error) != OK) fail_msg("%s", error.message);
  temporal_metrics_add(metrics, CLIPS, frames);
  return metrics;
}

static void test_tof_measures_missing_motion(void **state) {
  (void)state;
  TemporalMetrics *c = score(FRAMES);
  assert_true(temporal_metrics_tof(c, TARGET) == 0);
  assert_true(temporal_metrics_tof(c, INVERTED) < 0.1);
  assert_true(temporal_metrics_tof(c, STILL) > 0.8 && temporal_metrics_tof(c, STILL) < 1.2);
  assert_true(temporal_metrics_tof(c, BLANK) > 0.8 && temporal_metrics_tof(c, BLANK) < 1.2);
  assert_true(temporal_metrics_visible_fraction(c) > 0.6 &&
              temporal_metrics_visible_fraction(c) <= 1);
  temporal_metrics_free(c);
}

static void test_warp_error_measures_change_along_the_flow(void **state) {
  (void)state;
  TemporalMetrics *c = score(FRAMES);
  double source = temporal_metrics_warp_error(c, SOURCE);
  assert_true(source < 5e-5);
  assert_true(temporal_metrics_warp_error(c, TARGET) < source); /* half the contrast */
  assert_true(temporal_metrics_warp_error(c, BLANK) < 1e-20);   /* a blank video has no error */
  assert_true(temporal_metrics_warp_error(c, STILL) > 5 * source);
  /* A flicker of 8 levels: 9.8e-4. */
  assert_true(fabs(temporal_metrics_warp_error(c, FLICKER) - 8.0 * 8 / 255 / 255) < 2e-4);
  temporal_metrics_free(c);
}

static void test_result_is_the_mean_over_clips(void **state) {
  (void)state;
  TemporalMetrics *once = score(FRAMES), *twice = score(FRAMES);
  temporal_metrics_add(twice, CLIPS, FRAMES); /* no state is kept from the previous clip */
  temporal_metrics_add(twice, CLIPS, 1);      /* a clip of one frame has no pairs */
  for (int i = 0; i < VIDEOS; i++) {
    assert_true(fabs(temporal_metrics_tof(twice, i) - temporal_metrics_tof(once, i)) < 1e-12);
    assert_true(fabs(temporal_metrics_warp_error(twice, i) - temporal_metrics_warp_error(once, i)) <
                1e-12);
  }
  assert_true(fabs(temporal_metrics_visible_fraction(twice) -
                   temporal_metrics_visible_fraction(once)) < 1e-12);
  temporal_metrics_free(once);
  temporal_metrics_free(twice);
}

static void test_single_frames_give_nan(void **state) {
  (void)state;
  TemporalMetrics *c = score(1);
  assert_true(isnan(temporal_metrics_tof(c, STILL)) &&
              isnan(temporal_metrics_warp_error(c, STILL)));
  assert_true(isnan(temporal_metrics_visible_fraction(c)));
  temporal_metrics_free(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tof_measures_missing_motion),
      cmocka_unit_test(test_warp_error_measures_change_along_the_flow),
      cmocka_unit_test(test_result_is_the_mean_over_clips),
      cmocka_unit_test(test_single_frames_give_nan),
  };
  return cmocka_run_group_tests(tests, make_clips, NULL);
}
