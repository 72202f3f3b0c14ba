#include "engine/cuda/autotune/autotune.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "engine/cuda/autotune/cache_lock.h"
#include "engine/cuda/autotune/plan_cache.h"
#include "engine/cuda/autotune/plan_search.h"

/* A choice, with the descriptors that its plan refers to. */
typedef struct Entry {
  char *key;
  ConvVariant variant;
  CudnnPlan *plan;
  CudnnGraph *graph;               /* NULL for a plan read from disk */
  cudnnBackendDescriptor_t config; /* likewise */
} Entry;

static const double MAX_AUTOTUNE_SECONDS = 60;
/* Another rank that has locked plans may tune for as long, and then completes the plans in work. */
static const double LOCK_TIMEOUT_SECONDS = 120;

/* The wall time spent on choosing so far. */
typedef struct Progress {
  int built;
  double seconds, logged; /* in total; as of the last log line */
} Progress;

struct Autotuner {
  CudnnTarget target;
  CudnnConstraints constraints;
  bool measure;
  cudaStream_t stream;
  char *device, *folder; /* folder: NULL where nothing is kept on disk */
  CacheLock *lock;
  double lock_timeout;
  BuildThreads *threads;
  int count, capacity;
  Entry *entries;
  Progress progress;
};

cudnnHandle_t autotuner_handle(const Autotuner *autotuner) {
  return autotuner->target.handle;
}

int autotuner_built(const Autotuner *autotuner) {
  return autotuner->progress.built;
}

const char *autotuner_device(const Autotuner *autotuner) {
  return autotuner->device;
}

const char *autotuner_folder(const Autotuner *autotuner) {
  return autotuner->folder;
}

/* --- Entries ---------------------------------------------------------------------------------- */
static char *key_of(const Autotuner *autotuner, const Convolution *convolution,
                    const ConvVariant *only) {
  Text text = {0};
  char name[64];
  convolution_text(convolution, &text);
  text_append(&text, " | %s | workspace %zu%s%s%s", autotuner->device,
              autotuner->constraints.workspace,
              autotuner->constraints.deterministic ? " deterministic" : "",
              convolution->operands == DTYPE_F32 && autotuner->constraints.tf32 ? " tf32" : "",
              autotuner->measure ? " autotuned" : "");
  if (only) text_append(&text, " | only %s", conv_variant_name(only, name));
  return text.data;
}

static Entry *find(Autotuner *autotuner, const char *key) {
  for (int i = 0; i < autotuner->count; i++)
    if (strcmp(autotuner->entries[i].key, key) == 0) return &autotuner->entries[i];
  return NULL;
}

static Entry *add(Autotuner *autotuner, const Entry *entry) {
  MEM_PUSH_SLOT(autotuner->entries, autotuner->count, autotuner->capacity);
  autotuner->entries[autotuner->count] = *entry;
  return &autotuner->entries[autotuner->count++];
}

/* --- Log -------------------------------------------------------------------------------------- */
static void log_choice(const Convolution *convolution, const Entry *entry, const char *how) {
  Text text = {0};
  char name[64];
  convolution_text(convolution, &text);
  text_append(&text, ": %s, %s, workspace ", conv_variant_name(&entry->variant, name),
              entry->plan->details);
  text_append_size(&text, (double)entry->plan->workspace);
  log_debug("cuDNN: %s, %s", text.data, how);
  text_free(&text);
}

/* bf16 without tensor cores makes a step many times slower. Not logged for described devices, which
 * have fewer engines. */
static void log_if_slow(const Autotuner *autotuner, const Convolution *convolution,
                        const Entry *entry) {
  if (!autotuner->target.handle || entry->plan->tensor_cores || convolution->operands != DTYPE_BF16)
    return;
  Text text = {0};
  convolution_text(convolution, &text);
  log_info("cuDNN: %s: no engine on tensor cores; using %s", text.data, entry->plan->details);
  text_free(&text);
}

/* Logs every few seconds of work, so that a long start is seen to progress, and once when
 * autotuning stops. */
static void log_progress(Autotuner *autotuner, double seconds) {
  static const double INTERVAL = 5;
  Progress *progress = &autotuner->progress;
  const double before = progress->seconds;
  progress->built++;
  progress->seconds += seconds;
  if (autotuner->measure && before < MAX_AUTOTUNE_SECONDS &&
      progress->seconds >= MAX_AUTOTUNE_SECONDS)
    log_info("cuDNN: autotuned %d convolutions in %.0f s; the others use heuristics now, and are "
             "autotuned at the next start",
             progress->built, progress->seconds);
  if (progress->seconds - progress->logged < INTERVAL) return;
  progress->logged = progress->seconds;
  log_info("cuDNN: %d convolutions prepared in %.0f s%s%s", progress->built, progress->seconds,
           autotuner->folder ? "; the next start reads them from " : "",
           autotuner->folder ? autotuner->folder : "");
}

