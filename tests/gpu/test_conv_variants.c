/* Convolution variants with cuDNN replaced by the reference convolution (emulated builds only).
 * Every variant gives the results of the CPU backend, from a workspace full of NaN; validation
 * detects plans that fail or compute wrong results; and the search chooses no such plan, and none
 * that cannot be validated while another one can. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/cuda/autotune/plan_search.c" /* not in the library of an emulated build */
#include "engine/cuda/convolution/epilogue.h"
#include "engine/cuda/convolution/reference.h"
#include "tests/gpu/convolution_problem.h"

enum { PLAN_WORKSPACE = 192 };

static Backend *cpu, *cuda;
static Error error;
static Convolution inner; /* the convolution that `small_plan` computes */
static const CudnnPlan small_plan = {.workspace = PLAN_WORKSPACE, .descriptor = &inner};
typedef enum Fault { RIGHT, REFUSED, LAST_WRONG, UNWRITTEN } Fault;
static Fault fault; /* of all plans but those of engine `good_engine` */
static int64_t good_engine = -1;

/* --- The stand-in for cuDNN ------------------------------------------------------------------- */
/* The reference convolution in f32, then bias, activation and dtype. A plan's descriptor points to
 * its convolution. */
Status cudnn_plan_run(const CudnnPlan *plan, cudnnHandle_t handle, int count, const int64_t *uids,
                      void *const *pointers, void *workspace, Error *failure) {
  static const ReferenceResult results[] = {REFERENCE_Y, REFERENCE_DX, REFERENCE_DW};
  static const int written[] = {CONV_Y, CONV_X, CONV_W};
  const Convolution *c = plan->descriptor;
  const Fault own_fault = plan->engine == good_engine ? RIGHT : fault;
  const Shape shapes[] = {c->y, c->x, c->w};
  const bool biased = c->pass == CONVOLUTION_FORWARD && c->bias;
  cudaStream_t stream = cuda_backend(cuda)->stream;
  Status status = OK;
  void *sums = NULL;
  (void)handle;
  for (int i = 0; i < count; i++) assert_int_equal(uids[i], CUDNN_UID_X + i);
  assert_int_equal(count, biased ? CONV_TENSORS + 1 : CONV_TENSORS);
  assert_int_equal((uintptr_t)workspace % 256, 0);
  if (own_fault == REFUSED)
    return error_set(failure, ERROR_INTERNAL, "CUDNN_STATUS_NOT_SUPPORTED: not this one");
  assert_int_equal(cudaMemsetAsync(workspace, 0xff, plan->workspace, stream), cudaSuccess);
  TRY(cuda->allocate(cuda, (size_t)shape_count(shapes[c->pass]) * sizeof(float), "sums", &sums,
                     failure));
  ReferenceConvolutionLaunch plain = {.result = results[c->pass],
                                      .x = pointers[CONV_X],
                                      .w = pointers[CONV_W],
                                      .y = pointers[CONV_Y],
                                      .out = sums,
                                      .x_shape = c->x,
                                      .w_shape = c->w,
                                      .y_shape = c->y,
                                      .operands = c->operands};
  memcpy(plain.stride, c->stride, sizeof plain.stride);
  memcpy(plain.before, c->before, sizeof plain.before);
  TRY(launch_reference_convolution(&plain, stream, failure));
  const PadCropLaunch ending = {.source = sums,
                                .destination = pointers[written[c->pass]],
                                .from = shapes[c->pass],
                                .to = shapes[c->pass],
                                .source_dtype = DTYPE_F32,
                                .destination_dtype = c->result,
                                .bias = biased ? pointers[CONV_TENSORS] : NULL,
                                .activation = c->activation,
                                .slope = c->slope};
  if (own_fault != UNWRITTEN) TRY(launch_pad_crop(&ending, stream, failure));
  TRY(cuda->synchronize(cuda, failure));
  if (own_fault == LAST_WRONG) { /* as seen of large tensors: the end is not reached */
    const size_t size = dtype_size(c->result);
    char *last = (char *)ending.destination + ((size_t)shape_count(shapes[c->pass]) - 1) * size;
    assert_int_equal(cudaMemset(last, 0x45, size), cudaSuccess);
  }
done:
  if (sums) cuda->release(cuda, sums);
  return status;
}

size_t cudnnGetVersion(void) {
  return 90000;
}

struct CudnnGraph {
  Convolution convolution;
};

Status cudnn_graph_new(const Convolution *convolution, bool frames, bool identity,
                       cudnnHandle_t handle, CudnnGraph **out, Error *failure) {
  (void)frames, (void)identity, (void)handle, (void)failure;
  *out = mem_new(1, sizeof **out);
  (*out)->convolution = *convolution;
  return OK;
}

