/* Threads that make things of cuDNN side by side, each with a handle of its own: compiling an
 * engine takes a processor up to seconds, and a handle serves one thread at a time. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_BUILD_THREADS_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_BUILD_THREADS_H

#include "engine/cuda/cudnn/cudnn_engine.h"

typedef struct CudnnWorkers CudnnWorkers;

/* Of the calling thread's device. `count`: the most threads at a time; 0: one for each processor
 * but one, at most 16. */
CudnnWorkers *cudnn_workers_new(int count);
/* Ends the handles: behind all that was made with them. NULL is allowed. */
void cudnn_workers_free(CudnnWorkers *workers);

/* One of several pieces of work: what can be done anywhere, and what the caller's thread alone
 * does. */
typedef struct CudnnWork {
  int count;
  void *context;
  void (*make)(void *context, int index, const CudnnTarget *target);
  void (*take)(void *context, int index);
} CudnnWork;

/* Calls make for each index once, in threads, with a target like `target` but for its handle, and
 * take in this thread behind it, in the order in which they are done. Where no thread can be had
 * this one does everything. */
void cudnn_workers_run(CudnnWorkers *workers, const CudnnTarget *target, const CudnnWork *work);

#endif
