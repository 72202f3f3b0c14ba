/* A library to preload into a training run (LD_PRELOAD). It makes the N-th call of a kind fail on
 * one rank.
 *
 *   INJECT_RANK    the rank
 *   INJECT_KIND    data        the N-th read of a shard by a loader thread does not return
 *                  collective  the N-th all-reduce of the communication thread is never started
 *                  agreement   the N-th all-gather of the main thread is never started
 *                  disk-full   all writes in the run folder from the N-th on fail with ENOSPC
 *                  disk-error  the N-th change of checkpoints, metrics or events fails with EIO
 *                  kill-write  the process is killed during its N-th change of the checkpoints
 *                  count       nothing fails; at exit, MARK.KIND receives the number of calls
 *   INJECT_AT      N, from 1
 *   INJECT_FOLDER  the run folder
 *   INJECT_MARK    a file that is written at the moment of the failure: clock (monotonic), call */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mpi.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { DATA, COLLECTIVE, AGREEMENT, DISK_FULL, DISK_ERROR, KILL_WRITE, COUNT, NONE };
static const char *const KINDS[] = {"data",       "collective", "agreement", "disk-full",
                                    "disk-error", "kill-write", "count"};

static int kind = NONE;
static long at;
static const char *folder, *mark;
static _Atomic long calls[COUNT];
static atomic_bool full;

static void *next_of(const char *name) {
  void *function = dlsym(RTLD_NEXT, name);
  if (!function) abort();
  return function;
}

/* Writes a file without the functions that are replaced below. */
static void put_file(const char *path, const char *text) {
  long file = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || syscall(SYS_write, file, text, strlen(text)) < 0) abort();
  syscall(SYS_close, file);
}

static void record_hit(const char *what) {
  char temporary[PATH_MAX], text[PATH_MAX + 64];
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  snprintf(text, sizeof text, "%lld.%09ld %s\n", (long long)now.tv_sec, now.tv_nsec, what);
  snprintf(temporary, sizeof temporary, "%s.tmp", mark);
  put_file(temporary, text);
  syscall(SYS_rename, temporary, mark);
}

/* Counts a call of kind `which`; returns whether this one must fail. */
static bool is_time(int which, const char *what) {
  if (kind == NONE || (kind != which && kind != COUNT)) return false;
  long number = atomic_fetch_add(&calls[which], 1) + 1;
  if (kind == COUNT || number != at) return false;
  record_hit(what);
  return true;
}

static void block(void) {
  for (;;) pause();
}

__attribute__((constructor)) static void begin(void) {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *wanted = getenv("INJECT_RANK");
  const char *name = getenv("INJECT_KIND"), *number = getenv("INJECT_AT");
  folder = getenv("INJECT_FOLDER");
  mark = getenv("INJECT_MARK");
  if (!wanted || !name || !number || !folder || !mark) return;
  if (strcmp(program_invocation_short_name, "celforge") != 0) return; /* not mpirun, not a shell */
  if (strcmp(rank ? rank : "0", wanted) != 0) return;
  at = atol(number);
  for (int i = 0; i < NONE; i++)
    if (strcmp(name, KINDS[i]) == 0) kind = i;
}

__attribute__((destructor)) static void end(void) {
  if (kind != COUNT) return;
  for (int i = 0; i < COUNT; i++) {
    char path[PATH_MAX], text[32];
    snprintf(path, sizeof path, "%s.%s", mark, KINDS[i]);
    snprintf(text, sizeof text, "%ld\n", calls[i]);
    put_file(path, text);
  }
}

/* --- Reads and collectives ---------------------------------------------------------------------
 */

static void path_of(int descriptor, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, size - 1);
  path[length < 0 ? 0 : length] = '\0';
}

ssize_t pread(int descriptor, void *data, size_t size, off_t offset) {
  static ssize_t (*next)(int, void *, size_t, off_t);
  char path[PATH_MAX];
  if (!next) *(void **)&next = next_of("pread");
  if ((kind == DATA || kind == COUNT) && gettid() != getpid()) {
    path_of(descriptor, path, sizeof path);
    if (strstr(path, "/shard-") && is_time(DATA, path)) block();
  }
  return next(descriptor, data, size, offset);
}

