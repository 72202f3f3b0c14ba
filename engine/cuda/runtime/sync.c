/* Errors of the CUDA runtime, and waits that end. */
#include <stdio.h>
#include <time.h>

#include "base/thread.h"
#include "engine/cuda/runtime/cuda.h"

/* What work on the device ran into, told by whatever call comes next: no later one succeeds. */
static bool is_of_the_device(cudaError_t code) {
  static const cudaError_t codes[] = {
      cudaErrorIllegalAddress,     cudaErrorMisalignedAddress,
      cudaErrorLaunchFailure,      cudaErrorIllegalInstruction,
      cudaErrorInvalidPc,          cudaErrorInvalidAddressSpace,
      cudaErrorHardwareStackError, cudaErrorAssert,
      cudaErrorLaunchTimeout,      cudaErrorECCUncorrectable,
  };
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i] == code) return true;
  return false;
}

Status cuda_error(cudaError_t code, const char *call, const char *file, int line, Error *error) {
  const char *hint = is_of_the_device(code)
                         ? "; an op started before met it: cuda.graphs=false and "
                           "CUDA_LAUNCH_BLOCKING=1 in the environment name it"
                         : "";
  cudaGetLastError(); /* or a later call that is right would seem to have failed */
  return error_set(error, ERROR_INTERNAL, "%s (%s:%d): %s (%s)%s", call, file, line,
                   cudaGetErrorString(code), cudaGetErrorName(code), hint);
}

typedef cudaError_t Query(const void *object);

static cudaError_t query_event(const void *event) {
  return cudaEventQuery(*(const cudaEvent_t *)event);
}

static cudaError_t query_stream(const void *stream) {
  return cudaStreamQuery(*(const cudaStream_t *)stream);
}

/* What is nearly done is not slept over, what takes long costs no processor, and what is measured
 * by a wait is not a percent longer for it. */
static void pause_for(double waited) {
  const double least = 20e-6, most = 1e-3;
  if (waited < least) return;
  double seconds = waited / 64;
  if (seconds < least) seconds = least;
  if (seconds > most) seconds = most;
  const struct timespec time = {.tv_nsec = (long)(seconds * 1e9)};
  nanosleep(&time, NULL);
}

static Status wait_for(CudaBackend *backend, Query *query, const void *object, const char *what,
                       Error *error) {
  const double begin = clock_seconds();
  const double most = backend->is_stuck ? 0 : backend->options.timeout;
  for (;;) {
    const cudaError_t code = query(object);
    if (code == cudaSuccess) return OK;
    if (code != cudaErrorNotReady) {
      backend->is_stuck = true;
      return cuda_error(code, what, __FILE__, __LINE__, error);
    }
    const double waited = clock_seconds() - begin;
    if (waited > most) {
      backend->is_stuck = true;
      return error_set(error, ERROR_INTERNAL,
                       "%s: GPU %d (%s) was not done after %.1f s; it hangs, or waits for another "
                       "rank",
                       what, backend->options.device, backend->info.name, waited);
    }
    pause_for(waited);
  }
}

Status cuda_wait_event(CudaBackend *backend, cudaEvent_t event, const char *what, Error *error) {
  return wait_for(backend, query_event, &event, what, error);
}

Status cuda_wait_stream(CudaBackend *backend, cudaStream_t stream, const char *what, Error *error) {
  return wait_for(backend, query_stream, &stream, what, error);
}
