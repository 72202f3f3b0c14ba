#include "comm/nccl/wait_timer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/memory.h"

struct TimedWait {
  TimedWait *next;
  cudaEvent_t begin, end;
  unsigned flags; /* of cudaEventRecordWithFlags */
  /* Captured waits only. */
  const void *data;
  bool is_reserved;    /* captured since the last collection: another capture needs another pair */
  float counted_begin; /* milliseconds from the anchor to the begin of the last run counted */
};

struct WaitTimer {
  TimedWait *unused, *running, *captured; /* lists */
  double seconds;                         /* collected, but not returned yet */
  cudaStream_t stream;                    /* always idle: an event there is recorded at once */
  cudaEvent_t anchor;                     /* the time from which begins are counted */
};

/* Age of the anchor at which it is renewed: the resolution of the times, f32, is then 0.06 ms. */
static const float MAX_ANCHOR_AGE = 1e6F; /* milliseconds */

#define CUDA_TRY(call)                                                                             \
  do {                                                                                             \
    const cudaError_t cuda_code = (call);                                                          \
    if (cuda_code != cudaSuccess) {                                                                \
      status = error_set(error, ERROR_INTERNAL, "timing all-reduces: %s: %s", #call,               \
                         cudaGetErrorString(cuda_code));                                           \
      goto done;                                                                                   \
    }                                                                                              \
  } while (0)

static void free_wait(TimedWait *wait) {
  if (wait->begin) cudaEventDestroy(wait->begin);
  if (wait->end) cudaEventDestroy(wait->end);
  free(wait);
}

static Status new_wait(TimedWait **out, Error *error) {
  Status status = OK;
  TimedWait *wait = mem_new(1, sizeof *wait);
  CUDA_TRY(cudaEventCreate(&wait->begin));
  CUDA_TRY(cudaEventCreate(&wait->end));
  *out = wait;
  wait = NULL;
done:
  if (wait) free_wait(wait);
  return status;
}

Status wait_timer_new(WaitTimer **out, Error *error) {
  Status status = OK;
  WaitTimer *timer = mem_new(1, sizeof *timer);
  CUDA_TRY(cudaStreamCreateWithFlags(&timer->stream, cudaStreamNonBlocking));
  CUDA_TRY(cudaEventCreate(&timer->anchor));
  CUDA_TRY(cudaEventRecord(timer->anchor, timer->stream));
  CUDA_TRY(cudaEventSynchronize(timer->anchor));
  *out = timer;
  timer = NULL;
done:
  wait_timer_free(timer);
  return status;
}

void wait_timer_free(WaitTimer *timer) {
  if (!timer) return;
  TimedWait *lists[] = {timer->unused, timer->running, timer->captured};
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
    for (TimedWait *wait = lists[i], *next; wait; wait = next) {
      next = wait->next;
      free_wait(wait);
    }
  }
  if (timer->anchor) cudaEventDestroy(timer->anchor);
  if (timer->stream) cudaStreamDestroy(timer->stream);
  free(timer);
}

/* *is_known is false if one of the events is not complete, or was never recorded (drivers report
 * the latter in different ways). */
static Status elapsed(cudaEvent_t from, cudaEvent_t to, float *milliseconds, bool *is_known,
                      Error *error) {
  Status status = OK;
  const cudaError_t code = cudaEventElapsedTime(milliseconds, from, to);
  *is_known = code == cudaSuccess;
  if (*is_known) return OK;
  (void)cudaGetLastError();
  if (code != cudaErrorNotReady && code != cudaErrorInvalidResourceHandle &&
      code != cudaErrorInvalidValue)
    CUDA_TRY(code);
done:
  return status;
}

/* Moves the waits that have ended from the list of running ones to the unused ones. */
static Status collect_running(WaitTimer *timer, Error *error) {
  Status status = OK;
  for (TimedWait **link = &timer->running; *link;) {
    TimedWait *wait = *link;
    float milliseconds = 0;
    bool has_ended = false;
    TRY(elapsed(wait->begin, wait->end, &milliseconds, &has_ended, error));
    if (!has_ended) {
      link = &wait->next;
      continue;
    }
    timer->seconds += (double)milliseconds / 1000;
    *link = wait->next;
    wait->next = timer->unused;
    timer->unused = wait;
  }
done:
  return status;
}

