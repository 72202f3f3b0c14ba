/* The communication thread: the mean over the ranks, piece by piece, while the caller computes. */
#include <stdlib.h>
#include <sys/prctl.h>

#include "base/memory.h"
#include "base/thread.h"
#include "comm/internal.h"

enum { MAX_PENDING = 4096 };

typedef struct Job {
  void *data; /* [count] */
  int64_t count;
  CommType type;
  double timeout;
} Job;

struct Averager {
  Reducer reducer; /* the thread's own */
  pthread_t thread;
  Queue *queue; /* of Job */

  pthread_mutex_t mutex; /* guards all below */
  pthread_cond_t changed;
  int pending;
  int64_t progress; /* pieces finished, ever */
  size_t job_done, job_bytes;
  Error failure; /* the first one; status OK while there is none */
  CommStats stats;
};

const char MEAN_NAME[] = "mean over the ranks";

static Operation operation_of(const Averager *averager) {
  const Reducer *reducer = &averager->reducer;
  return (Operation){MEAN_NAME, reducer->rank, reducer->size, averager->job_done,
                     averager->job_bytes};
}

/* Tells who waits. */
static void note_progress(Averager *averager, const Piece *piece) {
  pthread_mutex_lock(&averager->mutex);
  averager->progress++;
  averager->job_done +=
      (size_t)piece->count * reducer_element_bytes(&averager->reducer, piece->type);
  pthread_cond_signal(&averager->changed);
  pthread_mutex_unlock(&averager->mutex);
}

static Piece piece_at(const Piece *buffers, const Job *job, int64_t first) {
  Piece piece = *buffers;
  int64_t left = job->count - first;
  size_t width = job->type == COMM_BF16 ? sizeof(uint16_t) : sizeof(float);
  piece.data = (char *)job->data + (size_t)first * width;
  piece.count = (int)(left < PIECE_ELEMENTS ? left : PIECE_ELEMENTS);
  piece.type = job->type;
  return piece;
}

static Status average(Averager *averager, const Job *job, Error *error) {
  Status status = OK;
  Reducer *reducer = &averager->reducer;
  int64_t started = 0, finished = 0; /* elements; pieces are finished in the order of starting */
  int begun = 0, ended = 0;          /* pieces */
  while (finished < job->count) {
    while (started < job->count && begun - ended < PIECES_IN_FLIGHT) {
      Piece *next = &reducer->pieces[begun++ % PIECES_IN_FLIGHT];
      *next = piece_at(next, job, started);
      Operation operation = operation_of(averager);
      TRY(piece_start(reducer, next, &operation, error));
      started += next->count;
    }
    Piece *oldest = &reducer->pieces[ended++ % PIECES_IN_FLIGHT];
    Operation operation = operation_of(averager);
    TRY(piece_finish(reducer, oldest, &operation, job->timeout, error));
    note_progress(averager, oldest);
    finished += oldest->count;
  }
done:
  return status;
}

static void *run(void *argument) {
  Averager *averager = argument;
  void *item;
  Error error = {0};
  prctl(PR_SET_TIMERSLACK, 1000UL); /* ns; else every short sleep takes 50 us longer */
  while (queue_pop(averager->queue, &item)) {
    Job *job = item;
    double began = clock_seconds();
    size_t bytes = (size_t)job->count * reducer_element_bytes(&averager->reducer, job->type);
    pthread_mutex_lock(&averager->mutex);
    averager->job_done = 0;
    averager->job_bytes = bytes;
    pthread_mutex_unlock(&averager->mutex);
    /* After a failure MPI may still write into the pieces: nothing more is started. */
    if (error.status == OK) average(averager, job, &error);
    pthread_mutex_lock(&averager->mutex);
    averager->pending--;
    averager->failure = error;
    averager->stats.seconds_busy += clock_seconds() - began;
    averager->stats.collectives++;
    averager->stats.bytes += (int64_t)bytes;
    pthread_cond_signal(&averager->changed);
    pthread_mutex_unlock(&averager->mutex);
    free(job);
  }
  return NULL;
}

static void averager_free(Averager *averager) {
  reducer_close(&averager->reducer);
  pthread_cond_destroy(&averager->changed);
  pthread_mutex_destroy(&averager->mutex);
  queue_free(averager->queue);
  free(averager);
}

Status averager_open(Comm *comm, Averager **out, Error *error) {
  Status status = OK;
  Averager *averager = mem_new(1, sizeof *averager);
  averager->queue = queue_new(MAX_PENDING);
  pthread_mutex_init(&averager->mutex, NULL);
  condition_init(&averager->changed);
  TRY(reducer_open(comm, &averager->reducer, error));
  TRY(thread_start(&averager->thread, "comm", run, averager, error));
  *out = averager;
  averager = NULL;
done:
  if (averager) averager_free(averager);
  return status;
}

void averager_close(Averager *averager) {
  if (!averager) return;
  queue_close(averager->queue);
  pthread_join(averager->thread, NULL);
  averager_free(averager);
}

Status averager_start(Averager *averager, void *data, int64_t count, CommType type, double timeout,
                      Error *error) {
  pthread_mutex_lock(&averager->mutex);
  Error failure = averager->failure;
  bool full = averager->pending == MAX_PENDING;
  if (failure.status == OK && !full) averager->pending++;
  pthread_mutex_unlock(&averager->mutex);
  if (failure.status != OK) return error_set(error, failure.status, "%s", failure.message);
  if (full) /* the queue would block, and nobody would wait for what is in it */
    return error_set(error, ERROR_INTERNAL, "%s: %d are pending; wait for them first", MEAN_NAME,
                     MAX_PENDING);
  Job *job = mem_new(1, sizeof *job);
  *job = (Job){data, count, type, timeout};
  queue_push(averager->queue, job);
  return OK;
}

Status averager_wait(Averager *averager, double timeout, Heartbeat *heartbeat, Error *error) {
  Status status = OK;
  double began = clock_seconds(), last = began;
  bool in_time = true;
  heartbeat_wait_begin(heartbeat, MEAN_NAME);
  pthread_mutex_lock(&averager->mutex);
  int64_t seen = averager->progress;
  while (averager->pending > 0 && averager->failure.status == OK && in_time) {
    in_time = condition_wait_until(&averager->changed, &averager->mutex, last + timeout);
    if (averager->progress != seen) {
      seen = averager->progress;
      last = clock_seconds();
      in_time = true;
      heartbeat_wait_begin(heartbeat, MEAN_NAME);
    }
  }
  double now = clock_seconds();
  averager->stats.seconds_waiting += now - began;
  if (averager->failure.status != OK) {
    status = error_set(error, averager->failure.status, "%s", averager->failure.message);
  } else if (averager->pending > 0) {
    Operation operation = operation_of(averager);
    status = timeout_error(&operation, now - last, error);
  }
  pthread_mutex_unlock(&averager->mutex);
  heartbeat_wait_end(heartbeat);
  return status;
}

CommStats averager_stats(Averager *averager) {
  pthread_mutex_lock(&averager->mutex);
  CommStats stats = averager->stats;
  pthread_mutex_unlock(&averager->mutex);
  return stats;
}
