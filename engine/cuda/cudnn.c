#include "engine/cuda/cudnn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/memory.h"
#include "engine/cuda/convolution.h"
#include "engine/cuda/cudnn_offer.h"
#include "engine/cuda/cudnn_store.h"

/* A choice that was made, and what its plan was made of. */
typedef struct Entry {
  char *key;
  ConvolutionForm form;
  CudnnPlan *plan;
  CudnnGraph *graph;               /* NULL for a plan read from disk */
  cudnnBackendDescriptor_t config; /* likewise */
} Entry;

static const double MOST_TUNING_SECONDS = 60;

/* What choosing has cost so far: engines that are compiled at run time take up to seconds each. */
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
  int count, capacity;
  Entry *entries;
  Progress progress;
};

cudnnHandle_t cudnn_handle(const Cudnn *cudnn) {
  return cudnn->target.handle;
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

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
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
static bool read_entry(const Cudnn *cudnn, const Convolution *convolution, Entry *entry) {
  Error error = {0};
  if (!cudnn->folder) return false;
  const Status status = cudnn_store_read(cudnn->folder, entry->key, convolution, &cudnn->target,
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

Status cudnn_choose(Cudnn *cudnn, const Convolution *convolution, const ConvolutionForm *only,
                    CudnnChoice *out, Error *error) {
  Status status = OK;
  Entry entry = {.key = key_of(cudnn, convolution, only)};
  const Entry *known = find(cudnn, entry.key);
  if (!known && !only && read_entry(cudnn, convolution, &entry)) {
    known = add(cudnn, &entry);
    entry.key = NULL;
    say(convolution, known, "as chosen before");
  }
  if (!known) {
    const double begin = seconds_now();
    const bool tune = cudnn->tune && cudnn->progress.seconds < MOST_TUNING_SECONDS;
    CudnnFound found = {0};
    const CudnnSearch search = {
        .target = cudnn->target, .rules = cudnn->rules, .tune = tune, .stream = cudnn->stream};
    TRY(cudnn_search(&search, convolution, only, &found, error));
    entry.form = found.form;
    entry.plan = found.plan;
    entry.graph = found.graph;
    entry.config = found.config;
    known = add(cudnn, &entry);
    entry.key = NULL;
    say(convolution, known, tune ? "measured" : "by heuristics");
    if (!only && tune == cudnn->tune) write_entry(cudnn, known);
    if (!only) say_slow(cudnn, convolution, known);
    count_made(cudnn, seconds_now() - begin);
  }
  *out = (CudnnChoice){.form = known->form, .plan = known->plan};
done:
  free(entry.key);
  return status;
}

/* --- Opening and closing ---------------------------------------------------------------------- */
Status cudnn_open(const CudnnTarget *target, const char *device, const CudnnRules *rules,
                  const char *folder, Cudnn **out, Error *error) {
  (void)error;
  Cudnn *cudnn = mem_new(1, sizeof *cudnn);
  cudnn->target = *target;
  cudnn->rules = *rules;
  cudnn->device = mem_string(device);
  if (folder) cudnn->folder = mem_string(folder);
  *out = cudnn;
  return OK;
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
  TRY(cudnn_open(&target, device, &rules, folder, &cudnn, error));
  target.handle = NULL;
  cudnn->stream = backend->stream;
  cudnn->tune = options->tune && !options->deterministic;
  if (options->tune && options->deterministic)
    log_info("convolutions are not tuned in a deterministic run");
  backend->cudnn = cudnn;
  TRY(convolution_self_test(backend, folder, error));
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
  if (cudnn->target.handle) cudnnDestroy(cudnn->target.handle);
  free(cudnn->entries);
  free(cudnn->device);
  free(cudnn->folder);
  free(cudnn);
}
