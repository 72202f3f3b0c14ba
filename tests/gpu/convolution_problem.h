/* Random convolution ops with the CPU backend's results, and kernels run on them: for the tests of
 * engine/cuda/convolution and engine/cuda/autotune. */
#ifndef CELFORGE_TESTS_GPU_CONVOLUTION_PROBLEM_H
#define CELFORGE_TESTS_GPU_CONVOLUTION_PROBLEM_H

#include "engine/backend/backend.h"
#include "engine/cuda/convolution/conv_variant.h"

enum { OPERANDS = 3, RESULTS = 2 };

/* An op, its inputs (on the host, in their dtypes) and the expected results. */
typedef struct Problem {
  uint64_t seed;
  DType dtype;
  ConvolutionPass pass;
  Op op;
  Tensor inputs[OPERANDS], outputs[RESULTS]; /* outputs: shapes and dtypes */
  float *expected[RESULTS];
} Problem;

/* Determined by the seed: odd seeds are bf16, and the passes alternate. Results are computed in
 * f32. */
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
/* Fills results and workspace with NaN, so that elements that are not written are detected. */
void device_fill_nan(Device *device, const Problem *problem);
void device_run(Device *device);
/* The bytes of result `i`; the caller frees. */
void *device_result(Device *device, int i);
size_t result_bytes(const Problem *problem, int i);
void device_free(Device *device, const Problem *problem);
/* Fails the test with seed, variant and shapes where a result differs by more than rounding. */
void check_results(Device *device, const Problem *problem, const char *variant);

#endif
