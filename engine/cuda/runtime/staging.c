/* Copies between host and device through pinned staging buffers.
 *
 * Upload: a ring of slots, each with a pinned and a device buffer. The caller's bytes are copied to
 * the pinned buffer at once, to the device buffer on a separate stream, and from there to their
 * destination on the backend's stream. So the transfer of the next step's batch overlaps with the
 * kernels of this step, and upload waits only when all slots are in use.
 *
 * Download: double buffering with two pinned slots.
 *
 * Slots are allocated on first use; after that no copy allocates. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/cuda/runtime/cuda.h"

enum { UPLOAD_SLOTS = 8, DOWNLOAD_SLOTS = 2 };
static const size_t SLOT_BYTES = (size_t)8 << 20;

typedef struct Slot {
  void *pinned, *device; /* NULL: not allocated yet; downloads have no device buffer */
  cudaEvent_t copied;    /* the copy between host and device is done */
  cudaEvent_t drained;   /* uploads: the device buffer was copied to its destination */
  bool is_used;
} Slot;

struct CudaStaging {
  cudaStream_t copy_stream; /* host to device */
  Slot uploads[UPLOAD_SLOTS], downloads[DOWNLOAD_SLOTS];
  int next; /* index into uploads */
};

Status cuda_staging_new(struct CudaStaging **out, Error *error) {
  Status status = OK;
  int least = 0, greatest = 0;
  struct CudaStaging *made = mem_new(1, sizeof *made);
  *out = NULL;
  CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CUDA_TRY(cudaStreamCreateWithPriority(&made->copy_stream, cudaStreamNonBlocking, greatest));
  *out = made;
  made = NULL;
done:
  free(made);
  return status;
}

static void free_slot(Slot *slot) {
  if (slot->copied) cudaEventDestroy(slot->copied);
  if (slot->drained) cudaEventDestroy(slot->drained);
  if (slot->pinned) cudaFreeHost(slot->pinned);
  if (slot->device) cudaFree(slot->device);
  *slot = (Slot){0};
}

void cuda_staging_free(CudaBackend *backend) {
  struct CudaStaging *staging = backend->staging;
  if (!staging) return;
  for (int i = 0; i < UPLOAD_SLOTS; i++) free_slot(&staging->uploads[i]);
  for (int i = 0; i < DOWNLOAD_SLOTS; i++) free_slot(&staging->downloads[i]);
  cudaStreamDestroy(staging->copy_stream);
  free(staging);
  backend->staging = NULL;
}

size_t cuda_staging_unallocated(const CudaBackend *backend) {
  size_t bytes = 0;
  for (int i = 0; i < UPLOAD_SLOTS; i++)
    if (!backend->staging->uploads[i].device) bytes += SLOT_BYTES;
  return bytes;
}

static Status make_slot(Backend *backend, Slot *slot, bool with_device, Error *error) {
  Status status = OK;
  if (slot->pinned) return OK;
  CUDA_TRY(cudaEventCreateWithFlags(&slot->copied, cudaEventDisableTiming));
  if (with_device) {
    CUDA_TRY(cudaEventCreateWithFlags(&slot->drained, cudaEventDisableTiming));
    TRY(cuda_allocate(backend, SLOT_BYTES, "staging buffer for uploads", &slot->device, error));
  }
  CUDA_TRY(cudaHostAlloc(&slot->pinned, SLOT_BYTES, cudaHostAllocDefault));
done:
  if (status != OK) free_slot(slot);
  return status;
}

static size_t chunk_size(size_t bytes) {
  return bytes < SLOT_BYTES ? bytes : SLOT_BYTES;
}

/* --- Upload ----------------------------------------------------------------------------------- */

static Status upload_chunk(CudaBackend *backend, void *destination, const void *source,
                           size_t bytes, Error *error) {
  Status status = OK;
  struct CudaStaging *staging = backend->staging;
  Slot *slot = &staging->uploads[staging->next];
  staging->next = (staging->next + 1) % UPLOAD_SLOTS;
  TRY(make_slot(&backend->base, slot, true, error));
  if (slot->is_used)
    TRY(cuda_wait_event(backend, slot->drained, "uploading: waiting for a staging slot", error));
  memcpy(slot->pinned, source, bytes);
  CUDA_TRY(cudaMemcpyAsync(slot->device, slot->pinned, bytes, cudaMemcpyHostToDevice,
                           staging->copy_stream));
  CUDA_TRY(cudaEventRecord(slot->copied, staging->copy_stream));
  CUDA_TRY(cudaStreamWaitEvent(backend->stream, slot->copied, cudaEventWaitDefault));
  CUDA_TRY(
      cudaMemcpyAsync(destination, slot->device, bytes, cudaMemcpyDeviceToDevice, backend->stream));
  CUDA_TRY(cudaEventRecord(slot->drained, backend->stream));
  slot->is_used = true;
done:
  return status;
}

Status cuda_upload(Backend *backend, void *destination, const void *source, size_t bytes,
                   Error *error) {
  Status status = OK;
  for (size_t done_bytes = 0; done_bytes < bytes;) {
    const size_t chunk = chunk_size(bytes - done_bytes);
    TRY(upload_chunk(cuda_backend(backend), (char *)destination + done_bytes,
                     (const char *)source + done_bytes, chunk, error));
    done_bytes += chunk;
  }
done:
  return status;
}

/* --- Download --------------------------------------------------------------------------------- */

static Status start_download(CudaBackend *backend, Slot *slot, const char *source, size_t bytes,
                             Error *error) {
  Status status = OK;
  if (bytes == 0) return OK;
  TRY(make_slot(&backend->base, slot, false, error));
  CUDA_TRY(cudaMemcpyAsync(slot->pinned, source, bytes, cudaMemcpyDeviceToHost, backend->stream));
  CUDA_TRY(cudaEventRecord(slot->copied, backend->stream));
done:
  return status;
}

Status cuda_download(Backend *backend, void *destination, const void *source, size_t bytes,
                     Error *error) {
  Status status = OK;
  CudaBackend *self = cuda_backend(backend);
  Slot *slots = self->staging->downloads;
  size_t chunk = chunk_size(bytes);
  TRY(start_download(self, &slots[0], source, chunk, error));
  for (size_t at = 0, i = 0; at < bytes; i++) {
    const size_t next = chunk_size(bytes - at - chunk);
    TRY(start_download(self, &slots[(i + 1) % DOWNLOAD_SLOTS], (const char *)source + at + chunk,
                       next, error));
    TRY(cuda_wait_event(self, slots[i % DOWNLOAD_SLOTS].copied, "downloading", error));
    memcpy((char *)destination + at, slots[i % DOWNLOAD_SLOTS].pinned, chunk);
    at += chunk;
    chunk = next;
  }
done:
  return status;
}
