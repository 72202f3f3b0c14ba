/* config_check: combinations of keys that cannot train are refused, and the message names the key
 * and what to set instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "trainer/config/config.h"

static Config config_of(const char *const *assignments) {
  Config config;
  Error error;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  for (; *assignments; assignments++)
    if (config_assign(&config_schema, *assignments, &config, NULL, &error) != OK)
      fail_msg("%s", error.message);
  return config;
}

static void accept(const char *const *assignments) {
  Config config = config_of(assignments);
  Error error;
  if (config_check(&config, NULL, 1, &error) != OK) fail_msg("%s", error.message);
}

/* The config is refused with a message that contains both texts. */
static void refuse(const char *const *assignments, const char *key, const char *message) {
  Config config = config_of(assignments);
  Error error = {0};
  assert_int_equal(config_check(&config, NULL, 1, &error), ERROR_USAGE);
  if (!strstr(error.message, key) || !strstr(error.message, message))
    fail_msg("\"%s\" does not contain \"%s\" and \"%s\"", error.message, key, message);
}

/* Unpaired data with the least that it needs. */
#define UNPAIRED                                                                                   \
  "data.target_path=cartoons", "model.conditional=false", "loss.l1=0", "loss.temporal=0"

static void defaults_are_accepted(void **state) {
  (void)state;
  accept((const char *const[]){NULL});
  Config config = config_of((const char *const[]){NULL});
  assert_false(config_is_unpaired(&config));
}

static void unpaired_data_is_accepted(void **state) {
  (void)state;
  accept((const char *const[]){UNPAIRED, NULL});
  Config config = config_of((const char *const[]){UNPAIRED, NULL});
  assert_true(config_is_unpaired(&config));
  accept((const char *const[]){UNPAIRED, "loss.patch_nce=1", "loss.patch_nce_flip=true",
                               "loss.color=1", "loss.identity=1", "loss.edge_negatives=1",
                               "loss.motion_consistency=1", "loss.flow_consistency=1",
                               "augment.mode=adaptive", "loss.content=1", "loss.style=1",
                               "loss.perceptual_weights=vgg19.safetensors", NULL});
}

static void losses_against_the_own_target_need_pairs(void **state) {
  (void)state;
  static const char *const KEYS[] = {"loss.l1", "loss.gradient", "loss.feature_matching",
                                     "loss.perceptual", "loss.temporal"};
  for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
    char assignment[64];
    snprintf(assignment, sizeof assignment, "%s=2", KEYS[i]);
    refuse((const char *const[]){UNPAIRED, "loss.perceptual_weights=vgg19.safetensors", assignment,
                                 NULL},
           KEYS[i],
           "2 compares each output with its own target, but the targets of data.target_path are "
           "unrelated to the sources; set it to 0");
  }
}

static void unpaired_discriminators_do_not_see_the_source(void **state) {
  (void)state;
  refuse((const char *const[]){UNPAIRED, "model.conditional=true", NULL}, "model.conditional",
         "set it to false");
}

static void unpaired_training_needs_discriminators(void **state) {
  (void)state;
  const char *const nothing[] = {UNPAIRED, "loss.adversarial_weight=0", "loss.style=1",
                                 "loss.perceptual_weights=vgg19.safetensors", NULL};
  refuse(nothing, "", "above 0");
}

static void patch_nce_needs_celnet(void **state) {
  (void)state;
  refuse((const char *const[]){"model.generator=pix2pixhd", "model.temporal=none",
                               "loss.patch_nce=1", NULL},
         "loss.patch_nce", "set model.generator to celnet");
}

static void refinements_and_base_need_celnet(void **state) {
  (void)state;
  refuse((const char *const[]){"model.generator=pix2pixhd", "model.temporal=none",
                               "model.refinements=2", NULL},
         "model.refinements", "pix2pixhd has none");
  refuse((const char *const[]){"model.generator=pix2pixhd", "model.temporal=none",
                               "model.smooth_base=true", NULL},
         "model.smooth_base", "pix2pixhd has none");
}

static void tones_need_celnet(void **state) {
  (void)state;
  refuse((const char *const[]){"model.generator=pix2pixhd", "model.temporal=none", "model.tones=32",
                               NULL},
         "model.tones", "32: pix2pixhd has none");
}

static void edge_negatives_need_labels(void **state) {
  (void)state;
  refuse((const char *const[]){"loss.edge_negatives=1", "loss.adversarial=wgan-gp", NULL},
         "loss.edge_negatives", "wgan-gp, whose critic has no labels");
  refuse((const char *const[]){"loss.edge_negatives=1", "loss.adversarial_weight=0", NULL},
         "loss.edge_negatives", "needs trained discriminators");
}

static void losses_on_vgg19_need_its_weights(void **state) {
  (void)state;
  static const char *const KEYS[] = {"loss.content", "loss.style", "loss.perceptual"};
  for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
    char assignment[64];
    snprintf(assignment, sizeof assignment, "%s=1", KEYS[i]);
    refuse((const char *const[]){assignment, NULL}, KEYS[i],
           "needs VGG19's weights: loss.perceptual_weights, a safetensors file");
  }
}

static void flow_consistency_needs_frames(void **state) {
  (void)state;
  refuse((const char *const[]){"loss.flow_consistency=1", "data.frames=1", NULL},
         "loss.flow_consistency", "data.frames is 1; set it to 2 or more");
}

static void augmentation_needs_discriminators(void **state) {
  (void)state;
  refuse((const char *const[]){"augment.mode=fixed", "loss.adversarial_weight=0", NULL},
         "augment.mode", "needs trained discriminators");
}

static void views_are_discriminators(void **state) {
  (void)state;
  accept((const char *const[]){"model.image_scales=0", "model.video=false",
                               "model.smooth_view=true", NULL});
  accept((const char *const[]){"model.image_scales=0", "model.video=false", "model.grey_view=true",
                               NULL});
  refuse((const char *const[]){"model.image_scales=0", "model.video=false", NULL},
         "loss.adversarial_weight", "needs a discriminator");
}

static void pretraining_needs_l1(void **state) {
  (void)state;
  refuse((const char *const[]){UNPAIRED, "optim.pretrain_steps=10", NULL}, "optim.pretrain_steps",
         "needs loss.l1 above 0");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults_are_accepted),
      cmocka_unit_test(unpaired_data_is_accepted),
      cmocka_unit_test(losses_against_the_own_target_need_pairs),
      cmocka_unit_test(unpaired_discriminators_do_not_see_the_source),
      cmocka_unit_test(unpaired_training_needs_discriminators),
      cmocka_unit_test(patch_nce_needs_celnet),
      cmocka_unit_test(refinements_and_base_need_celnet),
      cmocka_unit_test(tones_need_celnet),
      cmocka_unit_test(edge_negatives_need_labels),
      cmocka_unit_test(losses_on_vgg19_need_its_weights),
      cmocka_unit_test(flow_consistency_needs_frames),
      cmocka_unit_test(augmentation_needs_discriminators),
      cmocka_unit_test(views_are_discriminators),
      cmocka_unit_test(pretraining_needs_l1),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