/* --- Building --------------------------------------------------------------------------------- */
/* A convolution that is to become an entry. */
typedef struct Item {
  Convolution convolution;
  const ConvVariant *only;
  Entry entry; /* its plan is set once it was read from disk */
  bool measure;
  PlanSearch *search; /* NULL where the plan was read */
  Error unreadable;   /* why the file on disk cannot be used, if so */
  Status status;      /* of `finish`: an item that failed becomes no entry */
  Error error;
} Item;

typedef struct Items {
  Autotuner *autotuner;
  double autotune_end, finished; /* clock_seconds; when the last item was finished */
  int count;
  Item *items;
} Items;

static const char *item_key(void *context, int index) {
  return ((Items *)context)->items[index].entry.key;
}

/* The callbacks of SharedBuild; load and build run in any thread. */
static bool load(void *context, int index, const CudnnTarget *target) {
  const Items *all = context;
  const Autotuner *autotuner = all->autotuner;
  Item *item = &all->items[index];
  if (item->only || !autotuner->folder) return false;
  plan_cache_read(autotuner->folder, item->entry.key, &item->convolution, target,
                  &autotuner->constraints, &item->entry.variant, &item->entry.plan,
                  &item->unreadable);
  return item->entry.plan != NULL;
}

static void build(void *context, int index, const CudnnTarget *target) {
  const Items *all = context;
  Item *item = &all->items[index];
  const PlanSearchSettings settings = {.constraints = all->autotuner->constraints,
                                       .measure = all->autotuner->measure &&
                                                  clock_seconds() < all->autotune_end};
  if (item->unreadable.status != OK)
    log_warning("rebuilding a convolution plan: %s", item->unreadable.message);
  item->measure = settings.measure;
  item->search = plan_search_prepare(&settings, target, &item->convolution, item->only);
}

/* A failed write costs time at the next start, nothing else. */
static void write_entry(const Autotuner *autotuner, const Entry *entry) {
  Error error = {0};
  if (autotuner->folder &&
      plan_cache_write(autotuner->folder, entry->key, &entry->variant, entry->plan, &error) != OK)
    log_warning("convolution plan not cached: %s", error.message);
}

/* Adds the plan that the search finds. A plan of the heuristics where autotuning is wanted, and one
 * that is not validated, is not written to disk. */
static Status add_found(Autotuner *autotuner, Item *item, double seconds, Error *error) {
  Status status = OK;
  FoundPlan found = {0};
  TRY(plan_search_finish(item->search, &autotuner->target, autotuner->stream, &found, error));
  item->entry.variant = found.variant;
  item->entry.plan = found.plan;
  item->entry.graph = found.graph;
  item->entry.config = found.config;
  const Entry *entry = add(autotuner, &item->entry);
  log_choice(&item->convolution, entry, found.is_measured ? "measured" : "by heuristics");
  if (!item->only && !found.is_unvalidated && found.is_measured == autotuner->measure)
    write_entry(autotuner, entry);
  if (!item->only) log_if_slow(autotuner, &item->convolution, entry);
  log_progress(autotuner, seconds);
done:
  plan_search_free(item->search);
  return status;
}

static void finish(void *context, int index) {
  Items *all = context;
  Item *item = &all->items[index];
  const double now = clock_seconds();
  if (item->search)
    item->status = add_found(all->autotuner, item, now - all->finished, &item->error);
  else
    log_choice(&item->convolution, add(all->autotuner, &item->entry), "from the cache");
  all->finished = now;
}

/* Frees the keys of failed items; the others belong to entries. */
static void build_all(Items *all) {
  Autotuner *autotuner = all->autotuner;
  const SharedBuild work = {.count = all->count,
                            .context = all,
                            .key = item_key,
                            .load = load,
                            .build = build,
                            .finish = finish};
  all->finished = clock_seconds();
  all->autotune_end = all->finished + MAX_AUTOTUNE_SECONDS - autotuner->progress.seconds;
  shared_build_run(&work, autotuner->threads, &autotuner->target, &autotuner->lock,
                   autotuner->lock_timeout);
}

