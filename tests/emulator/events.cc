/* Events. */
#include "tests/emulator/device.h"

using namespace emulator;

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  count("cudaEventCreateWithFlags");
  *event = new CUevent_st;
  (*event)->timed = !(flags & cudaEventDisableTiming);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event; /* streams share ownership of its records */
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  Guard guard(lock());
  CUstream_st *stream = stream_of(handle);
  event->capture = stream->capture;
  if (stream->capture) {
    event->tail = stream->tail;
    return cudaSuccess;
  }
  event->event_record = std::make_shared<EventRecord>();
  push(stream, Item{Item::RECORD, nullptr, event->event_record, nullptr});
  return cudaSuccess;
}

/* With the external flag a record in a capture becomes a node of the graph: each launch records the
 * event, and code outside of the graph can wait for it and read its time. */
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned flags) {
  {
    Guard guard(lock());
    CUstream_st *stream = stream_of(handle);
    if (stream->capture && flags == cudaEventRecordExternal) {
      event->capture.reset();
      if (!event->event_record) /* else graphs share the event */
        event->event_record = std::make_shared<EventRecord>();
      add_node(stream, [event_record = event->event_record] {
        event_record->time = seconds();
        event_record->done = true;
        return true;
      });
      return cudaSuccess;
    }
  }
  if (flags != cudaEventRecordDefault)
    return fail(cudaErrorInvalidValue,
                "cudaEventRecordWithFlags: cudaEventRecordExternal is for captures only");
  return cudaEventRecord(event, handle);
}

static cudaError_t refuse_captured(const CUevent_st *event, const char *call) {
  if (!event->capture) return cudaSuccess;
  return fail(cudaErrorCapturedEvent, "%s: the event was last recorded in a capture", call);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (cudaError_t error = refuse_in_capture("cudaEventSynchronize")) return error;
  if (cudaError_t error = refuse_captured(event, "cudaEventSynchronize")) return error;
  Guard guard(lock());
  if (const auto event_record = event->event_record)
    wait_until(guard, [=] { return event_record->done; });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (cudaError_t error = refuse_in_capture("cudaEventQuery")) return error;
  if (cudaError_t error = refuse_captured(event, "cudaEventQuery")) return error;
  Guard guard(lock());
  make_progress(guard);
  return !event->event_record || event->event_record->done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
  Guard guard(lock());
  if (!from->timed || !to->timed || !from->event_record || !to->event_record)
    return fail(cudaErrorInvalidResourceHandle,
                "cudaEventElapsedTime: an event has no timing or was not recorded");
  if (!from->event_record->done || !to->event_record->done) return cudaErrorNotReady;
  *milliseconds = static_cast<float>(1e3 * (to->event_record->time - from->event_record->time));
  return cudaSuccess;
}
