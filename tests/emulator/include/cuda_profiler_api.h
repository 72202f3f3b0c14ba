/* Profiler ranges do nothing in the emulator. */
#ifndef CELFORGE_TESTS_EMULATOR_CUDA_PROFILER_API_H
#define CELFORGE_TESTS_EMULATOR_CUDA_PROFILER_API_H

#include "cuda_runtime.h"

static inline cudaError_t cudaProfilerStart(void) {
  return cudaSuccess;
}
static inline cudaError_t cudaProfilerStop(void) {
  return cudaSuccess;
}

#endif
