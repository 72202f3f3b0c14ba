/* Copies between the host and the device, through pinned memory.
 *
 * Upload. A ring of slots, each of pinned and of device memory. A piece is copied into a free
 * slot's pinned part at once, travels on a stream of its own to the slot's device part, and is
 * moved from there to its destination in order with the kernels: what the next step reads travels
 * while this one computes, and upload waits only where the ring is full.
 *
 * Download. Two pinned slots in turn: one fills while the other is copied out.
 *
 * Slots are made when they are first needed, so that the steady state allocates nothing. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/cuda/runtime/cuda.h"

enum { UPLOAD_SLOTS = 8, DOWNLOAD_SLOTS = 2 };
static const size_t SLOT_BYTES = (size_t)8 << 20;

typedef struct Slot {
  void *pinned, *device; /* NULL: not made yet; a download has no device part */
  cudaEvent_t arrived;   /* the copy over the bus */
  cudaEvent_t taken;     /* out of the device part */
  bool is_used;
} Slot;

struct CudaStaging {
  cudaStream_t copies; /* host to device */
  Slot uploads[UPLOAD_SLOTS], downloads[DOWNLOAD_SLOTS];
  int next; /* of uploads */
};

Status cuda_staging_new(struct CudaStaging **out, Error *error) {
  Status status = OK;
  int least = 0, greatest = 0;
  struct CudaStaging *made = mem_new(1, sizeof *made);
  *out = NULL;
  CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CUDA_TRY(cudaStreamCreateWithPriority(&made->copies, cudaStreamNonBlocking, greatest));
  *out = made;
  made = NULL;
done:
  free(made);
  return status;
}

static void free_slot(Slot *slot) {
  if (slot->arrived) cudaEventDestroy(slot->arrived);
  if (slot->taken) cudaEventDestroy(slot->taken);
  if (slot->pinned) cudaFreeHost(slot->pinned);
  if (slot->device) cudaFree(slot->device);
  *slot = (Slot){0};
}

void cuda_staging_free(CudaBackend *backend) {
  struct CudaStaging *staging = backend->staging;
  if (!staging) return;
  for (int i = 0; i < UPLOAD_SLOTS; i++) free_slot(&staging->uploads[i]);
  for (int i = 0; i < DOWNLOAD_SLOTS; i++) free_slot(&staging->downloads[i]);
  cudaStreamDestroy(staging->copies);
  free(staging);
  backend->staging = NULL;
}

size_t cuda_staging_to_come(const CudaBackend *backend) {
  size_t bytes = 0;
  for (int i = 0; i < UPLOAD_SLOTS; i++)
    if (!backend->staging->uploads[i].device) bytes += SLOT_BYTES;
  return bytes;
}

static Status make_slot(Backend *backend, Slot *slot, bool with_device, Error *error) {
  Status status = OK;
  if (slot->pinned) return OK;
  CUDA_TRY(cudaEventCreateWithFlags(&slot->arrived, cudaEventDisableTiming));
  if (with_device) {
    CUDA_TRY(cudaEventCreateWithFlags(&slot->taken, cudaEventDisableTiming));
    TRY(cuda_allocate(backend, SLOT_BYTES, "staging of uploads", &slot->device, error));
  }
  CUDA_TRY(cudaHostAlloc(&slot->pinned, SLOT_BYTES, cudaHostAllocDefault));
done:
  if (status != OK) free_slot(slot);
  return status;
}

static size_t piece_of(size_t bytes) {
  return bytes < SLOT_BYTES ? bytes : SLOT_BYTES;
}

/* --- Upload ----------------------------------------------------------------------------------- */

static Status upload_piece(CudaBackend *backend, void *destination, const void *source,
                           size_t bytes, Error *error) {
  Status status = OK;
  struct CudaStaging *staging = backend->staging;
  Slot *slot = &staging->uploads[staging->next];
  staging->next = (staging->next + 1) % UPLOAD_SLOTS;
  TRY(make_slot(&backend->base, slot, true, error));
  if (slot->is_used)
    TRY(cuda_wait_event(backend, slot->taken, "uploading, for the staged copy before", error));
  memcpy(slot->pinned, source, bytes);
  CUDA_TRY(
      cudaMemcpyAsync(slot->device, slot->pinned, bytes, cudaMemcpyHostToDevice, staging->copies));
  CUDA_TRY(cudaEventRecord(slot->arrived, staging->copies));
  CUDA_TRY(cudaStreamWaitEvent(backend->stream, slot->arrived, cudaEventWaitDefault));
  CUDA_TRY(
      cudaMemcpyAsync(destination, slot->device, bytes, cudaMemcpyDeviceToDevice, backend->stream));
  CUDA_TRY(cudaEventRecord(slot->taken, backend->stream));
  slot->is_used = true;
done:
  return status;
}

Status cuda_upload(Backend *backend, void *destination, const void *source, size_t bytes,
                   Error *error) {
  Status status = OK;
  for (size_t done_bytes = 0; done_bytes < bytes;) {
    const size_t piece = piece_of(bytes - done_bytes);
    TRY(upload_piece(cuda_backend(backend), (char *)destination + done_bytes,
                     (const char *)source + done_bytes, piece, error));
    done_bytes += piece;
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
  CUDA_TRY(cudaEventRecord(slot->arrived, backend->stream));
done:
  return status;
}

Status cuda_download(Backend *backend, void *destination, const void *source, size_t bytes,
                     Error *error) {
  Status status = OK;
  CudaBackend *self = cuda_backend(backend);
  Slot *slots = self->staging->downloads;
  size_t piece = piece_of(bytes);
  TRY(start_download(self, &slots[0], source, piece, error));
  for (size_t at = 0, i = 0; at < bytes; i++) {
    const size_t next = piece_of(bytes - at - piece);
    TRY(start_download(self, &slots[(i + 1) % DOWNLOAD_SLOTS], (const char *)source + at + piece,
                       next, error));
    TRY(cuda_wait_event(self, slots[i % DOWNLOAD_SLOTS].arrived, "downloading", error));
    memcpy((char *)destination + at, slots[i % DOWNLOAD_SLOTS].pinned, piece);
    at += piece;
    piece = next;
  }
done:
  return status;
}
