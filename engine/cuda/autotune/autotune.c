#include "engine/cuda/autotune/autotune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "engine/cuda/autotune/build_threads.h"
#include "engine/cuda/autotune/cache_lock.h"
#include "engine/cuda/autotune/candidates.h"
#include "engine/cuda/autotune/plan_cache.h"
#include "engine/cuda/convolution/convolution.h"

/* A choice that was made, and what its plan was made of. */
typedef struct Entry {
  char *key;
  ConvolutionForm form;
  CudnnPlan *plan;
  CudnnGraph *graph;               /* NULL for a plan read from disk */
  cudnnBackendDescriptor_t config; /* likewise */
} Entry;

static const double MOST_TUNING_SECONDS = 60;
/* That a process waits without getting any choice of another, which tunes as long as it may and
 * then is done with what it has begun. */
static const double MOST_WAITING_SECONDS = 120;

/* What choosing has cost so far, by the clock: engines that are compiled at run time take up to
 * seconds each. */
typedef struct Progress {
  int made;
  double seconds, said; /* in all; as of the last line about it */
} Progress;

struct Cudnn {
  CudnnTarget target;
  CudnnRules rules;
  bool tune;
  cudaStream_t stream;
  char *device, *folder;
  CudnnClaims *claims;
  CudnnWorkers *workers;
  int count, capacity;
  Entry *entries;
  Progress progress;
};

cudnnHandle_t cudnn_handle(const Cudnn *cudnn) {
  return cudnn->target.handle;
}

int cudnn_made(const Cudnn *cudnn) {
  return cudnn->progress.made;
}

const char *cudnn_device(const Cudnn *cudnn) {
  return cudnn->device;
}

/* --- Choosing --------------------------------------------------------------------------------- */
static char *key_of(const Cudnn *cudnn, const Convolution *convolution,
                    const ConvolutionForm *only) {
  Text text = {0};
  char name[64];
  convolution_text(convolution, &text);
  text_append(&text, " | %s | workspace %zu%s%s%s", cudnn->device, cudnn->rules.workspace,
              cudnn->rules.deterministic ? " deterministic" : "",
              convolution->operands == DTYPE_F32 && cudnn->rules.tf32 ? " tf32" : "",
              cudnn->tune ? " tuned" : "");
  if (only) text_append(&text, " | only %s", convolution_form_name(only, name));
  return text.data;
}

static Entry *find(Cudnn *cudnn, const char *key) {
  for (int i = 0; i < cudnn->count; i++)
    if (strcmp(cudnn->entries[i].key, key) == 0) return &cudnn->entries[i];
  return NULL;
}

static Entry *add(Cudnn *cudnn, const Entry *entry) {
  MEM_PUSH_SLOT(cudnn->entries, cudnn->count, cudnn->capacity);
  cudnn->entries[cudnn->count] = *entry;
  return &cudnn->entries[cudnn->count++];
}

static void say(const Convolution *convolution, const Entry *entry, const char *how) {
  Text text = {0};
  char name[64];
  convolution_text(convolution, &text);
  text_append(&text, ": %s, %s, workspace ", convolution_form_name(&entry->form, name),
              entry->plan->details);
  text_append_bytes_size(&text, (double)entry->plan->workspace);
  log_debug("cuDNN: %s, %s", text.data, how);
  text_free(&text);
}

/* What makes a step many times slower without being an error. Described devices have fewer engines.
 */
static void say_slow(const Cudnn *cudnn, const Convolution *convolution, const Entry *entry) {
  if (!cudnn->target.handle || entry->plan->tensor_cores || convolution->operands != DTYPE_BF16)
    return;
  Text text = {0};
  convolution_text(convolution, &text);
  log_info("cuDNN: %s: its engine names no tensor cores (%s)", text.data, entry->plan->details);
  text_free(&text);
}

