/* Timing events on the backend's stream. In a capture an event becomes a node of the graph, and
 * each launch of the graph records it again, so times contain no launch overhead of the host. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/runtime/cuda.h"

struct CudaTimingEvents {
  int count, capacity; /* created events have the indices 0 to count - 1 */
  cudaEvent_t *items;
};

static Status make_events(struct CudaTimingEvents *events, int count, Error *error) {
  Status status = OK;
  while (events->count < count) {
    MEM_PUSH_SLOT(events->items, events->count, events->capacity);
    CUDA_TRY(cudaEventCreateWithFlags(&events->items[events->count], cudaEventDefault));
    events->count++;
  }
done:
  return status;
}

Status cuda_record_event(Backend *backend, int index, Error *error) {
  Status status = OK;
  CudaBackend *self = cuda_backend(backend);
  enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (!self->timing_events) self->timing_events = mem_new(1, sizeof *self->timing_events);
  TRY(make_events(self->timing_events, index + 1, error));
  CUDA_TRY(cudaStreamIsCapturing(self->stream, &capture));
  const unsigned flags = capture == cudaStreamCaptureStatusNone ? (unsigned)cudaEventRecordDefault
                                                                : (unsigned)cudaEventRecordExternal;
  CUDA_TRY(cudaEventRecordWithFlags(self->timing_events->items[index], self->stream, flags));
done:
  return status;
}

/* Waits for the whole stream: an event in a graph does not say which launch recorded it. */
Status cuda_event_seconds(Backend *backend, int from, int to, double *seconds, Error *error) {
  Status status = OK;
  CudaBackend *self = cuda_backend(backend);
  const struct CudaTimingEvents *events = self->timing_events;
  float milliseconds = 0;
  if (!events || from >= events->count || to >= events->count)
    FAIL(error, ERROR_INTERNAL, "timing events %d and %d: not recorded", from, to);
  TRY(cuda_wait_stream(self, self->stream, "waiting for timing events", error));
  CUDA_TRY(cudaEventElapsedTime(&milliseconds, events->items[from], events->items[to]));
  *seconds = 1e-3 * (double)milliseconds;
done:
  return status;
}

void cuda_timing_events_free(CudaBackend *backend) {
  struct CudaTimingEvents *events = backend->timing_events;
  if (!events) return;
  for (int i = 0; i < events->count; i++) cudaEventDestroy(events->items[i]);
  free(events->items);
  free(events);
  backend->timing_events = NULL;
}