Status autotuner_choose(Autotuner *autotuner, const Convolution *convolution,
                        const ConvVariant *only, ConvChoice *out, Error *error) {
  Item item = {.convolution = *convolution,
               .only = only,
               .entry = {.key = key_of(autotuner, convolution, only)}};
  Items all = {.autotuner = autotuner, .count = 1, .items = &item};
  const Entry *entry = find(autotuner, item.entry.key);
  if (entry) {
    free(item.entry.key);
  } else {
    build_all(&all);
    if (item.status != OK) {
      free(item.entry.key);
      return error_set(error, item.status, "%s", item.error.message);
    }
    entry = &autotuner->entries[autotuner->count - 1];
  }
  *out = (ConvChoice){.variant = entry->variant, .plan = entry->plan};
  return OK;
}

void autotuner_prepare(Autotuner *autotuner, const Convolution *convolutions, int count) {
  Items all = {.autotuner = autotuner, .items = mem_new((size_t)count, sizeof(Item))};
  for (int i = 0; i < count; i++) {
    char *key = key_of(autotuner, &convolutions[i], NULL);
    bool is_known = find(autotuner, key) != NULL;
    for (int k = 0; k < all.count && !is_known; k++)
      is_known = strcmp(all.items[k].entry.key, key) == 0;
    if (is_known)
      free(key);
    else
      all.items[all.count++] = (Item){.convolution = convolutions[i], .entry = {.key = key}};
  }
  build_all(&all);
  for (int i = 0; i < all.count; i++)
    if (all.items[i].status != OK) free(all.items[i].entry.key);
  free(all.items);
}

/* --- Opening and closing ---------------------------------------------------------------------- */
Autotuner *autotuner_open(const CudnnTarget *target, const char *device,
                          const CudnnConstraints *constraints, const char *folder, int threads,
                          double lock_timeout) {
  Autotuner *autotuner = mem_new(1, sizeof *autotuner);
  autotuner->target = *target;
  autotuner->constraints = *constraints;
  autotuner->device = mem_string(device);
  autotuner->lock_timeout = lock_timeout;
  if (folder) {
    autotuner->folder = mem_string(folder);
    autotuner->lock = cache_lock_open(folder);
  }
  autotuner->threads = build_threads_new(threads);
  return autotuner;
}

static char *device_text(const CudaBackend *backend) {
  const size_t version = cudnnGetVersion(); /* 91900 */
  return mem_format("%s sm_%d%d cuDNN %zu.%zu.%zu", backend->info.name, backend->info.major,
                    backend->info.minor, version / 10000, version / 100 % 100, version % 100);
}

Status autotuner_new(CudaBackend *backend, Autotuner **out, Error *error) {
  Status status = OK;
  CudnnTarget target = {0};
  const CudaOptions *options = &backend->options;
  const CudnnConstraints constraints = {.deterministic = options->deterministic,
                                        .tf32 = options->tf32,
                                        .workspace = options->convolution_workspace};
  char *folder = backend->cache ? mem_format("%s/cudnn", backend->cache) : NULL;
  char *device = device_text(backend);
  *out = NULL;
  CUDNN_TRY(cudnnCreate(&target.handle));
  CUDNN_TRY(cudnnSetStream(target.handle, backend->stream));
  Autotuner *autotuner = autotuner_open(&target, device, &constraints, folder,
                                        options->build_threads, LOCK_TIMEOUT_SECONDS);
  autotuner->stream = backend->stream;
  autotuner->measure = options->autotune && !options->deterministic;
  if (options->autotune && options->deterministic)
    log_debug("cuDNN: no autotuning in a deterministic run");
  *out = autotuner;
done:
  if (status != OK) {
    if (target.handle) cudnnDestroy(target.handle);
    error_context(error, "cuDNN (%s)", cudnn_library_path());
  }
  free(device);
  free(folder);
  return status;
}

void autotuner_free(Autotuner *autotuner) {
  if (!autotuner) return;
  for (int i = 0; i < autotuner->count; i++) {
    const Entry *entry = &autotuner->entries[i];
    cudnn_plan_free(entry->plan);
    if (entry->config) cudnnBackendDestroyDescriptor(entry->config);
    cudnn_graph_free(entry->graph);
    free(entry->key);
  }
  cache_lock_close(autotuner->lock);
  build_threads_free(autotuner->threads);
  if (autotuner->target.handle) cudnnDestroy(autotuner->target.handle);
  free(autotuner->entries);
  free(autotuner->device);
  free(autotuner->folder);
  free(autotuner);
}
