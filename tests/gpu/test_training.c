/* Whole GAN steps on the CUDA backend: beside the CPU's, twice with equal bytes, captured and
 * plain, with micro-batches, with recomputation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/random.h"
#include "tests/gpu/support_gpu.h"
#include "trainer/model.h"

enum { BATCH = 2, FRAMES = 3, SIDE = 32, PIXELS = FRAMES * SIDE * SIDE * 3 };

/* Of a run; fewer where threads are fibers of the CPU, which take a second or two a step. */
enum { STEPS = 20, EMULATED_STEPS = 5 };

static int steps = STEPS;
static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static Config small_config(const char *const *assignments) {
  static const char *const SMALL[] = {"model.channels=8",
                                      "model.blocks=2",
                                      "model.image_scales=2",
                                      "model.image_channels=8",
                                      "model.image_layers=2",
                                      "model.video_channels=8",
                                      "model.video_layers=2",
                                      "model.discriminator_norm=instance",
                                      "loss.feature_matching=2",
                                      "loss.total_variation=0.1",
                                      "optim.clip=5",
                                      "optim.l1_warmup=2",
                                      "optim.fade_in=2",
                                      "train.global_batch=2",
                                      "train.micro_batch=2",
                                      NULL};
  Config config;
  must(config_set_defaults(&config_schema, &config, &error));
  for (int i = 0; SMALL[i]; i++) must(config_assign(&config_schema, SMALL[i], &config, &error));
  for (int i = 0; assignments[i]; i++)
    must(config_assign(&config_schema, assignments[i], &config, &error));
  return config;
}

/* --- A model on a device, and its batches -------------------------------------------------------
 */

typedef struct Training {
  Config config;
  Backend *backend;
  Model *model;
} Training;

static Training *training_new(const CudaOptions *cuda, const char *const *assignments) {
  Training *training = mem_new(1, sizeof *training);
  training->config = small_config(assignments);
  must(cuda ? backend_cuda_new(cuda, &training->backend, &error)
            : backend_cpu_new(2, &training->backend, &error));
  ModelOptions options = {.shape = {FRAMES, SIDE, SIDE, 3, SIDE, SIDE},
                          .micro_batches = BATCH / (int)training->config.train.micro_batch};
  must(model_plan(&training->config, training->backend, &options, &training->model, &error));
  must(model_allocate(training->model, &error));
  must(model_initialize(training->model, &error));
  return training;
}

static void training_free(Training *training) {
  model_free(training->model);
  training->backend->free(training->backend);
  free(training);
}

static void draw_clips(int64_t step, uint8_t *source, uint8_t *target) {
  Random random = random_stream(5, RANDOM_TEST, (uint64_t)step, 0);
  double phase = 6.28 * (double)(random_u32(&random) % 1000) / 1000;
  for (int i = 0; i < BATCH * PIXELS; i++) {
    int x = i / 3 % SIDE, y = i / 3 / SIDE % SIDE, t = i / 3 / SIDE / SIDE;
    double value = 0.5 + 0.5 * sin(0.4 * x + 0.3 * y + 0.8 * t + i % 3 + phase);
    source[i] = (uint8_t)(250 * value + random_u32(&random) % 5);
    target[i] = value > 0.5 ? 220 : 40;
  }
}

static void take_step(Training *training, int64_t step) {
  static uint8_t source[BATCH * PIXELS], target[BATCH * PIXELS];
  static const int64_t samples[BATCH] = {0, 1};
  int micro = (int)training->config.train.micro_batch;
  MicroBatch batches[BATCH];
  draw_clips(step, source, target);
  for (int i = 0; i * micro < BATCH; i++)
    batches[i] =
        (MicroBatch){source + i * micro * PIXELS, target + i * micro * PIXELS, samples + i * micro};
  StepControls controls = schedule_at(&training->config, step);
  must(model_step(training->model, &controls, batches, &error));
}

static float *download(const Buffer *buffer) {
  float *values = mem_new((size_t)buffer->count, sizeof *values);
  must(buffer_download(buffer, 0, values, buffer->count, &error));
  return values;
}

