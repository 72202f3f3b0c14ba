/* Locks of open file descriptions (Linux 3.15): unlike those of POSIX they tell two users in one
 * process apart, and no other descriptor's close ends them. */
#include "engine/cuda/cudnn_claims.h"

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
#include "base/thread.h"

struct CudnnClaims {
  int descriptor;
};

/* Keys with the same checksum have one lock, as they have one file. */
static struct flock lock_of(const char *key, short kind) {
  return (struct flock){.l_type = kind,
                        .l_whence = SEEK_SET,
                        .l_start = (off_t)crc32c(0, key, strlen(key)),
                        .l_len = 1};
}

static bool has_locks(int descriptor) {
  struct flock lock = lock_of("", F_WRLCK);
  return fcntl(descriptor, F_OFD_GETLK, &lock) == 0;
}

CudnnClaims *cudnn_claims_open(const char *folder) {
  Error error = {0};
  if (!folder) return NULL;
  if (folder_create(folder, &error) != OK) {
    log_debug("cuDNN: choices are not shared: %s", error.message);
    return NULL;
  }
  char *path = path_join(folder, "lock");
  const int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  CudnnClaims *claims = NULL;
  if (descriptor >= 0 && has_locks(descriptor)) {
    claims = mem_new(1, sizeof *claims);
    claims->descriptor = descriptor;
  } else {
    log_info("%s: cannot lock: %s; every rank prepares its convolutions for itself", path,
             strerror(errno));
    if (descriptor >= 0) close(descriptor);
  }
  free(path);
  return claims;
}

void cudnn_claims_close(CudnnClaims *claims) {
  if (!claims) return;
  close(claims->descriptor);
  free(claims);
}

bool cudnn_claim(CudnnClaims *claims, const char *key) {
  if (!claims) return true;
  const struct flock lock = lock_of(key, F_WRLCK);
  if (fcntl(claims->descriptor, F_OFD_SETLK, &lock) == 0) return true;
  return errno != EAGAIN && errno != EACCES; /* locks failed: everyone for himself */
}

bool cudnn_claim_wait(CudnnClaims *claims, const char *key, double seconds) {
  static const struct timespec pause = {.tv_nsec = 20000000};
  const double end = clock_seconds() + seconds;
  while (!cudnn_claim(claims, key)) {
    if (clock_seconds() >= end) return false;
    nanosleep(&pause, NULL);
  }
  return true;
}

void cudnn_claim_end(CudnnClaims *claims, const char *key) {
  if (!claims) return;
  const struct flock lock = lock_of(key, F_UNLCK);
  fcntl(claims->descriptor, F_OFD_SETLK, &lock);
}
