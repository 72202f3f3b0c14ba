#include "engine/cuda/autotune/build_threads.h"

#include <cuda_runtime.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

enum { MOST_WORKERS = 16 };

struct CudnnWorkers {
  int device, count;
  cudnnHandle_t handles[MOST_WORKERS]; /* NULL: not made yet */
};

/* What the threads of one run share. */
typedef struct Run {
  const CudnnWork *work;
  const CudnnTarget *target;
  CudnnWorkers *workers;
  atomic_int next_index, next_worker, alive;
  Queue *done;   /* of pointers into indices */
  int *indices;  /* [work->count]: 0, 1, ... */
  bool *is_made; /* [work->count] */
} Run;

static int processors(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

CudnnWorkers *cudnn_workers_new(int count) {
  CudnnWorkers *workers = mem_new(1, sizeof *workers);
  if (count <= 0) count = processors() - 1;
  if (count < 1) count = 1;
  if (cudaGetDevice(&workers->device) != cudaSuccess) cudaGetLastError(); /* a described one */
  workers->count = count < MOST_WORKERS ? count : MOST_WORKERS;
  return workers;
}

void cudnn_workers_free(CudnnWorkers *workers) {
  if (!workers) return;
  for (int i = 0; i < workers->count; i++)
    if (workers->handles[i]) cudnnDestroy(workers->handles[i]);
  free(workers);
}

/* --- A thread --------------------------------------------------------------------------------- */
/* False where it cannot have a handle: the others do its share. */
static bool make_target(Run *run, int worker, CudnnTarget *target) {
  cudnnHandle_t *handle = &run->workers->handles[worker];
  *target = *run->target;
  if (!target->handle) return true;
  if (cudaSetDevice(run->workers->device) != cudaSuccess) return false;
  if (!*handle && cudnnCreate(handle) != CUDNN_STATUS_SUCCESS) {
    *handle = NULL;
    return false;
  }
  target->handle = *handle;
  return true;
}

static void *work_on(void *argument) {
  Run *run = argument;
  CudnnTarget target;
  if (make_target(run, atomic_fetch_add(&run->next_worker, 1), &target)) {
    int index;
    while ((index = atomic_fetch_add(&run->next_index, 1)) < run->work->count) {
      run->work->make(run->work->context, index, &target);
      queue_push(run->done, &run->indices[index]);
    }
  }
  if (atomic_fetch_sub(&run->alive, 1) == 1) queue_close(run->done);
  return NULL;
}

/* --- All of them ------------------------------------------------------------------------------ */
static int start(Run *run, int wanted, pthread_t *threads) {
  Error error = {0};
  int started = 0;
  atomic_store(&run->alive, wanted);
  while (started < wanted && thread_start(&threads[started], "cudnn", work_on, run, &error) == OK)
    started++;
  if (started == wanted) return started;
  log_warning("cuDNN: %d of %d threads that make plans: %s", started, wanted, error.message);
  if (atomic_fetch_sub(&run->alive, wanted - started) == wanted - started) queue_close(run->done);
  return started;
}

void cudnn_workers_run(CudnnWorkers *workers, const CudnnTarget *target, const CudnnWork *work) {
  if (work->count == 0) return;
  pthread_t threads[MOST_WORKERS];
  Run run = {.work = work, .target = target, .workers = workers};
  run.done = queue_new((size_t)work->count);
  run.is_made = mem_new((size_t)work->count, sizeof *run.is_made);
  run.indices = mem_new((size_t)work->count, sizeof *run.indices);
  for (int i = 0; i < work->count; i++) run.indices[i] = i;
  const int wanted = workers->count < work->count ? workers->count : work->count;
  const int started = start(&run, wanted, threads);
  for (void *item = NULL; queue_pop(run.done, &item);) {
    const int index = *(const int *)item;
    run.is_made[index] = true;
    work->take(work->context, index);
  }
  for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < work->count; i++) {
    if (run.is_made[i]) continue;
    work->make(work->context, i, target);
    work->take(work->context, i);
  }
  queue_free(run.done);
  free(run.is_made);
  free(run.indices);
}
