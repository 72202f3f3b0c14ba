/* Whole GAN training steps on the CUDA backend. Each step is compared with the CPU's from the same
 * state, and free-running training with the CPU's drift; results must be byte-identical in equal
 * runs, with and without CUDA graphs, and with recomputation; micro-batches must add up. */
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

/* Steps per run; fewer on the emulator, which takes seconds for each. */
enum { STEPS = 20, EMULATED_STEPS = 5 };

static int steps = STEPS;
static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* --- Comparisons ------------------------------------------------------------------------------ */

/* The relative deviation |a - b| / (|b| + floor), with Euclidean norms. */
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

/* The relative deviation of one metric of a step. */
static double metric_deviation(const StepResult *a, const StepResult *b, Metric metric) {
  assert_int_equal(a->computed[metric], b->computed[metric]);
  if (!b->computed[metric]) return 0;
  double x = a->metrics[metric], y = b->metrics[metric];
  if (!isfinite(x) || !isfinite(y)) fail_msg("%s: %g and %g", gan_metric_name(metric), x, y);
  return fabs(x - y) / (fabs(y) + 1e-3);
}

static void assert_near(const char *what, double value, double limit) {
  printf("# %s: %.3g (at most %g)\n", what, value, limit);
  if (!(value <= limit)) fail_msg("%s: %g, at most %g", what, value, limit);
}

static void assert_same_bytes(const Buffer *a, const Buffer *b) {
  void *x = training_download(a), *y = training_download(b);
  int different = memcmp(x, y, (size_t)a->count * dtype_size(a->dtype));
  free(x);
  free(y);
  if (different) fail_msg("%s: bytes differ", a->name);
}

static void assert_same_state(const Training *a, const Training *b) {
  for (Network network = 0; network < NETWORK_COUNT; network++) {
    TrainingArrays x = training_arrays(a, network), y = training_arrays(b, network);
    for (int i = 0; i < x.count; i++) assert_same_bytes(x.items[i], y.items[i]);
  }
}

/* --- Each step against the CPU, from the same state ------------------------------------------- */

typedef enum Quantity { LOSSES, NORMS, GRADIENTS, MOMENTS, WEIGHTS, QUANTITIES } Quantity;

static const char *const QUANTITY_NAMES[QUANTITIES] = {"losses", "gradient norms", "gradients",
                                                       "moments", "weights"};

/* Limits of the median and of the largest deviation of all steps. Rounding may flip the sign at a
 * ReLU or in a loss and so change one pixel's gradient, on any device: in a few of twenty steps the
 * deviation is a hundred times larger. The median ignores them and shows the kernels' accuracy.
 * Losses have no such discontinuities. The limits are up to ten times the deviations that twenty
 * steps on the CPU and the emulator have when they start from perturbed weights
 * (training_perturb). */
typedef struct Limits {
  double median, largest;
} Limits;

/* The largest deviation of a quantity in each step, and the tensor or metric that has it. */
typedef struct Deviations {
  double of_step[STEPS];
  const char *where[STEPS];
} Deviations;

static void record(Deviations *deviations, int step, double value, const char *where) {
  if (isnan(value)) value = (double)INFINITY;
  if (value <= deviations->of_step[step]) return;
  deviations->of_step[step] = value;
  deviations->where[step] = where;
}

/* Compares tensor by tensor, so that an error in a small tensor is not hidden by large ones.
 * Tensors whose norm is below a hundredth of the whole are compared relative to that: gradients
 * that cancel, such as that of a bias before a norm, are mostly rounding. */
static void record_tensors(Deviations *deviations, int step, const Parameters *parameters,
                           const Buffer *gpu, const Buffer *cpu) {
  float *a = training_download(gpu), *b = training_download(cpu);
  double whole = 0;
  for (int64_t i = 0; i < parameters->total; i++) whole += (double)b[i] * (double)b[i];
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *of = &parameters->items[i];
    double value = deviation(a + of->offset, b + of->offset, of->count, 1e-2 * sqrt(whole));
    record(deviations, step, value, of->name);
  }
  free(a);
  free(b);
}

