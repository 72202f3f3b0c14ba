/* The random numbers of a step: they depend on the sample's number alone, not on its micro-batch,
 * and motion scales with the frames. (tests/oracle computes them from their definitions.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support_gan.h"
#include "trainer/gan/internal.h"

/* A GAN that needs all inputs but interpolation weights, with `micro_batch` samples of `side`. */
static Gan *gan_of(Config *config, const char *micro_batch, int side) {
  *config =
      small_config((const char *const[]){UNPAIRED, "model.noise_channels=2", micro_batch, NULL});
  GanOptions options = {.shape = {FRAMES, side, side, 3, side, side}, .micro_batches = 1};
  Gan *gan = NULL;
  if (gan_plan(config, backend, &options, &gan, &error) != OK) fail_msg("%s", error.message);
  if (gan_allocate(gan, &error) != OK) fail_msg("%s", error.message);
  return gan;
}

static float *draw(Gan *gan, StepInput input, const int64_t *samples) {
  assert_int_equal(step_inputs_upload(gan, samples, 0.5, &error), OK);
  assert_true(gan->inputs[input].count > 0);
  return download(&gan->inputs[input]);
}

static void inputs_of_other_configs_are_empty(void **state) {
  (void)state;
  Config config = small_config((const char *const[]){NULL});
  Gan *gan = make_gan(&config, 1);
  for (StepInput input = 0; input < INPUT_COUNT; input++)
    assert_int_equal(gan->inputs[input].count, 0);
  gan_free(gan);
}

/* The numbers of sample 7, first of a micro-batch of one, then second of two. Inputs with parts
 * have those of all clips for each part. */
static void numbers_depend_on_the_sample_alone(void **state) {
  (void)state;
  static const int PARTS[INPUT_COUNT] = {1, 1, PART_COUNT, PART_COUNT, 1, 1, 1};
  Config of_one, of_two;
  Gan *one = gan_of(&of_one, "train.micro_batch=1", SIDE);
  Gan *two = gan_of(&of_two, "train.micro_batch=2", SIDE);
  for (StepInput input = 0; input < INPUT_COUNT; input++) {
    if (input == INPUT_INTERPOLATION) continue;
    float *alone = draw(one, input, (int64_t[]){7}), *pair = draw(two, input, (int64_t[]){3, 7});
    float *again = draw(one, input, (int64_t[]){7}), *other = draw(one, input, (int64_t[]){8});
    int64_t total = one->inputs[input].count, each = total / PARTS[input];
    assert_memory_equal(alone, again, (size_t)total * sizeof *alone);
    if (input != INPUT_MIRROR) /* a single bit, see half_of_the_clips_are_mirrored */
      assert_memory_not_equal(alone, other, (size_t)total * sizeof *alone);
    for (int part = 0; part < PARTS[input]; part++) {
      assert_memory_equal(alone + part * each, pair + (2 * part + 1) * each,
                          (size_t)each * sizeof *alone);
      if (part > 0)
        assert_memory_not_equal(alone, alone + part * each, (size_t)each * sizeof *alone);
    }
    free(alone);
    free(again);
    free(other);
    free(pair);
  }
  gan_free(one);
  gan_free(two);
}

static void half_of_the_clips_are_mirrored(void **state) {
  (void)state;
  enum { SAMPLES = 400 };
  Config config;
  Gan *gan = gan_of(&config, "train.micro_batch=1", SIDE);
  int mirrored = 0;
  for (int64_t sample = 0; sample < SAMPLES; sample++) {
    float *value = draw(gan, INPUT_MIRROR, &sample);
    assert_true(value[0] == 0 || value[0] == 1);
    mirrored += value[0] == 1;
    free(value);
  }
  assert_in_range(mirrored, SAMPLES / 2 - 40, SAMPLES / 2 + 40); /* four standard deviations */
  gan_free(gan);
}

