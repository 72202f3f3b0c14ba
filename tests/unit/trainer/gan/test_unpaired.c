/* Unpaired training steps: all losses that need no target of the source, views, augmentation and
 * edge-smoothed negatives together. (tests/oracle compares each with PyTorch.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support_gan.h"

/* Unpaired training learns: with the discriminators' help the losses against the source fall. */
static void check_unpaired_learning(const char *precision) {
  Config config = small_config(
      (const char *const[]){UNPAIRED, precision, "train.micro_batch=2", "optim.generator_lr=2e-3",
                            "loss.adversarial_weight=0.1", "model.spectral_norm=true", NULL});
  if (config_check(&config, NULL, 1, &error) != OK) fail_msg("%s", error.message);
  Gan *gan = make_gan(&config, 1);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  float *before = download(&gan_network(gan, NETWORK_PROJECTION)->master);
  StepResult first = {0}, last = {0};
  for (int i = 0; i < 30; i++) {
    MicroBatch batch = batch_of(source, target, 0, (int64_t[]){2 * i, 2 * i + 1});
    run_step(gan, i, &batch);
    last = result_of(gan, 0);
    check_metrics(&last);
    if (i == 0) first = last;
  }
  static const Metric FALLING[] = {METRIC_PATCH_NCE, METRIC_IDENTITY, METRIC_MOTION_CONSISTENCY};
  for (size_t i = 0; i < sizeof FALLING / sizeof *FALLING; i++) {
    double begin = first.metrics[FALLING[i]], end = last.metrics[FALLING[i]];
    if (!(end < 0.9 * begin))
      fail_msg("%s: %g before, %g after 30 steps", gan_metric_name(FALLING[i]), begin, end);
  }
  static const Metric COMPUTED[] = {METRIC_COLOR, METRIC_FLOW_CONSISTENCY, METRIC_REAL_SIGN};
  for (size_t i = 0; i < sizeof COMPUTED / sizeof *COMPUTED; i++)
    assert_true(last.computed[COMPUTED[i]]);
  assert_true(fabs(last.metrics[METRIC_REAL_SIGN]) <= 1);
  assert_false(last.computed[METRIC_L1]);
  float *after = download(&gan_network(gan, NETWORK_PROJECTION)->master);
  assert_memory_not_equal(before, after,
                          (size_t)gan_network(gan, NETWORK_PROJECTION)->total * sizeof *before);
  free(before);
  free(after);
  gan_free(gan);
}

static void test_unpaired_learns_f32(void **state) {
  (void)state;
  check_unpaired_learning("train.precision=f32");
}

static void test_unpaired_learns_bf16(void **state) {
  (void)state;
  if (!backend->supports_bf16(backend)) skip();
  check_unpaired_learning("train.precision=bf16");
}

/* Each clip keeps its random numbers: noise, augmentation, grey weights and motion. */
static void test_unpaired_micro_batches_equal_the_whole_batch(void **state) {
  (void)state;
  Config config_a =
      small_config((const char *const[]){UNPAIRED, "train.micro_batch=2", "model.noise_channels=1",
                                         "optim.clip=1", "optim.epsilon=1e-5", NULL});
  Config config_b =
      small_config((const char *const[]){UNPAIRED, "train.micro_batch=1", "model.noise_channels=1",
                                         "optim.clip=1", "optim.epsilon=1e-5", NULL});
  compare_micro_batches(&config_a, &config_b);
}

static void test_recompute_changes_nothing(void **state) {
  (void)state;
  Config config = small_config((const char *const[]){UNPAIRED, "train.micro_batch=2", NULL});
  compare_recompute(&config, 0.95);
}

/* Pretraining on L1 does not update the projections of PatchNCE, in one micro-batch or in two. */
static void test_pretraining_leaves_the_projections(void **state) {
  (void)state;
  static const char *const SPLITS[] = {"train.micro_batch=2", "train.micro_batch=1"};
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  static const int64_t samples[2] = {0, 1};
  make_clips(source, target);
  for (int split = 0; split < 2; split++) {
    Config config = small_config(
        (const char *const[]){"loss.patch_nce=1", "optim.pretrain_steps=2", SPLITS[split], NULL});
    Gan *gan = make_gan(&config, split + 1);
    MicroBatch batches[2] = {batch_of(source, target, 0, samples),
                             batch_of(source, target, 1, samples)};
    for (int64_t i = 0; i < 3; i++) {
      AdamCounters counters;
      run_step(gan, i, batches);
      assert_int_equal(result_of(gan, 0).generator.applied, i + 1);
      assert_int_equal(buffer_download(&gan_network(gan, NETWORK_PROJECTION)->counters, 0,
                                       &counters, ADAM_COUNTER_COUNT, &error),
                       OK);
      assert_int_equal(counters.applied, i < 2 ? 0 : 1);
    }
    gan_free(gan);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_unpaired_learns_f32),
      cmocka_unit_test(test_unpaired_learns_bf16),
      cmocka_unit_test(test_unpaired_micro_batches_equal_the_whole_batch),
      cmocka_unit_test(test_recompute_changes_nothing),
      cmocka_unit_test(test_pretraining_leaves_the_projections),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
