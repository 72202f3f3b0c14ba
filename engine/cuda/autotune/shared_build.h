/* Builds cache entries once among processes that share a cache folder. Every process asks for the
 * same entries; each entry is built by the process that locks it first, and read from the cache by
 * the others, so that a first start takes a fraction of the time. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_SHARED_BUILD_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_SHARED_BUILD_H

#include "engine/cuda/autotune/build_threads.h"
#include "engine/cuda/autotune/cache_lock.h"

/* The callbacks of one entry: load and build run in any thread, finish in the caller's. */
typedef struct SharedBuild {
  int count;
  void *context;
  const char *(*key)(void *context, int index);
  bool (*load)(void *context, int index, const CudnnTarget *target); /* false: not in the cache */
  void (*build)(void *context, int index, const CudnnTarget *target);
  void (*finish)(void *context, int index); /* after load or build: writes the cache */
} SharedBuild;

/* For each entry: looks it up, else locks it, looks it up again, builds it, finishes it and
 * releases the lock. Entries that another process has locked are deferred and tried again when
 * their lock is free. A process that is killed releases its locks; one that is stopped does not, so
 * after `timeout` seconds in which no deferred entry became free a warning is logged, `*lock` is
 * closed and set to NULL, and the rest is built here. */
void shared_build_run(const SharedBuild *work, BuildThreads *threads, const CudnnTarget *target,
                      CacheLock **lock, double timeout);

#endif
