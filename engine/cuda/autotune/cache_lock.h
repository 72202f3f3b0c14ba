/* Lets processes that share a cache folder build each entry once. All of them want the same
 * entries; each entry is built by the process that locks it first and read by the others, so that a
 * first start takes a fraction of the time. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_CACHE_LOCK_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_CACHE_LOCK_H

#include "engine/cuda/autotune/build_threads.h"

/* Locks on single bytes of FOLDER/lock, one for each key. A process releases its locks when it
 * ends, however it ends. */
typedef struct CacheLock CacheLock;

/* NULL, after a line in the log, where the folder cannot be written or its file system has no
 * locks. With NULL every lock is granted: each process builds every entry. */
CacheLock *cache_lock_open(const char *folder);
void cache_lock_close(CacheLock *lock); /* releases all locks; NULL is allowed */
/* Does not wait. False: another process (or another CacheLock) holds the key. */
bool cache_lock_try(CacheLock *lock, const char *key);
void cache_lock_release(CacheLock *lock, const char *key);

/* Entries 0 to count - 1. `load` (false: not in the cache) and `build` run in any thread; `finish`,
 * which writes a built entry to the cache, runs in the caller's. */
typedef struct SharedBuild {
  int count;
  void *context;
  const char *(*key)(void *context, int index);
  bool (*load)(void *context, int index, const CudnnTarget *target);
  void (*build)(void *context, int index, const CudnnTarget *target);
  void (*finish)(void *context, int index);
} SharedBuild;

/* Looks up each entry, else locks it, looks it up again, builds and finishes it, and releases the
 * lock. Entries that another process has locked are deferred and tried again in rounds. A process
 * that is stopped keeps its locks: after `timeout` seconds without progress a warning is logged,
 * `*lock` is closed and set to NULL, and the rest is built here. */
void shared_build_run(const SharedBuild *work, BuildThreads *threads, const CudnnTarget *target,
                      CacheLock **lock, double timeout);

#endif
