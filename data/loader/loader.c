#include "data/loader/loader.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/thread.h"
#include "data/loader/augment.h"

enum {
  MAX_THREADS = 256,
  MAX_AHEAD = 4096,
  SUBSTITUTE_TRIES = 8,
  CLOSE_SECONDS = 10, /* a read that hangs longer than this is left behind */
  LATE_SECONDS = 1,   /* the same where one was late already */
};

typedef enum SlotState { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_LENT } SlotState;

/* A place in the ring: batch k lies in slot k mod slot_count. */
typedef struct Slot {
  Batch batch;
  int64_t *samples;    /* [micro_batch] */
  SamplePlace *places; /* [micro_batch] */
  SlotState state;
  Status status; /* of filling it */
  Error error;
  int worker;
  double since;                       /* clock_seconds when filling began */
  _Atomic int64_t at_sample, at_clip; /* what its worker is reading */
} Slot;

typedef struct Worker {
  struct Loader *loader;
  pthread_t thread;
  int number;
  uint8_t *source, *target; /* a whole clip, where samples are parts of one; else NULL */
} Worker;

struct Loader {
  const Dataset *dataset;
  LoaderOptions options;
  AugmentPlan plan;
  bool whole;        /* samples are clips, unchanged */
  int64_t *skipped_batches; /* [options.skipped_batch_count] */
  int64_t clips, first_step;
  int micros;                        /* micro-batches of this rank a step */
  size_t source_bytes, target_bytes; /* of a sample */
  Slot *slots;
  int slot_count;
  Worker *workers;
  int worker_count; /* started */
  atomic_bool closing;
  pthread_mutex_t mutex;           /* guards what follows and the states of slots */
  pthread_cond_t slot_free;        /* for workers */
  pthread_cond_t batch_ready;      /* for loader_next */
  int64_t next_fill, next_deliver; /* numbers of batches */
  LoaderStats stats;
  bool late; /* a batch was not there in time */
};

/* --- Filling ---------------------------------------------------------------------------------- */

/* Another clip in place of a corrupt one: a function of the sample alone, so that it is the same
 * whatever the rank. */
static int64_t substitute(const Loader *loader, int64_t sample, int attempt) {
  Random random =
      random_stream(loader->options.seed, RANDOM_AUGMENT, (uint64_t)sample, (uint32_t)attempt);
  return (int64_t)random_below(&random, (uint64_t)loader->clips);
}

static void report_corrupt(Loader *loader, int64_t sample, int64_t clip, int64_t instead,
                           const Error *fault) {
  ClipName name;
  Error unused;
  bool named = dataset_clip_name(loader->dataset, clip, &name, &unused) == OK;
  log_warning("%s%s%s%s; sample %lld takes clip %lld instead", named ? "\"" : "",
              named ? name.id : "", named ? "\": " : "", fault->message, (long long)sample,
              (long long)instead);
  pthread_mutex_lock(&loader->mutex);
  loader->stats.corrupt++;
  pthread_mutex_unlock(&loader->mutex);
}

/* Reads place->clip, or by policy another one, which *place then names. */
static Status read_or_substitute(Loader *loader, Slot *slot, int64_t sample, SamplePlace *place,
                                 uint8_t *source, uint8_t *target, Error *error) {
  int64_t first = place->clip;
  for (int attempt = 1;; attempt++) {
    atomic_store(&slot->at_clip, place->clip);
    Status status = dataset_read(loader->dataset, place->clip, source, target, error);
    if (status == OK && place->clip != first) slot->batch.substituted++;
    if (status != ERROR_DATA || loader->options.on_corrupt == CORRUPT_STOP) return status;
    if (attempt > SUBSTITUTE_TRIES) {
      error_context(error, "sample %lld: clip %lld and %d substitutes are corrupt, the last one",
                    (long long)sample, (long long)first, SUBSTITUTE_TRIES);
      return status;
    }
    int64_t instead = substitute(loader, sample, attempt);
    report_corrupt(loader, sample, place->clip, instead, error);
    place->clip = instead;
  }
}

