/* Times at which the stream comes by. In a capture a mark is a node of the graph, which every
 * launch records again: what is measured is what the device does, without the time launches take.
 */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/runtime/cuda.h"

struct CudaMarks {
  int count; /* events that were made: 0 ... count - 1 */
  int capacity;
  cudaEvent_t *events;
};

static Status make_events(struct CudaMarks *marks, int count, Error *error) {
  Status status = OK;
  while (marks->count < count) {
    MEM_PUSH_SLOT(marks->events, marks->count, marks->capacity);
    CUDA_TRY(cudaEventCreateWithFlags(&marks->events[marks->count], cudaEventDefault));
    marks->count++;
  }
done:
  return status;
}

Status cuda_mark(Backend *backend, int index, Error *error) {
  Status status = OK;
  CudaBackend *self = cuda_backend(backend);
  enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (!self->marks) self->marks = mem_new(1, sizeof *self->marks);
  TRY(make_events(self->marks, index + 1, error));
  CUDA_TRY(cudaStreamIsCapturing(self->stream, &capture));
  const unsigned flags = capture == cudaStreamCaptureStatusNone ? (unsigned)cudaEventRecordDefault
                                                                : (unsigned)cudaEventRecordExternal;
  CUDA_TRY(cudaEventRecordWithFlags(self->marks->events[index], self->stream, flags));
done:
  return status;
}

/* Waits for the stream: of an event in a graph one cannot tell which launch it was recorded by. */
Status cuda_marked_seconds(Backend *backend, int from, int to, double *seconds, Error *error) {
  Status status = OK;
  CudaBackend *self = cuda_backend(backend);
  const struct CudaMarks *marks = self->marks;
  float milliseconds = 0;
  if (!marks || from >= marks->count || to >= marks->count)
    FAIL(error, ERROR_INTERNAL, "marks %d and %d were never made", from, to);
  TRY(cuda_wait_stream(self, self->stream, "waiting for marks", error));
  CUDA_TRY(cudaEventElapsedTime(&milliseconds, marks->events[from], marks->events[to]));
  *seconds = 1e-3 * (double)milliseconds;
done:
  return status;
}

void cuda_marks_free(CudaBackend *backend) {
  struct CudaMarks *marks = backend->marks;
  if (!marks) return;
  for (int i = 0; i < marks->count; i++) cudaEventDestroy(marks->events[i]);
  free(marks->events);
  free(marks);
  backend->marks = NULL;
}
