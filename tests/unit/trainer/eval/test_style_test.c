/* The two-sample test on drawn frames: noise against flat boxes with outlines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/eval/style_classifier.h"
#include "trainer/eval/style_test.h"

enum { HEIGHT = 40, WIDTH = 48, PIXELS = HEIGHT * WIDTH, SIDE = 16, FRAMES = 12, STEPS = 40 };

static uint8_t frame[3 * PIXELS];

/* Smooth texture of a random phase and colour. */
static void texture(uint64_t number) {
  Random random = random_stream(number, RANDOM_TEST, 0, 0);
  double phase = 6 * random_uniform(&random), tilt = random_uniform(&random);
  for (int i = 0; i < 3 * PIXELS; i++) {
    int x = i / 3 % WIDTH, y = i / 3 / WIDTH;
    double wave = sin(0.5 * x + tilt * y + phase) + sin(0.4 * y - 0.3 * x * tilt + 2 * phase);
    frame[i] = (uint8_t)lrint(128 + 45 * wave);
  }
}

/* Flat boxes of random brightness with black outlines. */
static void drawing(uint64_t number) {
  Random random = random_stream(number, RANDOM_TEST, 1, 0);
  memset(frame, 150, sizeof frame);
  for (int n = 0; n < 12; n++) {
    int top = (int)random_below(&random, HEIGHT - 12),
        left = (int)random_below(&random, WIDTH - 12);
    int value = 80 + (int)random_below(&random, 170);
    for (int y = 0; y < 12; y++)
      for (int x = 0; x < 12; x++) {
        bool outline = y < 2 || y >= 10 || x < 2 || x >= 10;
        memset(frame + 3 * ((top + y) * WIDTH + left + x), outline ? 5 : value, 3);
      }
  }
}

static void test_side(void **state) {
  (void)state;
  assert_int_equal(style_patch_side(720, 1280), 64);
  assert_int_equal(style_patch_side(64, 64), 64);
  assert_int_equal(style_patch_side(63, 200), 56);
  assert_int_equal(style_patch_side(16, 24), 16);
  assert_int_equal(style_patch_side(15, 24), 0);
}

static StyleTest *collect(int candidates) {
  StyleTest *test;
  Error error;
  if (style_test_new(SIDE, candidates, &test, &error) != OK) fail_msg("%s", error.message);
  for (int i = 0; i < FRAMES; i++) {
    FramePosition at = {HEIGHT, WIDTH, i, FRAMES};
    texture((uint64_t)i);
    style_test_add_source(test, frame, &at);
    drawing((uint64_t)i);
    style_test_add_cartoon(test, frame, &at);
    if (candidates == 0) continue;
    texture(100 + (uint64_t)i);
    style_test_add_candidate(test, 0, frame, &at);
    drawing(100 + (uint64_t)i);
    style_test_add_candidate(test, 1, frame, &at);
  }
  return test;
}

static Backend *backend_of(int threads) {
  Backend *backend;
  Error error;
  if (backend_cpu_new(threads, &backend, &error) != OK) fail_msg("%s", error.message);
  return backend;
}

static void test_tells_textures_from_drawings(void **state) {
  (void)state;
  Error error;
  Backend *backend = backend_of(1);
  StyleTest *test = collect(2);
  StyleTestResult result;
  if (style_test_run(test, backend, 1, &result, &error) != OK) fail_msg("%s", error.message);
  assert_true(result.trained && result.accuracy > 0.95);
  assert_true(result.source < 0.1 && result.cartoons > 0.9 && result.threshold >= 0);
  assert_true(result.candidates[0] < 0.1 && result.candidates[1] > 0.9);
  assert_true(fabs(result.accuracy - (1 - result.source + result.cartoons) / 2) < 1e-12);
  style_test_free(test);
  backend->free(backend);
}

static void test_needs_four_frames(void **state) {
  (void)state;
  Error error;
  Backend *backend = backend_of(1);
  StyleTest *test;
  StyleTestResult result;
  assert_int_equal(style_test_new(SIDE, 1, &test, &error), OK);
  for (int i = 0; i < 4; i++) {
    FramePosition source = {HEIGHT, WIDTH, i, 4}, cartoon = {HEIGHT, WIDTH, i, 3};
    texture(1);
    style_test_add_source(test, frame, &source);
    if (i < 3) style_test_add_cartoon(test, frame, &cartoon);
  }
  assert_int_equal(style_test_run(test, backend, 1, &result, &error), OK);
  assert_true(!result.trained && isnan(result.accuracy) && isnan(result.candidates[0]));
  style_test_free(test);
  backend->free(backend);
}

