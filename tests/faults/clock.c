/* A library to preload into a training run (LD_PRELOAD). It shifts CLOCK_REALTIME, for this process
 * alone, by a number of seconds that another process may change at any moment: a clock that jumps.
 *
 *   CLOCK_FILE   8 bytes, mapped: the shift in seconds, a signed integer; missing: no shift
 *   CLOCK_LEAK   leaks a page, a descriptor and a thread at each CLOCK_LEAK-th reading of a clock:
 *                for a test that a soak finds that
 *
 * A wait with a deadline of CLOCK_REALTIME follows the jumps as it does in a kernel: it ends early
 * after a jump forwards, late after a jump backwards. Times of files are not shifted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, SLICE_MS = 20, LONGEST_UPTIME = 500000000 /* seconds */ };

static _Atomic int64_t *shift;
static unsigned long leak_every; /* 0: never */
static atomic_ulong readings;

static bool is_celforge(void) {
  return strcmp(program_invocation_short_name, "celforge") == 0;
}

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CLOCK_FILE"), *number = getenv("CLOCK_LEAK");
  if (!is_celforge()) return; /* not mpirun, not a shell */
  if (number) leak_every = strtoul(number, NULL, 10);
  if (!path) return;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) abort();
  void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) abort();
  close(file);
  shift = mapped;
}

static void *sleep_forever(void *unused) {
  (void)unused;
  for (;;) pause();
  return NULL;
}

static void leak(void) {
  pthread_t thread;
  if (leak_every == 0 || atomic_fetch_add(&readings, 1) % leak_every != 0) return;
  void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) abort();
  memset(page, 1, PAGE);
  if (open("/dev/null", O_RDONLY | O_CLOEXEC) < 0) abort();
  if (pthread_create(&thread, NULL, sleep_forever, NULL) != 0) abort();
  pthread_detach(thread);
}

static int64_t shift_now(void) {
  return shift ? atomic_load(shift) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  leak();
  if (syscall(SYS_clock_gettime, clock, now) != 0) return -1;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += shift_now();
  return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  now->tv_sec = time.tv_sec;
  now->tv_usec = time.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

static bool is_before(const struct timespec *left, const struct timespec *right) {
  return left->tv_sec != right->tv_sec ? left->tv_sec < right->tv_sec
                                       : left->tv_nsec < right->tv_nsec;
}

/* The next moment at which a wait looks at the shift again; true if that is the deadline itself. A
 * deadline of a monotonic clock is told from one of the real clock by its size. */
static bool next_look(const struct timespec *deadline, struct timespec *look) {
  struct timespec until = *deadline;
  if (until.tv_sec >= LONGEST_UPTIME) until.tv_sec -= shift_now();
  syscall(SYS_clock_gettime, CLOCK_REALTIME, look);
  look->tv_nsec += SLICE_MS * 1000000L;
  if (look->tv_nsec >= 1000000000L) {
    look->tv_nsec -= 1000000000L;
    look->tv_sec++;
  }
  bool is_last = deadline->tv_sec < LONGEST_UPTIME || is_before(&until, look);
  if (is_last) *look = until;
  return is_last;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
  static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  /* dlsym would return the oldest version, which has another pthread_cond_t. */
  if (!next) *(void **)&next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  if (!next) abort();
  for (;;) {
    struct timespec look;
    bool is_last = next_look(deadline, &look);
    int code = next(condition, mutex, &look);
    if (code != ETIMEDOUT || is_last) return code;
  }
}

int pthread_timedjoin_np(pthread_t thread, void **result, const struct timespec *deadline) {
  static int (*next)(pthread_t, void **, const struct timespec *);
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, "pthread_timedjoin_np");
  if (!next) abort();
  for (;;) {
    struct timespec look;
    bool is_last = next_look(deadline, &look);
    int code = next(thread, result, &look);
    if (code != ETIMEDOUT || is_last) return code;
  }
}
