/* Long sums by every template of a reduction (KernelTemplate), against sums in double, and with
 * indices beyond 32 bits. test_ops has random shapes and programs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/backend/backend.h"
#include "tests/gpu/support_gpu.h"

static Backend *backend;
static Error error;
static char op_name[] = "long sum";

#define MUST(call)                                                                                 \
  do {                                                                                             \
    if ((call) != OK) fail_msg("%s", error.message);                                               \
  } while (0)

/* A reduction of `inputs`, run on the device; returns the output, which the caller frees. */
static float *reduce(Op *op, Tensor *inputs, const Tensor *host, Shape shape) {
  Kernel *kernel = NULL;
  Tensor output = {.shape = shape};
  void *workspace = NULL;
  const size_t bytes = (size_t)shape_count(shape) * sizeof(float);
  float *result = mem_new(1, bytes);
  memset(result, 0xff, bytes); /* NaN */
  for (int i = 0; i < op->input_count; i++) {
    const size_t size = (size_t)shape_count(inputs[i].shape) * dtype_size(inputs[i].dtype);
    MUST(backend->allocate(backend, size, "an input", &inputs[i].data, &error));
    MUST(backend->upload(backend, inputs[i].data, host[i].data, size, &error));
  }
  MUST(backend->allocate(backend, bytes, "the output", &output.data, &error));
  MUST(backend->upload(backend, output.data, result, bytes, &error));
  MUST(backend->kernel_new(backend, op, inputs, &output, &kernel, &error));
  if (kernel->workspace > 0) {
    MUST(backend->allocate(backend, kernel->workspace, "the workspace", &workspace, &error));
  }
  MUST(kernel->run(kernel, inputs, &output, workspace, &error));
  MUST(backend->download(backend, result, output.data, bytes, &error));
  kernel->free(kernel);
  for (int i = 0; i < op->input_count; i++) backend->release(backend, inputs[i].data);
  backend->release(backend, output.data);
  if (workspace) backend->release(backend, workspace);
  return result;
}

static Shape reduced_shape(Shape full, unsigned axes) {
  for (int axis = 0; axis < RANK; axis++) {
    if (axes >> axis & 1u) full.dim[axis] = 1;
  }
  return full;
}

static Op reduction(Shape full, unsigned axes, int inputs) {
  Op op = {.kind = OP_REDUCE, .name = op_name, .input_count = inputs, .output_count = 1};
  op.attributes.reduce.axes = axes;
  op.attributes.reduce.full = full;
  op.attributes.reduce.scale = 0.5f;
  return op;
}

static void expected_sums(const Tensor *x, unsigned axes, Shape out, double *sums) {
  const int64_t count = shape_count(x->shape);
  for (int64_t i = 0; i < count; i++) {
    int64_t rest = i, place = 0, stride = 1;
    for (int axis = RANK - 1; axis >= 0; axis--) {
      if (!(axes >> axis & 1u)) place += rest % x->shape.dim[axis] * stride;
      stride *= out.dim[axis];
      rest /= x->shape.dim[axis];
    }
    const double value = x->dtype == DTYPE_F32
                             ? (double)((const float *)x->data)[i]
                             : (double)bf16_to_f32(((const uint16_t *)x->data)[i]);
    sums[place] += 0.5 * value;
  }
}

static void check_sum(Shape full, unsigned axes, DType dtype) {
  const Shape out = reduced_shape(full, axes);
  const int64_t count = shape_count(full), outputs = shape_count(out);
  Random random = random_stream(7, RANDOM_TEST, 2, 0);
  Tensor x = {.data = mem_new((size_t)count, sizeof(float)), .shape = full, .dtype = dtype};
  Tensor input = x;
  double *expected = mem_new((size_t)outputs, sizeof *expected);
  char text[SHAPE_TEXT_SIZE];
  for (int64_t i = 0; i < count; i++) {
    const float value = (float)random_uniform(&random); /* positive, so that sums grow */
    if (dtype == DTYPE_F32) ((float *)x.data)[i] = value;
    if (dtype == DTYPE_BF16) ((uint16_t *)x.data)[i] = bf16_from_f32(value);
  }
  expected_sums(&x, axes, out, expected);
  Op op = reduction(full, axes, 1);
  float *got = reduce(&op, &input, &x, out);
  for (int64_t o = 0; o < outputs; o++) {
    if (!(fabs((double)got[o] - expected[o]) <= 1e-6 * expected[o])) {
      fail_msg("%s %s over axes 0x%x: sum %lld is %.9g, expected %.9g", dtype_name(dtype),
               shape_text(full, text), axes, (long long)o, (double)got[o], expected[o]);
    }
  }
  free(got);
  free(expected);
  free(x.data);
}

