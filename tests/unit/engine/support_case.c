#include "support_case.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bf16.h"
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

/* A piece of a backend's memory with known bytes behind it, and what it holds before and after two
 * runs of the kernel. */
typedef struct Piece {
  char *memory, *data;     /* the backend's; data lies `offset` bytes into it */
  size_t bytes;            /* from data on, without the guard */
  char *before, *after[2]; /* bytes + GUARD, on the host */
} Piece;

static void must(Status status, const Error *error) {
  if (status != OK) fail_msg("%s", error->message);
}

static Piece piece_new(Backend *backend, size_t bytes, size_t offset) {
  Piece piece = {.bytes = bytes};
  void *memory = NULL;
  Error error = {0};
  must(backend->allocate(backend, offset + bytes + GUARD, "a test's tensor", &memory, &error),
       &error);
  piece.memory = memory;
  piece.data = piece.memory + offset;
  piece.before = mem_new(1, bytes + GUARD);
  memset(piece.before, 0xff, bytes); /* NaN in f32 and bf16 */
  memset(piece.before + bytes, GUARD_BYTE, GUARD);
  for (int run = 0; run < 2; run++) piece.after[run] = mem_new(1, bytes + GUARD);
  return piece;
}

static void piece_free(Backend *backend, Piece *piece) {
  if (!piece->memory) return;
  backend->release(backend, piece->memory);
  free(piece->before);
  free(piece->after[0]);
  free(piece->after[1]);
}

static void piece_upload(Backend *backend, const Piece *piece) {
  Error error = {0};
  if (!piece->memory) return;
  must(backend->upload(backend, piece->data, piece->before, piece->bytes + GUARD, &error), &error);
}

static void piece_download(Backend *backend, const Piece *piece, int run) {
  Error error = {0};
  if (!piece->memory) return;
  must(backend->download(backend, piece->after[run], piece->data, piece->bytes + GUARD, &error),
       &error);
}

static bool piece_intact(const Piece *piece) {
  return memcmp(piece->before + piece->bytes, piece->after[0] + piece->bytes, GUARD) == 0;
}

static double element(const Tensor *tensor, const void *data, int64_t i) {
  if (tensor->dtype == DTYPE_F32) return (double)((const float *)data)[i];
  if (tensor->dtype == DTYPE_BF16) return (double)bf16_to_f32(((const uint16_t *)data)[i]);
  return ((const uint8_t *)data)[i];
}

static void fill_input(const Case *test, int input, Random *random, void *data) {
  static const float specials[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 0x1p-40f, -0x1p40f};
  const Tensor *tensor = &test->inputs[input];
  for (int64_t i = 0; i < shape_count(tensor->shape); i++) {
    float value = random_normal(random);
    if (test->positive[input]) value = fabsf(value) + 0.01f;
    if (test->special && draw(random, 0, 9) == 0) value = specials[draw(random, 0, 6)];
    if (test->content[input]) value = test->content[input][i];
    value += test->offset[input];
    if (tensor->dtype == DTYPE_F32) ((float *)data)[i] = value;
    if (tensor->dtype == DTYPE_BF16) ((uint16_t *)data)[i] = bf16_from_f32(value);
    if (tensor->dtype == DTYPE_U8) ((uint8_t *)data)[i] = (uint8_t)draw(random, 0, 255);
  }
}

static double *as_doubles(const Tensor *tensor, const void *data) {
  double *values = mem_new((size_t)shape_count(tensor->shape), sizeof *values);
  for (int64_t i = 0; i < shape_count(tensor->shape); i++) values[i] = element(tensor, data, i);
  return values;
}

/* --- Running ---------------------------------------------------------------------------------- */

enum { MAX_TENSORS = OP_MAX_INPUTS + OP_MAX_OUTPUTS };

typedef struct Run {
  Case *test;
  Backend *backend;
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
    Piece *piece = &run->pieces[i];
    test->op.inputs[i] = tensor->shape.dim[0] > 0 ? (Value){i} : NO_VALUE;
    if (tensor->shape.dim[0] == 0) continue;
    const int64_t offset = test->alignment * draw(random, 0, test->alignment == 1 ? 15 : 1);
    *piece =
        piece_new(run->backend, tensor_bytes(tensor), (size_t)offset * dtype_size(tensor->dtype));
    fill_input(test, i, random, piece->before);
    run->inputs[i] = (Array){tensor->shape, as_doubles(tensor, piece->before)};
  }
  for (int i = 0; i < test->op.output_count; i++) {
    Tensor *tensor = &test->outputs[i];
    test->op.outputs[i] = tensor->shape.dim[0] > 0 ? (Value){OP_MAX_INPUTS + i} : NO_VALUE;
    if (tensor->shape.dim[0] == 0) continue;
    if (i != 0 || test->in_place < 0)
      run->pieces[OP_MAX_INPUTS + i] = piece_new(run->backend, tensor_bytes(tensor), 0);
    run->outputs[i].shape = tensor->shape;
    run->outputs[i].data = mem_new((size_t)shape_count(tensor->shape), sizeof(double));
  }
}