/* At twice the size each pixel moves twice as far. */
static void motion_scales_with_the_frames(void **state) {
  (void)state;
  Config of_small, of_large;
  Gan *small = gan_of(&of_small, "train.micro_batch=1", SIDE);
  Gan *large = gan_of(&of_large, "train.micro_batch=1", 2 * SIDE);
  double largest = 0, sum = 0;
  for (int64_t sample = 0; sample < 20; sample++) {
    float *a = draw(small, INPUT_MOTION, &sample), *b = draw(large, INPUT_MOTION, &sample);
    for (int y = 0; y < SIDE; y++)
      for (int x = 0; x < SIDE; x++)
        for (int i = 0; i < 2; i++) {
          double near = (double)a[(y * SIDE + x) * 2 + i];
          assert_float_equal((float)(2 * near), b[(2 * y * 2 * SIDE + 2 * x) * 2 + i], 1e-4);
          largest = fmax(largest, fabs(near));
          sum += near * near;
        }
    free(a);
    free(b);
  }
  /* A shift from [-1/24, 1/24) of the side, plus a field of about 1/48, less between its knots. */
  double deviation = sqrt(sum / (20.0 * SIDE * SIDE * 2));
  assert_true(deviation > SIDE / 60.0 && deviation < SIDE / 20.0);
  assert_true(largest < SIDE / 24.0 + 5 * SIDE / 48.0);
  gan_free(small);
  gan_free(large);
}

/* Neighbours move almost alike: the warped frame has no folds. */
static void motion_is_smooth(void **state) {
  (void)state;
  Config config;
  Gan *gan = gan_of(&config, "train.micro_batch=1", 2 * SIDE);
  for (int64_t sample = 0; sample < 20; sample++) {
    float *flow = draw(gan, INPUT_MOTION, &sample);
    for (int i = 2; i < 2 * SIDE * 2 * SIDE * 2; i++)
      if (i / 2 % (2 * SIDE) > 0) assert_true(fabsf(flow[i] - flow[i - 2]) < 1);
    free(flow);
  }
  gan_free(gan);
}

static void grey_weights_are_near_luma_and_sum_to_one(void **state) {
  (void)state;
  static const float LUMA[3] = {0.299f, 0.587f, 0.114f};
  Config config;
  Gan *gan = gan_of(&config, "train.micro_batch=1", SIDE);
  for (int64_t sample = 0; sample < 100; sample++) {
    float *weights = draw(gan, INPUT_GREY, &sample);
    for (int part = 0; part < PART_COUNT; part++) {
      const float *own = weights + 3 * part;
      assert_float_equal(own[0] + own[1] + own[2], 1, 1e-6);
      /* Up to 0.1 away, before the sum of 0.7 to 1.3 is divided by. */
      for (int i = 0; i < 3; i++)
        assert_true(own[i] >= (LUMA[i] - 0.1f) / 1.3f && own[i] <= (LUMA[i] + 0.1f) / 0.7f);
    }
    free(weights);
  }
  gan_free(gan);
}

static void noise_of_the_moved_source_is_faint(void **state) {
  (void)state;
  Config config;
  Gan *gan = gan_of(&config, "train.micro_batch=1", SIDE);
  double least = INFINITY, most = 0;
  for (int64_t sample = 0; sample < 100; sample++) {
    float *noise = draw(gan, INPUT_MOTION_NOISE, &sample);
    double sum = 0;
    for (int i = 0; i < PIXELS; i++) sum += (double)noise[i] * (double)noise[i];
    double deviation = sqrt(sum / PIXELS);
    least = fmin(least, deviation);
    most = fmax(most, deviation);
    free(noise);
  }
  assert_true(least < 0.002 && most > 0.018 && most < 0.022);
  gan_free(gan);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(inputs_of_other_configs_are_empty),
      cmocka_unit_test(numbers_depend_on_the_sample_alone),
      cmocka_unit_test(half_of_the_clips_are_mirrored),
      cmocka_unit_test(motion_scales_with_the_frames),
      cmocka_unit_test(motion_is_smooth),
      cmocka_unit_test(grey_weights_are_near_luma_and_sum_to_one),
      cmocka_unit_test(noise_of_the_moved_source_is_faint),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
