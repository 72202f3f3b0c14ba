#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "data/loader/shuffle.h"

static int64_t clip_at(uint64_t seed, int64_t epoch, int64_t position, int64_t n) {
  return shuffle_sample(seed, epoch * n + position, n).clip;
}

static void assert_permutation(uint64_t seed, int64_t epoch, int64_t n) {
  uint8_t *seen = mem_new((size_t)n, 1);
  for (int64_t i = 0; i < n; i++) {
    int64_t clip = clip_at(seed, epoch, i, n);
    if (clip < 0 || clip >= n || seen[clip])
      fail_msg("n %lld, epoch %lld, position %lld: clip %lld", (long long)n, (long long)epoch,
               (long long)i, (long long)clip);
    seen[clip] = 1;
  }
  free(seen);
}

static void every_epoch_is_a_permutation(void **state) {
  (void)state;
  for (int64_t n = 1; n <= 300; n++) assert_permutation((uint64_t)n * 77, n % 5, n);
  const int64_t more[] = {511, 512, 513, 999, 1000, 1024, 4095, 4097, 65537, 100003};
  for (size_t i = 0; i < sizeof more / sizeof *more; i++) assert_permutation(3, 1, more[i]);
}

static void huge_counts_stay_in_range(void **state) {
  (void)state;
  const int64_t n = (INT64_C(1) << 50) + 7;
  for (int64_t i = 0; i < 2000; i++) {
    int64_t clip = clip_at(9, 4000, n - 1 - i, n);
    assert_true(clip >= 0 && clip < n);
  }
}

static int equal_positions(uint64_t seed_a, int64_t epoch_a, uint64_t seed_b, int64_t epoch_b) {
  const int64_t n = 1000;
  int equal = 0;
  for (int64_t i = 0; i < n; i++)
    equal += clip_at(seed_a, epoch_a, i, n) == clip_at(seed_b, epoch_b, i, n);
  return equal;
}

static void epochs_and_seeds_differ(void **state) {
  (void)state;
  assert_int_equal(equal_positions(1, 0, 1, 0), 1000);
  /* Two random permutations agree in one position on average; 12 are all but impossible. */
  assert_true(equal_positions(1, 0, 1, 1) < 12);
  assert_true(equal_positions(1, 0, 2, 0) < 12);
  assert_true(equal_positions(1, 0, UINT64_C(1) << 63, 0) < 12);
  assert_true(equal_positions(1, 0, 1, INT64_C(1) << 40) < 12);
}

/* Chi-square test that every clip is equally often at a position, over many epochs. With n-1
 * degrees of freedom the mean is n-1 and the variance 2(n-1); five deviations are one in millions.
 */
static void assert_uniform(int64_t n, int64_t position) {
  const int64_t epochs = 200 * n;
  int64_t *count = mem_new((size_t)n, sizeof *count);
  double expected = 200, chi = 0;
  for (int64_t epoch = 0; epoch < epochs; epoch++) count[clip_at(5, epoch, position, n)]++;
  for (int64_t i = 0; i < n; i++) {
    double off = (double)count[i] - expected;
    chi += off * off / expected;
  }
  double over = chi - (double)(n - 1);
  if (over * over > 25 * 2 * (double)(n - 1))
    fail_msg("n %lld, position %lld: chi-square %g", (long long)n, (long long)position, chi);
  free(count);
}

static void positions_are_uniform(void **state) {
  (void)state;
  const int64_t sizes[] = {2, 3, 5, 10, 64, 100};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    assert_uniform(sizes[i], 0);
    assert_uniform(sizes[i], sizes[i] - 1);
  }
}

/* The 6 orders of three clips are equally likely. */
static void orders_of_three_clips_are_uniform(void **state) {
  (void)state;
  int count[27] = {0};
  for (int64_t epoch = 0; epoch < 6000; epoch++)
    count[clip_at(8, epoch, 0, 3) * 9 + clip_at(8, epoch, 1, 3) * 3 + clip_at(8, epoch, 2, 3)]++;
  int seen = 0;
  for (int i = 0; i < 27; i++)
    if (count[i] > 0) {
      seen++;
      assert_in_range(count[i], 850, 1150); /* 1000 +- 5 deviations of 29 */
    }
  assert_int_equal(seen, 6);
}

static void sample_numbers_give_epoch_and_position(void **state) {
  (void)state;
  for (int64_t sample = 0; sample < 35; sample++) {
    SamplePosition place = shuffle_sample(4, sample, 10);
    assert_int_equal(place.epoch, sample / 10);
    assert_int_equal(place.position, sample % 10);
  }
}

/* Resuming relies on the order: it must never change. */
static void order_never_changes(void **state) {
  (void)state;
  static const int64_t expected[8] = {271, 574, 445, 852, 534, 504, 95, 298};
  for (int64_t i = 0; i < 8; i++) assert_int_equal(clip_at(1, 2, i, 1000), expected[i]);
}

/* Each step takes the next batch that is not skipped. */
static void steps_pass_over_skipped_batches(void **state) {
  (void)state;
  static const int64_t skipped_batches[] = {0, 3, 4, 5, 9, 11};
  const int64_t count = sizeof skipped_batches / sizeof *skipped_batches;
  int64_t batch = 0, next = 0;
  for (int64_t step = 0; step < 30; step++, batch++) {
    for (; next < count && skipped_batches[next] == batch; next++) batch++;
    assert_int_equal(shuffle_batch_of_step(step, skipped_batches, count), batch);
  }
  assert_int_equal(shuffle_batch_of_step(17, NULL, 0), 17);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_epoch_is_a_permutation),
      cmocka_unit_test(huge_counts_stay_in_range),
      cmocka_unit_test(epochs_and_seeds_differ),
      cmocka_unit_test(positions_are_uniform),
      cmocka_unit_test(orders_of_three_clips_are_uniform),
      cmocka_unit_test(sample_numbers_give_epoch_and_position),
      cmocka_unit_test(order_never_changes),
      cmocka_unit_test(steps_pass_over_skipped_batches),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