static Status fill_sample(Worker *worker, Slot *slot, int index, Error *error) {
  Loader *loader = worker->loader;
  int64_t sample = slot->samples[index];
  SamplePlace *place = &slot->places[index];
  uint8_t *source = slot->batch.source + (size_t)index * loader->source_bytes;
  uint8_t *target = slot->batch.target + (size_t)index * loader->target_bytes;
  *place = order_sample(loader->options.seed, sample, loader->clips);
  atomic_store(&slot->at_sample, sample);
  if (loader->whole) return read_or_substitute(loader, slot, sample, place, source, target, error);
  Status status =
      read_or_substitute(loader, slot, sample, place, worker->source, worker->target, error);
  if (status != OK) return status;
  Augment augment = augment_draw(&loader->plan, loader->options.seed, sample);
  augment_copy(&loader->plan, &augment, worker->source, worker->target, source, target);
  return OK;
}

static void fill(Worker *worker, Slot *slot, int64_t number) {
  Loader *loader = worker->loader;
  const LoaderOptions *options = &loader->options;
  Batch *batch = &slot->batch;
  batch->step = loader->first_step + number / loader->micros;
  batch->micro = (int)(number % loader->micros);
  batch->substituted = 0;
  int64_t place = (int64_t)options->rank * loader->micros + batch->micro;
  int64_t of_step = order_batch(batch->step, loader->skipped_batches, options->skipped_batch_count);
  int64_t first = of_step * options->global_batch + place * options->micro_batch;
  slot->status = OK;
  for (int i = 0; i < batch->count && slot->status == OK; i++) {
    if (atomic_load(&loader->closing)) return;
    slot->samples[i] = first + i;
    slot->status = fill_sample(worker, slot, i, &slot->error);
  }
}

/* Takes the next batch to fill, in order. NULL when the loader closes. */
static Slot *take(Worker *worker, int64_t *number) {
  Loader *loader = worker->loader;
  Slot *slot = NULL;
  pthread_mutex_lock(&loader->mutex);
  while (!atomic_load(&loader->closing) &&
         loader->slots[loader->next_fill % loader->slot_count].state != SLOT_FREE)
    pthread_cond_wait(&loader->slot_free, &loader->mutex);
  if (!atomic_load(&loader->closing)) {
    *number = loader->next_fill++;
    slot = &loader->slots[*number % loader->slot_count];
    slot->state = SLOT_FILLING;
    slot->worker = worker->number;
    slot->since = clock_seconds();
    atomic_store(&slot->at_sample, -1);
    /* Another one may be free as well, and its waiter not woken: pass it on. */
    pthread_cond_signal(&loader->slot_free);
  }
  pthread_mutex_unlock(&loader->mutex);
  return slot;
}

static void *work(void *argument) {
  Worker *worker = argument;
  Loader *loader = worker->loader;
  int64_t number = 0;
  for (Slot *slot; (slot = take(worker, &number));) {
    fill(worker, slot, number);
    pthread_mutex_lock(&loader->mutex);
    slot->state = SLOT_READY;
    if (slot->status == OK) {
      loader->stats.clips += slot->batch.count;
      loader->stats.bytes_read +=
          slot->batch.count *
          (int64_t)(clip_source_bytes(&loader->plan.clip) + clip_target_bytes(&loader->plan.clip));
    }
    pthread_cond_broadcast(&loader->batch_ready);
    pthread_mutex_unlock(&loader->mutex);
  }
  return NULL;
}

/* --- Opening and closing ---------------------------------------------------------------------- */

void loader_world_sizes(int64_t global_batch, int micro_batch, int limit, Text *out) {
  int64_t micros = global_batch / micro_batch;
  const char *between = "";
  for (int size = 1; size <= limit && size <= micros; size++) {
    if (micros % size != 0) continue;
    text_append(out, "%s%d", between, size);
    between = ", ";
  }
}

static Status check_options(const LoaderOptions *o, int64_t first_step, Error *error) {
  if (o->global_batch < 1 || o->global_batch > INT32_MAX || o->micro_batch < 1 ||
      o->global_batch % o->micro_batch != 0)
    return error_set(error, ERROR_USAGE,
                     "a global batch of %lld cannot be cut into micro-batches of %d",
                     (long long)o->global_batch, o->micro_batch);
  if (o->world_size < 1 || o->rank < 0 || o->rank >= o->world_size || first_step < 0)
    return error_set(error, ERROR_INTERNAL, "rank %d of %d at step %lld", o->rank, o->world_size,
                     (long long)first_step);
  int64_t micros = o->global_batch / o->micro_batch;
  if (micros % o->world_size != 0) {
    const int listed = 1024;
    Text sizes = {0};
    loader_world_sizes(o->global_batch, o->micro_batch, listed, &sizes);
    error_set(error, ERROR_USAGE,
              "a global batch of %lld has %lld micro-batches of %d, which %d ranks cannot share "
              "equally; these numbers of ranks can: %s",
              (long long)o->global_batch, (long long)micros, o->micro_batch, o->world_size,
              sizes.data);
    text_free(&sizes);
    return ERROR_USAGE;
  }
  if (o->threads < 1 || o->threads > MAX_THREADS || o->batches_ahead < 1 ||
      o->batches_ahead > MAX_AHEAD || !(o->timeout > 0))
    return error_set(error, ERROR_USAGE,
                     "%d loader threads, %d batches ahead, a timeout of %g seconds; must be 1 to "
                     "%d, 1 to %d and above 0",
                     o->threads, o->batches_ahead, o->timeout, MAX_THREADS, MAX_AHEAD);
  return OK;
}

