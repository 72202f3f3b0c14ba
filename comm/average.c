/* The communication thread: the mean over the ranks, piece by piece, while the caller computes.
 *
 * Where the number of ranks is a power of two they are summed in stages: neighbours, then pairs of
 * neighbours, and so on. A sum of two is the same whoever adds, so the result is that of a fixed
 * tree, whatever algorithm MPI takes, and every such number of ranks continues the tree of the one
 * before. */
#include <stdlib.h>
#include <sys/prctl.h>

#include "base/memory.h"
#include "base/thread.h"
#include "comm/internal.h"

/* Several pieces are under way at once, so that one look at MPI moves all of them on. */
enum { PIECE_ELEMENTS = 1 << 18, IN_FLIGHT = 4, MAX_PENDING = 4096, MAX_STAGES = 31 };

typedef struct Job {
  void *data; /* [count] */
  int64_t count;
  CommType type;
  double timeout;
} Job;

typedef struct Piece {
  MPI_Request request;
  int64_t first; /* its place in the job's data */
  int count;
  float *sum;     /* [PIECE_ELEMENTS] over the ranks */
  float *widened; /* [PIECE_ELEMENTS] this rank's bfloat16 as f32 */
} Piece;

struct Averager {
  int stage_count;
  MPI_Comm stages[MAX_STAGES]; /* the thread's own; of two ranks each, or one of all */
  int rank, size;
  pthread_t thread;
  Queue *queue; /* of Job */
  float *buffers;
  Piece pieces[IN_FLIGHT]; /* a ring, the thread's own */

  pthread_mutex_t mutex; /* guards all below */
  pthread_cond_t changed;
  int pending;
  int64_t progress; /* pieces finished, ever */
  size_t job_done, job_bytes;
  Error failure; /* the first one; status OK while there is none */
  CommStats stats;
};

static const char NAME[] = "mean over the ranks";

static Operation operation_of(const Averager *averager) {
  return (Operation){NAME, averager->rank, averager->size, averager->job_done, averager->job_bytes};
}

static size_t element_bytes(CommType type) {
  return type == COMM_BF16 ? sizeof(uint16_t) : sizeof(float);
}

static Status start_piece(Averager *averager, const Job *job, Piece *piece, int64_t first,
                          Error *error) {
  int64_t left = job->count - first;
  piece->first = first;
  piece->count = (int)(left < PIECE_ELEMENTS ? left : PIECE_ELEMENTS);
  const float *mine = piece->widened;
  if (job->type == COMM_BF16)
    comm_widen_bf16((const uint16_t *)job->data + first, piece->widened, piece->count);
  else
    mine = (const float *)job->data + first;
  Operation operation = operation_of(averager);
  return mpi_check(MPI_Iallreduce(mine, piece->sum, piece->count, MPI_FLOAT, MPI_SUM,
                                  averager->stages[0], &piece->request),
                   &operation, error);
}

/* Waits for what start_piece began, and for the stages behind it. */
static Status sum_piece(Averager *averager, Piece *piece, double timeout, Error *error) {
  Status status = OK;
  Operation operation = operation_of(averager);
  TRY(mpi_wait(&piece->request, &operation, timeout, error));
  for (int i = 1; i < averager->stage_count; i++) {
    TRY(mpi_check(MPI_Iallreduce(MPI_IN_PLACE, piece->sum, piece->count, MPI_FLOAT, MPI_SUM,
                                 averager->stages[i], &piece->request),
                  &operation, error));
    TRY(mpi_wait(&piece->request, &operation, timeout, error));
  }
done:
  return status;
}

/* The sum is there: divides, stores, and tells who waits. */
static void finish_piece(Averager *averager, const Job *job, Piece *piece) {
  float size = (float)averager->size;
  float *mean = job->type == COMM_BF16 ? piece->sum : (float *)job->data + piece->first;
  for (int i = 0; i < piece->count; i++) mean[i] = piece->sum[i] / size;
  if (job->type == COMM_BF16)
    comm_narrow_bf16(mean, (uint16_t *)job->data + piece->first, piece->count);
  pthread_mutex_lock(&averager->mutex);
  averager->progress++;
  averager->job_done += (size_t)piece->count * element_bytes(job->type);
  pthread_cond_signal(&averager->changed);
  pthread_mutex_unlock(&averager->mutex);
}

