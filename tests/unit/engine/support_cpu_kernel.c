#include "support_cpu_kernel.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "base/bulk_memory.h"
#include "base/memory.h"

int64_t dice_range(Dice *dice, int64_t low, int64_t high) {
  dice->state = dice->state * 6364136223846793005u + 1442695040888963407u;
  return low + (int64_t)((dice->state >> 33) % (uint64_t)(high - low + 1));
}

double dice_unit(Dice *dice) {
  return (double)dice_range(dice, -1000000, 1000000) / 1e6;
}

int64_t dice_pick(Dice *dice, const int64_t *choices, int count) {
  return choices[dice_range(dice, 0, count - 1)];
}

static Backend *backend;

Backend *cpu_backend(void) {
  Error error;
  if (!backend && backend_cpu_new(2, &backend, &error) != OK) fail_msg("%s", error.message);
  return backend;
}

void cpu_backend_done(void) {
  if (backend) backend->free(backend);
  backend = NULL;
}

/* Guard bytes after a tensor. */
enum { GUARD = 64, GUARD_BYTE = 0xA5 };

static Tensor tensor_new(Shape shape, DType dtype) {
  size_t bytes = (size_t)shape_count(shape) * dtype_size(dtype);
  Tensor tensor = {.shape = shape, .dtype = dtype};
  Error error;
  if (mem_bulk(bytes + GUARD, "a test's tensor", &tensor.data, &error) != OK)
    fail_msg("%s", error.message);
  memset((char *)tensor.data + bytes, GUARD_BYTE, GUARD);
  return tensor;
}

Tensor tensor_random(Dice *dice, Shape shape, DType dtype) {
  Tensor tensor = tensor_new(shape, dtype);
  for (int64_t i = 0; i < shape_count(shape); i++) {
    float value = (float)dice_unit(dice);
    if (dtype == DTYPE_F32)
      ((float *)tensor.data)[i] = value;
    else
      ((uint16_t *)tensor.data)[i] = bf16_from_f32(value);
  }
  return tensor;
}

static void poison(const Tensor *tensor) {
  memset(tensor->data, 0xFF, (size_t)shape_count(tensor->shape) * dtype_size(tensor->dtype));
}

Tensor tensor_poisoned(Shape shape, DType dtype) {
  Tensor tensor = tensor_new(shape, dtype);
  poison(&tensor);
  return tensor;
}

void tensor_free(Tensor *tensor) {
  free(tensor->data);
  tensor->data = NULL;
}

double tensor_at(const Tensor *tensor, int64_t index) {
  if (tensor->dtype == DTYPE_F32) return (double)((const float *)tensor->data)[index];
  return (double)bf16_to_f32(((const uint16_t *)tensor->data)[index]);
}

int64_t place(Shape shape, int64_t n, int64_t t, int64_t h, int64_t w, int64_t c) {
  const int64_t *dim = shape.dim;
  return (((n * dim[1] + t) * dim[2] + h) * dim[3] + w) * dim[4] + c;
}

static void check_guard(const Tensor *tensor) {
  const unsigned char *behind = (const unsigned char *)tensor->data +
                                (size_t)shape_count(tensor->shape) * dtype_size(tensor->dtype);
  for (int i = 0; i < GUARD; i++) assert_int_equal(behind[i], GUARD_BYTE);
}

static void run_once(Kernel *kernel, const Tensor *inputs, const Tensor *outputs) {
  Error error;
  void *workspace;
  if (mem_bulk(kernel->workspace, "a test's workspace", &workspace, &error) != OK)
    fail_msg("%s", error.message);
  memset(workspace, 0xFF, kernel->workspace);
  if (kernel->run(kernel, inputs, outputs, workspace, &error) != OK) fail_msg("%s", error.message);
  free(workspace);
}

void run_kernel(const Op *op, const Tensor *inputs, const Tensor *outputs) {
  Error error;
  Kernel *kernel;
  Tensor blind_inputs[OP_MAX_INPUTS], blind_outputs[OP_MAX_OUTPUTS];
  char *first[OP_MAX_OUTPUTS] = {0};
  for (int i = 0; i < op->input_count; i++) {
    blind_inputs[i] = inputs[i];
    blind_inputs[i].data = NULL;
  }
  for (int i = 0; i < op->output_count; i++) {
    blind_outputs[i] = outputs[i];
    blind_outputs[i].data = NULL;
  }
  Backend *cpu = cpu_backend();
  if (cpu->kernel_new(cpu, op, blind_inputs, blind_outputs, &kernel, &error) != OK)
    fail_msg("%s", error.message);
  for (int run = 0; run < 2; run++) {
    run_once(kernel, inputs, outputs);
    for (int i = 0; i < op->output_count; i++) {
      if (!outputs[i].data) continue;
      size_t bytes = (size_t)shape_count(outputs[i].shape) * dtype_size(outputs[i].dtype);
      check_guard(&outputs[i]);
      if (run == 0) {
        memcpy(first[i] = mem_new(1, bytes), outputs[i].data, bytes);
        poison(&outputs[i]);
      } else {
        assert_memory_equal(first[i], outputs[i].data, bytes);
        free(first[i]);
      }
    }
  }
  kernel->free(kernel);
}

void check_tensor(const char *label, const Tensor *got, const double *expected,
                  const double *tolerance) {
  char text[SHAPE_TEXT_SIZE];
  for (int64_t i = 0; i < shape_count(got->shape); i++) {
    double value = tensor_at(got, i);
    if (!(fabs(value - expected[i]) <= tolerance[i]))
      fail_msg("%s: element %lld of %s: %.9g, expected %.9g within %.3g", label, (long long)i,
               shape_text(got->shape, text), value, expected[i], tolerance[i]);
  }
}

double rounding(DType dtype, double value) {
  return fabs(value) * (dtype == DTYPE_BF16 ? 1.0 / 256 : 1e-6) + 1e-6;
}
