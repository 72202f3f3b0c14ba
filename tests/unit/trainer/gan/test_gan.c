/* The training step: losses fall, accumulated micro-batches equal the whole batch, and a step with
 * non-finite gradients leaves the weights unchanged. (tests/oracle compares every loss and
 * parameter with PyTorch.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "support_gan.h"
#include "trainer/gan/internal.h"

static void check_learning(const char *precision) {
  const char *const assignments[] = {precision,
                                     "model.spectral_norm=true",
                                     "loss.adversarial=wgan-gp",
                                     "loss.feature_matching=1",
                                     "loss.total_variation=0.01",
                                     "loss.gradient=0.5",
                                     "loss.r1=0.1",
                                     "loss.r1_interval=1",
                                     "train.micro_batch=2",
                                     "optim.generator_lr=2e-3",
                                     NULL};
  Config config = small_config(assignments);
  Gan *gan = make_gan(&config, 1);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  MicroBatch batch = {.source = source, .target = target, .samples = (int64_t[]){0, 1}};
  run_step(gan, 0, &batch);
  StepResult first = result_of(gan, 0), last;
  for (int i = 1; i < 30; i++) {
    last = result_of(gan, 0);
    run_step(gan, i, &batch);
    assert_memory_equal(result_of(gan, 1).metrics, last.metrics, sizeof last.metrics);
  }
  last = result_of(gan, 0);
  check_metrics(&last);
  static const Metric COMPUTED[] = {
      METRIC_LOSS_D,   METRIC_ADVERSARIAL,     METRIC_GRADIENT,         METRIC_FEATURE_MATCHING,
      METRIC_TEMPORAL, METRIC_TOTAL_VARIATION, METRIC_GRADIENT_PENALTY, METRIC_R1,
      METRIC_NORM_G,   METRIC_NORM_D};
  for (size_t i = 0; i < sizeof COMPUTED / sizeof *COMPUTED; i++)
    assert_true(last.computed[COMPUTED[i]]);
  if (!(last.metrics[METRIC_L1] < 0.7 * first.metrics[METRIC_L1]))
    fail_msg("L1: %g before, %g after 30 steps", first.metrics[METRIC_L1], last.metrics[METRIC_L1]);
  gan_free(gan);
}

static void test_learns_f32(void **state) {
  (void)state;
  check_learning("train.precision=f32");
}

static void test_learns_bf16(void **state) {
  (void)state;
  if (!backend->supports_bf16(backend)) skip();
  check_learning("train.precision=bf16");
}

static void check_micro_batches(const char *adversarial, const char *spectral) {
  const char *const whole[] = {
      "train.micro_batch=2", "optim.pretrain_steps=1", "optim.clip=1", adversarial, spectral, NULL};
  const char *const halves[] = {
      "train.micro_batch=1", "optim.pretrain_steps=1", "optim.clip=1", adversarial, spectral, NULL};
  Config config_a = small_config(whole), config_b = small_config(halves);
  compare_micro_batches(&config_a, &config_b);
}

static void test_micro_batches_equal_the_whole_batch(void **state) {
  (void)state;
  check_micro_batches("loss.adversarial=lsgan", "model.spectral_norm=false");
  check_micro_batches("loss.adversarial=wgan-gp", "model.spectral_norm=true");
}

/* Recomputed values are bit-identical, so only the memory need differs. */
static void check_recompute(const char *norm, const char *micro_batch, const char *adversarial) {
  Config config = small_config(
      (const char *const[]){norm, micro_batch, adversarial, "train.global_batch=2", NULL});
  compare_recompute(&config, 0.9);
}

static void test_recompute_changes_nothing_but_memory(void **state) {
  (void)state;
  check_recompute("model.norm=rms", "train.micro_batch=2", "loss.adversarial=lsgan");
  check_recompute("model.norm=rms", "train.micro_batch=1", "loss.adversarial=lsgan");
  check_recompute("model.norm=instance", "train.micro_batch=2", "loss.adversarial=wgan-gp");
}

/* The norm of a parameter's gradient after the last step. */
static double norm_of(const Parameters *parameters, int parameter) {
  float *gradient = download(&parameters->gradient);
  const Parameter *item = &parameters->items[parameter];
  double sum = 0;
  for (int64_t k = 0; k < item->count; k++)
    sum += (double)gradient[item->offset + k] * (double)gradient[item->offset + k];
  free(gradient);
  return sqrt(sum);
}