static Status average(Averager *averager, const Job *job, Error *error) {
  Status status = OK;
  int64_t started = 0, finished = 0; /* elements; pieces are finished in the order of starting */
  int begun = 0, ended = 0;          /* pieces */
  while (finished < job->count) {
    while (started < job->count && begun - ended < IN_FLIGHT) {
      Piece *next = &averager->pieces[begun++ % IN_FLIGHT];
      TRY(start_piece(averager, job, next, started, error));
      started += next->count;
    }
    Piece *oldest = &averager->pieces[ended++ % IN_FLIGHT];
    TRY(sum_piece(averager, oldest, job->timeout, error));
    finish_piece(averager, job, oldest);
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
    size_t bytes = (size_t)job->count * element_bytes(job->type);
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

static Status open_stages(Averager *averager, Error *error) {
  Status status = OK;
  int rank = averager->rank, size = averager->size;
  Operation operation = {"starting the communication thread", rank, size, 0, 0};
  bool power_of_two = (size & (size - 1)) == 0;
  for (int bit = 1; bit < size; bit <<= 1) {
    MPI_Comm *stage = &averager->stages[averager->stage_count];
    int partners = power_of_two ? rank & ~bit : 0; /* the same number on both */
    TRY(mpi_check(MPI_Comm_split(MPI_COMM_WORLD, partners, rank, stage), &operation, error));
    MPI_Comm_set_errhandler(*stage, MPI_ERRORS_RETURN);
    averager->stage_count++;
    if (!power_of_two) break;
  }
done:
  return status;
}

Status averager_open(int rank, int size, Averager **out, Error *error) {
  Status status = OK;
  Averager *averager = mem_new(1, sizeof *averager);
  void *buffers = NULL;
  averager->rank = rank;
  averager->size = size;
  averager->queue = queue_new(MAX_PENDING);
  pthread_mutex_init(&averager->mutex, NULL);
  condition_init(&averager->changed);
  TRY(mem_bulk(sizeof(float) * PIECE_ELEMENTS * IN_FLIGHT * 2, "the communication buffers",
               &buffers, error));
  averager->buffers = buffers;
  for (int i = 0; i < IN_FLIGHT; i++) {
    averager->pieces[i].sum = averager->buffers + (size_t)PIECE_ELEMENTS * (size_t)(2 * i);
    averager->pieces[i].widened = averager->pieces[i].sum + PIECE_ELEMENTS;
  }
  TRY(open_stages(averager, error));
  TRY(thread_start(&averager->thread, "comm", run, averager, error));
  *out = averager;
  averager = NULL;
done:
  if (averager) {
    pthread_cond_destroy(&averager->changed);
    pthread_mutex_destroy(&averager->mutex);
    queue_free(averager->queue);
    free(averager->buffers);
    free(averager);
  }
  return status;
}

void averager_close(Averager *averager) {
  if (!averager) return;
  queue_close(averager->queue);
  pthread_join(averager->thread, NULL);
  for (int i = 0; i < averager->stage_count; i++) MPI_Comm_free(&averager->stages[i]);
  pthread_cond_destroy(&averager->changed);
  pthread_mutex_destroy(&averager->mutex);
  queue_free(averager->queue);
  free(averager->buffers);
  free(averager);
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
    return error_set(error, ERROR_INTERNAL, "%s: %d are pending; wait for them first", NAME,
                     MAX_PENDING);
  Job *job = mem_new(1, sizeof *job);
  *job = (Job){data, count, type, timeout};
  queue_push(averager->queue, job);
  return OK;
}

Status averager_wait(Averager *averager, double timeout, Error *error) {
  Status status = OK;
  double began = clock_seconds(), last = began;
  bool in_time = true;
  pthread_mutex_lock(&averager->mutex);
  int64_t seen = averager->progress;
  while (averager->pending > 0 && averager->failure.status == OK && in_time) {
    in_time = condition_wait_until(&averager->changed, &averager->mutex, last + timeout);
    if (averager->progress != seen) {
      seen = averager->progress;
      last = clock_seconds();
      in_time = true;
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
  return status;
}

CommStats averager_stats(Averager *averager) {
  pthread_mutex_lock(&averager->mutex);
  CommStats stats = averager->stats;
  pthread_mutex_unlock(&averager->mutex);
  return stats;
}
