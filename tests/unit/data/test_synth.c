#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/memory.h"
#include "base/thread.h"
#include "data/build/build.h"
#include "data/dataset/dataset.h"
#include "tests/unit/data/support_media.h"

#define GOLDEN_SOURCE 0x621dd842u
#define GOLDEN_TARGET 0x9cf3e244u

enum { FRAMES = 4, SIZE = 48, BYTES = FRAMES * SIZE * SIZE * 3 };

static Error error;
static uint8_t source[BYTES], target[BYTES], source_again[BYTES], target_again[BYTES];

static double luma(const uint8_t *p) {
  return 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
}

static double squared_difference(const uint8_t *a, const uint8_t *b, size_t pixels) {
  double sum = 0;
  for (size_t p = 0; p < pixels; p++) {
    double d = luma(a + 3 * p) - luma(b + 3 * p);
    sum += d * d;
  }
  return sum;
}

/* The bytes are the same on every machine and compiler; changing them changes all users' data. */
static void bytes_are_fixed(void **state) {
  (void)state;
  synth_clip(7, 3, FRAMES, SIZE, SIZE, source, target);
  assert_int_equal(crc32c(0, source, BYTES), GOLDEN_SOURCE);
  assert_int_equal(crc32c(0, target, BYTES), GOLDEN_TARGET);
}

static void equal_seeds_give_equal_bytes(void **state) {
  (void)state;
  synth_clip(1, 5, FRAMES, SIZE, SIZE, source, target);
  synth_clip(1, 5, FRAMES, SIZE, SIZE, source_again, target_again);
  assert_memory_equal(source, source_again, BYTES);
  assert_memory_equal(target, target_again, BYTES);
  /* A shorter clip is the beginning of the longer one. */
  memset(source_again, 0, BYTES);
  synth_clip(1, 5, 2, SIZE, SIZE, source_again, target_again);
  assert_memory_equal(source, source_again, BYTES / 2);
  assert_memory_equal(target, target_again, BYTES / 2);
}

static void other_clips_and_seeds_differ(void **state) {
  (void)state;
  double least = 1e9;
  synth_clip(1, 0, 1, SIZE, SIZE, source, target);
  for (int clip = 1; clip < 40; clip++) {
    synth_clip(1, clip, 1, SIZE, SIZE, source_again, target_again);
    double d = sqrt(squared_difference(target, target_again, SIZE * SIZE) / (SIZE * SIZE));
    if (d < least) least = d;
  }
  synth_clip(2, 0, 1, SIZE, SIZE, source_again, target_again);
  double d = sqrt(squared_difference(target, target_again, SIZE * SIZE) / (SIZE * SIZE));
  assert_true(d > 15 && least > 15);
}

static void frames_move(void **state) {
  (void)state;
  int moving = 0;
  for (int clip = 0; clip < 20; clip++) {
    synth_clip(4, clip, FRAMES, SIZE, SIZE, source, target);
    moving +=
        squared_difference(target, target + 3 * SIZE * SIZE * 3, SIZE * SIZE) / (SIZE * SIZE) > 50;
  }
  assert_true(moving >= 15);
}

/* Source and target are similar, but not too similar for learning. */
static void source_resembles_target(void **state) {
  (void)state;
  double squared = 0, products = 0, source_sum = 0, target_sum = 0, source_squares = 0,
         target_squares = 0, n = 0;
  for (int clip = 0; clip < 60; clip++) {
    synth_clip(1, clip, 1, SIZE, SIZE, source, target);
    squared += squared_difference(source, target, SIZE * SIZE);
    for (int p = 0; p < SIZE * SIZE; p++) {
      double a = luma(source + 3 * p), b = luma(target + 3 * p);
      source_sum += a, target_sum += b, source_squares += a * a, target_squares += b * b,
          products += a * b, n++;
    }
  }
  double psnr = 10 * log10(255 * 255 * n / squared);
  double correlation = (products - source_sum * target_sum / n) /
                       sqrt((source_squares - source_sum * source_sum / n) *
                            (target_squares - target_sum * target_sum / n));
  if (psnr < 13 || psnr > 17) fail_msg("PSNR of source against target: %.2f dB", psnr);
  if (correlation < 0.75) fail_msg("correlation of source and target: %.3f", correlation);
}

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

/* Returns the share of pixels that have one of the `most` most frequent colours. */
static double share_of_frequent_colours(const uint8_t *rgb, int most) {
  static uint32_t colours[SIZE * SIZE], runs[SIZE * SIZE];
  size_t count = 0, sum = 0;
  for (int p = 0; p < SIZE * SIZE; p++)
    colours[p] = (uint32_t)(rgb[3 * p] << 16 | rgb[3 * p + 1] << 8 | rgb[3 * p + 2]);
  qsort(colours, SIZE * SIZE, sizeof *colours, compare);
  for (int p = 0; p < SIZE * SIZE; p++) {
    if (p == 0 || colours[p] != colours[p - 1]) runs[count++] = 0;
    runs[count - 1]++;
  }
  qsort(runs, count, sizeof *runs, compare);
  for (int i = 0; i < most && (size_t)i < count; i++) sum += runs[count - 1 - (size_t)i];
  return (double)sum / (SIZE * SIZE);
}