void cudnn_graph_free(CudnnGraph *graph) {
  free(graph);
}

enum { ENGINES = 2 };
static size_t engine_workspace[ENGINES]; /* of the plans of each engine */

Status cudnn_engines_query(const CudnnTarget *target, const CudnnGraph *graph, DType operands,
                           const CudnnConstraints *constraints, CudnnEngines *out, Error *failure) {
  (void)target, (void)operands, (void)constraints, (void)failure;
  *out = (CudnnEngines){.count = ENGINES, .engines = mem_new(ENGINES, sizeof *out->engines)};
  for (int i = 0; i < ENGINES; i++)
    out->engines[i] = (CudnnEngine){
        .config = (void *)(uintptr_t)&graph->convolution, .number = i, .tensor_cores = true};
  return OK;
}

void cudnn_engines_free(CudnnEngines *engines) {
  free(engines->engines);
}

Status cudnn_plan_new(const CudnnTarget *target, const CudnnEngine *engine,
                      const CudnnConstraints *constraints, CudnnPlan **out, Error *failure) {
  (void)target, (void)constraints, (void)failure;
  *out = mem_new(1, sizeof **out);
  **out = (CudnnPlan){.descriptor = engine->config,
                      .workspace = engine_workspace[engine->number],
                      .engine = engine->number,
                      .details = mem_format("engine %d", (int)engine->number)};
  return OK;
}

void cudnn_plan_free(CudnnPlan *plan) {
  if (!plan) return;
  free(plan->details);
  free(plan);
}

/* --- Variants --------------------------------------------------------------------------------- */
typedef struct VariantKernel {
  Kernel base;
  ConvRun sequence;
} VariantKernel;

static Status variant_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                          void *workspace, Error *failure) {
  const VariantKernel *kernel = (const VariantKernel *)(void *)base;
  const ConvPointers tensors = conv_pointers(&kernel->sequence.convolution, inputs, outputs);
  return conv_run_enqueue(&kernel->sequence, NULL, cuda_backend(cuda)->stream, &tensors, workspace,
                          failure);
}

static void variant_free(Kernel *base) {
  free(base);
}

/* The kinds of im2col that were tested. */
typedef struct Coverage {
  bool im2col[3][3][2][2]; /* pass, tensor, time, width */
} Coverage;

/* All kinds, but IM2COL_X along time alone, which no gradient of data uses. */
static void check_coverage(const Coverage *seen) {
  for (int pass = 0; pass < 3; pass++) {
    for (int taps = IM2COL_X; taps <= IM2COL_Y; taps++) {
      assert_true(seen->im2col[pass][taps][0][1]);
      assert_true(seen->im2col[pass][taps][1][1]);
    }
  }
  assert_true(seen->im2col[CONVOLUTION_FORWARD][IM2COL_X][1][0]);
  assert_true(seen->im2col[CONVOLUTION_BACKWARD_WEIGHTS][IM2COL_X][1][0]);
}

static void every_variant_matches_the_cpu(void **state) {
  Coverage seen = {0};
  (void)state;
  for (uint64_t seed = 0; seed < 40; seed++) {
    Problem problem = problem_new(cpu, seed);
    ConvVariant variants[CONV_MAX_VARIANTS];
    Convolution convolution;
    assert_int_equal(convolution_from_op(problem.pass, &problem.op, problem.inputs, problem.outputs,
                                         &convolution, &error),
                     OK);
    const int count = conv_variants(&convolution, variants);
    for (int i = 0; i < count; i++) {
      char name[64];
      VariantKernel *kernel = calloc(1, sizeof *kernel);
      assert_non_null(kernel);
      seen.im2col[problem.pass][variants[i].im2col][variants[i].im2col_time]
                 [variants[i].im2col_width] = true;
      inner = conv_variant_apply(&convolution, &variants[i]);
      kernel->sequence = conv_run_layout(&convolution, &variants[i], &small_plan);
      kernel->base = (Kernel){
          .workspace = kernel->sequence.workspace, .run = variant_run, .free = variant_free};
      Device device = device_new(cuda, &problem, &kernel->base);
      device_fill_nan(&device, &problem);
      device_run(&device);
      check_results(&device, &problem, conv_variant_name(&variants[i], name));
      device_free(&device, &problem);
    }
    problem_free(&problem);
  }
  check_coverage(&seen);
}

/* --- Validation ------------------------------------------------------------------------------- */
static Status validate(ConvBenchmark *benchmark, const ConvRun *run, Fault with) {
  bool out_of_memory = true;
  fault = with;
  const Status status = conv_benchmark_validate(benchmark, run, &out_of_memory, &error);
  fault = RIGHT;
  assert_false(out_of_memory);
  return status;
}

