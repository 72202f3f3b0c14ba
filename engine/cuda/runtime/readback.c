/* Asynchronous downloads of a few numbers: a copy to pinned memory after the kernels started so
 * far, and an event after the copy. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/cuda/runtime/cuda.h"

struct Readback {
  size_t bytes;
  void *data; /* pinned */
  cudaEvent_t copied;
  bool is_started;
};

static void destroy(Readback *readback) {
  if (readback->copied) cudaEventDestroy(readback->copied);
  if (readback->data) cudaFreeHost(readback->data);
  free(readback);
}

Status cuda_readback_new(Backend *backend, size_t bytes, Readback **out, Error *error) {
  Status status = OK;
  Readback *made = mem_new(1, sizeof *made);
  (void)backend;
  *out = NULL;
  made->bytes = bytes;
  CUDA_TRY(cudaHostAlloc(&made->data, bytes > 0 ? bytes : 1, cudaHostAllocDefault));
  memset(made->data, 0, bytes);
  CUDA_TRY(cudaEventCreateWithFlags(&made->copied, cudaEventDisableTiming));
  *out = made;
  made = NULL;
done:
  if (made) destroy(made);
  return status;
}

Status cuda_readback_start(Backend *backend, Readback *readback, const void *source, Error *error) {
  Status status = OK;
  cudaStream_t stream = cuda_backend(backend)->stream;
  CUDA_TRY(
      cudaMemcpyAsync(readback->data, source, readback->bytes, cudaMemcpyDeviceToHost, stream));
  CUDA_TRY(cudaEventRecord(readback->copied, stream));
  readback->is_started = true;
done:
  return status;
}

Status cuda_readback_wait(Backend *backend, Readback *readback, const void **data, Error *error) {
  Status status = OK;
  *data = readback->data;
  if (readback->is_started)
    TRY(cuda_wait_event(cuda_backend(backend), readback->copied, "reading results back", error));
done:
  return status;
}

void cuda_readback_free(Backend *backend, Readback *readback) {
  CudaBackend *self = cuda_backend(backend);
  if (!readback) return;
  if (readback->is_started &&
      cuda_wait_event(self, readback->copied, "freeing a readback", NULL) != OK)
    return; /* leaked: the device may still write to it */
  destroy(readback);
}