static void check_worst(const Parameters *parameters, int worst) {
  double largest = 0;
  for (int i = 0; i < parameters->count; i++) largest = fmax(largest, norm_of(parameters, i));
  assert_in_range(worst, 0, parameters->count - 1);
  assert_true(norm_of(parameters, worst) >= largest * (1 - 1e-6));
}

static void test_nonfinite_gradients_skip_the_update(void **state) {
  (void)state;
  const char *const assignments[] = {"train.micro_batch=1", NULL};
  Config config = small_config(assignments);
  Gan *gan = make_gan(&config, 1);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  MicroBatch batch = {.source = source, .target = target, .samples = (int64_t[]){0}};
  run_step(gan, 0, &batch);
  Parameters *generator = gan_generator(gan), *discriminator = gan_discriminator(gan);
  float *before[] = {download(&generator->master), download(&generator->moment2),
                     download(&generator->ema), download(&discriminator->master),
                     download(&discriminator->moment1)};
  const Buffer *buffers[] = {&generator->master, &generator->moment2, &generator->ema,
                             &discriminator->master, &discriminator->moment1};
  /* An infinite adversarial weight makes the generator's gradients non-finite. The discriminators'
   * gradients stay finite, so only their update is applied. */
  StepControls controls = schedule_at(&config, 1);
  controls.adversarial_weight = INFINITY;
  assert_int_equal(gan_step(gan, &controls, &batch, &error), OK);
  StepResult result = result_of(gan, 0);
  NetworkResult g = result.generator, d = result.discriminator;
  assert_int_equal(g.applied, 1);
  assert_int_equal(g.skipped, 1);
  assert_int_equal(g.skipped_in_a_row, 1);
  assert_int_equal(d.applied, 2);
  assert_in_range(g.worst_parameter, 0, generator->count - 1);
  assert_false(isfinite(norm_of(generator, g.worst_parameter)) != 0);
  for (int i = 0; i < g.worst_parameter; i++) assert_true(isfinite(norm_of(generator, i)) != 0);
  check_worst(discriminator, d.worst_parameter);
  for (int i = 0; i < 3; i++) {
    float *now = download(buffers[i]);
    assert_memory_equal(now, before[i], (size_t)buffers[i]->count * sizeof *now);
    free(now);
  }
  for (int i = 3; i < 5; i++) {
    float *now = download(buffers[i]);
    assert_memory_not_equal(now, before[i], (size_t)buffers[i]->count * sizeof *now);
    free(now);
  }
  run_step(gan, 2, &batch);
  assert_int_equal(result_of(gan, 0).generator.skipped_in_a_row, 0);
  for (size_t i = 0; i < sizeof before / sizeof *before; i++) free(before[i]);
  gan_free(gan);
}

/* A gradient norm above the limit skips the update like a non-finite one. */
static void test_norm_above_the_limit_skips_the_update(void **state) {
  (void)state;
  const char *const assignments[] = {"train.micro_batch=1", NULL};
  Config config = small_config(assignments);
  Gan *gan = make_gan(&config, 1);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  MicroBatch batch = {.source = source, .target = target, .samples = (int64_t[]){0}};
  run_step(gan, 0, &batch);
  double norm = result_of(gan, 0).metrics[METRIC_NORM_G];
  StepControls controls = schedule_at(&config, 1);
  controls.generator_max_norm = (float)norm / 1000;
  controls.discriminator_max_norm = 1e30f;
  float *before = download(&gan_generator(gan)->master);
  assert_int_equal(gan_step(gan, &controls, &batch, &error), OK);
  StepResult result = result_of(gan, 0);
  assert_int_equal(result.generator.skipped, 1);
  assert_int_equal(result.discriminator.applied, 2);
  assert_null(step_result_nonfinite_loss(&result));
  float *now = download(&gan_generator(gan)->master);
  assert_memory_equal(now, before, (size_t)gan_generator(gan)->master.count * sizeof *now);
  free(now);
  free(before);
  gan_free(gan);
}

static void test_nonfinite_discriminator_skips_the_generator_update(void **state) {
  (void)state;
  const char *const assignments[] = {"train.micro_batch=1", NULL};
  Config config = small_config(assignments);
  Gan *gan = make_gan(&config, 1);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  MicroBatch batch = {.source = source, .target = target, .samples = (int64_t[]){0}};
  Parameters *generator = gan_generator(gan), *discriminator = gan_discriminator(gan);
  const float nan = NAN;
  assert_int_equal(buffer_upload(&discriminator->master, 0, &nan, 1, &error), OK);
  float *before = download(&generator->master);
  run_step(gan, 0, &batch);
  StepResult result = result_of(gan, 0);
  NetworkResult g = result.generator, d = result.discriminator;
  assert_int_equal(d.skipped, 1);
  assert_int_equal(g.skipped, 1);
  assert_non_null(step_result_nonfinite_loss(&result));
  float *now = download(&generator->master);
  assert_memory_equal(now, before, (size_t)generator->master.count * sizeof *now);
  free(now);
  free(before);
  gan_free(gan);
}

