/* Every form of a convolution with cuDNN replaced by the plain one (emulated builds only): that
 * windows, padding, added channels, narrow gradients, bias and activation lead from the op's
 * tensors to what the CPU makes of them, in a workspace full of NaN; and that trials of plans find
 * what plans can do wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/convolution/convolution.h"
#include "engine/cuda/convolution/epilogue.h"
#include "engine/cuda/convolution/reference.h"
#include "tests/gpu/convolution_problem.h"

enum { PLAN_WORKSPACE = 192 };

static Backend *cpu, *cuda;
static Error error;
static Convolution inner; /* what the plan below computes */
typedef enum Fault { RIGHT, REFUSED, LAST_WRONG, UNWRITTEN } Fault;
static Fault fault;

/* In cuDNN's place: the plain convolution in f32, then bias, activation and dtype. */
Status cudnn_plan_run(const CudnnPlan *plan, cudnnHandle_t handle, int count, const int64_t *uids,
                      void *const *pointers, void *workspace, Error *failure) {
  static const ReferenceResult results[] = {REFERENCE_Y, REFERENCE_DX, REFERENCE_DW};
  static const int written[] = {PART_Y, PART_X, PART_W};
  const Shape shapes[] = {inner.y, inner.x, inner.w};
  const bool biased = inner.pass == CONVOLUTION_FORWARD && inner.bias;
  cudaStream_t stream = cuda_backend(cuda)->stream;
  Status status = OK;
  void *sums = NULL;
  (void)handle;
  for (int i = 0; i < count; i++) assert_int_equal(uids[i], CUDNN_UID_X + i);
  assert_int_equal(count, biased ? PARTS + 1 : PARTS);
  assert_int_equal((uintptr_t)workspace % 256, 0);
  if (fault == REFUSED)
    return error_set(failure, ERROR_INTERNAL, "CUDNN_STATUS_NOT_SUPPORTED: not this one");
  assert_int_equal(cudaMemsetAsync(workspace, 0xff, plan->workspace, stream), cudaSuccess);
  TRY(cuda->allocate(cuda, (size_t)shape_count(shapes[inner.pass]) * sizeof(float), "sums", &sums,
                     failure));
  ReferenceConvolutionLaunch plain = {.result = results[inner.pass],
                                      .x = pointers[PART_X],
                                      .w = pointers[PART_W],
                                      .y = pointers[PART_Y],
                                      .out = sums,
                                      .x_shape = inner.x,
                                      .w_shape = inner.w,
                                      .y_shape = inner.y,
                                      .operands = inner.operands};
  memcpy(plain.stride, inner.stride, sizeof plain.stride);
  memcpy(plain.before, inner.before, sizeof plain.before);
  TRY(launch_reference_convolution(&plain, stream, failure));
  const WindowLaunch ending = {.source = sums,
                               .destination = pointers[written[inner.pass]],
                               .from = shapes[inner.pass],
                               .to = shapes[inner.pass],
                               .source_dtype = DTYPE_F32,
                               .destination_dtype = inner.result,
                               .bias = biased ? pointers[PARTS] : NULL,
                               .activation = inner.activation,
                               .slope = inner.slope};
  if (fault != UNWRITTEN) TRY(launch_window(&ending, stream, failure));
  TRY(cuda->synchronize(cuda, failure));
  if (fault == LAST_WRONG) { /* as seen of large tensors: the end is not reached */
    const size_t size = dtype_size(inner.result);
    char *last = (char *)ending.destination + ((size_t)shape_count(shapes[inner.pass]) - 1) * size;
    assert_int_equal(cudaMemset(last, 0x45, size), cudaSuccess);
  }
done:
  if (sums) cuda->release(cuda, sums);
  return status;
}

typedef struct FormKernel {
  Kernel base;
  ConvolutionSteps steps;
} FormKernel;

static Status form_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *failure) {
  const FormKernel *kernel = (const FormKernel *)(void *)base;
  const ConvolutionTensors tensors =
      convolution_tensors(&kernel->steps.convolution, inputs, outputs);
  return convolution_steps_run(&kernel->steps, NULL, cuda_backend(cuda)->stream, &tensors,
                               workspace, failure);
}

static void form_free(Kernel *base) {
  free(base);
}

/* Which taps were channels of which tensor, in which pass. */
typedef struct Seen {
  bool taps[3][3][2][2]; /* pass, tensor, time, width */
} Seen;

/* TAPS_IN_X along time alone is not for gradients of data; nothing else is left out. */
static void check_seen(const Seen *seen) {
  for (int pass = 0; pass < 3; pass++) {
    for (int taps = TAPS_IN_X; taps <= TAPS_IN_Y; taps++) {
      assert_true(seen->taps[pass][taps][0][1]);
      assert_true(seen->taps[pass][taps][1][1]);
    }
  }
  assert_true(seen->taps[CONVOLUTION_FORWARD][TAPS_IN_X][1][0]);
  assert_true(seen->taps[CONVOLUTION_BACKWARD_WEIGHTS][TAPS_IN_X][1][0]);
}