/* A blank frame has no other places; the capacity is kept. */
static void test_capacity(void **state) {
  (void)state;
  StylePatches patches;
  Error error;
  assert_int_equal(style_patches_new(SIDE, 5, &patches, &error), OK);
  memset(frame, 9, sizeof frame);
  style_patches_add(&patches, frame, HEIGHT, WIDTH, 3, 1);
  style_patches_add(&patches, frame, HEIGHT, WIDTH, 3, 2); /* up to the capacity */
  assert_int_equal(patches.count, 5);
  for (int i = 0; i < 5 * SIDE * SIDE * 3; i++) assert_int_equal(patches.pixels[i], 9);
  style_patches_free(&patches);
}

/* Equal numbers cut at equal positions; blank places are avoided. */
static void test_positions(void **state) {
  (void)state;
  StylePatches a, b;
  Error error;
  assert_int_equal(style_patches_new(SIDE, 8, &a, &error), OK);
  assert_int_equal(style_patches_new(SIDE, 8, &b, &error), OK);
  texture(1);
  style_patches_add(&a, frame, HEIGHT, WIDTH, 8, 5);
  style_patches_add(&b, frame, HEIGHT, WIDTH, 8, 5);
  assert_memory_equal(a.pixels, b.pixels, 8 * SIDE * SIDE * 3);
  b.count = 0;
  style_patches_add(&b, frame, HEIGHT, WIDTH, 8, 6);
  assert_memory_not_equal(a.pixels, b.pixels, 8 * SIDE * SIDE * 3);
  for (int y = 0; y < HEIGHT; y++) memset(frame + 3 * y * WIDTH, 128, 3 * WIDTH / 2);
  a.count = 0;
  style_patches_add(&a, frame, HEIGHT, WIDTH, 8, 5);
  int blank = 0;
  for (int i = 0; i < 8; i++) {
    const uint8_t *patch = a.pixels + i * SIDE * SIDE * 3;
    blank += memcmp(patch, patch + 3, 3 * (SIDE * SIDE - 1)) == 0;
  }
  assert_int_equal(blank, 0);
  style_patches_free(&a);
  style_patches_free(&b);
}

static void test_jitter(void **state) {
  (void)state;
  static uint8_t patch[SIDE * SIDE * 3], first[SIDE * SIDE * 3], second[SIDE * SIDE * 3];
  int different = 0;
  for (int i = 0; i < SIDE * SIDE * 3; i++) patch[i] = (uint8_t)(7 * i);
  for (uint64_t n = 0; n < 20; n++) {
    Random one = random_stream(n, RANDOM_TEST, 0, 0), same = one,
           other = random_stream(n, RANDOM_TEST, 1, 0);
    style_patch_jitter(patch, SIDE, 0.6, &one, first);
    style_patch_jitter(patch, SIDE, 0.6, &same, second);
    assert_memory_equal(first, second, sizeof first);
    style_patch_jitter(patch, SIDE, 0.6, &other, second);
    different += memcmp(first, second, sizeof first) != 0;
  }
  assert_int_equal(different, 20);
}

/* The number of threads that prepare batches changes nothing. */
static void test_threads(void **state) {
  (void)state;
  Error error;
  Backend *backend = backend_of(1);
  StylePatches sources, cartoons;
  float logits[2][40];
  assert_int_equal(style_patches_new(SIDE, 40, &sources, &error), OK);
  assert_int_equal(style_patches_new(SIDE, 40, &cartoons, &error), OK);
  for (int i = 0; i < 10; i++) {
    texture((uint64_t)i);
    style_patches_add(&sources, frame, HEIGHT, WIDTH, 4, i);
    drawing((uint64_t)i);
    style_patches_add(&cartoons, frame, HEIGHT, WIDTH, 4, i);
  }
  for (int i = 0; i < 2; i++) {
    StyleClassifier *classifier;
    assert_int_equal(style_classifier_new(backend, SIDE, &classifier, &error), OK);
    assert_int_equal(
        style_classifier_train(classifier, &sources, &cartoons, STEPS, 1 + 2 * i, &error), OK);
    assert_int_equal(style_classifier_logits(classifier, &sources, logits[i], &error), OK);
    style_classifier_free(classifier);
  }
  assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
  style_patches_free(&sources);
  style_patches_free(&cartoons);
  backend->free(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_side),
      cmocka_unit_test(test_tells_textures_from_drawings),
      cmocka_unit_test(test_needs_four_frames),
      cmocka_unit_test(test_capacity),
      cmocka_unit_test(test_positions),
      cmocka_unit_test(test_jitter),
      cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
