/* Processes that share a plan cache build each entry once (no GPU needed). Entries are files, and
 * builds take a few milliseconds; the last test builds plans of cuDNN for a described GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "engine/cuda/autotune/cache_lock.h"
#include "tests/gpu/support_plans.h"

static Error error;

/* --- Locks ------------------------------------------------------------------------------------ */
static void locks_are_exclusive_until_released(void **state) {
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  (void)state;
  assert_non_null(mkdtemp(folder));
  CacheLock *a = cache_lock_open(folder), *b = cache_lock_open(folder);
  assert_non_null(a);
  assert_non_null(b);
  assert_true(cache_lock_try(a, "one"));
  assert_false(cache_lock_try(b, "one"));
  assert_true(cache_lock_try(b, "two"));
  assert_false(cache_lock_try(a, "two"));
  cache_lock_release(a, "one");
  assert_true(cache_lock_try(b, "one"));
  assert_false(cache_lock_try(a, "one"));
  cache_lock_close(b);
  assert_true(cache_lock_try(a, "one"));
  assert_true(cache_lock_try(a, "two"));
  cache_lock_close(a);
  assert_int_equal(folder_remove(folder, &error), OK);
}

static void without_a_folder_every_lock_is_granted(void **state) {
  (void)state;
  assert_null(cache_lock_open("/proc/celforge"));
  assert_true(cache_lock_try(NULL, "any"));
  cache_lock_release(NULL, "any");
  cache_lock_close(NULL);
}

/* --- A cache of files ------------------------------------------------------------------------- */
enum { ENTRIES = 24, THREADS = 3 };

typedef struct FileCache {
  const char *folder;
  char keys[ENTRIES][16];
  bool is_finished[ENTRIES];
  bool misses_once; /* the first look-up of each entry fails */
  int lookups[ENTRIES];
  pid_t holder; /* a process that locks all entries but the last; killed by building the last one */
  int last_seen; /* entries finished before the last one */
} FileCache;

static FileCache file_cache(const char *folder) {
  FileCache cache = {.folder = folder};
  for (int i = 0; i < ENTRIES; i++) snprintf(cache.keys[i], sizeof cache.keys[i], "entry-%d", i);
  return cache;
}

static const char *file_key(void *context, int index) {
  return ((FileCache *)context)->keys[index];
}

static bool file_load(void *context, int index, const CudnnTarget *target) {
  FileCache *cache = context;
  (void)target;
  if (cache->lookups[index]++ == 0 && cache->misses_once) return false;
  char *path = path_join(cache->folder, cache->keys[index]);
  const bool is_there = access(path, F_OK) == 0;
  free(path);
  return is_there;
}

/* Appends a byte to a file beside the entry, which counts the builds of all processes. */
static void count_build(const FileCache *cache, int index) {
  char *path = mem_format("%s/built-%d", cache->folder, index);
  const int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (file < 0 || write(file, "x", 1) != 1) abort();
  close(file);
  free(path);
}

static void file_build(void *context, int index, const CudnnTarget *target) {
  FileCache *cache = context;
  (void)target;
  count_build(cache, index);
  nanosleep(&(struct timespec){.tv_nsec = 1000000L * (1 + index * 7 % 5)}, NULL);
  if (index < ENTRIES - 1 || cache->holder == 0) return;
  for (int i = 0; i < ENTRIES; i++) cache->last_seen += cache->is_finished[i];
  kill(cache->holder, SIGKILL);
  waitpid(cache->holder, NULL, 0);
}

static void file_finish(void *context, int index) {
  FileCache *cache = context;
  char *path = path_join(cache->folder, cache->keys[index]);
  if (cache->is_finished[index] || atomic_file_replace(path, "", 0, &error) != OK) abort();
  cache->is_finished[index] = true;
  free(path);
}

