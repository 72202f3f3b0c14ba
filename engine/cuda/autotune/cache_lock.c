/* Open file description locks (Linux 3.15). Unlike POSIX record locks they conflict within a
 * process, and closing another descriptor of the file does not release them. */
#include "engine/cuda/autotune/cache_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"

struct CacheLock {
  int descriptor;
};

/* Keys with equal checksums share a lock, as they share a cache file. */
static struct flock lock_of(const char *key, short type) {
  return (struct flock){.l_type = type,
                        .l_whence = SEEK_SET,
                        .l_start = (off_t)crc32c(0, key, strlen(key)),
                        .l_len = 1};
}

CacheLock *cache_lock_open(const char *folder) {
  Error error = {0};
  struct flock probe = lock_of("", F_WRLCK);
  if (folder_create(folder, &error) != OK) {
    log_debug("cuDNN: convolution plans are not shared between ranks: %s", error.message);
    return NULL;
  }
  CacheLock *lock = NULL;
  char *path = path_join(folder, "lock");
  const int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor >= 0 && fcntl(descriptor, F_OFD_GETLK, &probe) == 0) {
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
  if (!lock) return true;
  const struct flock request = lock_of(key, F_WRLCK);
  if (fcntl(lock->descriptor, F_OFD_SETLK, &request) == 0) return true;
  return errno != EAGAIN && errno != EACCES; /* the file system failed: build without the lock */
}

bool cache_lock_is_free(CacheLock *lock, const char *key) {
  struct flock request = lock_of(key, F_WRLCK);
  return !lock || fcntl(lock->descriptor, F_OFD_GETLK, &request) != 0 || request.l_type == F_UNLCK;
}

void cache_lock_release(CacheLock *lock, const char *key) {
  if (!lock) return;
  const struct flock request = lock_of(key, F_UNLCK);
  fcntl(lock->descriptor, F_OFD_SETLK, &request);
}
