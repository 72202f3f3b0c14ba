/* cuDNN convolutions compared with the CPU backend: random shapes, every variant in turn,
 * autotuned, repeated with equal bytes, captured in a graph, and with plans from the cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/files.h"
#include "base/memory.h"
#include "engine/cuda/autotune/autotune.h"
#include "engine/cuda/autotune/conv_kernel.h"
#include "tests/gpu/convolution_problem.h"
#include "tests/gpu/support_gpu.h"

static Backend *cpu, *cuda;
static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static Backend *open_cuda(const CudaOptions *options) {
  Backend *backend = NULL;
  must(backend_cuda_new(options, &backend, &error));
  return backend;
}

/* False, with the reason in `error`, where the variant has no plan. */
static bool make_device(Backend *backend, const Problem *p, const ConvVariant *only,
                        Device *device) {
  Kernel *kernel = NULL;
  if (conv_kernel_new(backend, &p->op, p->pass, only, p->inputs, p->outputs, &kernel, &error) != OK)
    return false;
  *device = device_new(backend, p, kernel);
  return true;
}

/* "HOW: frames+fused by engine 62, knobs ...": names the plan in a failure; the caller frees. */
static char *describe_choice(Backend *backend, const Problem *p, const ConvVariant *only,
                             const char *how) {
  Convolution convolution;
  ConvChoice choice;
  char name[64];
  must(convolution_from_op(p->pass, &p->op, p->inputs, p->outputs, &convolution, &error));
  must(autotuner_choose(cuda_backend(backend)->autotuner, &convolution, only, &choice, &error));
  return mem_format("%s: %s by %s, workspace %zu", how, conv_variant_name(&choice.variant, name),
                    choice.plan->details, choice.plan->workspace);
}

static void run_and_check(Device *device, const Problem *p, const ConvVariant *only,
                          const char *how) {
  char *text = describe_choice(device->backend, p, only, how);
  device_fill_nan(device, p);
  device_run(device);
  check_results(device, p, text);
  free(text);
}

/* --- Time ------------------------------------------------------------------------------------- */
/* A time budget for a test: engines that are compiled at run time take up to seconds each. The test
 * ends when the budget is spent, but not before `least` shapes, and prints how many it covered. */
typedef struct Budget {
  struct timespec begin;
  double seconds;
  int least, done;
} Budget;

static Budget budget_new(double seconds, int least) {
  Budget budget = {.seconds = seconds, .least = least};
  clock_gettime(CLOCK_MONOTONIC, &budget.begin);
  return budget;
}

/* Whether to test one more of `count` shapes. */
static bool has_time(Budget *budget, int count) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const double spent = (double)(now.tv_sec - budget->begin.tv_sec) +
                       1e-9 * (double)(now.tv_nsec - budget->begin.tv_nsec);
  if (budget->done < count && (spent < budget->seconds || budget->done < budget->least)) {
    budget->done++;
    return true;
  }
  print_message("# %d of %d shapes in %.1f s\n", budget->done, count, spent);
  return false;
}

/* --- Tests ------------------------------------------------------------------------------------ */
static void random_convolutions_match_the_cpu(void **state) {
  (void)state;
  Budget budget = budget_new(25, 12);
  for (uint64_t seed = 0; has_time(&budget, 60); seed++) {
    Problem p = problem_new(cpu, seed);
    Device device;
    if (!make_device(cuda, &p, NULL, &device)) fail_msg("seed %d: %s", (int)seed, error.message);
    run_and_check(&device, &p, NULL, "heuristics");
    device_free(&device, &p);
    problem_free(&p);
  }
}

static void every_variant_matches_the_cpu(void **state) {
  (void)state;
  Budget budget = budget_new(20, 3);
  for (uint64_t seed = 100; has_time(&budget, 12); seed++) {
    Problem p = problem_new(cpu, seed);
    Convolution convolution;
    ConvVariant variants[CONV_MAX_VARIANTS];
    must(convolution_from_op(p.pass, &p.op, p.inputs, p.outputs, &convolution, &error));
    const int count = conv_variants(&convolution, variants);
    int ran = 0;
    for (int i = 0; i < count; i++) {
      Device device;
      if (!make_device(cuda, &p, &variants[i], &device)) {
        print_message("# seed %d: no plan: %s\n", (int)seed, error.message);
        continue;
      }
      run_and_check(&device, &p, &variants[i], "forced");
      device_free(&device, &p);
      ran++;
    }
    print_message("# seed %d: %d of %d variants have a plan\n", (int)seed, ran, count);
    assert_in_range(ran, 1, count);
    problem_free(&p);
  }
}

static void deterministic_runs_have_equal_bytes(void **state) {
  (void)state;
  Budget budget = budget_new(10, 6);
  for (uint64_t seed = 200; has_time(&budget, 18); seed++) {
    Problem p = problem_new(cpu, seed);
    Device device;
    void *first[RESULTS] = {NULL};
    if (!make_device(cuda, &p, NULL, &device)) fail_msg("%s", error.message);
    for (int run = 0; run < 4; run++) {
      device_fill_nan(&device, &p);
      device_run(&device);
      for (int i = 0; i < p.op.output_count; i++) {
        void *bytes = device_result(&device, i);
        if (first[i] && memcmp(first[i], bytes, result_bytes(&p, i)) != 0)
          fail_msg("seed %d, run %d: other bytes: %s", (int)seed, run,
                   describe_choice(cuda, &p, NULL, "deterministic"));
        if (first[i])
          free(bytes);
        else
          first[i] = bytes;
      }
    }
    for (int i = 0; i < RESULTS; i++) free(first[i]);
    device_free(&device, &p);
    problem_free(&p);
  }
}

