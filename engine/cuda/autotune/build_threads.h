/* Threads that build convolution plans in parallel, each with its own cuDNN handle: compiling an
 * engine occupies a core for up to seconds, and a handle may be used by one thread at a time. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_BUILD_THREADS_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_BUILD_THREADS_H

#include "engine/cuda/cudnn/cudnn_engine.h"

typedef struct BuildThreads BuildThreads;

/* Uses the calling thread's device. `count`: the maximum number of threads; 0: the number of cores
 * minus one, at most 16. */
BuildThreads *build_threads_new(int count);
/* Destroys the handles: call it after freeing everything that was built with them. NULL is allowed.
 */
void build_threads_free(BuildThreads *threads);

/* Items 0 to count - 1: `build` runs in any thread, `finish` in the caller's thread after it. */
typedef struct BuildWork {
  int count;
  void *context;
  void (*build)(void *context, int index, const CudnnTarget *target);
  void (*finish)(void *context, int index);
} BuildWork;

/* Calls `build` once for each item, in threads that take the items in order, with a copy of
 * `target` that has the thread's own handle; and `finish` in the order in which builds complete. A
 * single item, and items for which no thread can be started, are built by the caller's thread. */
void build_threads_run(BuildThreads *threads, const CudnnTarget *target, const BuildWork *work);

#endif