static void check_both(Shape full, unsigned axes) {
  check_sum(full, axes, DTYPE_F32);
  check_sum(full, axes, DTYPE_BF16);
}

static void test_sums_of_rows(void **state) {
  (void)state;
  check_both(shape_make(1, 1, 1, 1000, 3001), 0x1f);
  check_both(shape_make(3, 1, 100, 100, 16), 0x1e); /* per sample */
  check_both(shape_make(2, 5, 33, 7, 3), 0x1c);     /* per frame, odd lengths */
  check_both(shape_make(1, 2, 50, 50, 64), 0x10);   /* per pixel */
}

static void test_sums_of_few_lanes(void **state) {
  (void)state;
  static const int64_t lanes[] = {2, 3, 64, 96, 250};
  for (int i = 0; i < 5; i++) check_both(shape_make(2, 3, 60, 31, lanes[i]), 0x0f);
  check_both(shape_make(3, 2, 31, 31, 3), 0x0e); /* channels per sample, odd rows */
}

static void test_sums_of_many_lanes(void **state) {
  (void)state;
  check_both(shape_make(1, 1, 9, 7, 2500), 0x0f);
  check_both(shape_make(1, 1, 40, 16, 4096), 0x0f);
  check_both(shape_make(2, 8, 30, 31, 5), 0x02); /* over time */
}

static void test_sums_over_scattered_axes(void **state) {
  (void)state;
  check_both(shape_make(3, 8, 6, 20, 11), 0x15);
  check_both(shape_make(3, 200, 6, 20, 3), 0x0a);
}

/* The outer product of two vectors, 2^32 elements that are never stored, summed over its rows. */
static void test_more_than_2_32_elements(void **state) {
  (void)state;
  if (gpu_is_emulated()) gpu_skip("the emulator would take hours");
  enum { LENGTH = 1 << 16 };
  const Shape full = shape_make(1, 1, 1, LENGTH, LENGTH), out = reduced_shape(full, 1u << AXIS_W);
  static float rows[LENGTH], lanes[LENGTH];
  double total = 0.0;
  for (int i = 0; i < LENGTH; i++) {
    rows[i] = (float)(i % 13 + 1);
    lanes[i] = (float)(i % 17 + 1);
    total += (double)rows[i];
  }
  Tensor inputs[2] = {{.shape = shape_make(1, 1, 1, LENGTH, 1)}, {.shape = shape_vector(LENGTH)}};
  const Tensor host[2] = {{.data = rows}, {.data = lanes}};
  Op op = reduction(full, 1u << AXIS_W, 2);
  op.attributes.reduce.program = (PointwiseProgram){
      .instruction_count = 1, .instructions = {{.code = PW_MUL, .a = 0, .b = 1}}, .outputs = {2}};
  float *got = reduce(&op, inputs, host, out);
  for (int i = 0; i < LENGTH; i++) {
    const double expected = 0.5 * total * (double)lanes[i];
    if (!(fabs((double)got[i] - expected) <= 1e-6 * expected)) {
      fail_msg("sum %d is %.9g, expected %.9g", i, (double)got[i], expected);
    }
  }
  free(got);
}

static int set_up(void **state) {
  (void)state;
  const CudaOptions options = {.deterministic = true, .no_graphs = true, .timeout = 60};
  if (backend_cuda_new(&options, &backend, &error) == OK) return 0;
  fprintf(stderr, "# %s\n", error.message);
  return 1;
}

static int tear_down(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sums_of_rows),
      cmocka_unit_test(test_sums_of_few_lanes),
      cmocka_unit_test(test_sums_of_many_lanes),
      cmocka_unit_test(test_sums_over_scattered_axes),
      cmocka_unit_test(test_more_than_2_32_elements),
  };
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, set_up, tear_down);
}
