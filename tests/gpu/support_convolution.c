#include "tests/gpu/convolution_problem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/bulk_memory.h"
#include "base/memory.h"
#include "base/random.h"

static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* --- Random problems -------------------------------------------------------------------------- */
static int64_t between(Random *random, int64_t low, int64_t high) {
  return low + (int64_t)random_below(random, (uint64_t)(high - low + 1));
}

static size_t tensor_bytes(const Tensor *tensor) {
  return (size_t)shape_count(tensor->shape) * dtype_size(tensor->dtype);
}

static float *unpacked(const void *data, const Tensor *like) {
  const size_t count = (size_t)shape_count(like->shape);
  float *values = mem_new(count, sizeof *values);
  for (size_t i = 0; i < count; i++)
    values[i] = like->dtype == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)data)[i])
                                          : ((const float *)data)[i];
  return values;
}

static Tensor random_tensor(Shape shape, DType dtype, double scale, Random *random) {
  const size_t count = (size_t)shape_count(shape);
  Tensor tensor = {.shape = shape, .dtype = dtype, .data = mem_new(count, dtype_size(dtype))};
  for (size_t i = 0; i < count; i++) {
    const float value = (float)scale * random_normal(random);
    if (dtype == DTYPE_BF16)
      ((uint16_t *)tensor.data)[i] = bf16_from_f32(value);
    else
      ((float *)tensor.data)[i] = value;
  }
  return tensor;
}

/* Shapes like those of the networks: few or many channels, frames or clips, any padding. */
static void random_shapes(Random *random, Op *op, Shape *x, Shape *w, Shape *y) {
  static const int64_t channels[] = {1, 3, 6, 8, 16, 20, 32, 64};
  const bool frames = between(random, 0, 1);
  const int64_t in = channels[between(random, 0, 7)], out = channels[between(random, 0, 7)];
  ConvAttributes *c = &op->attributes.conv;
  *x = shape_make(between(random, 1, 2), 0, 0, 0, in);
  *w = shape_make(out, 0, 0, 0, in);
  *y = shape_make(x->dim[0], 0, 0, 0, out);
  for (int i = 0; i < 3; i++) {
    const int64_t taps = i == 0 ? (frames ? 1 : between(random, 1, 3)) : between(random, 1, 7);
    c->stride[i] = i == 0 ? 1 : (int)between(random, 1, 2);
    c->before[i] = (int)between(random, 0, taps - 1);
    c->after[i] = between(random, 0, 1) ? c->before[i] : (int)between(random, 0, taps - 1);
    w->dim[1 + i] = taps;
    x->dim[1 + i] = between(random, taps, i == 0 ? 6 : 24);
    y->dim[1 + i] = (x->dim[1 + i] + c->before[i] + c->after[i] - taps) / c->stride[i] + 1;
  }
}

/* Computes the expected results with the CPU backend in f32. */
static void solve(Backend *cpu, Problem *problem) {
  Tensor inputs[OPERANDS] = {0}, outputs[RESULTS] = {0};
  Kernel *kernel = NULL;
  void *workspace = NULL;
  for (int i = 0; i < problem->op.input_count; i++) {
    inputs[i] = problem->inputs[i];
    inputs[i].data = unpacked(problem->inputs[i].data, &problem->inputs[i]);
    inputs[i].dtype = DTYPE_F32;
  }
  for (int i = 0; i < problem->op.output_count; i++) {
    outputs[i] = problem->outputs[i];
    outputs[i].dtype = DTYPE_F32;
    must(mem_bulk(tensor_bytes(&outputs[i]), "result", &outputs[i].data, &error));
    problem->expected[i] = outputs[i].data;
  }
  must(cpu->kernel_new(cpu, &problem->op, inputs, outputs, &kernel, &error));
  must(mem_bulk(kernel->workspace + 64, "workspace", &workspace, &error));
  must(kernel->run(kernel, inputs, outputs, workspace, &error));
  must(cpu->synchronize(cpu, &error));
  kernel->free(kernel);
  free(workspace);
  for (int i = 0; i < problem->op.input_count; i++) free(inputs[i].data);
}

