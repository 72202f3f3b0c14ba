/* Tensors of more than 2^31 elements on the CUDA backend: the last rows of the output must equal
 * the output for these rows alone. The same check runs on small tensors everywhere, on large ones
 * if the device has the memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "base/files.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/backend/backend.h"
#include "tests/gpu/support_gpu.h"

/* A row is WIDTH pixels of CHANNELS bf16 elements; the last LAST rows are compared. */
enum { WIDTH = 256, CHANNELS = 64, ROW = WIDTH * CHANNELS, LAST = 4 };
static const int64_t SMALL_ROWS = 24, LARGE_ROWS = ((int64_t)1 << 31) / ROW + 8;

static Backend *backend;
static char cache[] = "/tmp/celforge-test-XXXXXX";

static void must(Status status, const Error *error) {
  if (status != OK) fail_msg("%s", error->message);
}

/* --- A kernel on tensors of `rows` rows ------------------------------------------------------- */

static Shape rows_shape(int64_t rows) {
  return shape_make(1, 1, rows, WIDTH, CHANNELS);
}

/* An op, and how many rows its output has more than its input. */
typedef struct Case {
  const char *name;
  Op op;
  int64_t extra_rows;
  float moves; /* not 0: the second input is f32 and has this value everywhere */
} Case;

static Case case_of(OpKind kind) {
  static char name[] = "large";
  Case test = {.name = op_kind_name(kind), .op = {.kind = kind, .name = name}};
  Op *op = &test.op;
  op->input_count = op->output_count = 1;
  if (kind == OP_NORM || kind == OP_NORM_BACKWARD) {
    op->attributes.norm = (NormAttributes){.kind = NORM_RMS, .groups = 1, .epsilon = 1e-3f};
    op->input_count = kind == OP_NORM ? 1 : 2;
  } else if (kind == OP_PAD) {
    op->attributes.pad.before.dim[AXIS_H] = op->attributes.pad.after.dim[AXIS_H] = 1;
    op->attributes.pad.mode = PAD_REFLECT;
    test.extra_rows = 2;
  } else if (kind == OP_AVERAGE_POOL) {
    op->attributes.pool.size = 3;
    op->attributes.pool.stride = op->attributes.pool.pad = 1;
  } else if (kind == OP_MAX_POOL || kind == OP_MAX_POOL_BACKWARD) {
    op->attributes.max_pool.size = 1; /* y has the shape of x */
    op->input_count = kind == OP_MAX_POOL ? 1 : 2;
  } else if (kind == OP_WARP || kind == OP_TRANSLATE) {
    op->input_count = 2;
    test.moves = kind == OP_WARP ? 0.75f : 1;
  } else if (kind == OP_SLICE) {
    op->attributes.slice.begin.dim[AXIS_H] = 1;
    test.extra_rows = -1;
  }
  return test;
}

static void *allocate(size_t bytes) {
  void *memory = NULL;
  Error error = {0};
  must(backend->allocate(backend, bytes, "a test's tensor", &memory, &error), &error);
  return memory;
}

static void upload_value(char *memory, size_t bytes, float value) {
  enum { CHUNK = 1 << 26 };
  float *values = mem_new(1, CHUNK);
  Error error = {0};
  for (size_t i = 0; i < CHUNK / sizeof *values; i++) values[i] = value;
  for (size_t at = 0; at < bytes; at += CHUNK)
    must(backend->upload(backend, memory + at, values, bytes - at < CHUNK ? bytes - at : CHUNK,
                         &error),
         &error);
  free(values);
}

/* The second input: x itself, or a flow or offsets of the case's value. */
static Tensor second_input(const Case *test, const Tensor *x) {
  if (test->moves == 0) return *x;
  const int64_t rows = x->shape.dim[AXIS_H];
  const bool warps = test->op.kind == OP_WARP;
  return (Tensor){.shape = warps ? shape_make(1, 1, rows, WIDTH, 2) : shape_make(1, 1, 1, 1, 2)};
}

/* Runs the op on a tensor whose last 2 LAST rows are `content` and all others zero; `result` gets
 * the last LAST rows of the output. */
