/* Locks of open file descriptions (Linux 3.15): unlike those of POSIX they tell two users in one
 * process apart, and no other descriptor's close ends them. */
#include "engine/cuda/autotune/cache_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

/* Seconds: between two tries; what a wait for one of them never takes, unless everything stands. */
static const double MOMENT = 0.02, LONG = 1;

struct CudnnClaims {
  int descriptor;
  char *path;
  double patience;
  pthread_mutex_t mutex; /* of what follows */
  double left, waited;   /* of the patience; clock_seconds: when it last grew less */
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

CudnnClaims *cudnn_claims_open(const char *folder, double patience) {
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
    *claims = (CudnnClaims){.descriptor = descriptor,
                            .path = mem_string(path),
                            .patience = patience,
                            .mutex = PTHREAD_MUTEX_INITIALIZER,
                            .left = patience};
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
  pthread_mutex_destroy(&claims->mutex);
  free(claims->path);
  free(claims);
}

bool cudnn_claim(CudnnClaims *claims, const char *key) {
  if (!claims) return true;
  const struct flock lock = lock_of(key, F_WRLCK);
  if (fcntl(claims->descriptor, F_OFD_SETLK, &lock) == 0) return true;
  return errno != EAGAIN && errno != EACCES; /* locks failed: everyone for himself */
}

/* For all threads that wait, time passes once; while nobody waits, or this process itself is
 * stopped, none does. Returns what is left of the patience. */
static double pass_time(CudnnClaims *claims, const char *key) {
  pthread_mutex_lock(&claims->mutex);
  const double now = clock_seconds(), passed = now - claims->waited, before = claims->left;
  claims->left -= passed < LONG ? passed : MOMENT;
  claims->waited = now;
  const double left = claims->left;
  pthread_mutex_unlock(&claims->mutex);
  if (before > 0 && left <= 0)
    log_warning("%s: waited %.0f s for what other processes prepare (now: %s), and nothing came: "
                "they are stopped, or very slow; what they have claimed is prepared here as well, "
                "and not waited for again",
                claims->path, claims->patience, key);
  return left;
}

static void be_patient(CudnnClaims *claims) {
  pthread_mutex_lock(&claims->mutex);
  if (claims->left > 0) claims->left = claims->patience;
  pthread_mutex_unlock(&claims->mutex);
}

bool cudnn_claim_wait(CudnnClaims *claims, const char *key) {
  static const struct timespec pause = {.tv_nsec = (long)(MOMENT * 1e9)};
  bool has_waited = false;
  while (!cudnn_claim(claims, key)) {
    if (pass_time(claims, key) <= 0) return false;
    nanosleep(&pause, NULL);
    has_waited = true;
  }
  if (has_waited) be_patient(claims);
  return true;
}

void cudnn_claim_end(CudnnClaims *claims, const char *key) {
  if (!claims) return;
  const struct flock lock = lock_of(key, F_UNLCK);
  fcntl(claims->descriptor, F_OFD_SETLK, &lock);
}