/* Targets consist of a few flat tones; sources hardly repeat a colour. */
static void targets_are_flat(void **state) {
  (void)state;
  double flat = 0, grainy = 0;
  for (int clip = 0; clip < 20; clip++) {
    synth_clip(9, clip, 1, SIZE, SIZE, source, target);
    flat += share_of_frequent_colours(target, 16) / 20;
    grainy += share_of_frequent_colours(source, 16) / 20;
  }
  if (flat < 0.5 || grainy > 0.2) fail_msg("16 colours cover %.2f, %.2f", flat, grainy);
}

/* Odd sizes give pictures of many colours, and nothing is written past their end. */
static void odd_sizes_render(void **state) {
  (void)state;
  static const int sizes[][2] = {{8, 8}, {9, 31}, {120, 17}};
  enum { GUARD = 64, GUARD_BYTE = 0xab };
  for (int i = 0; i < 3; i++) {
    size_t bytes = (size_t)(sizes[i][0] * sizes[i][1] * 3);
    uint8_t *pictures[2] = {mem_new(bytes + GUARD, 1), mem_new(bytes + GUARD, 1)};
    for (int clip = 0; clip < 30; clip++) {
      for (int side = 0; side < 2; side++) memset(pictures[side], GUARD_BYTE, bytes + GUARD);
      synth_clip(3, clip, 1, sizes[i][0], sizes[i][1], pictures[0], pictures[1]);
      for (int side = 0; side < 2; side++) {
        bool seen[256] = {false};
        for (size_t k = 0; k < bytes; k++) seen[pictures[side][k]] = true;
        int distinct = 0;
        for (int value = 0; value < 256; value++) distinct += seen[value];
        assert_true(distinct >= 8);
        for (size_t k = bytes; k < bytes + GUARD; k++)
          assert_int_equal(pictures[side][k], GUARD_BYTE);
      }
    }
    for (int side = 0; side < 2; side++) free(pictures[side]);
  }
}

/* --- The dataset ------------------------------------------------------------------------------ */

static SynthOptions options(const char *out, int threads) {
  return (SynthOptions){.out = out,
                        .clips = 7,
                        .first_clip = 2,
                        .frames = FRAMES,
                        .width = SIZE,
                        .height = SIZE,
                        .seed = 11,
                        .threads = threads,
                        .clips_per_shard = 3,
                        .command = "test"};
}

/* The dataset does not depend on the number of threads. */
static void dataset_equals_synth_clip(void **state) {
  (void)state;
  for (int threads = 1; threads <= 3; threads += 2) {
    const char *out = media_path(threads == 1 ? "one" : "three");
    SynthOptions o = options(out, threads);
    Dataset *dataset = NULL;
    assert_done(synth_run(&o, &error), &error);
    assert_done(dataset_open(out, &dataset, &error), &error);
    const DatasetInfo *info = dataset_info(dataset);
    assert_int_equal(info->clips, 7);
    assert_int_equal(info->shards, 3);
    assert_int_equal(info->fps_numerator, 25);
    assert_int_equal(info->shape.source_channels, 3);
    for (int i = 0; i < 7; i++) {
      synth_clip(11, 2 + i, FRAMES, SIZE, SIZE, source, target);
      assert_done(dataset_read(dataset, i, source_again, target_again, &error), &error);
      assert_memory_equal(source, source_again, BYTES);
      assert_memory_equal(target, target_again, BYTES);
    }
    dataset_close(dataset);
  }
}

static void bad_options_are_rejected(void **state) {
  (void)state;
  SynthOptions o = options(media_path("a"), 1);
  o.clips = 0;
  assert_int_equal(synth_run(&o, &error), ERROR_USAGE);
  o = options(media_path("a"), 1);
  o.width = 4;
  assert_int_equal(synth_run(&o, &error), ERROR_USAGE);
  assert_mentions(&error, "--size 4x48");
  o = options(media_path("a"), -1);
  assert_int_equal(synth_run(&o, &error), ERROR_USAGE);
  assert_false(is_there(media_path("a")));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, media_setup, media_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {TEST(bytes_are_fixed),
                                     TEST(equal_seeds_give_equal_bytes),
                                     TEST(other_clips_and_seeds_differ),
                                     TEST(frames_move),
                                     TEST(source_resembles_target),
                                     TEST(targets_are_flat),
                                     TEST(odd_sizes_render),
                                     TEST(dataset_equals_synth_clip),
                                     TEST(bad_options_are_rejected)};
  return cmocka_run_group_tests_name("synth", tests, NULL, NULL);
}