static Status make_bytes(size_t bytes, const char *what, uint8_t **out, Error *error) {
  void *memory;
  Status status = mem_bulk(bytes, what, &memory, error);
  *out = memory;
  return status;
}

static Status make_slots(Loader *loader, Error *error) {
  Status status = OK;
  size_t count = (size_t)loader->options.micro_batch;
  loader->slot_count = loader->options.batches_ahead + 1; /* one is lent to the caller */
  loader->slots = mem_new((size_t)loader->slot_count, sizeof *loader->slots);
  for (int i = 0; i < loader->slot_count; i++) {
    Slot *slot = &loader->slots[i];
    slot->samples = mem_new(count, sizeof *slot->samples);
    slot->places = mem_new(count, sizeof *slot->places);
    slot->batch = (Batch){
        .count = (int)count, .samples = slot->samples, .places = slot->places, .loader = loader};
    TRY(make_bytes(count * loader->source_bytes, "a batch", &slot->batch.source, error));
    TRY(make_bytes(count * loader->target_bytes, "a batch", &slot->batch.target, error));
  }
done:
  return status;
}

static Status start_workers(Loader *loader, Error *error) {
  Status status = OK;
  int count = loader->options.threads;
  loader->workers = mem_new((size_t)count, sizeof *loader->workers);
  for (int i = 0; i < count; i++) {
    Worker *worker = &loader->workers[i];
    char name[32];
    snprintf(name, sizeof name, "loader-%d", i);
    worker->loader = loader;
    worker->number = i;
    if (!loader->whole) {
      const ClipShape *clip = &loader->plan.clip;
      TRY(make_bytes(clip_source_bytes(clip), "a loader's clip", &worker->source, error));
      TRY(make_bytes(clip_target_bytes(clip), "a loader's clip", &worker->target, error));
    }
    TRY(thread_start(&worker->thread, name, work, worker, error));
    loader->worker_count++;
  }
done:
  return status;
}

Status loader_open(const Dataset *dataset, const LoaderOptions *options, int64_t first_step,
                   Loader **out, Error *error) {
  Status status = OK;
  const DatasetInfo *info = dataset_info(dataset);
  Loader *loader = mem_new(1, sizeof *loader);
  *out = NULL;
  *loader = (Loader){
      .dataset = dataset, .options = *options, .clips = info->clips, .first_step = first_step};
  loader->skipped_batches = mem_new((size_t)options->skipped_batch_count + 1, sizeof *loader->skipped_batches);
  for (int64_t i = 0; i < options->skipped_batch_count; i++) loader->skipped_batches[i] = options->skipped_batches[i];
  pthread_mutex_init(&loader->mutex, NULL);
  condition_init(&loader->slot_free);
  condition_init(&loader->batch_ready);
  TRY(check_options(options, first_step, error));
  TRY(augment_plan(&info->shape, options->frames, options->crop_height, options->crop_width,
                   options->crop_multiple, options->flip, &loader->plan, error));
  loader->whole = augment_is_whole(&loader->plan);
  loader->micros = (int)(options->global_batch / options->micro_batch / options->world_size);
  loader->source_bytes = clip_source_bytes(&loader->plan.out);
  loader->target_bytes = clip_target_bytes(&loader->plan.out);
  TRY(make_slots(loader, error));
  TRY(start_workers(loader, error));
  *out = loader;
  loader = NULL;
done:
  loader_close(loader);
  return status;
}