static void check_validation(ConvBenchmark *benchmark, const Convolution *convolution,
                             const ConvVariant *variant, uint64_t seed) {
  char name[64];
  inner = conv_variant_apply(convolution, variant);
  const ConvRun run = conv_run_layout(convolution, variant, &small_plan);
  conv_variant_name(variant, name);
  if (validate(benchmark, &run, RIGHT) != OK)
    fail_msg("seed %d, %s: %s", (int)seed, name, error.message);
  assert_int_equal(validate(benchmark, &run, REFUSED), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "not this one"));
  assert_int_equal(validate(benchmark, &run, UNWRITTEN), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "wrong results"));
  const Status status = validate(benchmark, &run, LAST_WRONG);
  const bool squashed = convolution->activation == ACTIVATION_TANH && !variant->fused;
  if (!variant->aligned && !variant->padded && !squashed && status != ERROR_INTERNAL)
    fail_msg("seed %d, %s: a wrong last element passed validation", (int)seed, name);
  double seconds = 0, slow = 0;
  assert_int_equal(conv_benchmark_measure(benchmark, &run, INFINITY, &seconds, &error), OK);
  assert_int_equal(conv_benchmark_measure(benchmark, &run, 0, &slow, &error), OK);
  assert_true(seconds > 0 && slow > 0);
}

static const size_t HUGE_WORKSPACE = (size_t)1 << 50; /* more than any device has */

/* A run whose workspace cannot be allocated is neither validated nor timed; later runs are. */
static void check_out_of_memory(ConvBenchmark *benchmark, const Convolution *convolution,
                                const ConvVariant *variant) {
  const CudnnPlan huge_plan = {.workspace = HUGE_WORKSPACE, .descriptor = &inner};
  bool out_of_memory = false;
  double seconds = 0;
  inner = conv_variant_apply(convolution, variant);
  const ConvRun huge = conv_run_layout(convolution, variant, &huge_plan);
  assert_int_equal(conv_benchmark_validate(benchmark, &huge, &out_of_memory, &error),
                   ERROR_INTERNAL);
  assert_true(out_of_memory);
  assert_int_equal(conv_benchmark_measure(benchmark, &huge, INFINITY, &seconds, &error),
                   ERROR_INTERNAL);
  const ConvRun small = conv_run_layout(convolution, variant, &small_plan);
  assert_int_equal(validate(benchmark, &small, UNWRITTEN), ERROR_INTERNAL);
  assert_int_equal(validate(benchmark, &small, RIGHT), OK);
  assert_int_equal(conv_benchmark_measure(benchmark, &small, INFINITY, &seconds, &error), OK);
}

/* A correct plan passes in every variant, and a faulty one fails. A wrong last element reaches the
 * result of every variant without added channels. */
static void validation_detects_faulty_plans(void **state) {
  (void)state;
  for (uint64_t seed = 50; seed < 56; seed++) {
    Problem problem = problem_new(cpu, seed);
    ConvVariant variants[CONV_MAX_VARIANTS];
    Convolution convolution;
    ConvBenchmark *benchmark;
    bool out_of_memory = false;
    assert_int_equal(convolution_from_op(problem.pass, &problem.op, problem.inputs, problem.outputs,
                                         &convolution, &error),
                     OK);
    assert_int_equal(conv_benchmark_new(&convolution, NULL, cuda_backend(cuda)->stream, false,
                                        &benchmark, &out_of_memory, &error),
                     OK);
    const int count = conv_variants(&convolution, variants);
    for (int i = 0; i < count; i++) check_validation(benchmark, &convolution, &variants[i], seed);
    check_out_of_memory(benchmark, &convolution, &variants[0]);
    conv_benchmark_free(benchmark);
    problem_free(&problem);
  }
}

/* --- The search ------------------------------------------------------------------------------- */
static Convolution plain_convolution(void) {
  return (Convolution){.pass = CONVOLUTION_FORWARD,
                       .x = shape_make(1, 1, 6, 6, 8),
                       .w = shape_make(8, 1, 3, 3, 8),
                       .y = shape_make(1, 1, 4, 4, 8),
                       .stride = {1, 1, 1},
                       .operands = DTYPE_F32,
                       .result = DTYPE_F32};
}