Problem problem_new(Backend *cpu, uint64_t seed) {
  static const OpKind kinds[] = {OP_CONV3D, OP_CONV3D_BACKWARD_DATA, OP_CONV3D_BACKWARD_WEIGHTS};
  static char name[] = "conv";
  Random random = random_stream(seed, RANDOM_TEST, 0, 0);
  Problem p = {.seed = seed,
               .dtype = seed % 2 ? DTYPE_BF16 : DTYPE_F32,
               .pass = (ConvolutionPass)(seed / 2 % 3)};
  Shape x, w, y;
  p.op = (Op){.kind = kinds[p.pass], .name = name, .input_count = 2, .output_count = 1};
  random_shapes(&random, &p.op, &x, &w, &y);
  const double scale = 1 / sqrt((double)shape_count(w) / (double)w.dim[0]);
  const Shape vector = shape_vector(w.dim[0]);
  if (p.pass == CONVOLUTION_FORWARD) {
    p.op.input_count = (int)between(&random, 2, 3);
    p.op.attributes.conv.activation = (Activation)between(&random, 0, 2);
    p.op.attributes.conv.slope = 0.2f;
    p.inputs[2] = random_tensor(vector, DTYPE_F32, 1, &random);
  } else if (p.pass == CONVOLUTION_BACKWARD_WEIGHTS) {
    p.op.output_count = (int)between(&random, 1, 2);
  }
  const Shape first[] = {x, y, x}, second[] = {w, w, y}, result[] = {y, x, w};
  p.inputs[0] = random_tensor(first[p.pass], p.dtype, 1, &random);
  p.inputs[1] = random_tensor(second[p.pass], p.dtype,
                              p.pass == CONVOLUTION_BACKWARD_WEIGHTS ? 1 : scale, &random);
  p.outputs[0] = (Tensor){.shape = result[p.pass],
                          .dtype = p.pass == CONVOLUTION_BACKWARD_WEIGHTS ? DTYPE_F32 : p.dtype};
  p.outputs[1] = (Tensor){.shape = vector, .dtype = DTYPE_F32};
  solve(cpu, &p);
  return p;
}

size_t result_bytes(const Problem *problem, int i) {
  return tensor_bytes(&problem->outputs[i]);
}

void problem_free(Problem *problem) {
  for (int i = 0; i < OPERANDS; i++) free(problem->inputs[i].data);
  for (int i = 0; i < RESULTS; i++) free(problem->expected[i]);
}

/* --- Running on the device -------------------------------------------------------------------- */
Device device_new(Backend *backend, const Problem *p, Kernel *kernel) {
  Device device = {.backend = backend, .kernel = kernel};
  memcpy(device.inputs, p->inputs, sizeof device.inputs);
  memcpy(device.outputs, p->outputs, sizeof device.outputs);
  for (int i = 0; i < p->op.input_count; i++) {
    const size_t bytes = tensor_bytes(&p->inputs[i]);
    must(backend->allocate(backend, bytes, "operand", &device.inputs[i].data, &error));
    must(backend->upload(backend, device.inputs[i].data, p->inputs[i].data, bytes, &error));
  }
  for (int i = 0; i < p->op.output_count; i++)
    must(backend->allocate(backend, tensor_bytes(&p->outputs[i]), "result", &device.outputs[i].data,
                           &error));
  if (kernel->workspace > 0)
    must(backend->allocate(backend, kernel->workspace, "workspace", &device.workspace, &error));
  return device;
}

void device_fill_nan(Device *device, const Problem *p) {
  for (int i = 0; i < p->op.output_count; i++)
    assert_int_equal(cudaMemset(device->outputs[i].data, 0xff, tensor_bytes(&device->outputs[i])),
                     cudaSuccess);
  if (device->workspace)
    assert_int_equal(cudaMemset(device->workspace, 0xff, device->kernel->workspace), cudaSuccess);
  assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
}

void device_run(Device *device) {
  must(device->kernel->run(device->kernel, device->inputs, device->outputs, device->workspace,
                           &error));
}

void *device_result(Device *device, int i) {
  const size_t bytes = tensor_bytes(&device->outputs[i]);
  void *data = mem_new(bytes, 1);
  must(device->backend->download(device->backend, data, device->outputs[i].data, bytes, &error));
  return data;
}

void device_free(Device *device, const Problem *p) {
  for (int i = 0; i < p->op.input_count; i++)
    device->backend->release(device->backend, device->inputs[i].data);
  for (int i = 0; i < p->op.output_count; i++)
    device->backend->release(device->backend, device->outputs[i].data);
  if (device->workspace) device->backend->release(device->backend, device->workspace);
  device->kernel->free(device->kernel);
}

void check_results(Device *device, const Problem *p, const char *variant) {
  for (int i = 0; i < p->op.output_count; i++) {
    void *bytes = device_result(device, i);
    float *values = unpacked(bytes, &device->outputs[i]);
    double difference = 0, norm = 0;
    for (int64_t k = 0; k < shape_count(p->outputs[i].shape); k++) {
      difference += pow((double)values[k] - (double)p->expected[i][k], 2);
      norm += pow((double)p->expected[i][k], 2);
    }
    const double relative = sqrt(difference / fmax(norm, 1e-30));
    const double allowed = p->dtype == DTYPE_BF16 && i == 0 ? 1e-2 : 2e-5;
    free(values);
    free(bytes);
    if (relative <= allowed) continue;
    Convolution convolution;
    Text text = {0};
    must(convolution_from_op(p->pass, &p->op, p->inputs, p->outputs, &convolution, &error));
    convolution_text(&convolution, &text);
    fail_msg("seed %d, %s, result %d of %s: relative error %.3g, at most %.3g allowed",
             (int)p->seed, variant, i, text.data, relative, allowed);
  }
}