static void record_step(Deviations *deviations, int step, const Training *gpu,
                        const Training *cpu) {
  StepResult x = training_result(gpu, 0), y = training_result(cpu, 0);
  for (Metric i = 0; i < METRIC_COUNT; i++)
    record(&deviations[i == METRIC_NORM_G || i == METRIC_NORM_D ? NORMS : LOSSES], step,
           metric_deviation(&x, &y, i), gan_metric_name(i));
  for (Network network = 0; network < NETWORK_COUNT; network++) {
    Parameters *a = gan_network(gpu->gan, network), *b = gan_network(cpu->gan, network);
    if (a->total == 0) continue;
    assert_same_bytes(&a->counters, &b->counters);
    record_tensors(&deviations[GRADIENTS], step, b, &a->gradient, &b->gradient);
    record_tensors(&deviations[MOMENTS], step, b, &a->moment1, &b->moment1);
    record_tensors(&deviations[MOMENTS], step, b, &a->moment2, &b->moment2);
    /* All weights together: Adam moves a weight by the learning rate even if its gradient is almost
     * 0, in a direction that depends on rounding. */
    record(&deviations[WEIGHTS], step, distance(&a->master, &b->master), b->master.name);
    if (b->ema.data) record(&deviations[WEIGHTS], step, distance(&a->ema, &b->ema), b->ema.name);
  }
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void assert_within(const char *what, const Deviations *deviations, Limits limits) {
  double sorted[STEPS];
  char text[128];
  int worst = 0;
  for (int step = 0; step < steps; step++)
    if (deviations->of_step[step] > deviations->of_step[worst]) worst = step;
  memcpy(sorted, deviations->of_step, sizeof sorted);
  qsort(sorted, (size_t)steps, sizeof *sorted, by_size);
  snprintf(text, sizeof text, "%s, median of the steps", what);
  assert_near(text, sorted[steps / 2], limits.median);
  snprintf(text, sizeof text, "%s, step %d, %s", what, worst,
           deviations->where[worst] ? deviations->where[worst] : "all");
  assert_near(text, sorted[steps - 1], limits.largest);
}

/* Every step starts from the CPU's state, so that deviations do not accumulate. */
static void check_each_step(const char *const *assignments, double first, const Limits *limits) {
  Training *gpu = training_new(&TRAINING_CUDA, assignments);
  Training *cpu = training_new(NULL, assignments);
  Deviations deviations[QUANTITIES] = {0};
  for (int step = 0; step < steps; step++) {
    training_copy_state(gpu, cpu);
    training_step(gpu, step);
    training_step(cpu, step);
    record_step(deviations, step, gpu, cpu);
  }
  assert_near("losses and norms of the first step",
              fmax(deviations[LOSSES].of_step[0], deviations[NORMS].of_step[0]), first);
  for (int i = 0; i < QUANTITIES; i++) assert_within(QUANTITY_NAMES[i], &deviations[i], limits[i]);
  training_free(gpu);
  training_free(cpu);
}

static const Limits LIMITS_F32[QUANTITIES] = {[LOSSES] = {2e-6, 5e-6},
                                              [NORMS] = {2e-6, 2e-4},
                                              [GRADIENTS] = {2e-5, 1e-2},
                                              [MOMENTS] = {1e-5, 5e-3},
                                              [WEIGHTS] = {6e-8, 2e-5}};
static const Limits LIMITS_BF16[QUANTITIES] = {[LOSSES] = {5e-3, 1e-2},
                                               [NORMS] = {5e-3, 2e-2},
                                               [GRADIENTS] = {0.2, 0.5},
                                               [MOMENTS] = {0.1, 0.4},
                                               [WEIGHTS] = {2e-4, 2e-3}};

static void each_step_matches_the_cpu_f32(void **state) {
  (void)state;
  check_each_step((const char *const[]){"train.precision=f32", NULL}, 2e-5, LIMITS_F32);
}

/* Wasserstein losses are small differences of large discriminator outputs. The gradient of the last
 * bias is rounding alone; a large epsilon keeps its Adam update small. */
static void each_step_matches_the_cpu_recurrent_wgan_gp(void **state) {
  (void)state;
  const char *const assignments[] = {"model.temporal=convgru", "loss.adversarial=wgan-gp",
                                     "optim.epsilon=1e-4", NULL};
  Limits limits[QUANTITIES];
  memcpy(limits, LIMITS_F32, sizeof limits);
  limits[LOSSES] = (Limits){1e-4, 1e-3};
  check_each_step(assignments, 2e-5, limits);
}

static void each_step_matches_the_cpu_pix2pixhd(void **state) {
  (void)state;
  static const char *const assignments[] = {"model.generator=pix2pixhd", "model.temporal=none",
                                            "model.norm=instance",       "model.downsamplings=2",
                                            "model.local_enhancers=1",   NULL};
  check_each_step(assignments, 2e-5, LIMITS_F32);
}

/* Unpaired training with all losses but those on VGG19. */
#define UNPAIRED                                                                                   \
  "data.target_path=cartoons", "model.conditional=false", "model.image_scales=1",                  \
      "model.grey_view=true", "model.smooth_view=true", "model.refinements=1", "model.tones=8",    \
      "model.noise_channels=1", "loss.l1=0", "loss.temporal=0", "loss.feature_matching=0",         \
      "loss.patch_nce=1", "loss.patch_nce_flip=true", "loss.color=8", "loss.identity=2",           \
      "loss.edge_negatives=0.5", "loss.motion_consistency=2", "loss.flow_consistency=2",           \
      "augment.mode=fixed", "augment.probability=0.7", "optim.pretrain_steps=0"

/* Most of its losses are means of |x|: where rounding changes the sign of a difference near 0, so
 * does a gradient, which Adam scales up. */
static void each_step_matches_the_cpu_unpaired(void **state) {
  (void)state;
  Limits limits[QUANTITIES];
  memcpy(limits, LIMITS_F32, sizeof limits);
  limits[WEIGHTS] = (Limits){1.5e-7, 2e-5};
  check_each_step((const char *const[]){UNPAIRED, NULL}, 2e-5, limits);
}

static void each_step_matches_the_cpu_unpaired_bf16(void **state) {
  (void)state;
  check_each_step((const char *const[]){UNPAIRED, "train.precision=bf16", NULL}, 2e-2, LIMITS_BF16);
}

static void each_step_matches_the_cpu_bf16(void **state) {
  (void)state;
  check_each_step((const char *const[]){"train.precision=bf16", NULL}, 2e-2, LIMITS_BF16);
}

/* --- Free-running training against the CPU ---------------------------------------------------- */

/* The difference between two trainings after all steps. */
typedef struct Drift {
  double metrics; /* the largest deviation in any step */
  double weights[NETWORK_COUNT];
} Drift;

/* The drift of `a` from `b`. seed > 0: perturbs the weights of `a` before every step. */
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
  for (Network i = 0; i < NETWORK_COUNT; i++)
    if (gan_network(a->gan, i)->total > 0)
      drift.weights[i] = distance(&gan_network(a->gan, i)->master, &gan_network(b->gan, i)->master);
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

/* Rounding differences grow from step to step, so the limit is the CPU's drift from itself under
 * perturbed weights: FACTOR times the largest of RUNS runs, at least `floor`. In 64 such runs in
 * f32 the largest deviations were 1e-6 to 9e-3, median 4.5e-3; one run in 500 exceeds three times
 * the largest of five others. */
static void check_drift(const char *precision, Drift floor) {
  enum { RUNS = 5, FACTOR = 3 };
  Drift limit = floor, gpu = drift_from_cpu(&TRAINING_CUDA, precision, 0);
  for (uint64_t seed = 1; seed <= RUNS; seed++) {
    Drift own = drift_from_cpu(NULL, precision, seed);
    printf("# drift of the CPU from itself: %.3g, weights %.3g %.3g\n", own.metrics, own.weights[0],
           own.weights[1]);
    limit.metrics = fmax(limit.metrics, FACTOR * own.metrics);
    for (int i = 0; i < NETWORK_COUNT; i++)
      limit.weights[i] = fmax(limit.weights[i], FACTOR * own.weights[i]);
  }
  assert_near("losses and norms of all steps", gpu.metrics, limit.metrics);
  assert_near("generator", gpu.weights[0], limit.weights[0]);
  assert_near("discriminators", gpu.weights[1], limit.weights[1]);
}

static void drift_is_within_the_cpus_own_f32(void **state) {
  (void)state;
  check_drift("train.precision=f32", (Drift){2e-3, {1e-3, 1e-3}});
}

static void drift_is_within_the_cpus_own_bf16(void **state) {
  (void)state;
  check_drift("train.precision=bf16", (Drift){2e-1, {5e-2, 5e-2}});
}

/* --- Byte-identical results ------------------------------------------------------------------- */

/* Training with `options` and `assignments` must leave the same bytes as with TRAINING_CUDA and
 * `usual`. */
static void compare_bytes(const char *const *usual, const CudaOptions *options,
                          const char *const *assignments) {
  Training *a = training_new(&TRAINING_CUDA, usual), *b = training_new(options, assignments);
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

static void check_identical(const CudaOptions *options, const char *const *assignments) {
  compare_bytes((const char *const[]){NULL}, options, assignments);
}

/* Also with recomputation and without CUDA graphs. */
static void unpaired_runs_are_byte_identical(void **state) {
  (void)state;
  CudaOptions plain = TRAINING_CUDA;
  plain.no_graphs = true;
  compare_bytes((const char *const[]){UNPAIRED, NULL}, &plain,
                (const char *const[]){UNPAIRED, "train.recompute=true", NULL});
}

static void equal_runs_are_byte_identical(void **state) {
  (void)state;
  check_identical(&TRAINING_CUDA, (const char *const[]){NULL});
}

static void cuda_graphs_change_no_byte(void **state) {
  (void)state;
  CudaOptions plain = TRAINING_CUDA;
  plain.no_graphs = true;
  check_identical(&plain, (const char *const[]){NULL});
}

static void recomputation_changes_no_byte(void **state) {
  (void)state;
  check_identical(&TRAINING_CUDA, (const char *const[]){"train.recompute=true", NULL});
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
  assert_near("moments of two micro-batches",
              distance(&gan_generator(halves->gan)->moment1, &gan_generator(whole->gan)->moment1),
              1e-2);
  training_free(whole);
  training_free(halves);
}

/* --- CUDA calls of a step --------------------------------------------------------------------- */

/* Defined by the emulator; NULL on a real device. */
extern uint64_t emulator_calls(const char *name) __attribute__((weak));

/* Calls that a captured step must not make: they allocate, wait, load code or launch kernels. */
static const char *const FORBIDDEN[] = {"cudaMalloc",
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
enum { FORBIDDEN_CALLS = sizeof FORBIDDEN / sizeof *FORBIDDEN };

static void CUDART_CB hold(void *flag) {
  while (!atomic_load((atomic_bool *)flag)) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

/* The first forbidden call since `before`; NULL if there is none, or on a real device. */
static const char *called_since(const uint64_t before[FORBIDDEN_CALLS]) {
  for (int i = 0; i < FORBIDDEN_CALLS && emulator_calls; i++)
    if (emulator_calls(FORBIDDEN[i]) != before[i]) return FORBIDDEN[i];
  return NULL;
}

/* While a host function blocks the device, a step can be started and the result of the step before
 * be read: neither waits for the device. The emulator counts one graph launch per step, with R1 and
 * without. */
static void a_step_is_one_graph_launch_and_does_not_wait(void **state) {
  (void)state;
  enum { FIRST = 8 }; /* by then all variants of the step are captured */
  uint64_t before[FORBIDDEN_CALLS] = {0}, launches = 0;
  const char *const assignments[] = {"model.channels=4", "model.image_scales=1", NULL};
  Training *training = training_new(&TRAINING_CUDA, assignments);
  for (int step = 0; step < FIRST; step++) training_step(training, step);
  must(training->backend->synchronize(training->backend, &error));
  for (int step = FIRST; step < FIRST + 2; step++) {
    atomic_bool go = false;
    for (int i = 0; i < FORBIDDEN_CALLS && emulator_calls; i++)
      before[i] = emulator_calls(FORBIDDEN[i]);
    if (emulator_calls) launches = emulator_calls("cudaGraphLaunch");
    assert_int_equal(cudaLaunchHostFunc(training->backend->stream, hold, &go), cudaSuccess);
    training_step(training, step);
    StepResult result = training_result(training, 1);
    assert_true(isfinite(result.metrics[METRIC_LOSS_G]));
    const char *called = called_since(before);
    if (emulator_calls) launches = emulator_calls("cudaGraphLaunch") - launches;
    atomic_store(&go, true); /* before any check: a failing test waits for the device */
    if (called) fail_msg("a step calls %s", called);
    if (emulator_calls) assert_int_equal(launches, 1);
    training_result(training, 0);
  }
  training_free(training);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_step_is_one_graph_launch_and_does_not_wait),
      cmocka_unit_test(each_step_matches_the_cpu_f32),
      cmocka_unit_test(each_step_matches_the_cpu_bf16),
      cmocka_unit_test(each_step_matches_the_cpu_unpaired),
      cmocka_unit_test(each_step_matches_the_cpu_unpaired_bf16),
      cmocka_unit_test(each_step_matches_the_cpu_recurrent_wgan_gp),
      cmocka_unit_test(each_step_matches_the_cpu_pix2pixhd),
      cmocka_unit_test(drift_is_within_the_cpus_own_f32),
      cmocka_unit_test(drift_is_within_the_cpus_own_bf16),
      cmocka_unit_test(equal_runs_are_byte_identical),
      cmocka_unit_test(unpaired_runs_are_byte_identical),
      cmocka_unit_test(cuda_graphs_change_no_byte),
      cmocka_unit_test(recomputation_changes_no_byte),
      cmocka_unit_test(micro_batches_add_up),
  };
  if (gpu_is_emulated()) steps = EMULATED_STEPS;
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, NULL, NULL);
}