static void test_schedule(void **state) {
  (void)state;
  const char *const assignments[] = {"train.steps=100",
                                     "optim.lr_schedule=linear",
                                     "optim.lr_decay_start=0.5",
                                     "optim.lr_min=0.1",
                                     "optim.generator_lr=1e-3",
                                     "optim.pretrain_steps=10",
                                     "optim.adversarial_ramp_steps=10",
                                     "loss.adversarial_weight=2",
                                     NULL};
  Config config = small_config(assignments);
  assert_int_equal(schedule_at(&config, 9).kind, STEP_PRETRAIN);
  assert_int_equal(schedule_at(&config, 10).kind, STEP_GAN);
  assert_float_equal(schedule_at(&config, 10).adversarial_weight, 0.2f, 1e-6);
  assert_float_equal(schedule_at(&config, 19).adversarial_weight, 2, 1e-6);
  assert_float_equal(schedule_at(&config, 49).generator_lr, 1e-3f, 1e-9);
  assert_float_equal(schedule_at(&config, 75).generator_lr, 0.55e-3f, 1e-9);
  assert_false(schedule_at(&config, 25).apply_r1);
}

static void test_lazy_r1(void **state) {
  (void)state;
  Config config = small_config(
      (const char *const[]){"loss.r1=1", "loss.r1_interval=16", "optim.pretrain_steps=10", NULL});
  for (int64_t step = 0; step < 100; step++)
    assert_int_equal(schedule_at(&config, step).apply_r1,
                     step == 25 || step == 41 || step == 57 || step == 73 || step == 89);
  assert_float_equal(schedule_r1_fraction(&config, 20, 45), 2.0 / 25, 1e-12);
  Gan *gan = make_gan(&config, 1);
  double plain = gan_cost(gan, 0).flops, with_r1 = gan_cost(gan, 1).flops;
  /* One more forward pass on the real half and two more backward passes. */
  assert_true(with_r1 > 1.1 * plain);
  assert_true(fabs(gan_cost(gan, 0.25).flops - 0.75 * plain - 0.25 * with_r1) < 1e-6 * plain);
  Text plan = {0};
  gan_print_plan(gan, &plan);
  assert_non_null(strstr(plan.data, "(with R1, every 16 steps: "));
  text_free(&plan);
  gan_free(gan);
  config = small_config((const char *const[]){"loss.r1=1", "loss.r1_interval=1", NULL});
  for (int64_t step = 0; step < 4; step++) assert_false(schedule_at(&config, step).apply_r1);
  gan = make_gan(&config, 1);
  assert_true(fabs(gan_cost(gan, 0).flops - with_r1) < 1e-6 * with_r1); /* every step has it */
  gan_print_plan(gan, &plan);
  assert_null(strstr(plan.data, "(with R1"));
  text_free(&plan);
  gan_free(gan);
}

/* The input gradient of an all-zero discriminator is 0, where its norm has no derivative. */
static void test_gradient_penalty_of_zero_gradient_is_finite(void **state) {
  (void)state;
  Config config =
      small_config((const char *const[]){"loss.adversarial=wgan-gp", "train.micro_batch=2", NULL});
  Gan *gan = make_gan(&config, 1);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  MicroBatch batch = {.source = source, .target = target, .samples = (int64_t[]){0, 1}};
  Buffer *weights = &gan_discriminator(gan)->master;
  float *zeros = mem_new((size_t)weights->count, sizeof *zeros);
  assert_int_equal(buffer_upload(weights, 0, zeros, weights->count, &error), OK);
  free(zeros);
  run_step(gan, 0, &batch);
  StepResult result = result_of(gan, 0);
  assert_float_equal(result.metrics[METRIC_LOSS_D], 0, 0);
  assert_float_equal(result.metrics[METRIC_GRADIENT_PENALTY], 1, 0);
  assert_int_equal(result.discriminator.applied, 1);
  assert_true(isfinite(result.metrics[METRIC_NORM_D]));
  gan_free(gan);
}

