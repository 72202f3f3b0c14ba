#include "support_case.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "support_reference.h"

enum { GUARD = 64, GUARD_BYTE = 0xa5 };

Case case_new(OpKind kind) {
  static char name[] = "case";
  return (Case){.op = {.kind = kind, .name = name}, .in_place = -1, .alignment = 1};
}

int64_t draw(Random *random, int64_t low, int64_t high) {
  return low + (int64_t)random_below(random, (uint64_t)(high - low + 1));
}

Shape draw_shape(Random *random) {
  static const int64_t channels[] = {1, 2, 3, 4, 5, 8, 16, 17, 33, 64};
  return shape_make(draw(random, 1, 3), draw(random, 1, 3), draw(random, 1, 9), draw(random, 1, 11),
                    channels[draw(random, 0, 9)]);
}

DType draw_dtype(Random *random) {
  return draw(random, 0, 1) ? DTYPE_BF16 : DTYPE_F32;
}

double relative_error(const double *a, const double *b, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; i++) {
    if (isfinite(b[i])) {
      difference += (a[i] - b[i]) * (a[i] - b[i]);
      norm += b[i] * b[i];
    } else if (isnan(a[i]) != isnan(b[i]) || (isinf(b[i]) && a[i] != b[i])) {
      return INFINITY;
    }
  }
  return sqrt(difference) / fmax(sqrt(norm), 1e-30);
}

/* --- Memory ----------------------------------------------------------------------------------- */

/* A piece of memory with known bytes behind it. */
typedef struct Piece {
  char *memory, *data;
  size_t bytes;
} Piece;

static Piece piece_new(size_t bytes, size_t offset) {
  Piece piece = {.bytes = bytes};
  void *memory;
  assert_int_equal(mem_bulk(bytes + offset + GUARD, "a test's tensor", &memory, NULL), OK);
  piece.memory = memory;
  piece.data = piece.memory + offset;
  memset(piece.memory, 0xff, bytes + offset); /* NaN in f32 and bf16 */
  memset(piece.data + bytes, GUARD_BYTE, GUARD);
  return piece;
}

static bool piece_intact(const Piece *piece) {
  for (size_t i = 0; i < GUARD; i++) {
    if ((unsigned char)piece->data[piece->bytes + i] != GUARD_BYTE) return false;
  }
  return true;
}

static double element(const Tensor *tensor, int64_t i) {
  if (tensor->dtype == DTYPE_F32) return (double)((const float *)tensor->data)[i];
  if (tensor->dtype == DTYPE_BF16) {
    return (double)bf16_to_f32(((const uint16_t *)tensor->data)[i]);
  }
  return ((const uint8_t *)tensor->data)[i];
}

static void set_element(const Tensor *tensor, int64_t i, float value) {
  if (tensor->dtype == DTYPE_F32) ((float *)tensor->data)[i] = value;
  if (tensor->dtype == DTYPE_BF16) ((uint16_t *)tensor->data)[i] = bf16_from_f32(value);
}

static void fill_input(const Case *test, int input, Random *random) {
  static const float specials[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 0x1p-40f, -0x1p40f};
  const Tensor *tensor = &test->inputs[input];
  for (int64_t i = 0; i < shape_count(tensor->shape); i++) {
    float value = random_normal(random);
    if (test->positive[input]) value = fabsf(value) + 0.01f;
    if (test->special && draw(random, 0, 9) == 0) value = specials[draw(random, 0, 6)];
    if (test->content[input]) value = test->content[input][i];
    set_element(tensor, i, value);
    if (tensor->dtype == DTYPE_U8) ((uint8_t *)tensor->data)[i] = (uint8_t)draw(random, 0, 255);
  }
}

static double *as_doubles(const Tensor *tensor) {
  double *values = mem_new((size_t)shape_count(tensor->shape), sizeof *values);
  for (int64_t i = 0; i < shape_count(tensor->shape); i++) values[i] = element(tensor, i);
  return values;
}

/* --- Running ---------------------------------------------------------------------------------- */

enum { MAX_TENSORS = OP_MAX_INPUTS + OP_MAX_OUTPUTS };

typedef struct Run {
  Case *test;
  Piece pieces[MAX_TENSORS]; /* inputs, then outputs */
  Array inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS];
  const char *name;
  uint64_t seed;
} Run;