/* Told once when tuning stops. */
static void say_untuned(const Cudnn *cudnn, double before) {
  const Progress *progress = &cudnn->progress;
  if (cudnn->tune && before < MOST_TUNING_SECONDS && progress->seconds >= MOST_TUNING_SECONDS)
    log_info("cuDNN: %d convolutions were tuned in %.0f s; what is still to come is chosen by "
             "heuristics, and tuned at the next start",
             progress->made, progress->seconds);
}

/* A long start is seen to go on. */
static void count_made(Cudnn *cudnn, double seconds) {
  static const double OFTEN = 5; /* seconds of work between two lines */
  Progress *progress = &cudnn->progress;
  progress->made++;
  progress->seconds += seconds;
  say_untuned(cudnn, progress->seconds - seconds);
  if (progress->seconds - progress->said < OFTEN) return;
  progress->said = progress->seconds;
  log_info("cuDNN: %d convolutions prepared in %.0f s%s%s", progress->made, progress->seconds,
           cudnn->folder ? "; the next start finds them in " : "",
           cudnn->folder ? cudnn->folder : "");
}

/* What the disk holds for the key; a file that is no use is said and forgotten. */
static bool read_entry(const Cudnn *cudnn, const CudnnTarget *target,
                       const Convolution *convolution, Entry *entry) {
  Error error = {0};
  const Status status = cudnn_store_read(cudnn->folder, entry->key, convolution, target,
                                         &cudnn->rules, &entry->form, &entry->plan, &error);
  if (status != OK) log_warning("a plan of cuDNN is made anew: %s", error.message);
  return status == OK && entry->plan;
}

/* A cache that cannot be written costs time at the next start, nothing else. */
static void write_entry(const Cudnn *cudnn, const Entry *entry) {
  Error error = {0};
  if (cudnn->folder &&
      cudnn_store_write(cudnn->folder, entry->key, &entry->form, entry->plan, &error) != OK)
    log_warning("a plan of cuDNN is not kept: %s", error.message);
}

/* One convolution on its way to an entry. */
typedef struct Pending {
  Convolution convolution;
  const ConvolutionForm *only;
  Entry entry;
  bool is_read, is_left, is_tuned; /* left: to another process, which is at it */
  CudnnSearch *search;             /* where it was not read */
} Pending;

static bool read_pending(const Cudnn *cudnn, const CudnnTarget *target, Pending *pending) {
  pending->is_read = read_entry(cudnn, target, &pending->convolution, &pending->entry);
  return pending->is_read;
}

/* Whether nothing is left to do: it is on disk, or left to who has claimed it. Where `wait`, it is
 * waited for. A claim that this process gets is ended by finish. */
static bool is_settled(const Cudnn *cudnn, const CudnnTarget *target, bool wait, Pending *pending) {
  const char *key = pending->entry.key;
  if (pending->only || !cudnn->folder) return false;
  const bool was_there = cudnn_store_has(cudnn->folder, key);
  if (was_there && read_pending(cudnn, target, pending)) return true;
  const bool is_own = (wait ? cudnn_claim_wait : cudnn_claim)(cudnn->claims, key);
  pending->is_left = !wait && !is_own; /* who has waited in vain prepares it as well */
  if (pending->is_left) return true;
  /* Who had the claim before this process may have written it since. */
  return (wait || !was_there) && read_pending(cudnn, target, pending);
}

/* In any thread. */
static void prepare(const Cudnn *cudnn, const CudnnTarget *target, bool wait, double tuning_end,
                    Pending *pending) {
  if (is_settled(cudnn, target, wait, pending)) return;
  const CudnnSearchSettings settings = {.rules = cudnn->rules,
                                        .tune = cudnn->tune && clock_seconds() < tuning_end};
  pending->is_tuned = settings.tune;
  pending->search = cudnn_search_prepare(&settings, target, &pending->convolution, pending->only);
}

