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

/* Memory of a backend followed by guard bytes, and its content before and after two runs of the
 * kernel. */
typedef struct GuardedMemory {
  char *memory, *data;     /* of the backend; data is `offset` bytes into it */
  size_t bytes;            /* from data on, without the guard */
  char *before, *after[2]; /* bytes + GUARD, on the host */
} GuardedMemory;

static void must(Status status, const Error *error) {
  if (status != OK) fail_msg("%s", error->message);
}

static GuardedMemory guarded_new(Backend *backend, size_t bytes, size_t offset) {
  GuardedMemory guarded = {.bytes = bytes};
  void *memory = NULL;
  Error error = {0};
  must(backend->allocate(backend, offset + bytes + GUARD, "a test tensor", &memory, &error),
       &error);
  guarded.memory = memory;
  guarded.data = guarded.memory + offset;
  guarded.before = mem_new(1, bytes + GUARD);
  memset(guarded.before, 0xff, bytes); /* NaN in f32 and bf16 */
  memset(guarded.before + bytes, GUARD_BYTE, GUARD);
  for (int run = 0; run < 2; run++) guarded.after[run] = mem_new(1, bytes + GUARD);
  return guarded;
}

static void guarded_free(Backend *backend, GuardedMemory *guarded) {
  if (!guarded->memory) return;
  backend->release(backend, guarded->memory);
  free(guarded->before);
  free(guarded->after[0]);
  free(guarded->after[1]);
}

static void guarded_upload(Backend *backend, const GuardedMemory *guarded) {
  Error error = {0};
  if (!guarded->memory) return;
  must(backend->upload(backend, guarded->data, guarded->before, guarded->bytes + GUARD, &error),
       &error);
}

static void guarded_download(Backend *backend, const GuardedMemory *guarded, int run) {
  Error error = {0};
  if (!guarded->memory) return;
  must(backend->download(backend, guarded->after[run], guarded->data, guarded->bytes + GUARD,
                         &error),
       &error);
}

static bool guarded_intact(const GuardedMemory *guarded) {
  return memcmp(guarded->before + guarded->bytes, guarded->after[0] + guarded->bytes, GUARD) == 0;
}

static double element(const Tensor *tensor, const void *data, int64_t i) {
  if (tensor->dtype == DTYPE_F32) return (double)((const float *)data)[i];
  if (tensor->dtype == DTYPE_BF16) return (double)bf16_to_f32(((const uint16_t *)data)[i]);
  if (tensor->dtype == DTYPE_I64) return (double)((const int64_t *)data)[i];
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
    if (tensor->dtype == DTYPE_I64) ((int64_t *)data)[i] = (int64_t)value;
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
  GuardedMemory memories[MAX_TENSORS]; /* inputs, then outputs */
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
    GuardedMemory *guarded = &run->memories[i];
    test->op.inputs[i] = tensor->shape.dim[0] > 0 ? (Value){i} : NO_VALUE;
    if (tensor->shape.dim[0] == 0) continue;
    const int64_t offset = test->alignment * draw(random, 0, test->alignment == 1 ? 15 : 1);
    *guarded =
        guarded_new(run->backend, tensor_bytes(tensor), (size_t)offset * dtype_size(tensor->dtype));
    fill_input(test, i, random, guarded->before);
    run->inputs[i] = (Array){tensor->shape, as_doubles(tensor, guarded->before)};
  }
  for (int i = 0; i < test->op.output_count; i++) {
    Tensor *tensor = &test->outputs[i];
    test->op.outputs[i] = tensor->shape.dim[0] > 0 ? (Value){OP_MAX_INPUTS + i} : NO_VALUE;
    if (tensor->shape.dim[0] == 0) continue;
    if (i != 0 || test->in_place < 0)
      run->memories[OP_MAX_INPUTS + i] = guarded_new(run->backend, tensor_bytes(tensor), 0);
    run->outputs[i].shape = tensor->shape;
    run->outputs[i].data = mem_new((size_t)shape_count(tensor->shape), sizeof(double));
  }
}

/* The memory of output i. */
static const GuardedMemory *output_memory(const Run *run, int i) {
  return i == 0 && run->test->in_place >= 0 ? &run->memories[run->test->in_place]
                                            : &run->memories[OP_MAX_INPUTS + i];
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
  for (int i = 0; i < test->op.input_count; i++) inputs[i].data = run->memories[i].data;
  for (int i = 0; i < test->op.output_count; i++) outputs[i].data = output_memory(run, i)->data;
  GuardedMemory workspace = guarded_new(backend, kernel->workspace, 0);
  for (int again = 0; again < 2; again++) {
    for (int i = 0; i < MAX_TENSORS; i++) guarded_upload(backend, &run->memories[i]);
    guarded_upload(backend, &workspace);
    if (kernel->run(kernel, inputs, outputs, workspace.data, &error) != OK) {
      fail_msg("%s, seed %llu: %s", run->name, (unsigned long long)run->seed, error.message);
    }
    for (int i = 0; i < MAX_TENSORS; i++) guarded_download(backend, &run->memories[i], again);
    guarded_download(backend, &workspace, again);
  }
  if (!guarded_intact(&workspace)) {
    fail_msg("%s, seed %llu: wrote beyond the workspace", run->name, (unsigned long long)run->seed);
  }
  guarded_free(backend, &workspace);
  kernel->free(kernel);
}

static void compare(const Run *run, const char *what, int index, const Tensor *tensor,
                    const GuardedMemory *guarded, const Array *expected) {
  const double by_dtype = tensor->dtype == DTYPE_F32 ? 2e-5 : 1e-2;
  double tolerance = run->test->tolerance > 0 ? run->test->tolerance : by_dtype;
  if (tensor->dtype == DTYPE_I64) tolerance = 0;
  double *values = as_doubles(tensor, guarded->after[0]);
  const double error = relative_error(values, expected->data, shape_count(tensor->shape));
  char shape[SHAPE_TEXT_SIZE];
  free(values);
  shape_text(tensor->shape, shape);
  if (!(error <= tolerance)) {
    fail_msg("%s, seed %llu: %s %d, %s %s: relative error %.3g, allowed %.3g", run->name,
             (unsigned long long)run->seed, what, index, dtype_name(tensor->dtype), shape, error,
             tolerance);
  }
  if (memcmp(guarded->after[0], guarded->after[1], guarded->bytes) != 0) {
    fail_msg("%s, seed %llu: %s %d, %s %s: the second run gave other bytes", run->name,
             (unsigned long long)run->seed, what, index, dtype_name(tensor->dtype), shape);
  }
  if (!guarded_intact(guarded)) {
    fail_msg("%s, seed %llu: wrote beyond %s %d, %s %s", run->name, (unsigned long long)run->seed,
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
    compare(&run, "output", i, &test->outputs[i], output_memory(&run, i), &run.outputs[i]);
  }
  for (int i = 0; i < test->op.input_count; i++) {
    if (i == test->in_place || !run.inputs[i].data) continue;
    compare(&run, "input", i, &test->inputs[i], &run.memories[i], &run.inputs[i]);
  }
  for (int i = 0; i < MAX_TENSORS; i++) guarded_free(backend, &run.memories[i]);
  for (int i = 0; i < OP_MAX_INPUTS; i++) free(run.inputs[i].data);
  for (int i = 0; i < OP_MAX_OUTPUTS; i++) free(run.outputs[i].data);
}
