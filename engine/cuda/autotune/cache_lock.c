/* Open file description locks (Linux 3.15). Unlike POSIX record locks they conflict within a
 * process, and closing another descriptor of the file does not release them. */
#include "engine/cuda/autotune/cache_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"

/* --- Locks ------------------------------------------------------------------------------------ */
struct CacheLock {
  int descriptor;
};

/* Keys with equal checksums share a lock, as they share a cache file. */
static int set_lock(int descriptor, int command, const char *key, short type) {
  struct flock lock = {.l_type = type,
                       .l_whence = SEEK_SET,
                       .l_start = (off_t)crc32c(0, key, strlen(key)),
                       .l_len = 1};
  return fcntl(descriptor, command, &lock);
}

CacheLock *cache_lock_open(const char *folder) {
  Error error = {0};
  if (folder_create(folder, &error) != OK) {
    log_debug("cuDNN: convolution plans are not shared between ranks: %s", error.message);
    return NULL;
  }
  CacheLock *lock = NULL;
  char *path = path_join(folder, "lock");
  const int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor >= 0 && set_lock(descriptor, F_OFD_GETLK, "", F_WRLCK) == 0) {
    lock = mem_new(1, sizeof *lock);
    lock->descriptor = descriptor;
  } else {
    log_info("%s: cannot lock: %s; every rank builds all of its convolution plans itself", path,
             strerror(errno));
    if (descriptor >= 0) close(descriptor);
  }
  free(path);
  return lock;
}

void cache_lock_close(CacheLock *lock) {
  if (!lock) return;
  close(lock->descriptor);
  free(lock);
}

bool cache_lock_try(CacheLock *lock, const char *key) {
  if (!lock || set_lock(lock->descriptor, F_OFD_SETLK, key, F_WRLCK) == 0) return true;
  return errno != EAGAIN && errno != EACCES; /* the file system failed: build without the lock */
}

void cache_lock_release(CacheLock *lock, const char *key) {
  if (lock) set_lock(lock->descriptor, F_OFD_SETLK, key, F_UNLCK);
}

/* --- Building --------------------------------------------------------------------------------- */
typedef enum EntryState { ENTRY_PENDING, ENTRY_READY, ENTRY_FINISHED } EntryState;

typedef struct Entries {
  const SharedBuild *work;
  CacheLock *lock;
  int left;           /* not finished */
  EntryState *states; /* [work->count] */
} Entries;

/* In any thread; leaves an entry pending that another process has locked. */
static void load_or_build(void *context, int i, const CudnnTarget *target) {
  const Entries *entries = context;
  const SharedBuild *work = entries->work;
  if (entries->states[i] == ENTRY_FINISHED) return;
  if (!work->load(work->context, i, target)) {
    if (!cache_lock_try(entries->lock, work->key(work->context, i))) return;
    if (!work->load(work->context, i, target)) work->build(work->context, i, target);
  }
  entries->states[i] = ENTRY_READY;
}

static void finish(void *context, int i) {
  Entries *entries = context;
  const SharedBuild *work = entries->work;
  if (entries->states[i] != ENTRY_READY) return;
  work->finish(work->context, i);
  cache_lock_release(entries->lock, work->key(work->context, i));
  entries->states[i] = ENTRY_FINISHED;
  entries->left--;
}

void shared_build_run(const SharedBuild *work, BuildThreads *threads, const CudnnTarget *target,
                      CacheLock **lock, double timeout) {
  static const double POLL_SECONDS = 0.02;
  Entries entries = {.work = work, .lock = *lock, .left = work->count};
  const BuildWork round = {
      .count = work->count, .context = &entries, .build = load_or_build, .finish = finish};
  entries.states = mem_new((size_t)work->count + 1, sizeof *entries.states);
  /* Pauses are counted, not measured: time in which this process is stopped does not count. */
  for (double waited = 0; entries.left > 0;) {
    const int before = entries.left;
    build_threads_run(threads, target, &round);
    if (entries.left < before) {
      waited = 0;
    } else if (waited < timeout) {
      nanosleep(&(struct timespec){.tv_nsec = (long)(POLL_SECONDS * 1e9)}, NULL);
      waited += POLL_SECONDS;
    } else {
      log_warning("cuDNN: waited %.0f s for %d convolution plans that other ranks have locked; "
                  "building them here, without sharing plans. Check whether a rank is stopped",
                  timeout, entries.left);
      cache_lock_close(*lock);
      *lock = entries.lock = NULL;
    }
  }
  free(entries.states);
}
