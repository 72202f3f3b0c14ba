#include "engine/cuda/autotune/shared_build.h"

#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/memory.h"

static const double POLL_SECONDS = 0.02;

/* One round over the entries that are left. */
typedef struct Round {
  const SharedBuild *work;
  CacheLock *lock;
  int count;
  int *entries;   /* [count]: indices into the work */
  bool *deferred; /* [count] */
} Round;

static const char *key_of(const Round *round, int i) {
  return round->work->key(round->work->context, round->entries[i]);
}

/* In any thread. */
static void load_or_build(void *context, int i, const CudnnTarget *target) {
  const Round *round = context;
  const SharedBuild *work = round->work;
  const int entry = round->entries[i];
  round->deferred[i] = false;
  if (work->load(work->context, entry, target)) return;
  round->deferred[i] = !cache_lock_try(round->lock, key_of(round, i));
  if (round->deferred[i] || work->load(work->context, entry, target)) return;
  work->build(work->context, entry, target);
}

static void finish(void *context, int i) {
  const Round *round = context;
  if (round->deferred[i]) return;
  round->work->finish(round->work->context, round->entries[i]);
  cache_lock_release(round->lock, key_of(round, i));
}

static void keep_deferred(Round *round) {
  int kept = 0;
  for (int i = 0; i < round->count; i++)
    if (round->deferred[i]) round->entries[kept++] = round->entries[i];
  round->count = kept;
}

static bool any_is_free(const Round *round) {
  for (int i = 0; i < round->count; i++)
    if (cache_lock_is_free(round->lock, key_of(round, i))) return true;
  return false;
}

/* False after `timeout` seconds. Counts pauses instead of reading a clock, so that time in which
 * this process itself is stopped does not count. */
static bool wait_for_any(const Round *round, double timeout) {
  static const struct timespec pause = {.tv_nsec = (long)(POLL_SECONDS * 1e9)};
  double waited = 0;
  while (!any_is_free(round)) {
    if (waited >= timeout) return false;
    nanosleep(&pause, NULL);
    waited += POLL_SECONDS;
  }
  return true;
}

void shared_build_run(const SharedBuild *work, BuildThreads *threads, const CudnnTarget *target,
                      CacheLock **lock, double timeout) {
  Round round = {.work = work, .lock = *lock, .count = work->count};
  if (work->count == 0) return;
  round.entries = mem_new((size_t)work->count, sizeof *round.entries);
  round.deferred = mem_new((size_t)work->count, sizeof *round.deferred);
  for (int i = 0; i < work->count; i++) round.entries[i] = i;
  while (round.count > 0) {
    const BuildWork all = {
        .count = round.count, .context = &round, .build = load_or_build, .finish = finish};
    build_threads_run(threads, target, &all);
    keep_deferred(&round);
    if (round.count == 0 || wait_for_any(&round, timeout)) continue;
    log_warning(
        "cuDNN: waited %.0f s for %d convolution plans that other ranks have locked (first: "
        "%s); building them here and no longer sharing plans. Check whether a rank is stopped",
        timeout, round.count, key_of(&round, 0));
    cache_lock_close(*lock);
    *lock = round.lock = NULL;
  }
  free(round.entries);
  free(round.deferred);
}
