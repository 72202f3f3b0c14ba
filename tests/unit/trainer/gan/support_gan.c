#include "support_gan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

Backend *backend;
Error error;

int open_backend(void **state) {
  (void)state;
  return backend_cpu_new(1, &backend, &error) == OK ? 0 : -1;
}

int close_backend(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

Config small_config(const char *const *assignments) {
  static const char *const SMALL[] = {"model.channels=4",          "model.blocks=1",
                                      "model.image_channels=4",    "model.image_layers=2",
                                      "model.video_channels=4",    "model.video_layers=2",
                                      "optim.lr_schedule=constant"};
  Config config;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  for (size_t i = 0; i < sizeof SMALL / sizeof *SMALL; i++)
    assert_int_equal(config_assign(&config_schema, SMALL[i], &config, NULL, &error), OK);
  for (; *assignments; assignments++)
    if (config_assign(&config_schema, *assignments, &config, NULL, &error) != OK)
      fail_msg("%s", error.message);
  return config;
}

Gan *make_gan(const Config *config, int micro_batches) {
  GanOptions options = {.shape = {FRAMES, SIDE, SIDE, 3, SIDE, SIDE},
                        .micro_batches = micro_batches};
  Gan *gan = NULL;
  if (gan_plan(config, backend, &options, &gan, &error) != OK) fail_msg("%s", error.message);
  if (gan_allocate(gan, &error) != OK) fail_msg("%s", error.message);
  assert_int_equal(gan_initialize(gan, &error), OK);
  return gan;
}

void make_clips(uint8_t *source, uint8_t *target) {
  for (int i = 0; i < 2 * CLIP_BYTES; i++) {
    int x = i / 3 % SIDE, y = i / 3 / SIDE % SIDE, t = i / 3 / SIDE / SIDE;
    double value = 0.5 + 0.5 * sin(0.4 * x + 0.3 * y + 0.8 * t + i % 3);
    source[i] = (uint8_t)(255 * value);
    target[i] = value > 0.5 ? 220 : 40;
  }
}

void run_step(Gan *gan, int64_t number, const MicroBatch *batches) {
  StepControls controls = schedule_at(gan_config(gan), number);
  if (gan_step(gan, &controls, batches, &error) != OK) fail_msg("%s", error.message);
}

float *download(const Buffer *buffer) {
  float *values = mem_new((size_t)buffer->count, sizeof *values);
  assert_int_equal(buffer_download(buffer, 0, values, buffer->count, &error), OK);
  return values;
}

void assert_close(const Buffer *a, const Buffer *b, double tolerance) {
  float *x = download(a), *y = download(b);
  double worst = 0;
  assert_int_equal(a->count, b->count);
  for (int64_t i = 0; i < a->count; i++) worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
  free(x);
  free(y);
  if (!(worst <= tolerance)) fail_msg("%s differ by %g", a->name, worst);
}

StepResult result_of(Gan *gan, int ago) {
  StepResult result;
  if (gan_step_result(gan, ago, &result, &error) != OK) fail_msg("%s", error.message);
  return result;
}

static uint8_t smoothed_clips[2 * CLIP_BYTES];
static float flows[2 * (FRAMES - 1) * PIXELS * 2], flow_masks[2 * (FRAMES - 1) * PIXELS];

static void make_extras(const uint8_t *target) {
  for (int i = 0; i < 2 * CLIP_BYTES; i++)
    smoothed_clips[i] = (uint8_t)((target[i] + target[(i + 3) % (2 * CLIP_BYTES)]) / 2);
  for (int i = 0; i < 2 * (FRAMES - 1) * PIXELS; i++) {
    flows[2 * i] = -1.5f;
    flows[2 * i + 1] = 0.75f;
    flow_masks[i] = i % SIDE < SIDE / 2;
  }
}

MicroBatch batch_of(const uint8_t *source, const uint8_t *target, int first,
                    const int64_t *samples) {
  make_extras(target);
  return (MicroBatch){.source = source + first * CLIP_BYTES,
                      .target = target + first * CLIP_BYTES,
                      .smoothed = smoothed_clips + first * CLIP_BYTES,
                      .flow = flows + first * (FRAMES - 1) * PIXELS * 2,
                      .flow_mask = flow_masks + first * (FRAMES - 1) * PIXELS,
                      .samples = samples + first};
}

void check_metrics(const StepResult *result) {
  for (Metric i = 0; i < METRIC_COUNT; i++)
    if (isfinite(result->metrics[i]) != result->computed[i])
      fail_msg("%s is %g, %scomputed", gan_metric_name(i), result->metrics[i],
               result->computed[i] ? "" : "not ");
}

void compare_micro_batches(const Config *whole, const Config *halves) {
  Gan *a = make_gan(whole, 1), *b = make_gan(halves, 2);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  static const int64_t samples[2] = {0, 1};
  make_clips(source, target);
  MicroBatch batch = batch_of(source, target, 0, samples);
  MicroBatch split[2] = {batch, batch_of(source, target, 1, samples)};
  for (int i = 0; i < 3; i++) {
    run_step(a, i, &batch);
    run_step(b, i, split);
    const StepResult of_a = result_of(a, 0), of_b = result_of(b, 0);
    const double *x = of_a.metrics, *y = of_b.metrics;
    for (int m = 0; m < METRIC_COUNT; m++) {
      bool same = isnan(x[m]) ? isnan(y[m]) : fabs(x[m] - y[m]) <= 1e-4 * fabs(x[m]);
      if (!same)
        fail_msg("step %d: %s is %.9g and %.9g", i, gan_metric_name((Metric)m), x[m], y[m]);
    }
  }
  for (Network network = 0; network < NETWORK_COUNT; network++)
    if (gan_network(a, network)->total > 0)
      assert_close(&gan_network(a, network)->moment1, &gan_network(b, network)->moment1, 1e-5);
  gan_free(a);
  gan_free(b);
}

void compare_recompute(const Config *config, double share) {
  Config recomputing = *config;
  recomputing.train.recompute = true;
  int micro_batches = 2 / (int)config->train.micro_batch;
  Gan *a = make_gan(config, micro_batches), *b = make_gan(&recomputing, micro_batches);
  static uint8_t source[2 * CLIP_BYTES], target[2 * CLIP_BYTES];
  make_clips(source, target);
  static const int64_t samples[2] = {0, 1};
  MicroBatch batches[2] = {batch_of(source, target, 0, samples),
                           batch_of(source, target, 1, samples)};
  for (int i = 0; i < 2; i++) {
    run_step(a, i, batches);
    run_step(b, i, batches);
  }
  assert_close(&gan_generator(a)->moment2, &gan_generator(b)->moment2, 0);
  for (Network network = 0; network < NETWORK_COUNT; network++)
    if (gan_network(a, network)->total > 0)
      assert_close(&gan_network(a, network)->master, &gan_network(b, network)->master, 0);
  double before = (double)gan_cost(a, 0).arena_bytes;
  double now = (double)gan_cost(b, 0).arena_bytes;
  if (!(now < share * before)) fail_msg("arena of %g bytes, %g with recompute", before, now);
  assert_true(gan_cost(b, 0).bytes > gan_cost(a, 0).bytes);
  gan_free(a);
  gan_free(b);
}