static Status next_running(WaitTimer *timer, TimedWait **out, Error *error) {
  Status status = OK;
  if (!timer->unused) TRY(collect_running(timer, error));
  if (!timer->unused) TRY(new_wait(&timer->unused, error));
  TimedWait *wait = timer->unused;
  timer->unused = wait->next;
  wait->next = timer->running;
  timer->running = wait;
  wait->flags = cudaEventRecordDefault;
  *out = wait;
done:
  return status;
}

static Status next_captured(WaitTimer *timer, const void *data, TimedWait **out, Error *error) {
  Status status = OK;
  TimedWait *wait = timer->captured;
  while (wait && (wait->data != data || wait->is_reserved)) wait = wait->next;
  if (!wait) {
    TRY(new_wait(&wait, error));
    wait->data = data;
    wait->flags = cudaEventRecordExternal; /* lets events in a graph be read from outside */
    wait->next = timer->captured;
    timer->captured = wait;
  }
  wait->is_reserved = true;
  *out = wait;
done:
  return status;
}

Status wait_timer_begin(WaitTimer *timer, cudaStream_t stream, const void *data, TimedWait **out,
                        Error *error) {
  Status status = OK;
  enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  CUDA_TRY(cudaStreamIsCapturing(stream, &capture));
  if (capture == cudaStreamCaptureStatusNone)
    TRY(next_running(timer, out, error));
  else
    TRY(next_captured(timer, data, out, error));
  CUDA_TRY(cudaEventRecordWithFlags((*out)->begin, stream, (*out)->flags));
done:
  return status;
}

Status wait_timer_end(TimedWait *wait, cudaStream_t stream, Error *error) {
  Status status = OK;
  CUDA_TRY(cudaEventRecordWithFlags(wait->end, stream, wait->flags));
done:
  return status;
}

/* Adds the last complete run of a captured wait, unless it has been counted: its begin differs from
 * that of the run counted last. While a run is under way its end is that of the run before, earlier
 * than its begin. */
static Status collect_captured(WaitTimer *timer, TimedWait *wait, float *begin, Error *error) {
  Status status = OK;
  float milliseconds = 0;
  bool has_begun = false, has_ended = false;
  TRY(elapsed(timer->anchor, wait->begin, begin, &has_begun, error));
  if (has_begun) TRY(elapsed(wait->begin, wait->end, &milliseconds, &has_ended, error));
  if (!has_ended || milliseconds <= 0 || *begin == wait->counted_begin) goto done;
  timer->seconds += (double)milliseconds / 1000;
  wait->counted_begin = *begin;
done:
  return status;
}

static Status renew_anchor(WaitTimer *timer, Error *error) {
  Status status = OK;
  bool has_begun;
  CUDA_TRY(cudaEventRecord(timer->anchor, timer->stream));
  CUDA_TRY(cudaEventSynchronize(timer->anchor));
  for (TimedWait *wait = timer->captured; wait; wait = wait->next)
    TRY(elapsed(timer->anchor, wait->begin, &wait->counted_begin, &has_begun, error));
done:
  return status;
}

Status wait_timer_collect(WaitTimer *timer, double *seconds, Error *error) {
  Status status = OK;
  float anchor_age = 0;
  *seconds = 0;
  TRY(collect_running(timer, error));
  for (TimedWait *wait = timer->captured; wait; wait = wait->next) {
    float begin = 0;
    TRY(collect_captured(timer, wait, &begin, error));
    if (begin > anchor_age) anchor_age = begin;
    wait->is_reserved = false;
  }
  if (anchor_age > MAX_ANCHOR_AGE) TRY(renew_anchor(timer, error));
  *seconds = timer->seconds;
  timer->seconds = 0;
done:
  return status;
}