/* A skipped update leaves weights and power iteration intact. */
static void test_spectral_norm_survives_nonfinite_gradients(void **state) {
  (void)state;
  Config config =
      small_config((const char *const[]){"model.spectral_norm=true", "train.micro_batch=1", NULL});
  Gan *gan = make_gan(&config, 1);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  MicroBatch batch = {.source = source, .target = target, .samples = (int64_t[]){0}};
  Parameters *discriminator = gan_discriminator(gan);
  run_step(gan, 0, &batch);
  float *weights = download(&discriminator->master), bias = INFINITY;
  const Parameter *first = parameters_find(discriminator, "image0.conv0.bias");
  assert_int_equal(buffer_upload(&discriminator->master, first->offset, &bias, 1, &error), OK);
  run_step(gan, 1, &batch);
  assert_int_equal(result_of(gan, 0).discriminator.skipped, 1);
  bias = weights[first->offset];
  assert_int_equal(buffer_upload(&discriminator->master, first->offset, &bias, 1, &error), OK);
  float *now = download(&discriminator->master), *own = download(&discriminator->spectral->master);
  assert_memory_equal(now, weights, (size_t)discriminator->total * sizeof *now);
  for (int64_t i = 0; i < discriminator->spectral->total; i++) assert_true(isfinite(own[i]));
  run_step(gan, 2, &batch);
  StepResult result = result_of(gan, 0);
  assert_int_equal(result.discriminator.applied, 2);
  assert_int_equal(result.generator.applied, 2);
  Text plan = {0};
  gan_print_plan(gan, &plan);
  assert_non_null(strstr(plan.data, "spectral norm of 12 weights: u, v and sigma, "));
  text_free(&plan);
  free(weights);
  free(now);
  free(own);
  gan_free(gan);
}

/* The FLOPs of spectral norm and of the gradient penalty. */
static void test_cost_of_regularisation(void **state) {
  (void)state;
  static const char *const settings[] = {"loss.adversarial=hinge", "model.spectral_norm=true",
                                         "loss.adversarial=wgan-gp"};
  ProgramCost costs[3];
  for (int i = 0; i < 3; i++) {
    Config config = small_config(
        (const char *const[]){settings[i], "model.image_channels=16", "train.micro_batch=2", NULL});
    Gan *gan = make_gan(&config, 1);
    costs[i] = gan_cost(gan, 0);
    gan_free(gan);
  }
  assert_true(costs[1].flops < 1.02 * costs[0].flops); /* once per step, on weights only */
  assert_true(costs[2].flops > 1.1 * costs[0].flops);  /* like R1 */
}

/* Training begins near the identity: without norms residual blocks add little, with norms they may
 * begin at full size; the knots of the tone curve are evenly spaced. */
static void test_initial_weights(void **state) {
  (void)state;
  Config plain = small_config((const char *const[]){"model.temporal=none", "model.norm=none",
                                                    "model.blocks=1", "model.tones=5", NULL});
  Config normed = small_config(
      (const char *const[]){"model.temporal=none", "model.norm=rms", "model.blocks=1", NULL});
  Gan *without = make_gan(&plain, 1), *with = make_gan(&normed, 1);
  float first = parameters_find(&without->generator, "block0.conv1.weight")->deviation;
  float last = parameters_find(&without->generator, "block0.conv2.weight")->deviation;
  assert_true(fabsf(last - 0.1f * first) < 1e-6f * first);
  assert_true(parameters_find(&with->generator, "block0.conv2.weight")->deviation ==
              parameters_find(&with->generator, "block0.conv1.weight")->deviation);
  assert_null(parameters_find(&with->generator, "tones.knots"));
  const Parameter *knots = parameters_find(&without->generator, "tones.knots");
  float *master = download(&without->generator.master);
  for (int i = 0; i < 5; i++)
    assert_true(fabsf(master[knots->offset + i] - (0.5f * (float)i - 1)) < 1e-6f);
  free(master);
  gan_free(without);
  gan_free(with);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_schedule),
      cmocka_unit_test(test_lazy_r1),
      cmocka_unit_test(test_learns_f32),
      cmocka_unit_test(test_learns_bf16),
      cmocka_unit_test(test_micro_batches_equal_the_whole_batch),
      cmocka_unit_test(test_recompute_changes_nothing_but_memory),
      cmocka_unit_test(test_nonfinite_gradients_skip_the_update),
      cmocka_unit_test(test_norm_above_the_limit_skips_the_update),
      cmocka_unit_test(test_nonfinite_discriminator_skips_the_generator_update),
      cmocka_unit_test(test_gradient_penalty_of_zero_gradient_is_finite),
      cmocka_unit_test(test_spectral_norm_survives_nonfinite_gradients),
      cmocka_unit_test(test_cost_of_regularisation),
      cmocka_unit_test(test_initial_weights),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