static void every_form(void **state) {
  static const CudnnPlan plan = {.workspace = PLAN_WORKSPACE};
  Seen seen = {0};
  (void)state;
  for (uint64_t seed = 0; seed < 40; seed++) {
    Problem problem = problem_new(cpu, seed);
    ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
    Convolution convolution;
    assert_int_equal(convolution_of(problem.pass, &problem.op, problem.inputs, problem.outputs,
                                    &convolution, &error),
                     OK);
    const int count = convolution_forms(&convolution, forms);
    for (int i = 0; i < count; i++) {
      char name[64];
      FormKernel *kernel = calloc(1, sizeof *kernel);
      assert_non_null(kernel);
      seen.taps[problem.pass][forms[i].taps][forms[i].taps_of_time][forms[i].taps_of_width] = true;
      inner = convolution_inner(&convolution, &forms[i]);
      kernel->steps = convolution_steps(&convolution, &forms[i], &plan);
      kernel->base =
          (Kernel){.workspace = kernel->steps.workspace, .run = form_run, .free = form_free};
      Device device = device_new(cuda, &problem, &kernel->base);
      device_poison(&device, &problem);
      device_run(&device);
      check_results(&device, &problem, convolution_form_name(&forms[i], name));
      device_free(&device, &problem);
    }
    problem_free(&problem);
  }
  check_seen(&seen);
}

static Status try_form(ConvolutionTrial *trial, const ConvolutionSteps *steps, Fault with) {
  fault = with;
  const Status status = convolution_trial_check(trial, steps, &error);
  fault = RIGHT;
  return status;
}

static void check_form(ConvolutionTrial *trial, const Convolution *convolution,
                       const ConvolutionForm *form, uint64_t seed) {
  static const CudnnPlan plan = {.workspace = PLAN_WORKSPACE};
  char name[64];
  inner = convolution_inner(convolution, form);
  const ConvolutionSteps steps = convolution_steps(convolution, form, &plan);
  convolution_form_name(form, name);
  if (try_form(trial, &steps, RIGHT) != OK)
    fail_msg("seed %d, %s: %s", (int)seed, name, error.message);
  assert_int_equal(try_form(trial, &steps, REFUSED), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "not this one"));
  assert_int_equal(try_form(trial, &steps, UNWRITTEN), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "wrong numbers"));
  const Status status = try_form(trial, &steps, LAST_WRONG);
  const bool squashed = convolution->activation == ACTIVATION_TANH && !form->fused;
  if (!form->aligned && !form->padded && !squashed && status != ERROR_INTERNAL)
    fail_msg("seed %d, %s: not seen", (int)seed, name);
  double seconds = 0, slow = 0;
  assert_int_equal(convolution_trial_measure(trial, &steps, INFINITY, &seconds, &error), OK);
  assert_int_equal(convolution_trial_measure(trial, &steps, 0, &slow, &error), OK);
  assert_true(seconds > 0 && slow > 0);
}

/* A form whose workspace no device has is used untried and not measured; the next one is tried. */
static void check_without_room(ConvolutionTrial *trial, const Convolution *convolution,
                               const ConvolutionForm *form) {
  static const CudnnPlan large = {.workspace = (size_t)1 << 50},
                         plan = {.workspace = PLAN_WORKSPACE};
  double seconds = 0;
  inner = convolution_inner(convolution, form);
  const ConvolutionSteps steps = convolution_steps(convolution, form, &large);
  assert_int_equal(try_form(trial, &steps, UNWRITTEN), OK);
  assert_int_equal(convolution_trial_measure(trial, &steps, INFINITY, &seconds, &error),
                   ERROR_INTERNAL);
  const ConvolutionSteps small = convolution_steps(convolution, form, &plan);
  assert_int_equal(try_form(trial, &small, UNWRITTEN), ERROR_INTERNAL);
  assert_int_equal(try_form(trial, &small, RIGHT), OK);
  assert_int_equal(convolution_trial_measure(trial, &small, INFINITY, &seconds, &error), OK);
}

/* A plan is tried before it is chosen: one that works passes in every form, and what a plan can do
 * wrong is seen. The last element is the same in each form without added channels. */
static void trials(void **state) {
  (void)state;
  for (uint64_t seed = 50; seed < 56; seed++) {
    Problem problem = problem_new(cpu, seed);
    ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
    Convolution convolution;
    ConvolutionTrial *trial;
    assert_int_equal(convolution_of(problem.pass, &problem.op, problem.inputs, problem.outputs,
                                    &convolution, &error),
                     OK);
    assert_int_equal(convolution_trial_new(&convolution, NULL, cuda_backend(cuda)->stream, false,
                                           &trial, &error),
                     OK);
    const int count = convolution_forms(&convolution, forms);
    for (int i = 0; i < count; i++) check_form(trial, &convolution, &forms[i], seed);
    check_without_room(trial, &convolution, &forms[0]);
    convolution_trial_free(trial);
    problem_free(&problem);
  }
}

static int open_backends(void **state) {
  const CudaOptions options = {.plain_streams = true, .timeout = 60};
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_form), cmocka_unit_test(trials)};
  return cmocka_run_group_tests(tests, open_backends, close_backends);
}
