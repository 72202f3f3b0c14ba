/* Device memory. */
#include "base/text.h"
#include "engine/cuda/runtime/cuda.h"

static Status out_of_memory(const CudaBackend *backend, size_t bytes, const char *what,
                            Error *error) {
  size_t free_bytes = 0, total = 0;
  Text text = {0};
  cudaGetLastError();
  text_append_size(&text, (double)bytes);
  text_append(&text, " of GPU memory cannot be allocated");
  if (cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) {
    text_append(&text, " (");
    text_append_size(&text, (double)free_bytes);
    text_append(&text, " of ");
    text_append_size(&text, (double)total);
    text_append(&text, " are free on GPU %d, %s)", backend->options.device, backend->info.name);
  }
  error_set(error, ERROR_INTERNAL, "%s: %s", what, text.data);
  text_free(&text);
  return ERROR_INTERNAL;
}

Status cuda_allocate(Backend *backend, size_t bytes, const char *what, void **out, Error *error) {
  Status status = OK;
  *out = NULL;
  const cudaError_t code = cudaMalloc(out, bytes > 0 ? bytes : 1);
  if (code == cudaErrorMemoryAllocation)
    return out_of_memory(cuda_backend(backend), bytes, what, error);
  CUDA_TRY(code);
done:
  if (status != OK) return error_context(error, "%s", what);
  return OK;
}

/* cudaFree waits for the device, so memory of a device that hangs is not freed. */
void cuda_release(Backend *backend, void *memory) {
  CudaBackend *self = cuda_backend(backend);
  if (memory && cuda_wait_stream(self, self->stream, "freeing memory", NULL) == OK)
    cudaFree(memory);
}
