/* Asynchronous all-reduce of gradients: a communication thread reduces one chunk after the other
 * while the caller computes. */
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

struct AsyncAllReduce {
  Reducer reducer; /* used by the communication thread only */
  pthread_t thread;
  Queue *queue; /* of Job */

  pthread_mutex_t mutex; /* guards all below */
  pthread_cond_t changed;
  int pending;
  int64_t progress; /* chunks finished, ever */
  size_t job_bytes_done, job_bytes;
  Error failure; /* the first one; status OK while there is none */
  CommStats stats;
};

const char GRADIENT_ALL_REDUCE[] = "gradient all-reduce";

/* --- The communication thread ----------------------------------------------------------------- */

static Operation current_operation(const AsyncAllReduce *all_reduce) {
  const Reducer *reducer = &all_reduce->reducer;
  return (Operation){GRADIENT_ALL_REDUCE, reducer->rank, reducer->size, all_reduce->job_bytes_done,
                     all_reduce->job_bytes};
}

static void publish_progress(AsyncAllReduce *all_reduce, const Chunk *chunk) {
  pthread_mutex_lock(&all_reduce->mutex);
  all_reduce->progress++;
  all_reduce->job_bytes_done +=
      (size_t)chunk->count * reducer_element_bytes(&all_reduce->reducer, chunk->type);
  pthread_cond_signal(&all_reduce->changed);
  pthread_mutex_unlock(&all_reduce->mutex);
}

/* The chunk of a job that begins at element `first`, with the buffers of `slot`. */
static Chunk job_chunk(const Chunk *slot, const Job *job, int64_t first) {
  Chunk chunk = *slot;
  int64_t left = job->count - first;
  size_t width = job->type == COMM_BF16 ? sizeof(uint16_t) : sizeof(float);
  chunk.data = (char *)job->data + (size_t)first * width;
  chunk.count = (int)(left < CHUNK_ELEMENTS ? left : CHUNK_ELEMENTS);
  chunk.type = job->type;
  return chunk;
}

/* Chunks finish in the order in which they were started. */
static Status run_job(AsyncAllReduce *all_reduce, const Job *job, Error *error) {
  Status status = OK;
  Reducer *reducer = &all_reduce->reducer;
  int64_t elements_started = 0, elements_finished = 0;
  int started = 0, finished = 0; /* chunks */
  while (elements_finished < job->count) {
    while (elements_started < job->count && started - finished < CHUNKS_IN_FLIGHT) {
      Chunk *next = &reducer->chunks[started++ % CHUNKS_IN_FLIGHT];
      *next = job_chunk(next, job, elements_started);
      Operation operation = current_operation(all_reduce);
      TRY(chunk_start(reducer, next, &operation, error));
      elements_started += next->count;
    }
    Chunk *oldest = &reducer->chunks[finished++ % CHUNKS_IN_FLIGHT];
    Operation operation = current_operation(all_reduce);
    TRY(chunk_finish(reducer, oldest, &operation, job->timeout, error));
    publish_progress(all_reduce, oldest);
    elements_finished += oldest->count;
  }
done:
  return status;
}

static void *run_jobs(void *argument) {
  AsyncAllReduce *all_reduce = argument;
  void *item;
  Error error = {0};
  prctl(PR_SET_TIMERSLACK, 1000UL); /* ns; the default makes every short sleep 50 us longer */
  while (queue_pop(all_reduce->queue, &item)) {
    Job *job = item;
    double start = clock_seconds();
    size_t bytes = (size_t)job->count * reducer_element_bytes(&all_reduce->reducer, job->type);
    pthread_mutex_lock(&all_reduce->mutex);
    all_reduce->job_bytes_done = 0;
    all_reduce->job_bytes = bytes;
    pthread_mutex_unlock(&all_reduce->mutex);
    /* After a failure MPI may still write into the chunks: nothing more is started. */
    if (error.status == OK) run_job(all_reduce, job, &error);
    pthread_mutex_lock(&all_reduce->mutex);
    all_reduce->pending--;
    all_reduce->failure = error;
    all_reduce->stats.busy_seconds += clock_seconds() - start;
    all_reduce->stats.all_reduces++;
    all_reduce->stats.bytes += (int64_t)bytes;
    pthread_cond_signal(&all_reduce->changed);
    pthread_mutex_unlock(&all_reduce->mutex);
    free(job);
  }
  return NULL;
}

/* --- Opening and closing ---------------------------------------------------------------------- */

static void async_all_reduce_free(AsyncAllReduce *all_reduce) {
  reducer_close(&all_reduce->reducer);
  pthread_cond_destroy(&all_reduce->changed);
  pthread_mutex_destroy(&all_reduce->mutex);
  queue_free(all_reduce->queue);
  free(all_reduce);
}