int MPI_Iallreduce(const void *in, void *out, int count, MPI_Datatype type, MPI_Op op,
                   MPI_Comm comm, MPI_Request *request) {
  static int (*next)(const void *, void *, int, MPI_Datatype, MPI_Op, MPI_Comm, MPI_Request *);
  if (!next) *(void **)&next = next_of("MPI_Iallreduce");
  if (is_time(COLLECTIVE, "MPI_Iallreduce")) block();
  return next(in, out, count, type, op, comm, request);
}

int MPI_Iallgather(const void *in, int in_count, MPI_Datatype in_type, void *out, int out_count,
                   MPI_Datatype out_type, MPI_Comm comm, MPI_Request *request) {
  static int (*next)(const void *, int, MPI_Datatype, void *, int, MPI_Datatype, MPI_Comm,
                     MPI_Request *);
  if (!next) *(void **)&next = next_of("MPI_Iallgather");
  if (is_time(AGREEMENT, "MPI_Iallgather")) block();
  return next(in, in_count, in_type, out, out_count, out_type, comm, request);
}

/* --- Writes ------------------------------------------------------------------------------------
 */

static bool is_in_folder(const char *path) {
  return strncmp(path, folder, strlen(folder)) == 0;
}

static bool is_checkpoint(const char *path) {
  return is_in_folder(path) && strstr(path, "/checkpoints/");
}

/* Returns the errno with which the call `what` on `path` must fail, or 0. */
static int failure_of(const char *what, const char *path) {
  char said[PATH_MAX + 32];
  if (kind == NONE || !is_in_folder(path)) return 0;
  snprintf(said, sizeof said, "%s %s", what, path);
  if (full) return ENOSPC;
  if (is_time(DISK_FULL, said)) full = true;
  if (full) return ENOSPC;
  if (is_checkpoint(path) || strstr(path, "/metrics.jsonl") || strstr(path, "/tensorboard"))
    if (is_time(DISK_ERROR, said)) return EIO;
  return 0;
}

static bool kills(const char *what, const char *path) {
  char said[PATH_MAX + 32];
  if (kind == NONE || !is_checkpoint(path)) return false;
  snprintf(said, sizeof said, "%s %s", what, path);
  return is_time(KILL_WRITE, said);
}

ssize_t write(int descriptor, const void *data, size_t size) {
  static ssize_t (*next)(int, const void *, size_t);
  char path[PATH_MAX];
  if (!next) *(void **)&next = next_of("write");
  if (kind == NONE) return next(descriptor, data, size);
  path_of(descriptor, path, sizeof path);
  if (kills("write", path)) {
    if (next(descriptor, data, size / 2) < 0) abort();
    raise(SIGKILL);
  }
  int failure = failure_of("write", path);
  if (failure == 0) return next(descriptor, data, size);
  errno = failure;
  return -1;
}

/* Replaces fsync and fdatasync; `next` is the original. */
static int flush(const char *what, int (*next)(int), int descriptor) {
  char path[PATH_MAX];
  if (kind == NONE) return next(descriptor);
  path_of(descriptor, path, sizeof path);
  if (kills(what, path)) raise(SIGKILL);
  int failure = failure_of(what, path);
  if (failure == 0) return next(descriptor);
  errno = failure;
  return -1;
}

int fsync(int descriptor) {
  static int (*next)(int);
  if (!next) *(void **)&next = next_of("fsync");
  return flush("fsync", next, descriptor);
}

int fdatasync(int descriptor) {
  static int (*next)(int);
  if (!next) *(void **)&next = next_of("fdatasync");
  return flush("fdatasync", next, descriptor);
}

/* An odd call number kills the process after the rename, an even one before it. */
int rename(const char *from, const char *to) {
  static int (*next)(const char *, const char *);
  if (!next) *(void **)&next = next_of("rename");
  if (kills("rename", from)) {
    if (at % 2) next(from, to);
    raise(SIGKILL);
  }
  int failure = failure_of("rename", from);
  if (failure == 0) return next(from, to);
  errno = failure;
  return -1;
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
  static int (*next)(int, const char *, int, const char *, unsigned);
  if (!next) *(void **)&next = next_of("renameat2");
  if (kills("renameat2", from)) {
    if (at % 2) next(from_folder, from, to_folder, to, flags);
    raise(SIGKILL);
  }
  int failure = failure_of("renameat2", from);
  if (failure == 0) return next(from_folder, from, to_folder, to, flags);
  errno = failure;
  return -1;
}