static void captured_convolutions_match_the_cpu(void **state) {
  const CudaOptions options = {.deterministic = true, .timeout = 60};
  Backend *backend = open_cuda(&options);
  (void)state;
  for (uint64_t seed = 300; seed < 306; seed++) {
    Problem p = problem_new(cpu, seed);
    Device device;
    void *program = NULL;
    if (!make_device(backend, &p, NULL, &device)) fail_msg("%s", error.message);
    char *text = describe_choice(backend, &p, NULL, "captured");
    device_run(&device); /* loads modules */
    must(backend->synchronize(backend, &error));
    must(backend->capture_begin(backend, &error));
    device_run(&device);
    must(backend->capture_end(backend, &program, &error));
    for (int run = 0; run < 2; run++) {
      device_fill_nan(&device, &p);
      must(backend->capture_run(backend, program, &error));
      check_results(&device, &p, text);
    }
    free(text);
    backend->capture_free(backend, program);
    device_free(&device, &p);
    problem_free(&p);
  }
  backend->free(backend);
}

static void autotuned_convolutions_match_the_cpu(void **state) {
  const CudaOptions options = {
      .autotune = true, .no_graphs = true, .convolution_workspace = 64 << 20, .timeout = 60};
  Backend *backend = open_cuda(&options);
  (void)state;
  Budget budget = budget_new(20, 2);
  for (uint64_t seed = 400; has_time(&budget, 6); seed++) {
    Problem p = problem_new(cpu, seed);
    Device device;
    if (!make_device(backend, &p, NULL, &device)) fail_msg("%s", error.message);
    run_and_check(&device, &p, NULL, "autotuned");
    device_free(&device, &p);
    problem_free(&p);
  }
  backend->free(backend);
}

static void plans_are_read_from_the_cache(void **state) {
  char cache[] = "/tmp/celforge-cache-XXXXXX";
  (void)state;
  assert_non_null(mkdtemp(cache));
  const CudaOptions options = {
      .deterministic = true, .no_graphs = true, .cache = cache, .timeout = 60};
  char *folder = path_join(cache, "cudnn"), **before = NULL, **after = NULL;
  size_t count = 0, again = 0;
  for (int round = 0; round < 2; round++) {
    Backend *backend = open_cuda(&options);
    for (uint64_t seed = 500; seed < 506; seed++) {
      Problem p = problem_new(cpu, seed);
      Device device;
      if (!make_device(backend, &p, NULL, &device)) fail_msg("%s", error.message);
      run_and_check(&device, &p, NULL, round == 0 ? "built" : "from the cache");
      device_free(&device, &p);
      problem_free(&p);
    }
    backend->free(backend);
    must(folder_list(folder, round == 0 ? &before : &after, round == 0 ? &count : &again, &error));
  }
  assert_int_equal(count, again);
  assert_in_range(count, 6, 1000);
  for (size_t i = 0; i < count; i++) assert_string_equal(before[i], after[i]);
  folder_list_free(before, count);
  folder_list_free(after, again);
  free(folder);
  must(folder_remove(cache, &error));
}

/* Some engines compute wrong results for large tensors alone (conv3d in bf16 of cuDNN 9.10.2, for
 * the first shape), so plans are validated in the full shape when they are chosen; with too little
 * free memory a warning is logged instead. The last shape has more than 2^31 elements. */
static void large_convolutions_have_validated_plans(void **state) {
  static const struct {
    ConvolutionPass pass;
    int64_t frames, taps;
  } shapes[] = {{CONVOLUTION_FORWARD, 124, 1},
                {CONVOLUTION_BACKWARD_DATA, 124, 1},
                {CONVOLUTION_BACKWARD_WEIGHTS, 124, 1},
                {CONVOLUTION_FORWARD, 148, 3}};
  (void)state;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const int64_t frames = shapes[i].frames, taps = shapes[i].taps;
    const bool weights = shapes[i].pass == CONVOLUTION_BACKWARD_WEIGHTS;
    const Convolution large = {.pass = shapes[i].pass,
                               .x = shape_make(1, frames, 1282, 722, 16),
                               .w = shape_make(16, taps, 3, 3, 16),
                               .y = shape_make(1, frames - taps + 1, 1280, 720, 16),
                               .stride = {1, 1, 1},
                               .operands = DTYPE_BF16,
                               .result = weights ? DTYPE_F32 : DTYPE_BF16};
    ConvChoice choice;
    char name[64];
    must(autotuner_choose(cuda_backend(cuda)->autotuner, &large, NULL, &choice, &error));
    print_message("# shape %zu: %s by %s\n", i, conv_variant_name(&choice.variant, name),
                  choice.plan->details);
  }
}

static int open_backends(void **state) {
  const CudaOptions options = {.deterministic = true, .no_graphs = true, .timeout = 60};
  (void)state;
  if (backend_cpu_new(2, &cpu, &error) == OK && backend_cuda_new(&options, &cuda, &error) == OK)
    return 0;
  fprintf(stderr, "# %s\n", error.message);
  return -1;
}

static int close_backends(void **state) {
  (void)state;
  cuda->free(cuda);
  cpu->free(cpu);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_convolutions_match_the_cpu),
      cmocka_unit_test(every_variant_matches_the_cpu),
      cmocka_unit_test(deterministic_runs_have_equal_bytes),
      cmocka_unit_test(captured_convolutions_match_the_cpu),
      cmocka_unit_test(autotuned_convolutions_match_the_cpu),
      cmocka_unit_test(plans_are_read_from_the_cache),
      cmocka_unit_test(large_convolutions_have_validated_plans),
  };
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, open_backends, close_backends);
}