/* Searches a plan where engines 0 and 1 need these workspaces; `log` gets what is logged. */
static Status search(const Convolution *convolution, bool measure_them, size_t first, size_t second,
                     FoundPlan *found, char log[4096]) {
  const CudnnTarget target = {.handle = (cudnnHandle_t)(uintptr_t)1};
  const PlanSearchSettings settings = {.measure = measure_them};
  FILE *file = tmpfile();
  const int before = dup(STDERR_FILENO);
  assert_non_null(file);
  engine_workspace[0] = first, engine_workspace[1] = second;
  dup2(fileno(file), STDERR_FILENO);
  PlanSearch *made = plan_search_prepare(&settings, &target, convolution, NULL);
  const Status status =
      plan_search_finish(made, &target, cuda_backend(cuda)->stream, found, &error);
  dup2(before, STDERR_FILENO);
  close(before);
  rewind(file);
  log[fread(log, 1, 4095, file)] = '\0';
  fclose(file);
  plan_search_free(made);
  return status;
}

static void free_found(FoundPlan *found) {
  cudnn_plan_free(found->plan);
  cudnn_graph_free(found->graph);
}

/* Where memory is short for one candidate's workspace, another one is validated and chosen. */
static void search_prefers_plans_that_can_be_validated(void **state) {
  const Convolution convolution = plain_convolution();
  char log[4096];
  (void)state;
  for (int measured = 0; measured <= 1; measured++) {
    FoundPlan found;
    assert_int_equal(
        search(&convolution, measured == 1, HUGE_WORKSPACE, PLAN_WORKSPACE, &found, log), OK);
    assert_int_equal(found.plan->engine, 1);
    assert_false(found.is_unvalidated);
    assert_int_equal(found.is_measured, measured);
    assert_null(strstr(log, "without validation"));
    free_found(&found);
  }
}

static void check_unvalidated(const Convolution *convolution, size_t workspace) {
  for (int measured = 0; measured <= 1; measured++) {
    FoundPlan found;
    Text text = {0};
    char log[4096];
    convolution_text(convolution, &text);
    assert_int_equal(search(convolution, measured == 1, workspace, workspace, &found, log), OK);
    assert_int_equal(found.plan->engine, 0);
    assert_true(found.is_unvalidated);
    assert_false(found.is_measured);
    if (!strstr(log, "engine used without validation") || !strstr(log, text.data))
      fail_msg("no warning that names %s: %s", text.data, log);
    text_free(&text);
    free_found(&found);
  }
}

/* Where no candidate can be validated, for want of memory for the workspaces or for the tensors, a
 * warning names the convolution. */
static void search_warns_about_plans_without_validation(void **state) {
  Convolution convolution = plain_convolution();
  (void)state;
  check_unvalidated(&convolution, HUGE_WORKSPACE);
  convolution.x.dim[AXIS_N] = convolution.y.dim[AXIS_N] = (int64_t)1 << 45;
  check_unvalidated(&convolution, PLAN_WORKSPACE);
}

/* Plans that fail validation are never used, even where others cannot be validated. */
static void search_rejects_faulty_plans(void **state) {
  static const Fault faults[] = {REFUSED, UNWRITTEN};
  const Convolution convolution = plain_convolution();
  char log[4096];
  (void)state;
  for (int i = 0; i < 2; i++) {
    FoundPlan found;
    fault = faults[i];
    good_engine = 1;
    assert_int_equal(search(&convolution, false, PLAN_WORKSPACE, PLAN_WORKSPACE, &found, log), OK);
    assert_int_equal(found.plan->engine, 1);
    assert_non_null(strstr(log, "engine rejected"));
    free_found(&found);
    good_engine = -1;
    assert_int_equal(search(&convolution, false, PLAN_WORKSPACE, PLAN_WORKSPACE, &found, log),
                     ERROR_INTERNAL);
    assert_non_null(strstr(error.message, "has no plan for forward"));
    assert_int_equal(search(&convolution, false, PLAN_WORKSPACE, HUGE_WORKSPACE, &found, log), OK);
    assert_int_equal(found.plan->engine, 1);
    assert_true(found.is_unvalidated);
    free_found(&found);
    fault = RIGHT;
  }
}

static int open_backends(void **state) {
  const CudaOptions options = {.no_graphs = true, .timeout = 60};
  (void)state;
  if (backend_cpu_new(1, &cpu, &error) == OK && backend_cuda_new(&options, &cuda, &error) == OK)
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_variant_matches_the_cpu),
                                     cmocka_unit_test(validation_detects_faulty_plans),
                                     cmocka_unit_test(search_prefers_plans_that_can_be_validated),
                                     cmocka_unit_test(search_warns_about_plans_without_validation),
                                     cmocka_unit_test(search_rejects_faulty_plans)};
  return cmocka_run_group_tests(tests, open_backends, close_backends);
}
