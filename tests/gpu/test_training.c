/* Whole GAN steps on the CUDA backend: from the CPU's state and on their own beside the CPU's,
 * twice with equal bytes, captured and plain, with micro-batches, with recomputation. */
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

#include "tests/gpu/support_gpu.h"
#include "tests/gpu/support_training.h"

/* Of a run; fewer where threads are fibers of the CPU, which take a second or two a step. */
enum { STEPS = 20, EMULATED_STEPS = 5 };

static int steps = STEPS;
static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* --- Comparing ---------------------------------------------------------------------------------
 */

/* |a - b| / (|b| + floor) */
static double deviation(const float *a, const float *b, int64_t count, double floor) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; i++) {
    difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    norm += (double)b[i] * (double)b[i];
  }
  return difference == 0 ? 0 : sqrt(difference) / (sqrt(norm) + floor);
}

static double distance(const Buffer *a, const Buffer *b) {
  float *x = training_download(a), *y = training_download(b);
  double result = deviation(x, y, a->count, 0);
  free(x);
  free(y);
  return result;
}

/* That of one of a step's numbers. */
static double metric_deviation(const StepResult *a, const StepResult *b, Metric metric) {
  assert_int_equal(a->computed[metric], b->computed[metric]);
  if (!b->computed[metric]) return 0;
  double x = a->metrics[metric], y = b->metrics[metric];
  if (!isfinite(x) || !isfinite(y)) fail_msg("%s: %g and %g", model_metric_name(metric), x, y);
  return fabs(x - y) / (fabs(y) + 1e-3);
}

static void assert_near(const char *what, double value, double limit) {
  printf("# %s: %.3g (at most %g)\n", what, value, limit);
  if (!(value <= limit)) fail_msg("%s: %g, at most %g is allowed", what, value, limit);
}

static void assert_same_bytes(const Buffer *a, const Buffer *b) {
  float *x = training_download(a), *y = training_download(b);
  int different = memcmp(x, y, (size_t)a->count * sizeof *x);
  free(x);
  free(y);
  if (different) fail_msg("%s: not the same bytes", a->name);
}

static void assert_same_state(const Training *a, const Training *b) {
  for (int network = 0; network < TRAINING_NETWORKS; network++) {
    TrainingArrays x = training_arrays(a, network), y = training_arrays(b, network);
    for (int i = 0; i < x.count; i++) assert_same_bytes(x.of[i], y.of[i]);
  }
}

/* --- Step by step beside the CPU ----------------------------------------------------------------
 */

typedef enum Quantity { LOSSES, NORMS, GRADIENTS, MOMENTS, WEIGHTS, QUANTITIES } Quantity;

static const char *const QUANTITY_NAMES[QUANTITIES] = {"losses", "gradient norms", "gradients",
                                                       "moments", "weights"};

/* Of the steps' deviations the median and the largest. Where a ReLU or a sign in a loss lies at the
 * edge of rounding, one pixel's gradient is another, on any device: a few steps of twenty stand out
 * a hundredfold. The median does not see them, and shows what the kernels do on every step. Losses
 * have no such edges. The limits are up to ten times what twenty steps on the CPU and the emulator
 * meet when they start from weights that are rounded another way. */
typedef struct Limits {
  double typical, worst;
} Limits;

typedef struct Track {
  double of_step[STEPS];
  const char *where[STEPS];
} Track;

static void note(Track *track, int step, double value, const char *where) {
  if (isnan(value)) value = (double)INFINITY;
  if (value <= track->of_step[step]) return;
  track->of_step[step] = value;
  track->where[step] = where;
}

/* Tensor by tensor, lest a small one that is wrong hides behind the large. What is below a
 * hundredth of the whole is measured by that: sums that cancel, such as a bias behind which there
 * is a norm, are rounding and little else. */
static void note_tensors(Track *track, int step, const Parameters *parameters, const Buffer *gpu,
                         const Buffer *cpu) {
  float *a = training_download(gpu), *b = training_download(cpu);
  double whole = 0;
  for (int64_t i = 0; i < parameters->total; i++) whole += (double)b[i] * (double)b[i];
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *of = &parameters->items[i];
    double value = deviation(a + of->offset, b + of->offset, of->count, 1e-2 * sqrt(whole));
    note(track, step, value, of->name);
  }
  free(a);
  free(b);
}