static size_t tensor_bytes(const Tensor *tensor) {
  return (size_t)shape_count(tensor->shape) * dtype_size(tensor->dtype);
}

static void run_prepare(Run *run, Random *random) {
  Case *test = run->test;
  for (int i = 0; i < test->op.input_count; i++) {
    Tensor *tensor = &test->inputs[i];
    test->op.inputs[i] = tensor->shape.dim[0] > 0 ? (Value){i} : NO_VALUE;
    if (tensor->shape.dim[0] == 0) continue;
    const int64_t offset = test->alignment * draw(random, 0, test->alignment == 1 ? 15 : 1);
    run->pieces[i] = piece_new(tensor_bytes(tensor), (size_t)offset * dtype_size(tensor->dtype));
    tensor->data = run->pieces[i].data;
    fill_input(test, i, random);
    run->inputs[i] = (Array){tensor->shape, as_doubles(tensor)};
  }
  for (int i = 0; i < test->op.output_count; i++) {
    Tensor *tensor = &test->outputs[i];
    test->op.outputs[i] = tensor->shape.dim[0] > 0 ? (Value){OP_MAX_INPUTS + i} : NO_VALUE;
    if (tensor->shape.dim[0] == 0) continue;
    if (i == 0 && test->in_place >= 0) {
      tensor->data = test->inputs[test->in_place].data;
    } else {
      run->pieces[OP_MAX_INPUTS + i] = piece_new(tensor_bytes(tensor), 0);
      tensor->data = run->pieces[OP_MAX_INPUTS + i].data;
    }
    run->outputs[i].shape = tensor->shape;
    run->outputs[i].data = mem_new((size_t)shape_count(tensor->shape), sizeof(double));
  }
}

static void run_kernel(const Run *run, Backend *backend) {
  Case *test = run->test;
  Kernel *kernel = NULL;
  Error error = {0};
  if (backend->kernel_new(backend, &test->op, test->inputs, test->outputs, &kernel, &error) != OK) {
    fail_msg("%s, seed %llu: %s", run->name, (unsigned long long)run->seed, error.message);
  }
  Piece workspace = piece_new(kernel->workspace, 0);
  if (kernel->run(kernel, test->inputs, test->outputs, workspace.data, &error) != OK) {
    fail_msg("%s, seed %llu: %s", run->name, (unsigned long long)run->seed, error.message);
  }
  assert_true(piece_intact(&workspace));
  free(workspace.memory);
  kernel->free(kernel);
}

static void compare(const Run *run, const char *what, int index, const Tensor *tensor,
                    const Array *expected) {
  const double by_dtype = tensor->dtype == DTYPE_F32 ? 2e-5 : 1e-2;
  const double tolerance = run->test->tolerance > 0 ? run->test->tolerance : by_dtype;
  double *values = as_doubles(tensor);
  const double error = relative_error(values, expected->data, shape_count(tensor->shape));
  free(values);
  if (error <= tolerance) return;
  char shape[SHAPE_TEXT_SIZE];
  fail_msg("%s, seed %llu: %s %d, %s %s: relative error %.3g, allowed %.3g", run->name,
           (unsigned long long)run->seed, what, index, dtype_name(tensor->dtype),
           shape_text(tensor->shape, shape), error, tolerance);
}

void case_check(Case *test, Backend *backend, Random *random, const char *name, uint64_t seed) {
  Run run = {.test = test, .name = name, .seed = seed};
  run_prepare(&run, random);
  reference_run(&test->op, run.inputs, run.outputs);
  run_kernel(&run, backend);
  for (int i = 0; i < test->op.output_count; i++) {
    if (run.outputs[i].data) compare(&run, "output", i, &test->outputs[i], &run.outputs[i]);
  }
  for (int i = 0; i < test->op.input_count; i++) {
    if (i == test->in_place || !run.inputs[i].data) continue;
    compare(&run, "input", i, &test->inputs[i], &run.inputs[i]);
  }
  for (int i = 0; i < MAX_TENSORS; i++) {
    if (run.pieces[i].memory) assert_true(piece_intact(&run.pieces[i]));
    free(run.pieces[i].memory);
  }
  for (int i = 0; i < OP_MAX_INPUTS; i++) free(run.inputs[i].data);
  for (int i = 0; i < OP_MAX_OUTPUTS; i++) free(run.outputs[i].data);
}