Status async_all_reduce_open(Comm *comm, AsyncAllReduce **out, Error *error) {
  Status status = OK;
  AsyncAllReduce *all_reduce = mem_new(1, sizeof *all_reduce);
  all_reduce->queue = queue_new(MAX_PENDING);
  pthread_mutex_init(&all_reduce->mutex, NULL);
  condition_init(&all_reduce->changed);
  TRY(reducer_open(comm, &all_reduce->reducer, error));
  TRY(thread_start(&all_reduce->thread, "comm", run_jobs, all_reduce, error));
  *out = all_reduce;
  all_reduce = NULL;
done:
  if (all_reduce) async_all_reduce_free(all_reduce);
  return status;
}

void async_all_reduce_close(AsyncAllReduce *all_reduce) {
  if (!all_reduce) return;
  queue_close(all_reduce->queue);
  pthread_join(all_reduce->thread, NULL);
  async_all_reduce_free(all_reduce);
}

/* --- Calls of the main thread ----------------------------------------------------------------- */

static Status submit(AsyncAllReduce *all_reduce, Job submitted, Error *error) {
  pthread_mutex_lock(&all_reduce->mutex);
  Error failure = all_reduce->failure;
  bool is_full = all_reduce->pending == MAX_PENDING;
  if (failure.status == OK && !is_full) all_reduce->pending++;
  pthread_mutex_unlock(&all_reduce->mutex);
  if (failure.status != OK) return error_set(error, failure.status, "%s", failure.message);
  if (is_full) /* queue_push would block */
    return error_set(error, ERROR_INTERNAL, "%s: %d are pending; wait for them first",
                     GRADIENT_ALL_REDUCE, MAX_PENDING);
  Job *job = mem_new(1, sizeof *job);
  *job = submitted;
  queue_push(all_reduce->queue, job);
  return OK;
}

static Status wait_for_pending(AsyncAllReduce *all_reduce, double timeout, Presence *presence,
                               Error *error) {
  Status status = OK;
  double start = clock_seconds(), last_progress = start;
  bool in_time = true;
  presence_wait_begin(presence, GRADIENT_ALL_REDUCE);
  pthread_mutex_lock(&all_reduce->mutex);
  int64_t progress = all_reduce->progress;
  while (all_reduce->pending > 0 && all_reduce->failure.status == OK && in_time) {
    in_time =
        condition_wait_until(&all_reduce->changed, &all_reduce->mutex, last_progress + timeout);
    if (all_reduce->progress != progress) {
      progress = all_reduce->progress;
      last_progress = clock_seconds();
      in_time = true;
      presence_wait_begin(presence, GRADIENT_ALL_REDUCE);
    }
  }
  double now = clock_seconds();
  all_reduce->stats.exposed_seconds += now - start;
  if (all_reduce->failure.status != OK) {
    status = error_set(error, all_reduce->failure.status, "%s", all_reduce->failure.message);
  } else if (all_reduce->pending > 0) {
    Operation operation = current_operation(all_reduce);
    status = timeout_error(&operation, now - last_progress, error);
  }
  pthread_mutex_unlock(&all_reduce->mutex);
  presence_wait_end(presence);
  return status;
}

Status comm_all_reduce_mean_start(Comm *comm, void *data, int64_t count, CommType type,
                                  Error *error) {
  if (count < 0 || (type != COMM_F32 && type != COMM_BF16))
    return error_set(error, ERROR_INTERNAL, "%s: %lld elements of type %d; must be F32 or BF16",
                     GRADIENT_ALL_REDUCE, (long long)count, (int)type);
  if (comm->size == 1 || count == 0) return OK;
  Job job = {data, count, type, comm_wait_timeout(comm)};
  Status status = submit(comm->all_reduce, job, error);
  return status != OK || comm->options.overlap ? status : comm_all_reduce_mean_wait(comm, error);
}

Status comm_all_reduce_mean_wait(Comm *comm, Error *error) {
  if (!comm->all_reduce) return OK;
  Status status =
      wait_for_pending(comm->all_reduce, comm_wait_timeout(comm), &comm->presence, error);
  if (status != OK) comm->failed = true;
  return status;
}

CommStats comm_stats(const Comm *comm) {
  if (!comm->all_reduce) return (CommStats){0};
  pthread_mutex_lock(&comm->all_reduce->mutex);
  CommStats stats = comm->all_reduce->stats;
  pthread_mutex_unlock(&comm->all_reduce->mutex);
  return stats;
}
