#include "engine/cuda/autotune/build_threads.h"

#include <cuda_runtime.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/host.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

enum { MAX_THREADS = 16 };

struct BuildThreads {
  int device, count;
  cudnnHandle_t handles[MAX_THREADS]; /* NULL: not created yet */
};

/* State shared by the threads of one call. */
typedef struct Run {
  const BuildWork *work;
  const CudnnTarget *target;
  BuildThreads *threads;
  atomic_int next_index, next_thread, alive;
  Queue *done;    /* of pointers into indices */
  int *indices;   /* [work->count]: 0, 1, ... */
  bool *is_built; /* [work->count] */
} Run;

BuildThreads *build_threads_new(int count) {
  BuildThreads *threads = mem_new(1, sizeof *threads);
  if (count <= 0) count = host_processor_count() - 1;
  if (count < 1) count = 1;
  if (cudaGetDevice(&threads->device) != cudaSuccess) cudaGetLastError(); /* no device: tests */
  threads->count = count < MAX_THREADS ? count : MAX_THREADS;
  return threads;
}

void build_threads_free(BuildThreads *threads) {
  if (!threads) return;
  for (int i = 0; i < threads->count; i++)
    if (threads->handles[i]) cudnnDestroy(threads->handles[i]);
  free(threads);
}

/* --- One thread ------------------------------------------------------------------------------- */
/* False where no handle can be created; the other threads then build everything. */
static bool make_target(Run *run, int thread, CudnnTarget *target) {
  cudnnHandle_t *handle = &run->threads->handles[thread];
  *target = *run->target;
  if (!target->handle) return true;
  if (cudaSetDevice(run->threads->device) != cudaSuccess) return false;
  if (!*handle && cudnnCreate(handle) != CUDNN_STATUS_SUCCESS) {
    *handle = NULL;
    return false;
  }
  target->handle = *handle;
  return true;
}

static void *build_items(void *argument) {
  Run *run = argument;
  CudnnTarget target;
  if (make_target(run, atomic_fetch_add(&run->next_thread, 1), &target)) {
    int index;
    while ((index = atomic_fetch_add(&run->next_index, 1)) < run->work->count) {
      run->work->build(run->work->context, index, &target);
      queue_push(run->done, &run->indices[index]);
    }
  }
  if (atomic_fetch_sub(&run->alive, 1) == 1) queue_close(run->done);
  return NULL;
}

/* --- All threads ------------------------------------------------------------------------------ */
static int start_threads(Run *run, int wanted, pthread_t *threads) {
  Error error = {0};
  int started = 0;
  atomic_store(&run->alive, wanted);
  while (started < wanted &&
         thread_start(&threads[started], "cudnn", build_items, run, &error) == OK)
    started++;
  if (started == wanted) return started;
  log_warning("cuDNN: started %d of %d build threads: %s", started, wanted, error.message);
  if (atomic_fetch_sub(&run->alive, wanted - started) == wanted - started) queue_close(run->done);
  return started;
}

static void run_threads(Run *run, int wanted) {
  pthread_t threads[MAX_THREADS];
  const int started = start_threads(run, wanted, threads);
  for (void *item = NULL; queue_pop(run->done, &item);) {
    const int index = *(const int *)item;
    run->is_built[index] = true;
    run->work->finish(run->work->context, index);
  }
  for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
}

void build_threads_run(BuildThreads *threads, const CudnnTarget *target, const BuildWork *work) {
  if (work->count == 0) return;
  Run run = {.work = work, .target = target, .threads = threads};
  run.done = queue_new((size_t)work->count);
  run.is_built = mem_new((size_t)work->count, sizeof *run.is_built);
  run.indices = mem_new((size_t)work->count, sizeof *run.indices);
  for (int i = 0; i < work->count; i++) run.indices[i] = i;
  if (work->count > 1)
    run_threads(&run, threads->count < work->count ? threads->count : work->count);
  for (int i = 0; i < work->count; i++) {
    if (run.is_built[i]) continue;
    work->build(work->context, i, target);
    work->finish(work->context, i);
  }
  queue_free(run.done);
  free(run.is_built);
  free(run.indices);
}
