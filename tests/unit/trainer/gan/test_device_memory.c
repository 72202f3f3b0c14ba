/* The computed memory need equals what gan_allocate allocates, and running out of memory suggests
 * settings that fit. The device is the CPU backend with a memory limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trainer/gan/device_memory.h"

enum { FRAMES = 2, SIDE = 32 };

static Backend *backend;
static Error error;
static size_t allocated, limit;
static int live;
static Status (*allocate_unlimited)(Backend *backend, size_t bytes, const char *what, void **out,
                                    Error *error);
static void (*release_uncounted)(Backend *backend, void *memory);

static Status allocate_within_limit(Backend *self, size_t bytes, const char *what, void **out,
                                    Error *why) {
  *out = NULL;
  if (allocated + bytes > limit) return error_set(why, ERROR_INTERNAL, "%s: out of memory", what);
  allocated += bytes;
  live++;
  return allocate_unlimited(self, bytes, what, out, why);
}

/* Counts per buffer only: tests free everything at once. */
static void release_counted(Backend *self, void *memory) {
  if (--live == 0) allocated = 0;
  release_uncounted(self, memory);
}

static Status tell_memory(Backend *self, DeviceMemory *out, Error *why) {
  (void)self;
  (void)why;
  *out = (DeviceMemory){.free = limit - allocated, .total = limit};
  return OK;
}

static int open_backend(void **state) {
  (void)state;
  if (backend_cpu_new(1, &backend, &error) != OK) return -1;
  allocate_unlimited = backend->allocate;
  release_uncounted = backend->release;
  backend->allocate = allocate_within_limit;
  backend->release = release_counted;
  backend->memory = tell_memory;
  return 0;
}

static int close_backend(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

static Config small_config(const char *micro_batch) {
  const char *const keys[] = {"model.channels=4",
                              "model.blocks=2",
                              "model.image_channels=4",
                              "model.image_layers=2",
                              "model.video_channels=4",
                              "model.video_layers=2",
                              "train.global_batch=8",
                              "model.noise_channels=1",
                              "model.spectral_norm=true",
                              "loss.adversarial=wgan-gp",
                              micro_batch};
  Config config;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (config_assign(&config_schema, keys[i], &config, NULL, &error) != OK)
      fail_msg("%s", error.message);
  return config;
}

static Gan *plan(const Config *config) {
  GanOptions options = {.shape = {FRAMES, SIDE, SIDE, 3, SIDE, SIDE},
                        .micro_batches = (int)(8 / config->train.micro_batch)};
  Gan *gan = NULL;
  if (gan_plan(config, backend, &options, &gan, &error) != OK) fail_msg("%s", error.message);
  return gan;
}

static size_t total(const Config *config) {
  DeviceMemoryNeeds memory;
  Gan *gan = plan(config);
  assert_int_equal(device_memory_needs(gan, &memory, &error), OK);
  gan_free(gan);
  return memory.total;
}

static void needs_equal_allocations(void **state) {
  (void)state;
  const char *const settings[] = {"train.micro_batch=8",
                                  "train.micro_batch=2",
                                  "train.precision=bf16",
                                  "loss.adversarial_weight=0",
                                  "train.recompute=true",
                                  "loss.perceptual=1",
                                  "loss.patch_nce=1",
                                  "loss.motion_consistency=1",
                                  "loss.flow_consistency=1",
                                  "augment.mode=fixed",
                                  "model.grey_view=true",
                                  "model.smooth_view=true",
                                  "loss.identity=1",
                                  "loss.content=1",
                                  "loss.style=1",
                                  "loss.color=1",
                                  "loss.edge_negatives=1",
                                  "model.refinements=1"};
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
    Config config = small_config("train.micro_batch=4");
    assert_int_equal(config_assign(&config_schema, settings[i], &config, NULL, &error), OK);
    if (strstr(settings[i], "edge_negatives")) config.loss.adversarial = ADVERSARIAL_HINGE;
    if (strstr(settings[i], "bf16") && !backend->supports_bf16(backend)) continue;
    const size_t needed = total(&config);
    limit = SIZE_MAX;
    allocated = 0;
    Gan *gan = plan(&config);
    const int64_t frozen = gan_perceptual_network(gan)->total;
    if (frozen > 0) gan_set_perceptual_weights(gan, mem_new((size_t)frozen, sizeof(float)));
    assert_int_equal(gan_allocate(gan, &error), OK);
    assert_int_equal(allocated, needed);
    gan_free(gan);
    assert_int_equal(live, 0);
  }
}

/* A setting is suggested exactly if the device has enough memory for it. */
static void fitting_micro_batch_is_suggested(void **state) {
  (void)state;
  Config config = small_config("train.micro_batch=8");
  Config four = small_config("train.micro_batch=4"), two = small_config("train.micro_batch=2");
  limit = total(&four);
  Gan *gan = plan(&config);
  assert_int_equal(device_memory_allocate(&gan, &error), ERROR_INTERNAL);
  assert_null(gan);
  assert_non_null(strstr(error.message, ": out of memory; the training needs "));
  assert_non_null(strstr(error.message, "what would fit: train.micro_batch: 4 needs "));
  gan = plan(&four);
  assert_int_equal(device_memory_allocate(&gan, &error), OK);
  gan_free(gan);
  limit = total(&four) - 1;
  gan = plan(&config);
  assert_int_equal(device_memory_allocate(&gan, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "train.micro_batch: 2 needs "));
  assert_true(total(&two) < total(&four));
}

static void recompute_is_suggested(void **state) {
  (void)state;
  Config config = small_config("train.micro_batch=1"), recomputing = config;
  recomputing.train.recompute = true;
  assert_true(total(&recomputing) < total(&config));
  limit = total(&recomputing);
  Gan *gan = plan(&config);
  assert_int_equal(device_memory_allocate(&gan, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "what would fit: train.recompute: true needs "));
  limit = total(&recomputing) - 1;
  gan = plan(&config);
  assert_int_equal(device_memory_allocate(&gan, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "no train.micro_batch fits"));
  assert_int_equal(live, 0);
}

static void text_says_whether_it_fits(void **state) {
  (void)state;
  Config config = small_config("train.micro_batch=4");
  Text text = {0};
  limit = total(&config);
  allocated = 0;
  Gan *gan = plan(&config);
  assert_int_equal(device_memory_print(gan, &text, &error), OK);
  assert_non_null(strstr(text.data, "it fits"));
  limit--;
  text_clear(&text);
  assert_int_equal(device_memory_print(gan, &text, &error), OK);
  assert_non_null(strstr(text.data, "it does not fit"));
  text_free(&text);
  gan_free(gan);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(needs_equal_allocations),
      cmocka_unit_test(fitting_micro_batch_is_suggested),
      cmocka_unit_test(recompute_is_suggested),
      cmocka_unit_test(text_says_whether_it_fits),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