/* Builds or loads all entries as one process does; returns how many were finished. */
static int run_build(FileCache *cache, CacheLock **lock, int threads, double timeout) {
  const CudnnTarget target = {0};
  const SharedBuild work = {.count = ENTRIES,
                            .context = cache,
                            .key = file_key,
                            .load = file_load,
                            .build = file_build,
                            .finish = file_finish};
  BuildThreads *build_threads = build_threads_new(threads);
  shared_build_run(&work, build_threads, &target, lock, timeout);
  build_threads_free(build_threads);
  int finished = 0;
  for (int i = 0; i < ENTRIES; i++) finished += cache->is_finished[i];
  return finished;
}

static void assert_built_once(const char *folder) {
  for (int i = 0; i < ENTRIES; i++) {
    char *path = mem_format("%s/built-%d", folder, i), *bytes;
    size_t size;
    assert_int_equal(file_read(path, 100, &bytes, &size, &error), OK);
    assert_int_equal(size, 1);
    free(bytes);
    free(path);
  }
}

static void processes_build_each_entry_once(void **state) {
  enum { PROCESSES = 4 };
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  pid_t children[PROCESSES];
  (void)state;
  assert_non_null(mkdtemp(folder));
  for (int i = 0; i < PROCESSES; i++) {
    children[i] = fork();
    assert_true(children[i] >= 0);
    if (children[i] > 0) continue;
    FileCache cache = file_cache(folder);
    CacheLock *lock = cache_lock_open(folder);
    const bool is_complete = lock && run_build(&cache, &lock, THREADS, 60) == ENTRIES;
    _exit(is_complete && lock ? 0 : 1);
  }
  for (int i = 0; i < PROCESSES; i++) {
    int status = 0;
    assert_int_equal(waitpid(children[i], &status, 0), children[i]);
    assert_int_equal(status, 0);
  }
  assert_built_once(folder);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* Another process may finish an entry between the look-up and the lock, so a second look-up
 * follows. */
static void entries_finished_before_the_lock_are_loaded(void **state) {
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  (void)state;
  assert_non_null(mkdtemp(folder));
  CacheLock *lock = cache_lock_open(folder);
  FileCache first = file_cache(folder), second = file_cache(folder);
  assert_int_equal(run_build(&first, &lock, THREADS, 60), ENTRIES);
  second.misses_once = true;
  assert_int_equal(run_build(&second, &lock, THREADS, 60), ENTRIES);
  assert_built_once(folder);
  CacheLock *other = cache_lock_open(folder);
  for (int i = 0; i < ENTRIES; i++) assert_true(cache_lock_try(other, first.keys[i]));
  cache_lock_close(other);
  cache_lock_close(lock);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* Starts a process that locks all entries but the last and then waits to be killed. */
static pid_t start_holder(const FileCache *cache) {
  int ends[2];
  char byte;
  assert_int_equal(pipe(ends), 0);
  const pid_t holder = fork();
  assert_true(holder >= 0);
  if (holder == 0) {
    CacheLock *lock = cache_lock_open(cache->folder);
    for (int i = 0; i < ENTRIES - 1; i++)
      if (!lock || !cache_lock_try(lock, cache->keys[i])) _exit(1);
    if (write(ends[1], "x", 1) != 1) _exit(1);
    for (;;) pause();
  }
  close(ends[1]);
  assert_int_equal(read(ends[0], &byte, 1), 1);
  close(ends[0]);
  return holder;
}

/* Entries that another process holds are deferred, behind the one that is free; when the holder is
 * killed their locks are free. */
static void entries_of_a_killed_process_are_built(void **state) {
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  (void)state;
  assert_non_null(mkdtemp(folder));
  FileCache cache = file_cache(folder);
  CacheLock *lock = cache_lock_open(folder);
  cache.holder = start_holder(&cache);
  assert_int_equal(run_build(&cache, &lock, 1, 60), ENTRIES);
  assert_int_equal(cache.last_seen, 0);
  assert_non_null(lock);
  assert_built_once(folder);
  cache_lock_close(lock);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* A process that is stopped keeps its locks. After one timeout its entries are built here, a
 * warning is logged once, and locks are no longer used. */
static void entries_of_a_stopped_process_are_built_after_a_timeout(void **state) {
  static const char words[] = "Check whether a rank is stopped";
  char folder[] = "/tmp/celforge-plans-XXXXXX", *text;
  (void)state;
  assert_non_null(mkdtemp(folder));
  FileCache cache = file_cache(folder);
  CacheLock *lock = cache_lock_open(folder);
  char *log = path_join(folder, "log");
  const int file = open(log, O_RDWR | O_CREAT, 0600), before = dup(STDERR_FILENO);
  assert_true(file >= 0 && before >= 0);
  const pid_t holder = start_holder(&cache);
  dup2(file, STDERR_FILENO);
  const int finished = run_build(&cache, &lock, THREADS, 0.1);
  dup2(before, STDERR_FILENO);
  close(before);
  close(file);
  kill(holder, SIGKILL);
  waitpid(holder, NULL, 0);
  assert_int_equal(finished, ENTRIES);
  assert_null(lock);
  assert_built_once(folder);
  read_text(log, &text);
  const char *first = strstr(text, words);
  if (!first || strstr(first + 1, words)) fail_msg("not one warning: %s", text);
  free(text);
  free(log);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* --- Plans of cuDNN --------------------------------------------------------------------------- */
/* A rank in a thread: locks exclude each other by open file, not by process. */
typedef struct Rank {
  Autotuner *autotuner;
  cudnnBackendDescriptor_t properties;
  pthread_t thread;
} Rank;

enum { SHARED_PART = 3 }; /* one in so many of all convolutions */

static void *prepare_part(void *argument) {
  const Rank *rank = argument;
  autotuner_prepare(rank->autotuner, recorder.convolutions, recorder.count / SHARED_PART);
  return NULL;
}

static void ranks_build_each_plan_once(void **state) {
  enum { RANKS = 3 };
  static const CudnnConstraints constraints = {.workspace = 1 << 30};
  char folder[] = "/tmp/celforge-plans-XXXXXX", *paths[MAX_CACHED];
  const int count = recorder.count / SHARED_PART;
  Rank ranks[RANKS];
  int built = 0;
  (void)state;
  assert_non_null(mkdtemp(folder));
  for (int i = 0; i < RANKS; i++)
    ranks[i].autotuner = open_described(&devices[1], &constraints, folder, &ranks[i].properties);
  for (int i = 0; i < RANKS; i++)
    assert_int_equal(pthread_create(&ranks[i].thread, NULL, prepare_part, &ranks[i]), 0);
  for (int i = 0; i < RANKS; i++) pthread_join(ranks[i].thread, NULL);
  for (int i = 0; i < RANKS; i++) built += autotuner_built(ranks[i].autotuner);
  assert_int_equal(built, count);
  for (int i = 0; i < count; i++) {
    ConvChoice first, other;
    for (int k = 0; k < RANKS; k++) {
      assert_int_equal(autotuner_choose(ranks[k].autotuner, &recorder.convolutions[i], NULL,
                                        k == 0 ? &first : &other, &error),
                       OK);
      if (k > 0) assert_string_equal(first.plan->details, other.plan->details);
    }
  }
  for (int i = 0; i < RANKS; i++) built -= autotuner_built(ranks[i].autotuner);
  assert_int_equal(built, 0); /* the choices were known */
  for (int i = 0; i < RANKS; i++) close_described(ranks[i].autotuner, ranks[i].properties);
  const int cached = list_cached(folder, paths);
  assert_int_equal(cached, count);
  for (int i = 0; i < cached; i++) free(paths[i]);
  assert_int_equal(folder_remove(folder, &error), OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(locks_are_exclusive_until_released),
      cmocka_unit_test(without_a_folder_every_lock_is_granted),
      cmocka_unit_test(processes_build_each_entry_once),
      cmocka_unit_test(entries_finished_before_the_lock_are_loaded),
      cmocka_unit_test(entries_of_a_killed_process_are_built),
      cmocka_unit_test(entries_of_a_stopped_process_are_built_after_a_timeout),
      cmocka_unit_test(ranks_build_each_plan_once),
  };
  return cmocka_run_group_tests(tests, record_all, forget_all);
}
