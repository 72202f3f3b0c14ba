#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

/* The known answers published with Random123: zeros, ones, digits of pi. */
static void philox_gives_the_published_numbers(void **state) {
  (void)state;
  static const struct {
    uint32_t counter[4], key[2], expected[4];
  } cases[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t i = 0; i < 3; i++) {
    uint32_t out[4];
    philox4x32(cases[i].counter, cases[i].key, out);
    for (int j = 0; j < 4; j++) assert_int_equal(out[j], cases[i].expected[j]);
  }
}

static void same_arguments_same_numbers(void **state) {
  (void)state;
  Random a = random_stream(7, RANDOM_NOISE, 1, 2), b = random_stream(7, RANDOM_NOISE, 1, 2);
  for (int i = 0; i < 1000; i++) assert_int_equal(random_u32(&a), random_u32(&b));
}

/* Resumed runs depend on these numbers. */
static void stream_key_and_counter_are_fixed(void **state) {
  (void)state;
  Random random = random_stream(0x123456789abcdef0, RANDOM_AUGMENT, 0x1122334455667788, 9);
  uint32_t seed[4] = {0x9abcdef0, 0x12345678, RANDOM_AUGMENT, 0}, zero[2] = {0, 0}, key[4];
  philox4x32(seed, zero, key);
  for (uint32_t block = 0; block < 3; block++) {
    uint32_t counter[4] = {block, 9, 0x55667788, 0x11223344}, out[4];
    philox4x32(counter, key, out);
    for (int i = 0; i < 4; i++) assert_int_equal(random_u32(&random), out[i]);
  }
}

static int compare_words(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

/* Streams that differ in one argument by one, or in one high bit, share no more words than expected
 * by chance and are not correlated. */
static void streams_are_independent(void **state) {
  (void)state;
  enum { STREAMS = 9, WORDS = 2000 };
  static uint32_t words[STREAMS][WORDS], all[STREAMS * WORDS];
  Random streams[STREAMS] = {
      random_stream(1, RANDOM_TEST, 1, 1),
      random_stream(2, RANDOM_TEST, 1, 1),
      random_stream(1 + (1ull << 63), RANDOM_TEST, 1, 1),
      random_stream(1, RANDOM_SYNTH, 1, 1),
      random_stream(1, RANDOM_TEST, 2, 1),
      random_stream(1, RANDOM_TEST, 1 + (1ull << 63), 1),
      random_stream(1, RANDOM_TEST, 1, 2),
      random_stream(1, RANDOM_TEST, 1, 1 + (1u << 31)),
      random_stream(6, RANDOM_WEIGHTS, 1, 1), /* the same seed + purpose as the first */
  };
  for (int s = 0; s < STREAMS; s++)
    for (int i = 0; i < WORDS; i++) all[s * WORDS + i] = words[s][i] = random_u32(&streams[s]);
  for (int s = 0; s < STREAMS; s++)
    for (int t = 0; t < s; t++) {
      double sum = 0;
      for (int i = 0; i < WORDS; i++)
        sum += ((double)words[s][i] * 0x1p-32 - 0.5) * ((double)words[t][i] * 0x1p-32 - 0.5);
      assert_true(fabs(sum / WORDS * 12) < 5 / sqrt(WORDS)); /* correlation, 5 sigma */
    }
  qsort(all, STREAMS * WORDS, sizeof *all, compare_words);
  int equal = 0;
  for (int i = 1; i < STREAMS * WORDS; i++) equal += all[i] == all[i - 1];
  assert_in_range(equal, 0, 3); /* 0.04 expected */
}

static void bits_are_fair(void **state) {
  (void)state;
  enum { DRAWS = 20000 };
  Random random = random_stream(11, RANDOM_TEST, 0, 0);
  int ones[32] = {0};
  for (int i = 0; i < DRAWS; i++) {
    uint32_t word = random_u32(&random);
    for (int bit = 0; bit < 32; bit++) ones[bit] += (int)(word >> bit & 1);
  }
  for (int bit = 0; bit < 32; bit++) assert_true(abs(ones[bit] - DRAWS / 2) < 5 * sqrt(DRAWS) / 2);
}

static void uniform_fills_the_interval(void **state) {
  (void)state;
  enum { DRAWS = 100000, BINS = 100 };
  Random random = random_stream(12, RANDOM_TEST, 0, 0);
  int bins[BINS] = {0};
  bool low_bits = false;
  for (int i = 0; i < DRAWS; i++) {
    double x = random_uniform(&random);
    assert_true(x >= 0 && x < 1);
    bins[(int)(x * BINS)]++;
    low_bits |= fmod(x * 0x1p53, 2) != 0;
  }
  assert_true(low_bits);
  double chi = 0, expected = (double)DRAWS / BINS;
  for (int i = 0; i < BINS; i++) chi += pow(bins[i] - expected, 2) / expected;
  assert_true(chi > 40 && chi < 170); /* 99 degrees of freedom: 5 sigma is 14 * 5 */
}

static void below_is_unbiased(void **state) {
  (void)state;
  enum { DRAWS = 30000 };
  static const uint64_t bounds[] = {1, 2, 3, 7, 10, 97};
  Random random = random_stream(13, RANDOM_TEST, 0, 0);
  for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
    int counts[97] = {0};
    double chi = 0, expected = (double)DRAWS / (double)bounds[b];
    for (int i = 0; i < DRAWS; i++) {
      uint64_t x = random_below(&random, bounds[b]);
      assert_true(x < bounds[b]);
      counts[x]++;
    }
    for (uint64_t i = 0; i < bounds[b]; i++) chi += pow(counts[i] - expected, 2) / expected;
    double freedom = (double)bounds[b] - 1;
    assert_true(chi <= freedom + 5 * sqrt(2 * freedom) + 10);
  }
  /* Three quarters of all words: a plain remainder returns the first quarter twice as often, a
   * plain multiplication every third number. */
  uint64_t bound = 3ull << 62, quarter = 1ull << 62;
  int thirds[3] = {0}, remainders[3] = {0};
  for (int i = 0; i < DRAWS; i++) {
    uint64_t x = random_below(&random, bound);
    assert_true(x < bound);
    thirds[x / quarter]++;
    remainders[x % 3]++;
  }
  for (int i = 0; i < 3; i++) {
    assert_true(abs(thirds[i] - DRAWS / 3) < 5 * sqrt(DRAWS * 2.0 / 9));
    assert_true(abs(remainders[i] - DRAWS / 3) < 5 * sqrt(DRAWS * 2.0 / 9));
  }
  assert_true(random_below(&random, UINT64_MAX) < UINT64_MAX);
}

