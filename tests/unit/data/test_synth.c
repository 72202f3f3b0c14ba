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

#define GOLDEN_FILM 0x621dd842u
#define GOLDEN_CEL  0x9cf3e244u

enum { FRAMES = 4, SIZE = 48, BYTES = FRAMES * SIZE * SIZE * 3 };

static Error error;
static uint8_t film[BYTES], cel[BYTES], film_again[BYTES], cel_again[BYTES];

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

/* The same bytes on every machine and compiler: a change here changes everybody's data. */
static void bytes_are_fixed(void **state) {
  (void)state;
  synth_clip(7, 3, FRAMES, SIZE, SIZE, film, cel);
  assert_int_equal(crc32c(0, film, BYTES), GOLDEN_FILM);
  assert_int_equal(crc32c(0, cel, BYTES), GOLDEN_CEL);
}

static void same_seed_same_clip(void **state) {
  (void)state;
  synth_clip(1, 5, FRAMES, SIZE, SIZE, film, cel);
  synth_clip(1, 5, FRAMES, SIZE, SIZE, film_again, cel_again);
  assert_memory_equal(film, film_again, BYTES);
  assert_memory_equal(cel, cel_again, BYTES);
  /* A shorter clip is the beginning of the longer one. */
  memset(film_again, 0, BYTES);
  synth_clip(1, 5, 2, SIZE, SIZE, film_again, cel_again);
  assert_memory_equal(film, film_again, BYTES / 2);
  assert_memory_equal(cel, cel_again, BYTES / 2);
}

static void others_differ(void **state) {
  (void)state;
  double least = 1e9;
  synth_clip(1, 0, 1, SIZE, SIZE, film, cel);
  for (int clip = 1; clip < 40; clip++) {
    synth_clip(1, clip, 1, SIZE, SIZE, film_again, cel_again);
    double d = sqrt(squared_difference(cel, cel_again, SIZE * SIZE) / (SIZE * SIZE));
    if (d < least) least = d;
  }
  synth_clip(2, 0, 1, SIZE, SIZE, film_again, cel_again);
  double d = sqrt(squared_difference(cel, cel_again, SIZE * SIZE) / (SIZE * SIZE));
  assert_true(d > 15 && least > 15);
}

static void frames_move(void **state) {
  (void)state;
  int moving = 0;
  for (int clip = 0; clip < 20; clip++) {
    synth_clip(4, clip, FRAMES, SIZE, SIZE, film, cel);
    moving += squared_difference(cel, cel + 3 * SIZE * SIZE * 3, SIZE * SIZE) / (SIZE * SIZE) > 50;
  }
  assert_true(moving >= 15);
}

/* The task is neither done nor hopeless, and the two show the same thing. */
static void film_resembles_cel(void **state) {
  (void)state;
  double squared = 0, products = 0, films = 0, cels = 0, film_squares = 0, cel_squares = 0, n = 0;
  for (int clip = 0; clip < 60; clip++) {
    synth_clip(1, clip, 1, SIZE, SIZE, film, cel);
    squared += squared_difference(film, cel, SIZE * SIZE);
    for (int p = 0; p < SIZE * SIZE; p++) {
      double a = luma(film + 3 * p), b = luma(cel + 3 * p);
      films += a, cels += b, film_squares += a * a, cel_squares += b * b, products += a * b, n++;
    }
  }
  double psnr = 10 * log10(255 * 255 * n / squared);
  double correlation = (products - films * cels / n) /
                       sqrt((film_squares - films * films / n) * (cel_squares - cels * cels / n));
  if (psnr < 13 || psnr > 17) fail_msg("the film scores %.2f dB against the cel", psnr);
  if (correlation < 0.75) fail_msg("film and cel correlate by %.3f", correlation);
}

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

/* Most of a cel is a few flat tones; a film hardly repeats a colour. */
static double share_of_commonest(const uint8_t *rgb, int most) {
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

static void cels_are_flat(void **state) {
  (void)state;
  double flat = 0, grainy = 0;
  for (int clip = 0; clip < 20; clip++) {
    synth_clip(9, clip, 1, SIZE, SIZE, film, cel);
    flat += share_of_commonest(cel, 16) / 20;
    grainy += share_of_commonest(film, 16) / 20;
  }
  if (flat < 0.5 || grainy > 0.2) fail_msg("16 colours cover %.2f, %.2f", flat, grainy);
}

static void odd_sizes(void **state) {
  (void)state;
  static const int sizes[][2] = {{8, 8}, {9, 31}, {120, 17}};
  for (int i = 0; i < 3; i++) {
    size_t bytes = (size_t)(sizes[i][0] * sizes[i][1] * 3);
    uint8_t *a = mem_new(bytes, 1), *b = mem_new(bytes, 1);
    for (int clip = 0; clip < 30; clip++) synth_clip(3, clip, 1, sizes[i][0], sizes[i][1], a, b);
    free(a);
    free(b);
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

static void datasets(void **state) {
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
      synth_clip(11, 2 + i, FRAMES, SIZE, SIZE, film, cel);
      assert_done(dataset_read(dataset, i, film_again, cel_again, &error), &error);
      assert_memory_equal(film, film_again, BYTES);
      assert_memory_equal(cel, cel_again, BYTES);
    }
    dataset_close(dataset);
  }
}

static void bad_options(void **state) {
  (void)state;
  SynthOptions o = options(media_path("a"), 1);
  o.clips = 0;
  assert_int_equal(synth_run(&o, &error), ERROR_USAGE);
  o = options(media_path("a"), 1);
  o.width = 4;
  assert_int_equal(synth_run(&o, &error), ERROR_USAGE);
  assert_mentions(&error, "4x48");
  o = options(media_path("a"), -1);
  assert_int_equal(synth_run(&o, &error), ERROR_USAGE);
  assert_false(path_exists(media_path("a")));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, media_setup, media_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(bytes_are_fixed),    TEST(same_seed_same_clip), TEST(others_differ), TEST(frames_move),
      TEST(film_resembles_cel), TEST(cels_are_flat),       TEST(odd_sizes),     TEST(datasets),
      TEST(bad_options)};
  return cmocka_run_group_tests_name("synth", tests, NULL, NULL);
}