/* |a - b| / |b| */
static double distance(const Buffer *a, const Buffer *b) {
  float *x = download(a), *y = download(b);
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < a->count; i++) {
    difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    norm += (double)y[i] * (double)y[i];
  }
  free(x);
  free(y);
  return sqrt(difference / norm);
}

static void assert_near(const char *what, double value, double limit) {
  printf("# %s: %.3g (at most %g)\n", what, value, limit);
  if (!(value <= limit)) fail_msg("%s: %g, at most %g is allowed", what, value, limit);
}

static void assert_same_bytes(const Buffer *a, const Buffer *b) {
  float *x = download(a), *y = download(b);
  int different = memcmp(x, y, (size_t)a->count * sizeof *x);
  free(x);
  free(y);
  if (different) fail_msg("%s: not the same bytes", a->name);
}

static void assert_same_state(Training *a, Training *b) {
  Parameters *of_a[] = {model_generator(a->model), model_discriminator(a->model)};
  Parameters *of_b[] = {model_generator(b->model), model_discriminator(b->model)};
  for (int i = 0; i < 2; i++) {
    assert_same_bytes(&of_a[i]->master, &of_b[i]->master);
    assert_same_bytes(&of_a[i]->moment1, &of_b[i]->moment1);
    assert_same_bytes(&of_a[i]->moment2, &of_b[i]->moment2);
  }
  assert_same_bytes(&of_a[0]->ema, &of_b[0]->ema);
}

static StepResult result_of(const Training *training, int ago) {
  StepResult result;
  must(model_result(training->model, ago, &result, &error));
  return result;
}

/* --- Tests ------------------------------------------------------------------------------------ */

static const CudaOptions DETERMINISTIC = {
    .deterministic = true, .convolution_workspace = 64 << 20, .timeout = 60};

/* Losses step by step and the weights at the end. Small differences grow over the steps, as they do
 * between two orders of summation on one device; the first step shows them unmixed. */
static void check_against_cpu(const char *precision, double first, double last, double weights) {
  const char *const assignments[] = {precision, NULL};
  Training *gpu = training_new(&DETERMINISTIC, assignments);
  Training *cpu = training_new(NULL, assignments);
  double worst_first = 0, worst = 0;
  for (int step = 0; step < steps; step++) {
    take_step(gpu, step);
    take_step(cpu, step);
    StepResult a = result_of(gpu, 0), b = result_of(cpu, 0);
    for (int i = 0; i < METRIC_COUNT; i++) {
      assert_int_equal(a.computed[i], b.computed[i]);
      if (!b.computed[i]) continue;
      double off = fabs(a.metrics[i] - b.metrics[i]) / (fabs(b.metrics[i]) + 1e-3);
      if (step == 0 && off > worst_first) worst_first = off;
      if (off > worst) worst = off;
    }
  }
  assert_near("losses and norms of the first step", worst_first, first);
  assert_near("losses and norms of all steps", worst, last);
  assert_near("generator",
              distance(&model_generator(gpu->model)->master, &model_generator(cpu->model)->master),
              weights);
  assert_near(
      "discriminators",
      distance(&model_discriminator(gpu->model)->master, &model_discriminator(cpu->model)->master),
      weights);
  training_free(gpu);
  training_free(cpu);
}

static void steps_beside_the_cpu_f32(void **state) {
  (void)state;
  check_against_cpu("train.precision=f32", 2e-5, 2e-3, 1e-3);
}

static void steps_beside_the_cpu_bf16(void **state) {
  (void)state;
  check_against_cpu("train.precision=bf16", 2e-2, 2e-1, 5e-2);
}

/* `options` and `assignments` must not change a byte of what DETERMINISTIC alone leaves. */
static void check_same(const CudaOptions *options, const char *const *assignments) {
  const char *const none[] = {NULL};
  Training *a = training_new(&DETERMINISTIC, none), *b = training_new(options, assignments);
  for (int step = 0; step < steps; step++) {
    take_step(a, step);
    take_step(b, step);
    if (step == 0) continue;
    StepResult x = result_of(a, 1), y = result_of(b, 1);
    assert_memory_equal(x.metrics, y.metrics, sizeof x.metrics);
  }
  assert_same_state(a, b);
  training_free(a);
  training_free(b);
}