static void note_step(Track *tracks, int step, const Training *gpu, const Training *cpu) {
  StepResult x = training_result(gpu, 0), y = training_result(cpu, 0);
  for (Metric i = 0; i < METRIC_COUNT; i++)
    note(&tracks[i == METRIC_NORM_G || i == METRIC_NORM_D ? NORMS : LOSSES], step,
         metric_deviation(&x, &y, i), model_metric_name(i));
  for (int network = 0; network < TRAINING_NETWORKS; network++) {
    Parameters *a = training_network(gpu, network), *b = training_network(cpu, network);
    assert_same_bytes(&a->counters, &b->counters);
    note_tensors(&tracks[GRADIENTS], step, b, &a->gradient, &b->gradient);
    note_tensors(&tracks[MOMENTS], step, b, &a->moment1, &b->moment1);
    note_tensors(&tracks[MOMENTS], step, b, &a->moment2, &b->moment2);
    /* As a whole: Adam moves a weight by its rate either way though its gradient is nearly 0. */
    note(&tracks[WEIGHTS], step, distance(&a->master, &b->master), b->master.name);
    if (b->ema.data) note(&tracks[WEIGHTS], step, distance(&a->ema, &b->ema), b->ema.name);
  }
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void assert_track(const char *what, const Track *track, Limits limits) {
  double sorted[STEPS];
  char text[128];
  int worst = 0;
  for (int step = 0; step < steps; step++)
    if (track->of_step[step] > track->of_step[worst]) worst = step;
  memcpy(sorted, track->of_step, sizeof sorted);
  qsort(sorted, (size_t)steps, sizeof *sorted, by_size);
  snprintf(text, sizeof text, "%s, median of the steps", what);
  assert_near(text, sorted[steps / 2], limits.typical);
  snprintf(text, sizeof text, "%s, step %d, %s", what, worst,
           track->where[worst] ? track->where[worst] : "all");
  assert_near(text, sorted[steps - 1], limits.worst);
}

/* Every step starts from the CPU's state, so that a deviation is this step's own. */
static void check_lockstep(const char *const *assignments, double first, const Limits *limits) {
  Training *gpu = training_new(&TRAINING_CUDA, assignments);
  Training *cpu = training_new(NULL, assignments);
  Track tracks[QUANTITIES] = {0};
  for (int step = 0; step < steps; step++) {
    training_copy_state(gpu, cpu);
    training_step(gpu, step);
    training_step(cpu, step);
    note_step(tracks, step, gpu, cpu);
  }
  assert_near("losses and norms of the first step",
              fmax(tracks[LOSSES].of_step[0], tracks[NORMS].of_step[0]), first);
  for (int i = 0; i < QUANTITIES; i++) assert_track(QUANTITY_NAMES[i], &tracks[i], limits[i]);
  training_free(gpu);
  training_free(cpu);
}

static const Limits LIMITS_F32[QUANTITIES] = {[LOSSES] = {2e-6, 5e-6},
                                              [NORMS] = {2e-6, 2e-4},
                                              [GRADIENTS] = {2e-5, 1e-2},
                                              [MOMENTS] = {1e-5, 5e-3},
                                              [WEIGHTS] = {6e-8, 2e-5}};

static void every_step_is_the_cpus_f32(void **state) {
  (void)state;
  check_lockstep((const char *const[]){"train.precision=f32", NULL}, 2e-5, LIMITS_F32);
}

/* What critics say is the difference of what is much larger; their last bias has no gradient but
 * for rounding, which a large epsilon keeps small. */
static void every_step_is_the_cpus_recurrent_wasserstein(void **state) {
  (void)state;
  const char *const assignments[] = {"model.temporal=convgru", "loss.adversarial=wgan-gp",
                                     "optim.epsilon=1e-4", NULL};
  Limits limits[QUANTITIES];
  memcpy(limits, LIMITS_F32, sizeof limits);
  limits[LOSSES] = (Limits){1e-4, 1e-3};
  check_lockstep(assignments, 2e-5, limits);
}

static void every_step_is_the_cpus_pix2pixhd(void **state) {
  (void)state;
  static const char *const assignments[] = {"model.generator=pix2pixhd", "model.temporal=none",
                                            "model.norm=instance",       "model.downsamplings=2",
                                            "model.local_enhancers=1",         NULL};
  check_lockstep(assignments, 2e-5, LIMITS_F32);
}

static void every_step_is_the_cpus_bf16(void **state) {
  (void)state;
  check_lockstep((const char *const[]){"train.precision=bf16", NULL}, 2e-2,
                 (const Limits[]){[LOSSES] = {5e-3, 1e-2},
                                  [NORMS] = {5e-3, 2e-2},
                                  [GRADIENTS] = {0.2, 0.5},
                                  [MOMENTS] = {0.1, 0.4},
                                  [WEIGHTS] = {2e-4, 2e-3}});
}

/* --- Beside the CPU, each on its own ------------------------------------------------------------
 */

/* How far two trainings came apart. */
typedef struct Drift {
  double metrics; /* the most of all steps */
  double weights[TRAINING_NETWORKS];
} Drift;

/* `a` beside `b`; with a seed, all of a's weights are rounded another way before every step. */
static Drift drift_of(Training *a, Training *b, uint64_t seed) {
  Drift drift = {0};
  for (int step = 0; step < steps; step++) {
    if (seed) training_perturb(a, seed * STEPS + (uint64_t)step);
    training_step(a, step);
    training_step(b, step);
    StepResult x = training_result(a, 0), y = training_result(b, 0);
    for (Metric i = 0; i < METRIC_COUNT; i++)
      drift.metrics = fmax(drift.metrics, metric_deviation(&x, &y, i));
  }
  for (int i = 0; i < TRAINING_NETWORKS; i++)
    drift.weights[i] = distance(&training_network(a, i)->master, &training_network(b, i)->master);
  return drift;
}

static Drift drift_from_cpu(const CudaOptions *cuda, const char *precision, uint64_t seed) {
  const char *const assignments[] = {precision, NULL};
  Training *a = training_new(cuda, assignments), *cpu = training_new(NULL, assignments);
  Drift drift = drift_of(a, cpu, seed);
  training_free(a);
  training_free(cpu);
  return drift;
}

/* Roundings grow from step to step, so how far a device may come from the CPU is how far the CPU
 * comes from itself. Of 64 such runs in f32 the largest deviations were 1e-6 to 9e-3, 4.5e-3 in the
 * middle; one in 500 is beyond three times the largest of five others. `floor` is what is allowed
 * where none of them drifts. */
static void check_drift(const char *precision, Drift floor) {
  enum { RUNS = 5, FACTOR = 3 };
  Drift limit = floor, gpu = drift_from_cpu(&TRAINING_CUDA, precision, 0);
  for (uint64_t seed = 1; seed <= RUNS; seed++) {
    Drift own = drift_from_cpu(NULL, precision, seed);
    printf("# the CPU beside itself: %.3g, weights %.3g %.3g\n", own.metrics, own.weights[0],
           own.weights[1]);
    limit.metrics = fmax(limit.metrics, FACTOR * own.metrics);
    for (int i = 0; i < TRAINING_NETWORKS; i++)
      limit.weights[i] = fmax(limit.weights[i], FACTOR * own.weights[i]);
  }
  assert_near("losses and norms of all steps", gpu.metrics, limit.metrics);
  assert_near("generator", gpu.weights[0], limit.weights[0]);
  assert_near("discriminators", gpu.weights[1], limit.weights[1]);
}

static void a_run_drifts_as_the_cpus_f32(void **state) {
  (void)state;
  check_drift("train.precision=f32", (Drift){2e-3, {1e-3, 1e-3}});
}

static void a_run_drifts_as_the_cpus_bf16(void **state) {
  (void)state;
  check_drift("train.precision=bf16", (Drift){2e-1, {5e-2, 5e-2}});
}

/* --- Equal bytes --------------------------------------------------------------------------------
 */

/* `options` and `assignments` must not change a byte of what TRAINING_CUDA alone leaves. */
static void check_same(const CudaOptions *options, const char *const *assignments) {
  const char *const none[] = {NULL};
  Training *a = training_new(&TRAINING_CUDA, none), *b = training_new(options, assignments);
  for (int step = 0; step < steps; step++) {
    training_step(a, step);
    training_step(b, step);
    if (step == 0) continue;
    StepResult x = training_result(a, 1), y = training_result(b, 1);
    assert_memory_equal(x.metrics, y.metrics, sizeof x.metrics);
  }
  assert_same_state(a, b);
  training_free(a);
  training_free(b);
}

static void equal_runs_leave_equal_bytes(void **state) {
  (void)state;
  check_same(&TRAINING_CUDA, (const char *const[]){NULL});
}

static void a_captured_step_is_a_plain_one(void **state) {
  (void)state;
  CudaOptions plain = TRAINING_CUDA;
  plain.plain_streams = true;
  check_same(&plain, (const char *const[]){NULL});
}

static void recomputing_changes_no_byte(void **state) {
  (void)state;
  check_same(&TRAINING_CUDA, (const char *const[]){"train.recompute=true", NULL});
}

static void micro_batches_add_up(void **state) {
  (void)state;
  Training *whole = training_new(&TRAINING_CUDA, (const char *const[]){NULL});
  Training *halves =
      training_new(&TRAINING_CUDA, (const char *const[]){"train.micro_batch=1", NULL});
  for (int step = 0; step < 4; step++) {
    training_step(whole, step);
    training_step(halves, step);
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

/* The first of them that was called since `before`; NULL: none, or there is nobody who counts. */
static const char *called_since(const uint64_t before[NEVERS]) {
  for (int i = 0; i < NEVERS && emulator_calls; i++)
    if (emulator_calls(NEVER[i]) != before[i]) return NEVER[i];
  return NULL;
}

/* With the device held back a step can be started, and the one before be read: nothing waits for
 * the device, and (as the emulator counts) the step is one launch, with R1 or without. */
static void a_step_is_one_launch_and_waits_for_nothing(void **state) {
  (void)state;
  enum { FIRST = 8 }; /* steps, until all there is to capture is */
  uint64_t before[NEVERS] = {0}, launches = 0;
  const char *const assignments[] = {"model.channels=4", "model.image_scales=1", NULL};
  Training *training = training_new(&TRAINING_CUDA, assignments);
  for (int step = 0; step < FIRST; step++) training_step(training, step);
  must(training->backend->synchronize(training->backend, &error));
  for (int step = FIRST; step < FIRST + 2; step++) {
    atomic_bool go = false;
    for (int i = 0; i < NEVERS && emulator_calls; i++) before[i] = emulator_calls(NEVER[i]);
    if (emulator_calls) launches = emulator_calls("cudaGraphLaunch");
    assert_int_equal(cudaLaunchHostFunc(training->backend->stream, hold, &go), cudaSuccess);
    training_step(training, step);
    StepResult result = training_result(training, 1);
    assert_true(isfinite(result.metrics[METRIC_LOSS_G]));
    const char *called = called_since(before);
    if (emulator_calls) launches = emulator_calls("cudaGraphLaunch") - launches;
    atomic_store(&go, true); /* first of all: what fails waits for the device */
    if (called) fail_msg("a step calls %s", called);
    if (emulator_calls) assert_int_equal(launches, 1);
    training_result(training, 0);
  }
  training_free(training);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_step_is_one_launch_and_waits_for_nothing),
      cmocka_unit_test(every_step_is_the_cpus_f32),
      cmocka_unit_test(every_step_is_the_cpus_bf16),
      cmocka_unit_test(every_step_is_the_cpus_recurrent_wasserstein),
      cmocka_unit_test(every_step_is_the_cpus_pix2pixhd),
      cmocka_unit_test(a_run_drifts_as_the_cpus_f32),
      cmocka_unit_test(a_run_drifts_as_the_cpus_bf16),
      cmocka_unit_test(equal_runs_leave_equal_bytes),
      cmocka_unit_test(a_captured_step_is_a_plain_one),
      cmocka_unit_test(recomputing_changes_no_byte),
      cmocka_unit_test(micro_batches_add_up),
  };
  if (gpu_is_emulated()) steps = EMULATED_STEPS;
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, NULL, NULL);
}