static void check_moments(const float *x, size_t count, double deviation) {
  double sums[5] = {0}, n = (double)count;
  size_t beyond_two = 0;
  for (size_t i = 0; i < count; i++) {
    double z = (double)x[i] / deviation;
    for (int k = 1; k <= 4; k++) sums[k] += pow(z, k);
    beyond_two += fabs(z) > 2;
  }
  assert_true(fabs(sums[1] / n) < 5 / sqrt(n));
  assert_true(fabs(sums[2] / n - 1) < 5 * sqrt(2 / n));
  assert_true(fabs(sums[3] / n) < 5 * sqrt(15 / n));
  assert_true(fabs(sums[4] / n - 3) < 5 * sqrt(96 / n));
  assert_true(fabs((double)beyond_two / n - 0.0455) < 5 * sqrt(0.0455 / n));
}

static void normal_numbers_have_normal_moments(void **state) {
  (void)state;
  enum { DRAWS = 50000 };
  float *x = malloc(DRAWS * sizeof *x);
  Random random = random_stream(14, RANDOM_TEST, 0, 0);
  for (int i = 0; i < DRAWS; i++) x[i] = random_normal(&random);
  check_moments(x, DRAWS, 1);
  random_fill_normal(&random, x, DRAWS, 0.02f);
  check_moments(x, DRAWS, 0.02);
  double pairs = 0; /* the two numbers of a pair are independent */
  for (int i = 0; i < DRAWS; i += 2) pairs += (double)x[i] * (double)x[i + 1] / (0.02 * 0.02);
  assert_true(fabs(pairs / (DRAWS / 2.0)) < 5 / sqrt(DRAWS / 2.0));
  free(x);
}

static void fill_stays_in_its_array(void **state) {
  (void)state;
  for (size_t count = 0; count < 6; count++) {
    float x[8];
    for (int i = 0; i < 8; i++) x[i] = 99;
    Random random = random_stream(15, RANDOM_TEST, 0, 0);
    random_fill_normal(&random, x, count, 1);
    for (size_t i = 0; i < 8; i++) assert_true(i < count ? x[i] < 9 : x[i] > 9);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(philox_gives_the_published_numbers),
      cmocka_unit_test(same_arguments_same_numbers),
      cmocka_unit_test(stream_key_and_counter_are_fixed),
      cmocka_unit_test(streams_are_independent),
      cmocka_unit_test(bits_are_fair),
      cmocka_unit_test(uniform_fills_the_interval),
      cmocka_unit_test(below_is_unbiased),
      cmocka_unit_test(normal_numbers_have_normal_moments),
      cmocka_unit_test(fill_stays_in_its_array),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