/* False where a thread hangs in the operating system. */
static bool join_workers(Loader *loader) {
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  int seconds = loader->late ? LATE_SECONDS : CLOSE_SECONDS;
  deadline.tv_sec += seconds;
  bool all = true;
  for (int i = 0; i < loader->worker_count; i++)
    if (pthread_timedjoin_np(loader->workers[i].thread, NULL, &deadline) != 0) {
      log_warning("loader thread %d still waits for its file after %d s and is left behind", i,
                  seconds);
      all = false;
    }
  return all;
}

void loader_close(Loader *loader) {
  if (!loader) return;
  pthread_mutex_lock(&loader->mutex);
  atomic_store(&loader->closing, true);
  pthread_cond_broadcast(&loader->slot_free);
  pthread_mutex_unlock(&loader->mutex);
  if (!join_workers(loader)) return; /* it still uses all of this */
  for (int i = 0; i < loader->options.threads && loader->workers; i++) {
    free(loader->workers[i].source);
    free(loader->workers[i].target);
  }
  for (int i = 0; i < loader->slot_count; i++) {
    Slot *slot = &loader->slots[i];
    free(slot->batch.source);
    free(slot->batch.target);
    free(slot->places);
    free(slot->samples);
  }
  pthread_cond_destroy(&loader->batch_ready);
  pthread_cond_destroy(&loader->slot_free);
  pthread_mutex_destroy(&loader->mutex);
  free(loader->workers);
  free(loader->slots);
  free(loader->skipped_batches);
  free(loader);
}

/* --- Delivering ------------------------------------------------------------------------------- */

ClipShape loader_shape(const Loader *loader) {
  return loader->plan.out;
}

/* Why batch `next_deliver` is not there yet; called with the mutex held. */
static Status too_late(const Loader *loader, Slot *slot, Error *error) {
  long long step = loader->first_step + loader->next_deliver / loader->micros;
  int micro = (int)(loader->next_deliver % loader->micros);
  double timeout = loader->options.timeout;
  if (slot->state == SLOT_FILLING)
    return error_set(error, ERROR_IO,
                     "step %lld, micro-batch %d: not read within %g s: loader thread %d is at clip "
                     "%lld (sample %lld) and began the batch %.1f s ago",
                     step, micro, timeout, slot->worker, (long long)atomic_load(&slot->at_clip),
                     (long long)atomic_load(&slot->at_sample), clock_seconds() - slot->since);
  if (slot->state == SLOT_LENT)
    return error_set(error, ERROR_INTERNAL,
                     "step %lld, micro-batch %d: not read within %g s: its place is lent out since "
                     "%d batches and was not released",
                     step, micro, timeout, loader->slot_count);
  return error_set(error, ERROR_IO,
                   "step %lld, micro-batch %d: not read within %g s: no loader thread has begun it",
                   step, micro, timeout);
}

Status loader_next(Loader *loader, Batch **out, Error *error) {
  Status status = OK;
  double begin = clock_seconds();
  *out = NULL;
  pthread_mutex_lock(&loader->mutex);
  Slot *slot = &loader->slots[loader->next_deliver % loader->slot_count];
  bool in_time = true;
  while (slot->state != SLOT_READY && in_time)
    in_time =
        condition_wait_until(&loader->batch_ready, &loader->mutex, begin + loader->options.timeout);
  if (slot->state != SLOT_READY) {
    status = too_late(loader, slot, error);
    loader->late = true;
  } else if (slot->status != OK) {
    /* Stays where it is: every further call fails alike. */
    status = error_set(error, slot->status, "step %lld, micro-batch %d: %s",
                       (long long)slot->batch.step, slot->batch.micro, slot->error.message);
  } else {
    slot->state = SLOT_LENT;
    loader->next_deliver++;
    *out = &slot->batch;
  }
  loader->stats.seconds_waiting += clock_seconds() - begin;
  pthread_mutex_unlock(&loader->mutex);
  return status;
}

void loader_release(Loader *loader, Batch *batch) {
  Slot *slot = (Slot *)((char *)batch - offsetof(Slot, batch));
  pthread_mutex_lock(&loader->mutex);
  slot->state = SLOT_FREE;
  pthread_cond_signal(&loader->slot_free);
  pthread_mutex_unlock(&loader->mutex);
}

LoaderStats loader_stats(const Loader *loader) {
  Loader *own = (Loader *)loader; /* only to lock */
  pthread_mutex_lock(&own->mutex);
  LoaderStats stats = loader->stats;
  pthread_mutex_unlock(&own->mutex);
  return stats;
}