static void equal_runs_leave_equal_bytes(void **state) {
  (void)state;
  check_same(&DETERMINISTIC, (const char *const[]){NULL});
}

static void a_captured_step_is_a_plain_one(void **state) {
  (void)state;
  CudaOptions plain = DETERMINISTIC;
  plain.plain_streams = true;
  check_same(&plain, (const char *const[]){NULL});
}

static void recomputing_changes_no_byte(void **state) {
  (void)state;
  check_same(&DETERMINISTIC, (const char *const[]){"train.recompute=true", NULL});
}

static void micro_batches_add_up(void **state) {
  (void)state;
  Training *whole = training_new(&DETERMINISTIC, (const char *const[]){NULL});
  Training *halves =
      training_new(&DETERMINISTIC, (const char *const[]){"train.micro_batch=1", NULL});
  for (int step = 0; step < 4; step++) {
    take_step(whole, step);
    take_step(halves, step);
  }
  assert_near(
      "moments of two micro-batches",
      distance(&model_generator(halves->model)->moment1, &model_generator(whole->model)->moment1),
      1e-2);
  training_free(whole);
  training_free(halves);
}

/* --- What a step asks of the device -------------------------------------------------------------
 */

/* Of the emulator; not there on a real device. */
extern uint64_t emulator_calls(const char *name) __attribute__((weak));

/* What allocates, waits, loads code, or starts work beside the captured step. */
static const char *const NEVER[] = {"cudaMalloc",
                                    "cudaFree",
                                    "cudaHostAlloc",
                                    "cudaFreeHost",
                                    "cudaMemcpy",
                                    "cudaMemset",
                                    "cudaDeviceSynchronize",
                                    "cudaStreamSynchronize",
                                    "cudaStreamQuery",
                                    "cudaEventSynchronize",
                                    "cudaEventCreateWithFlags",
                                    "cudaGraphInstantiate",
                                    "kernel"};
enum { NEVERS = sizeof NEVER / sizeof *NEVER };

static void CUDART_CB hold(void *flag) {
  while (!atomic_load((atomic_bool *)flag)) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

/* With the device held back a step can be started, and the one before be read: nothing waits for
 * the device, and (as the emulator counts) the step is one launch. */
static void a_step_is_one_launch_and_waits_for_nothing(void **state) {
  (void)state;
  enum { FIRST = 4 }; /* steps, until all there is to capture is */
  uint64_t before[NEVERS] = {0}, launches = 0;
  const char *const assignments[] = {"model.channels=4", "model.image_scales=1", NULL};
  Training *training = training_new(&DETERMINISTIC, assignments);
  for (int step = 0; step < FIRST; step++) take_step(training, step);
  must(training->backend->synchronize(training->backend, &error));
  for (int step = FIRST; step < FIRST + 2; step++) {
    atomic_bool go = false;
    for (int i = 0; i < NEVERS && emulator_calls; i++) before[i] = emulator_calls(NEVER[i]);
    if (emulator_calls) launches = emulator_calls("cudaGraphLaunch");
    assert_int_equal(cudaLaunchHostFunc(training->backend->stream, hold, &go), cudaSuccess);
    take_step(training, step);
    StepResult result = result_of(training, 1);
    assert_true(isfinite(result.metrics[METRIC_LOSS_G]));
    for (int i = 0; i < NEVERS && emulator_calls; i++)
      if (emulator_calls(NEVER[i]) != before[i]) fail_msg("a step calls %s", NEVER[i]);
    if (emulator_calls) assert_int_equal(emulator_calls("cudaGraphLaunch"), launches + 1);
    atomic_store(&go, true);
    result_of(training, 0);
  }
  training_free(training);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_step_is_one_launch_and_waits_for_nothing),
      cmocka_unit_test(steps_beside_the_cpu_f32),
      cmocka_unit_test(steps_beside_the_cpu_bf16),
      cmocka_unit_test(equal_runs_leave_equal_bytes),
      cmocka_unit_test(a_captured_step_is_a_plain_one),
      cmocka_unit_test(recomputing_changes_no_byte),
      cmocka_unit_test(micro_batches_add_up),
  };
  if (gpu_is_emulated()) steps = EMULATED_STEPS;
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, NULL, NULL);
}
