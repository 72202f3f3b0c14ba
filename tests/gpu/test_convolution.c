/* Convolutions by cuDNN beside the CPU backend's: random shapes, every form forced in turn, tuned,
 * twice with equal bytes, captured, and with plans from disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "engine/cuda/convolution.h"
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

/* False, with the reason in `error`, where the form has no plan. */
static bool open_device(Backend *backend, const Problem *p, const ConvolutionForm *only,
                        Device *device) {
  Kernel *kernel = NULL;
  if (convolution_new(backend, &p->op, p->pass, only, p->inputs, p->outputs, &kernel, &error) != OK)
    return false;
  *device = device_new(backend, p, kernel);
  return true;
}

/* --- Tests ------------------------------------------------------------------------------------ */
static void random_shapes(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 60; seed++) {
    Problem p = problem_new(cpu, seed);
    Device device;
    if (!open_device(cuda, &p, NULL, &device)) fail_msg("seed %d: %s", (int)seed, error.message);
    device_poison(&device, &p);
    device_run(&device);
    check_results(&device, &p, "as chosen");
    device_free(&device, &p);
    problem_free(&p);
  }
}

static void every_form(void **state) {
  (void)state;
  for (uint64_t seed = 100; seed < 112; seed++) {
    Problem p = problem_new(cpu, seed);
    Convolution convolution;
    ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
    must(convolution_of(p.pass, &p.op, p.inputs, p.outputs, &convolution, &error));
    const int count = convolution_forms(&convolution, forms);
    int ran = 0;
    for (int i = 0; i < count; i++) {
      char name[64];
      Device device;
      if (!open_device(cuda, &p, &forms[i], &device)) continue;
      device_poison(&device, &p);
      device_run(&device);
      check_results(&device, &p, convolution_form_name(&forms[i], name));
      device_free(&device, &p);
      ran++;
    }
    print_message("# seed %d: %d of %d forms have a plan\n", (int)seed, ran, count);
    assert_in_range(ran, 1, count);
    problem_free(&p);
  }
}

static void equal_bytes(void **state) {
  (void)state;
  for (uint64_t seed = 200; seed < 218; seed++) {
    Problem p = problem_new(cpu, seed);
    Device device;
    void *first[RESULTS] = {NULL};
    if (!open_device(cuda, &p, NULL, &device)) fail_msg("%s", error.message);
    for (int run = 0; run < 4; run++) {
      device_poison(&device, &p);
      device_run(&device);
      for (int i = 0; i < p.op.output_count; i++) {
        void *bytes = device_result(&device, i);
        if (first[i]) assert_memory_equal(first[i], bytes, result_bytes(&p, i));
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

static void captured(void **state) {
  const CudaOptions options = {.deterministic = true, .timeout = 60};
  Backend *backend = open_cuda(&options);
  (void)state;
  for (uint64_t seed = 300; seed < 306; seed++) {
    Problem p = problem_new(cpu, seed);
    Device device;
    void *program = NULL;
    if (!open_device(backend, &p, NULL, &device)) fail_msg("%s", error.message);
    device_run(&device); /* loads what is loaded at the first run */
    must(backend->synchronize(backend, &error));
    must(backend->capture_begin(backend, &error));
    device_run(&device);
    must(backend->capture_end(backend, &program, &error));
    for (int run = 0; run < 2; run++) {
      device_poison(&device, &p);
      must(backend->capture_run(backend, program, &error));
      check_results(&device, &p, "captured");
    }
    backend->capture_free(backend, program);
    device_free(&device, &p);
    problem_free(&p);
  }
  backend->free(backend);
}

static void tuned(void **state) {
  const CudaOptions options = {
      .tune = true, .plain_streams = true, .convolution_workspace = 64 << 20, .timeout = 60};
  Backend *backend = open_cuda(&options);
  (void)state;
  for (uint64_t seed = 400; seed < 406; seed++) {
    Problem p = problem_new(cpu, seed);
    Device device;
    if (!open_device(backend, &p, NULL, &device)) fail_msg("%s", error.message);
    device_poison(&device, &p);
    device_run(&device);
    check_results(&device, &p, "tuned");
    device_free(&device, &p);
    problem_free(&p);
  }
  backend->free(backend);
}

static void plans_from_disk(void **state) {
  char cache[] = "/tmp/celforge-cache-XXXXXX";
  (void)state;
  assert_non_null(mkdtemp(cache));
  const CudaOptions options = {
      .deterministic = true, .plain_streams = true, .cache = cache, .timeout = 60};
  char *folder = path_join(cache, "cudnn"), **before = NULL, **after = NULL;
  size_t count = 0, again = 0;
  for (int round = 0; round < 2; round++) {
    Backend *backend = open_cuda(&options);
    for (uint64_t seed = 500; seed < 506; seed++) {
      Problem p = problem_new(cpu, seed);
      Device device;
      if (!open_device(backend, &p, NULL, &device)) fail_msg("%s", error.message);
      device_poison(&device, &p);
      device_run(&device);
      check_results(&device, &p, round == 0 ? "made" : "from disk");
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

static int open_backends(void **state) {
  const CudaOptions options = {.deterministic = true, .plain_streams = true, .timeout = 60};
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
      cmocka_unit_test(random_shapes), cmocka_unit_test(every_form),
      cmocka_unit_test(equal_bytes),   cmocka_unit_test(captured),
      cmocka_unit_test(tuned),         cmocka_unit_test(plans_from_disk),
  };
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, open_backends, close_backends);
}
