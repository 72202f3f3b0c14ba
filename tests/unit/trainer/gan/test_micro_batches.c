/* A step on two equal micro-batches leaves the bytes of a step on one: the sum of two halves is
 * exact, so nothing but the programs differs. One runs whole steps, the other a pass for each
 * network, the discriminators' without the generator's backward pass. comm.reduce: reproducible
 * builds on it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "support_gan.h"

static void assert_equal(const Buffer *a, const Buffer *b) {
  float *x = download(a), *y = download(b);
  assert_int_equal(a->count, b->count);
  int64_t different = 0;
  for (int64_t i = 0; i < a->count; i++) different += memcmp(&x[i], &y[i], sizeof *x) != 0;
  free(x);
  free(y);
  if (different > 0)
    fail_msg("%s: %d of %d elements differ", a->name, (int)different, (int)a->count);
}

static void check_config(const char *const *assignments) {
  Config config = small_config(assignments);
  if (config_assign(&config_schema, "train.precision=bf16", &config, NULL, &error) != OK ||
      config_check(&config, NULL, 1, &error) != OK)
    fail_msg("%s", error.message);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  Gan *once = make_gan(&config, 1), *twice = make_gan(&config, 2);
  for (int64_t i = 0; i < 3; i++) {
    const int64_t samples[2] = {i, i};
    MicroBatch batch = batch_of(source, target, 0, samples);
    MicroBatch both[2] = {batch, batch};
    run_step(once, i, &batch);
    run_step(twice, i, both);
  }
  for (Network network = 0; network < NETWORK_COUNT; network++) {
    if (gan_network(once, network)->total == 0) continue;
    assert_equal(&gan_network(once, network)->master, &gan_network(twice, network)->master);
    assert_equal(&gan_network(once, network)->moment1, &gan_network(twice, network)->moment1);
    assert_equal(&gan_network(once, network)->moment2, &gan_network(twice, network)->moment2);
  }
  gan_free(once);
  gan_free(twice);
}

#define CHECK(...) check_config((const char *const[]){__VA_ARGS__, NULL})

static void test_temporal_layers(void **state) {
  (void)state;
  if (!backend->supports_bf16(backend)) skip();
  CHECK("model.temporal=none", "model.norm=none");
  CHECK("model.temporal=conv3d", "loss.r1=1", "loss.r1_interval=2");
  CHECK("model.temporal=convgru", "model.channels=16", "loss.feature_matching=1");
}

static void test_generators(void **state) {
  (void)state;
  if (!backend->supports_bf16(backend)) skip();
  CHECK("model.generator=pix2pixhd", "model.temporal=none", "model.downsamplings=2");
  CHECK("model.smooth_base=true", "model.tones=4", "model.refinements=1", "model.norm=instance",
        "model.noise_channels=1");
}

static void test_discriminators(void **state) {
  (void)state;
  if (!backend->supports_bf16(backend)) skip();
  CHECK("loss.adversarial=wgan-gp", "model.discriminator_norm=rms");
  CHECK("loss.adversarial=hinge", "model.spectral_norm=true", "loss.edge_negatives=0.5",
        "model.conditional=false");
}

static void test_unpaired(void **state) {
  (void)state;
  if (!backend->supports_bf16(backend)) skip();
  CHECK(UNPAIRED, "model.temporal=convgru", "model.norm=group");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_temporal_layers),
      cmocka_unit_test(test_generators),
      cmocka_unit_test(test_discriminators),
      cmocka_unit_test(test_unpaired),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
