/* Locks that processes sharing a cache folder hold while they build an entry. A lock covers one
 * byte of FOLDER/lock, so it is released when its process ends, however it ends. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_CACHE_LOCK_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_CACHE_LOCK_H

#include <stdbool.h>

typedef struct CacheLock CacheLock;

/* NULL, after a line in the log, where the folder cannot be written or its file system has no
 * locks. With NULL every lock is granted: each process builds every entry. */
CacheLock *cache_lock_open(const char *folder);
void cache_lock_close(CacheLock *lock); /* releases all locks; NULL is allowed */

/* Locks a key without waiting. False: another process (or another CacheLock) holds it. */
bool cache_lock_try(CacheLock *lock, const char *key);
bool cache_lock_is_free(CacheLock *lock, const char *key);
void cache_lock_release(CacheLock *lock, const char *key);

#endif
