/* Errors of the CUDA runtime, and waits with a timeout. */
#include <stdio.h>
#include <time.h>

#include "base/thread.h"
#include "engine/cuda/runtime/cuda.h"

/* True for errors of kernels that ran earlier. The next call reports them, whatever it does, and
 * all later calls fail too. */
static bool is_sticky(cudaError_t code) {
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
  const char *hint = is_sticky(code)
                         ? "; an earlier kernel caused it: to find the op, run with "
                           "cuda.graphs=false and CUDA_LAUNCH_BLOCKING=1 in the environment"
                         : "";
  cudaGetLastError(); /* clears the error, so that later checks do not report it again */
  return error_set(error, ERROR_INTERNAL, "%s (%s:%d): %s (%s)%s", call, file, line,
                   cudaGetErrorString(code), cudaGetErrorName(code), hint);
}

typedef cudaError_t QueryFunction(const void *object);

static cudaError_t query_event(const void *event) {
  return cudaEventQuery(*(const cudaEvent_t *)event);
}

static cudaError_t query_stream(const void *stream) {
  return cudaStreamQuery(*(const cudaStream_t *)stream);
}

/* Sleeps between two polls for 1/64 of the time waited so far: short waits spin, long waits cost no
 * processor time, and a measured wait is at most 2 % too long. */
static void sleep_between_polls(double waited) {
  const double least = 20e-6, most = 1e-3;
  if (waited < least) return;
  double seconds = waited / 64;
  if (seconds < least) seconds = least;
  if (seconds > most) seconds = most;
  const struct timespec time = {.tv_nsec = (long)(seconds * 1e9)};
  nanosleep(&time, NULL);
}

static Status wait_for(CudaBackend *backend, QueryFunction *query, const void *object,
                       const char *what, Error *error) {
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
                       "%s: GPU %d (%s) was not done after %.1f s: it hangs, or waits for another "
                       "rank",
                       what, backend->options.device, backend->info.name, waited);
    }
    sleep_between_polls(waited);
  }
}

Status cuda_wait_event(CudaBackend *backend, cudaEvent_t event, const char *what, Error *error) {
  return wait_for(backend, query_event, &event, what, error);
}

Status cuda_wait_stream(CudaBackend *backend, cudaStream_t stream, const char *what, Error *error) {
  return wait_for(backend, query_stream, &stream, what, error);
}