/* Makes an entry of what was found. */
static Status add_found(Cudnn *cudnn, Pending *pending, double seconds, Error *error) {
  Status status = OK;
  const Convolution *convolution = &pending->convolution;
  CudnnFound found = {0};
  TRY(cudnn_search_finish(pending->search, &cudnn->target, cudnn->stream, &found, error));
  pending->entry.form = found.form;
  pending->entry.plan = found.plan;
  pending->entry.graph = found.graph;
  pending->entry.config = found.config;
  pending->is_tuned = found.is_measured; /* or the device had no memory to measure in */
  const Entry *entry = add(cudnn, &pending->entry);
  say(convolution, entry, pending->is_tuned ? "measured" : "by heuristics");
  if (!pending->only && pending->is_tuned == cudnn->tune) write_entry(cudnn, entry);
  if (!pending->only) say_slow(cudnn, convolution, entry);
  count_made(cudnn, seconds);
done:
  cudnn_search_free(pending->search);
  return status;
}

/* Makes an entry of it, or frees it; `seconds` that it took. */
static Status finish(Cudnn *cudnn, Pending *pending, double seconds, Error *error) {
  Status status = OK;
  if (!pending->is_read) status = add_found(cudnn, pending, seconds, error);
  if (!pending->only) cudnn_claim_end(cudnn->claims, pending->entry.key);
  if (pending->is_read)
    say(&pending->convolution, add(cudnn, &pending->entry), "as chosen before");
  else if (status != OK)
    free(pending->entry.key);
  return status;
}

/* When tuning is over, as of now. */
static double tuning_end(const Cudnn *cudnn, double now) {
  return now + MOST_TUNING_SECONDS - cudnn->progress.seconds;
}

Status cudnn_choose(Cudnn *cudnn, const Convolution *convolution, const ConvolutionForm *only,
                    CudnnChoice *out, Error *error) {
  Status status = OK;
  Pending pending = {.convolution = *convolution,
                     .only = only,
                     .entry = {.key = key_of(cudnn, convolution, only)}};
  const Entry *known = find(cudnn, pending.entry.key);
  if (known) {
    free(pending.entry.key);
  } else {
    const double begin = clock_seconds();
    prepare(cudnn, &cudnn->target, true, tuning_end(cudnn, begin), &pending);
    TRY(finish(cudnn, &pending, clock_seconds() - begin, error));
    known = &cudnn->entries[cudnn->count - 1];
  }
  *out = (CudnnChoice){.form = known->form, .plan = known->plan};
done:
  return status;
}

/* --- Many at once ----------------------------------------------------------------------------- */
typedef struct Preparation {
  Cudnn *cudnn;
  double tuning_end, taken; /* clock_seconds: when tuning ends; when the last one was taken */
  bool wait;                /* for what others have claimed */
  int count;
  Pending *items;
} Preparation;

static void prepare_one(void *context, int index, const CudnnTarget *target) {
  const Preparation *all = context;
  prepare(all->cudnn, target, all->wait, all->tuning_end, &all->items[index]);
}

static void finish_one(void *context, int index) {
  Preparation *all = context;
  Error error = {0};
  const double now = clock_seconds();
  Pending *pending = &all->items[index];
  if (!pending->is_left) finish(all->cudnn, pending, now - all->taken, &error);
  all->taken = now;
}

static void work_on(Preparation *all) {
  const CudnnWork work = {
      .count = all->count, .context = all, .make = prepare_one, .take = finish_one};
  all->taken = clock_seconds();
  cudnn_workers_run(all->cudnn->workers, &all->cudnn->target, &work);
}

/* Keeps those that were left to others; they are prepared there by now, or soon. */
static void keep_left(Preparation *all) {
  int left = 0;
  for (int i = 0; i < all->count; i++)
    if (all->items[i].is_left) all->items[left++] = all->items[i];
  for (int i = 0; i < left; i++) all->items[i].is_left = false;
  if (left > 0)
    log_debug("cuDNN: %d of %d convolutions are prepared by other processes", left, all->count);
  all->count = left;
  all->wait = true;
}

