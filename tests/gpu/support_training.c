#include "tests/gpu/support_training.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"

enum {
  BATCH = 2,
  FRAMES = 3,
  SIDE = 32,
  PIXELS = FRAMES * SIDE * SIDE * 3,  /* bytes of a clip */
  FLOWS = (FRAMES - 1) * SIDE * SIDE, /* pixels of a clip that have a flow */
};

const CudaOptions TRAINING_CUDA = {
    .deterministic = true, .convolution_workspace = 64 << 20, .timeout = 60};

static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* --- A GAN and its batches -------------------------------------------------------------------- */

static Config small_config(const char *const *assignments) {
  static const char *const SMALL[] = {"model.channels=8",
                                      "model.blocks=2",
                                      "model.image_scales=2",
                                      "model.image_channels=8",
                                      "model.image_layers=2",
                                      "model.video_channels=8",
                                      "model.video_layers=2",
                                      "model.discriminator_norm=instance",
                                      "model.spectral_norm=true",
                                      "loss.feature_matching=2",
                                      "loss.total_variation=0.1",
                                      "loss.gradient=0.5",
                                      "loss.r1=0.5",
                                      "loss.r1_interval=2",
                                      "optim.clip=5",
                                      "optim.pretrain_steps=2",
                                      "optim.adversarial_ramp_steps=2",
                                      "train.global_batch=2",
                                      "train.micro_batch=2",
                                      NULL};
  Config config;
  must(config_set_defaults(&config_schema, &config, &error));
  for (int i = 0; SMALL[i]; i++)
    must(config_assign(&config_schema, SMALL[i], &config, NULL, &error));
  for (int i = 0; assignments[i]; i++)
    must(config_assign(&config_schema, assignments[i], &config, NULL, &error));
  return config;
}

Training *training_new(const CudaOptions *cuda, const char *const *assignments) {
  Training *training = mem_new(1, sizeof *training);
  training->config = small_config(assignments);
  must(cuda ? backend_cuda_new(cuda, &training->backend, &error)
            : backend_cpu_new(2, &training->backend, &error));
  GanOptions options = {.shape = {FRAMES, SIDE, SIDE, 3, SIDE, SIDE},
                        .micro_batches = BATCH / (int)training->config.train.micro_batch};
  must(gan_plan(&training->config, training->backend, &options, &training->gan, &error));
  must(gan_allocate(training->gan, &error));
  must(gan_initialize(training->gan, &error));
  return training;
}

void training_free(Training *training) {
  gan_free(training->gan);
  training->backend->free(training->backend);
  free(training);
}

static void synthesize_clips(int64_t step, uint8_t *source, uint8_t *target) {
  Random random = random_stream(5, RANDOM_TEST, (uint64_t)step, 0);
  double phase = 6.28 * (double)(random_u32(&random) % 1000) / 1000;
  for (int i = 0; i < BATCH * PIXELS; i++) {
    int x = i / 3 % SIDE, y = i / 3 / SIDE % SIDE, t = i / 3 / SIDE / SIDE;
    double value = 0.5 + 0.5 * sin(0.4 * x + 0.3 * y + 0.8 * t + i % 3 + phase);
    source[i] = (uint8_t)(250 * value + random_u32(&random) % 5);
    target[i] = value > 0.5 ? 220 : 40;
  }
}

/* Targets whose neighbouring pixels are averaged; a flow that bends, reliable in most places. */
static void synthesize_extras(int64_t step, const uint8_t *target, uint8_t *smoothed, float *flow,
                              float *mask) {
  for (int i = 0; i < BATCH * PIXELS; i++)
    smoothed[i] = (uint8_t)((target[i] + target[(i + 3) % (BATCH * PIXELS)]) / 2);
  for (int i = 0; i < BATCH * FLOWS; i++) {
    int x = i % SIDE, y = i / SIDE % SIDE;
    flow[2 * i] = (float)(2 * sin(0.2 * y + 0.1 * (double)step));
    flow[2 * i + 1] = (float)(1.5 * cos(0.15 * x));
    mask[i] = (x + y) % 4 > 0;
  }
}

void training_step(Training *training, int64_t step) {
  static uint8_t source[BATCH * PIXELS], target[BATCH * PIXELS], smoothed[BATCH * PIXELS];
  static float flow[BATCH * FLOWS * 2], mask[BATCH * FLOWS];
  const int64_t samples[BATCH] = {2 * step, 2 * step + 1};
  int micro = (int)training->config.train.micro_batch;
  MicroBatch batches[BATCH];
  synthesize_clips(step, source, target);
  synthesize_extras(step, target, smoothed, flow, mask);
  for (int i = 0; i * micro < BATCH; i++)
    batches[i] = (MicroBatch){.source = source + i * micro * PIXELS,
                              .target = target + i * micro * PIXELS,
                              .smoothed = smoothed + i * micro * PIXELS,
                              .flow = flow + i * micro * FLOWS * 2,
                              .flow_mask = mask + i * micro * FLOWS,
                              .samples = samples + i * micro};
  StepControls controls = schedule_at(&training->config, step);
  must(gan_step(training->gan, &controls, batches, &error));
}

StepResult training_result(const Training *training, int ago) {
  StepResult result;
  must(gan_step_result(training->gan, ago, &result, &error));
  return result;
}

/* --- State ------------------------------------------------------------------------------------ */

TrainingArrays training_arrays(const Training *training, Network network) {
  Parameters *of = gan_network(training->gan, network);
  if (of->total == 0) return (TrainingArrays){0};
  TrainingArrays arrays = {4, {&of->master, &of->counters, &of->moment1, &of->moment2}};
  if (of->ema.data) arrays.items[arrays.count++] = &of->ema;
  if (of->spectral) arrays.items[arrays.count++] = &of->spectral->master;
  return arrays;
}

void *training_download(const Buffer *buffer) {
  void *values = mem_new((size_t)buffer->count, dtype_size(buffer->dtype));
  must(buffer_download(buffer, 0, values, buffer->count, &error));
  return values;
}

void training_copy_state(Training *to, const Training *from) {
  for (Network network = 0; network < NETWORK_COUNT; network++) {
    TrainingArrays targets = training_arrays(to, network);
    TrainingArrays sources = training_arrays(from, network);
    for (int i = 0; i < targets.count; i++) {
      void *values = training_download(sources.items[i]);
      must(buffer_upload(targets.items[i], 0, values, targets.items[i]->count, &error));
      free(values);
    }
    if (targets.count > 0) must(parameters_refresh(gan_network(to->gan, network), &error));
  }
}

void training_perturb(Training *training, uint64_t seed) {
  for (Network network = 0; network < NETWORK_COUNT; network++) {
    Parameters *of = gan_network(training->gan, network);
    if (of->total == 0) continue;
    Random random = random_stream(seed, RANDOM_TEST, (uint64_t)network, 1);
    float *values = training_download(&of->master);
    for (int64_t i = 0; i < of->total; i++) {
      double part = (double)random_u32(&random) / 0x1p31 - 1;
      values[i] = (float)((double)values[i] * (1 + part * 0x1p-23));
    }
    must(buffer_upload(&of->master, 0, values, of->total, &error));
    must(parameters_refresh(of, &error));
    free(values);
  }
}
