/* Random convolutions, solved by the CPU, and running kernels on them: for the tests of
 * engine/cuda/convolution*. */
#ifndef CELFORGE_TESTS_GPU_CONVOLUTION_PROBLEM_H
#define CELFORGE_TESTS_GPU_CONVOLUTION_PROBLEM_H

#include "engine/backend/backend.h"
#include "engine/cuda/convolution/conv_variant.h"

enum { OPERANDS = 3, RESULTS = 2 };

/* An op, what it reads (on the host, as its dtype is stored), and what it must give. */
typedef struct Problem {
  uint64_t seed;
  DType dtype;
  ConvolutionPass pass;
  Op op;
  Tensor inputs[OPERANDS], outputs[RESULTS]; /* outputs: shapes and dtypes */
  float *expected[RESULTS];
} Problem;

/* The same problem for the same seed; odd seeds are bf16, the passes take turns. Solved in f32. */
Problem problem_new(Backend *cpu, uint64_t seed);
void problem_free(Problem *problem);

/* A kernel with its tensors in a backend's memory. */
typedef struct Device {
  Backend *backend;
  Kernel *kernel; /* owned */
  Tensor inputs[OPERANDS], outputs[RESULTS];
  void *workspace;
} Device;

Device device_new(Backend *backend, const Problem *problem, Kernel *kernel);
/* Results and workspace become NaN, so that what is not written shows. */
void device_poison(Device *device, const Problem *problem);
void device_run(Device *device);
/* The bytes of result `i`; the caller frees. */
void *device_result(Device *device, int i);
size_t result_bytes(const Problem *problem, int i);
void device_free(Device *device, const Problem *problem);
/* Fails the test, naming seed, form and shapes, where a result is further off than rounding. */
void check_results(Device *device, const Problem *problem, const char *form);

#endif