/* Those that are not known yet, each once. */
static void collect(Preparation *all, const Convolution *convolutions, int count) {
  Cudnn *cudnn = all->cudnn;
  all->items = mem_new((size_t)count, sizeof *all->items);
  for (int i = 0; i < count; i++) {
    char *key = key_of(cudnn, &convolutions[i], NULL);
    bool is_there = find(cudnn, key) != NULL;
    for (int k = 0; k < all->count && !is_there; k++)
      is_there = strcmp(all->items[k].entry.key, key) == 0;
    if (is_there) {
      free(key);
    } else {
      all->items[all->count++] = (Pending){.convolution = convolutions[i], .entry = {.key = key}};
    }
  }
}

void cudnn_prepare(Cudnn *cudnn, const Convolution *convolutions, int count) {
  Preparation all = {.cudnn = cudnn, .tuning_end = tuning_end(cudnn, clock_seconds())};
  collect(&all, convolutions, count);
  work_on(&all);
  keep_left(&all);
  work_on(&all);
  free(all.items);
}

/* --- Opening and closing ---------------------------------------------------------------------- */
Cudnn *cudnn_open(const CudnnTarget *target, const char *device, const CudnnRules *rules,
                  const char *folder, int threads, double patience) {
  Cudnn *cudnn = mem_new(1, sizeof *cudnn);
  cudnn->target = *target;
  cudnn->rules = *rules;
  cudnn->device = mem_string(device);
  if (folder) cudnn->folder = mem_string(folder);
  cudnn->claims = cudnn_claims_open(folder, patience);
  cudnn->workers = cudnn_workers_new(threads);
  return cudnn;
}

static char *device_text(const CudaBackend *backend) {
  const size_t version = cudnnGetVersion(); /* 91900 */
  return mem_format("%s sm_%d%d cuDNN %zu.%zu.%zu", backend->info.name, backend->info.major,
                    backend->info.minor, version / 10000, version / 100 % 100, version % 100);
}

Status cudnn_new(CudaBackend *backend, struct Cudnn **out, Error *error) {
  Status status = OK;
  Cudnn *cudnn = NULL;
  CudnnTarget target = {0};
  const CudaOptions *options = &backend->options;
  const CudnnRules rules = {.deterministic = options->deterministic,
                            .tf32 = options->tf32,
                            .workspace = options->convolution_workspace};
  char *folder = backend->cache ? mem_format("%s/cudnn", backend->cache) : NULL;
  char *device = device_text(backend);
  *out = NULL;
  CUDNN_TRY(cudnnCreate(&target.handle));
  CUDNN_TRY(cudnnSetStream(target.handle, backend->stream));
  cudnn = cudnn_open(&target, device, &rules, folder, options->build_threads, MOST_WAITING_SECONDS);
  target.handle = NULL;
  cudnn->stream = backend->stream;
  cudnn->tune = options->tune && !options->deterministic;
  if (options->tune && options->deterministic)
    log_debug("cuDNN: convolutions are not tuned in a deterministic run");
  backend->cudnn = cudnn;
  if (!options->untested) TRY(convolution_self_test(backend, folder, error));
  *out = cudnn;
done:
  if (status != OK) {
    backend->cudnn = NULL;
    cudnn_free(cudnn);
    if (target.handle) cudnnDestroy(target.handle);
    error_context(error, "cuDNN (%s)", cudnn_place());
  }
  free(device);
  free(folder);
  return status;
}

void cudnn_free(struct Cudnn *cudnn) {
  if (!cudnn) return;
  for (int i = 0; i < cudnn->count; i++) {
    const Entry *entry = &cudnn->entries[i];
    cudnn_plan_free(entry->plan);
    if (entry->config) cudnnBackendDestroyDescriptor(entry->config);
    cudnn_graph_free(entry->graph);
    free(entry->key);
  }
  cudnn_claims_close(cudnn->claims);
  cudnn_workers_free(cudnn->workers);
  if (cudnn->target.handle) cudnnDestroy(cudnn->target.handle);
  free(cudnn->entries);
  free(cudnn->device);
  free(cudnn->folder);
  free(cudnn);
}