/* The piece of output i. */
static const Piece *output_piece(const Run *run, int i) {
  return i == 0 && run->test->in_place >= 0 ? &run->pieces[run->test->in_place]
                                            : &run->pieces[OP_MAX_INPUTS + i];
}

static void run_kernel(const Run *run) {
  const Case *test = run->test;
  Backend *backend = run->backend;
  Kernel *kernel = NULL;
  Error error = {0};
  Tensor inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS];
  memcpy(inputs, test->inputs, sizeof inputs);
  memcpy(outputs, test->outputs, sizeof outputs);
  if (backend->kernel_new(backend, &test->op, inputs, outputs, &kernel, &error) != OK) {
    fail_msg("%s, seed %llu: %s", run->name, (unsigned long long)run->seed, error.message);
  }
  for (int i = 0; i < test->op.input_count; i++) inputs[i].data = run->pieces[i].data;
  for (int i = 0; i < test->op.output_count; i++) outputs[i].data = output_piece(run, i)->data;
  Piece workspace = piece_new(backend, kernel->workspace, 0);
  for (int again = 0; again < 2; again++) {
    for (int i = 0; i < MAX_TENSORS; i++) piece_upload(backend, &run->pieces[i]);
    piece_upload(backend, &workspace);
    if (kernel->run(kernel, inputs, outputs, workspace.data, &error) != OK) {
      fail_msg("%s, seed %llu: %s", run->name, (unsigned long long)run->seed, error.message);
    }
    for (int i = 0; i < MAX_TENSORS; i++) piece_download(backend, &run->pieces[i], again);
    piece_download(backend, &workspace, again);
  }
  if (!piece_intact(&workspace)) {
    fail_msg("%s, seed %llu: written behind the workspace", run->name,
             (unsigned long long)run->seed);
  }
  piece_free(backend, &workspace);
  kernel->free(kernel);
}

static void compare(const Run *run, const char *what, int index, const Tensor *tensor,
                    const Piece *piece, const Array *expected) {
  const double by_dtype = tensor->dtype == DTYPE_F32 ? 2e-5 : 1e-2;
  const double tolerance = run->test->tolerance > 0 ? run->test->tolerance : by_dtype;
  double *values = as_doubles(tensor, piece->after[0]);
  const double error = relative_error(values, expected->data, shape_count(tensor->shape));
  char shape[SHAPE_TEXT_SIZE];
  free(values);
  shape_text(tensor->shape, shape);
  if (!(error <= tolerance)) {
    fail_msg("%s, seed %llu: %s %d, %s %s: relative error %.3g, allowed %.3g", run->name,
             (unsigned long long)run->seed, what, index, dtype_name(tensor->dtype), shape, error,
             tolerance);
  }
  if (memcmp(piece->after[0], piece->after[1], piece->bytes) != 0) {
    fail_msg("%s, seed %llu: %s %d, %s %s: a second run left other bytes", run->name,
             (unsigned long long)run->seed, what, index, dtype_name(tensor->dtype), shape);
  }
  if (!piece_intact(piece)) {
    fail_msg("%s, seed %llu: written behind %s %d, %s %s", run->name, (unsigned long long)run->seed,
             what, index, dtype_name(tensor->dtype), shape);
  }
}

void case_check(Case *test, Backend *backend, Random *random, const char *name, uint64_t seed) {
  Run run = {.test = test, .backend = backend, .name = name, .seed = seed};
  run_prepare(&run, random);
  reference_run(&test->op, run.inputs, run.outputs);
  run_kernel(&run);
  for (int i = 0; i < test->op.output_count; i++) {
    if (!run.outputs[i].data) continue;
    compare(&run, "output", i, &test->outputs[i], output_piece(&run, i), &run.outputs[i]);
  }
  for (int i = 0; i < test->op.input_count; i++) {
    if (i == test->in_place || !run.inputs[i].data) continue;
    compare(&run, "input", i, &test->inputs[i], &run.pieces[i], &run.inputs[i]);
  }
  for (int i = 0; i < MAX_TENSORS; i++) piece_free(backend, &run.pieces[i]);
  for (int i = 0; i < OP_MAX_INPUTS; i++) free(run.inputs[i].data);
  for (int i = 0; i < OP_MAX_OUTPUTS; i++) free(run.outputs[i].data);
}