static void run_rows(const Case *test, int64_t rows, const uint16_t *content, uint16_t *result) {
  const size_t row_bytes = ROW * sizeof(uint16_t);
  const int64_t out_rows = rows + test->extra_rows;
  Tensor x = {.shape = rows_shape(rows), .dtype = DTYPE_BF16};
  Tensor inputs[2] = {x, second_input(test, &x)};
  Tensor y = {.shape = rows_shape(out_rows), .dtype = DTYPE_BF16};
  Kernel *kernel = NULL;
  Error error = {0};
  must(backend->kernel_new(backend, &test->op, inputs, &y, &kernel, &error), &error);
  const size_t moves_bytes = (size_t)shape_count(inputs[1].shape) * sizeof(float);
  inputs[0].data = allocate((size_t)rows * row_bytes);
  inputs[1].data = test->moves == 0 ? inputs[0].data : allocate(moves_bytes);
  y.data = allocate((size_t)out_rows * row_bytes);
  void *workspace = allocate(kernel->workspace + 64);
  upload_value(inputs[0].data, (size_t)rows * row_bytes, 0);
  if (test->moves != 0) upload_value(inputs[1].data, moves_bytes, test->moves);
  must(backend->upload(backend, (char *)inputs[0].data + (size_t)(rows - 2 * LAST) * row_bytes,
                       content, 2 * LAST * row_bytes, &error),
       &error);
  must(kernel->run(kernel, inputs, &y, workspace, &error), &error);
  must(backend->download(backend, result, (char *)y.data + (size_t)(out_rows - LAST) * row_bytes,
                         LAST * row_bytes, &error),
       &error);
  kernel->free(kernel);
  if (test->moves != 0) backend->release(backend, inputs[1].data);
  backend->release(backend, inputs[0].data);
  backend->release(backend, y.data);
  backend->release(backend, workspace);
}

/* --- The tests -------------------------------------------------------------------------------- */

static const OpKind kinds[] = {
    OP_NORM,     OP_NORM_BACKWARD,     OP_PAD,   OP_AVERAGE_POOL, OP_WARP,
    OP_MAX_POOL, OP_MAX_POOL_BACKWARD, OP_SLICE, OP_TRANSLATE};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void check_rows(int64_t rows) {
  uint16_t *content = mem_new(2 * LAST * ROW, sizeof *content);
  uint16_t *expected = mem_new(LAST * ROW, sizeof *expected);
  uint16_t *found = mem_new(LAST * ROW, sizeof *found);
  Random random = random_stream(1, RANDOM_TEST, 4, 0);
  for (int64_t i = 0; i < 2 * LAST * ROW; i++) content[i] = bf16_from_f32(random_normal(&random));
  for (int i = 0; i < KINDS; i++) {
    const Case test = case_of(kinds[i]);
    run_rows(&test, 2 * LAST, content, expected);
    run_rows(&test, rows, content, found);
    if (memcmp(expected, found, LAST * ROW * sizeof *found) != 0)
      fail_msg("%s: the last rows of %lld differ from the same rows alone", test.name,
               (long long)rows);
  }
  free(content);
  free(expected);
  free(found);
}

static void test_last_rows_of_small_tensors(void **state) {
  (void)state;
  check_rows(SMALL_ROWS);
}

/* Needs two tensors of 4 GiB; allocates as much first, so that a small device skips the test. */
static void test_last_rows_of_tensors_beyond_2_31_elements(void **state) {
  (void)state;
  void *memory = NULL;
  if (backend->allocate(backend, (size_t)9 << 30, "a test's tensors", &memory, NULL) != OK) {
    gpu_skip("needs 9 GiB of free device memory");
  }
  backend->release(backend, memory);
  check_rows(LARGE_ROWS);
}

/* RMS norm computes positions in 32 bits: longer sides must be an error. */
static void test_rms_norm_rejects_sides_beyond_its_limit(void **state) {
  (void)state;
  Case test = case_of(OP_NORM);
  const int64_t sides[] = {INT32_MAX / 2, INT32_MAX / 2 + 1, (int64_t)1 << 32};
  for (int i = 0; i < 6; i++) {
    const int64_t side = sides[i / 2];
    const Shape shape = i % 2 ? shape_make(1, 1, side, 1, 1) : shape_make(1, 1, 1, side, 1);
    const Tensor x = {.shape = shape, .dtype = DTYPE_BF16};
    Kernel *kernel = NULL;
    Error error = {0};
    const Status status = backend->kernel_new(backend, &test.op, &x, &x, &kernel, &error);
    assert_int_equal(status, i < 2 ? OK : ERROR_INTERNAL);
    if (status == OK) kernel->free(kernel);
    if (status != OK) assert_non_null(strstr(error.message, "at most 1073741823 per side"));
  }
}

static int set_up(void **state) {
  (void)state;
  const CudaOptions options = {
      .deterministic = true, .no_graphs = true, .cache = cache, .timeout = 60};
  Error error = {0};
  if (!mkdtemp(cache)) return 1;
  if (backend_cuda_new(&options, &backend, &error) == OK) return 0;
  fprintf(stderr, "# %s\n", error.message);
  return 1;
}

static int tear_down(void **state) {
  (void)state;
  backend->free(backend);
  return folder_remove(cache, NULL) == OK ? 0 : 1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_last_rows_of_small_tensors),
      cmocka_unit_test(test_last_rows_of_tensors_beyond_2_31_elements),
      cmocka_unit_test(test_rms_norm_rejects_sides_beyond_its_limit),
  };
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, set_up, tear_down);
}
