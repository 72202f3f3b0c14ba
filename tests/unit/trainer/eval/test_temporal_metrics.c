/* How films move, next to each other: a film that follows, one that does not, one that is blank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "trainer/eval/temporal_metrics.h"

enum { HEIGHT = 56, WIDTH = 64, FRAMES = 4, FRAME = HEIGHT * WIDTH * 3 };
enum { SOURCE, TARGET, NEGATIVE, STILL, BLANK, FLICKER, FILMS };

static uint8_t films[FILMS][FRAMES * FRAME];
static const uint8_t *const POINTERS[FILMS] = {films[SOURCE], films[TARGET], films[NEGATIVE],
                                               films[STILL],  films[BLANK],  films[FLICKER]};
static const CoherenceShape SHAPE = {
    .height = HEIGHT, .width = WIDTH, .films = FILMS, .source = SOURCE, .target = TARGET};

static double wave(int x, int y) {
  return sin(0.31 * x + 0.12 * y) + sin(0.08 * x - 0.27 * y + 1) + sin(0.19 * (x + y) + 2);
}

/* The source goes right by a pixel a frame, and so does the target, in other colours. */
static int make_films(void **state) {
  (void)state;
  for (int t = 0; t < FRAMES; t++)
    for (int i = 0; i < FRAME; i++) {
      int x = i / 3 % WIDTH, y = i / 3 / WIDTH, at = t * FRAME + i;
      uint8_t moving = (uint8_t)lrint(127.5 + 40 * wave(x - t, y));
      films[SOURCE][at] = moving;
      films[TARGET][at] = (uint8_t)(moving / 2 + 60);
      films[NEGATIVE][at] = (uint8_t)(255 - moving);
      films[STILL][at] = films[SOURCE][i];
      films[BLANK][at] = 90;
      films[FLICKER][at] = (uint8_t)(moving + (t % 2 ? 4 : -4));
    }
  return 0;
}

static Coherence *score(int frames) {
  Coherence *coherence;
  Error error;
  if (coherence_new(&SHAPE, 1, &coherence, &error) != OK) fail_msg("%s", error.message);
  coherence_add(coherence, POINTERS, frames);
  return coherence;
}

static void test_who_follows(void **state) {
  (void)state;
  Coherence *c = score(FRAMES);
  assert_true(coherence_tof(c, TARGET) == 0);
  assert_true(coherence_tof(c, NEGATIVE) < 0.1);
  assert_true(coherence_tof(c, STILL) > 0.8 && coherence_tof(c, STILL) < 1.2);
  assert_true(coherence_tof(c, BLANK) > 0.8 && coherence_tof(c, BLANK) < 1.2);
  assert_true(coherence_visible(c) > 0.6 && coherence_visible(c) <= 1);
  coherence_free(c);
}

static void test_what_changes_along_the_way(void **state) {
  (void)state;
  Coherence *c = score(FRAMES);
  double source = coherence_warp_error(c, SOURCE);
  assert_true(source < 5e-5);
  assert_true(coherence_warp_error(c, TARGET) < source); /* half the contrast */
  assert_true(coherence_warp_error(c, BLANK) < 1e-20);   /* what it is: no picture, no error */
  assert_true(coherence_warp_error(c, STILL) > 5 * source);
  /* 8 levels from frame to frame: 9.8e-4. */
  assert_true(fabs(coherence_warp_error(c, FLICKER) - 8.0 * 8 / 255 / 255) < 2e-4);
  coherence_free(c);
}

static void test_clips_add_up(void **state) {
  (void)state;
  Coherence *once = score(FRAMES), *twice = score(FRAMES);
  coherence_add(twice, POINTERS, FRAMES); /* nothing carries over from the clip before */
  coherence_add(twice, POINTERS, 1);      /* and this one says nothing */
  for (int i = 0; i < FILMS; i++) {
    assert_true(fabs(coherence_tof(twice, i) - coherence_tof(once, i)) < 1e-12);
    assert_true(fabs(coherence_warp_error(twice, i) - coherence_warp_error(once, i)) < 1e-12);
  }
  assert_true(fabs(coherence_visible(twice) - coherence_visible(once)) < 1e-12);
  coherence_free(once);
  coherence_free(twice);
}

static void test_single_frames_have_no_motion(void **state) {
  (void)state;
  Coherence *c = score(1);
  assert_true(isnan(coherence_tof(c, STILL)) && isnan(coherence_warp_error(c, STILL)));
  assert_true(isnan(coherence_visible(c)));
  coherence_free(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_who_follows),
      cmocka_unit_test(test_what_changes_along_the_way),
      cmocka_unit_test(test_clips_add_up),
      cmocka_unit_test(test_single_frames_have_no_motion),
  };
  return cmocka_run_group_tests(tests, make_films, NULL);
}
