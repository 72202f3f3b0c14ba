#include "data/loader/loader.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "data/loader/sample_reader.h"

enum {
  MAX_THREADS = 256,
  MAX_PREFETCH = 4096,
  CLOSE_SECONDS = 10, /* loader_close abandons threads that hang in a read for longer */
  CLOSE_SECONDS_AFTER_TIMEOUT = 1, /* the same if loader_next has timed out before */
};

typedef enum SlotState { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_IN_USE } SlotState;

/* An entry of the ring buffer: micro-batch k of this rank is in slot k mod slot_count. */
typedef struct Slot {
  Batch batch;
  int64_t *samples;                             /* [micro_batch] */
  SamplePosition *positions, *target_positions; /* [micro_batch] */
  SlotState state;
  Status status; /* of reading the batch */
  Error error;
  int worker;
  double since; /* clock_seconds when reading began */
  ReadProgress progress;
} Slot;

typedef struct Worker {
  struct Loader *loader;
  pthread_t thread;
  int number;
  SampleReader *reader;
} Worker;

struct Loader {
  LoaderOptions options;
  SamplePlan plan;
  int64_t *skipped_batches; /* [options.skipped_batch_count] */
  int64_t first_step;
  int micros_per_step; /* micro-batches of this rank */
  Slot *slots;
  int slot_count;
  Worker *workers;
  int worker_count; /* started */
  atomic_bool closing;
  pthread_mutex_t mutex;           /* guards the fields below and Slot.state */
  pthread_cond_t slot_free;        /* wakes workers */
  pthread_cond_t batch_ready;      /* wakes loader_next */
  int64_t next_fill, next_deliver; /* numbers of micro-batches */
  bool timed_out;                  /* loader_next has failed with a timeout */
};

/* --- Reading ---------------------------------------------------------------------------------- */

/* The part of a batch that holds sample `index`. */
static Sample sample_of(const Loader *loader, const Batch *batch, int index) {
  SampleBytes bytes = sample_bytes(&loader->plan);
  size_t i = (size_t)index;
  return (Sample){
      .source = batch->source + i * bytes.source,
      .target = batch->target + i * bytes.target,
      .smoothed = batch->smoothed ? batch->smoothed + i * bytes.smoothed : NULL,
      .flow = batch->flow ? batch->flow + i * (bytes.flow / sizeof(float)) : NULL,
      .flow_mask =
          batch->flow_mask ? batch->flow_mask + i * (bytes.flow_mask / sizeof(float)) : NULL,
  };
}

static Status fill_sample(Worker *worker, Slot *slot, int index, Error *error) {
  SamplePosition positions[2];
  Sample out = sample_of(worker->loader, &slot->batch, index);
  Status status = sample_reader_read(worker->reader, slot->samples[index], &slot->progress,
                                     positions, &out, error);
  slot->positions[index] = positions[0];
  slot->target_positions[index] = positions[1];
  return status;
}

/* Reads micro-batch `number` of this rank into the slot. */
static void fill_slot(Worker *worker, Slot *slot, int64_t number) {
  Loader *loader = worker->loader;
  const LoaderOptions *options = &loader->options;
  Batch *batch = &slot->batch;
  batch->step = loader->first_step + number / loader->micros_per_step;
  batch->micro_index = (int)(number % loader->micros_per_step);
  int64_t micro_number = (int64_t)options->rank * loader->micros_per_step + batch->micro_index;
  int64_t batch_number =
      shuffle_batch_of_step(batch->step, loader->skipped_batches, options->skipped_batch_count);
  int64_t first = batch_number * options->global_batch + micro_number * options->micro_batch;
  slot->status = OK;
  for (int i = 0; i < batch->count && slot->status == OK; i++) {
    if (atomic_load(&loader->closing)) return;
    slot->samples[i] = first + i;
    slot->status = fill_sample(worker, slot, i, &slot->error);
  }
}

/* Waits for the slot of the next micro-batch to be free and takes it. NULL when the loader closes.
 */
static Slot *take_slot(Worker *worker, int64_t *number) {
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
    atomic_store(&slot->progress.sample, -1);
    /* The next slot may be free too, and its signal lost: wake another worker. */
    pthread_cond_signal(&loader->slot_free);
  }
  pthread_mutex_unlock(&loader->mutex);
  return slot;
}

static void *run_worker(void *argument) {
  Worker *worker = argument;
  Loader *loader = worker->loader;
  int64_t number = 0;
  for (Slot *slot; (slot = take_slot(worker, &number));) {
    fill_slot(worker, slot, number);
    pthread_mutex_lock(&loader->mutex);
    slot->state = SLOT_READY;
    pthread_cond_broadcast(&loader->batch_ready);
    pthread_mutex_unlock(&loader->mutex);
  }
  return NULL;
}

/* --- Opening and closing ---------------------------------------------------------------------- */

void loader_world_sizes(int64_t global_batch, int micro_batch, int limit, Text *out) {
  int64_t micro_batches = global_batch / micro_batch;
  const char *between = "";
  for (int size = 1; size <= limit && size <= micro_batches; size++) {
    if (micro_batches % size != 0) continue;
    text_append(out, "%s%d", between, size);
    between = ", ";
  }
}

static Status check_options(const LoaderOptions *o, int64_t first_step, Error *error) {
  if (o->global_batch < 1 || o->global_batch > INT32_MAX || o->micro_batch < 1 ||
      o->global_batch % o->micro_batch != 0)
    return error_set(error, ERROR_USAGE,
                     "a global batch of %lld clips is not a multiple of a micro-batch of %d",
                     (long long)o->global_batch, o->micro_batch);
  if (o->world_size < 1 || o->rank < 0 || o->rank >= o->world_size || first_step < 0)
    return error_set(error, ERROR_INTERNAL, "loader: rank %d of %d, first step %lld", o->rank,
                     o->world_size, (long long)first_step);
  if (o->global_batch / o->micro_batch % o->world_size != 0) {
    const int listed = 1024;
    Text sizes = {0};
    loader_world_sizes(o->global_batch, o->micro_batch, listed, &sizes);
    error_set(error, ERROR_USAGE,
              "%lld clips in micro-batches of %d cannot be split over %d ranks; possible world "
              "sizes: %s",
              (long long)o->global_batch, o->micro_batch, o->world_size, sizes.data);
    text_free(&sizes);
    return ERROR_USAGE;
  }
  if (o->threads < 1 || o->threads > MAX_THREADS || o->prefetch_batches < 1 ||
      o->prefetch_batches > MAX_PREFETCH || !(o->timeout > 0))
    return error_set(error, ERROR_USAGE,
                     "%d loader threads, %d batches prefetched, a timeout of %g s; expected 1 to "
                     "%d, 1 to %d and above 0",
                     o->threads, o->prefetch_batches, o->timeout, MAX_THREADS, MAX_PREFETCH);
  return OK;
}

/* Allocates the arrays of a batch; none for what is not computed. */
static Status allocate_batch(const SampleBytes *bytes, Batch *batch, Error *error) {
  const struct {
    size_t bytes;
    void **out;
  } arrays[] = {
      {bytes->source, (void **)&batch->source},       {bytes->target, (void **)&batch->target},
      {bytes->smoothed, (void **)&batch->smoothed},   {bytes->flow, (void **)&batch->flow},
      {bytes->flow_mask, (void **)&batch->flow_mask},
  };
  Status status = OK;
  for (size_t i = 0; i < sizeof arrays / sizeof *arrays && status == OK; i++)
    if (arrays[i].bytes > 0)
      status = mem_bulk((size_t)batch->count * arrays[i].bytes, "a batch", arrays[i].out, error);
  return status;
}

static Status make_slots(Loader *loader, Error *error) {
  Status status = OK;
  size_t count = (size_t)loader->options.micro_batch;
  SampleBytes bytes = sample_bytes(&loader->plan);
  loader->slot_count = loader->options.prefetch_batches + 1; /* one is in use by the caller */
  loader->slots = mem_new((size_t)loader->slot_count, sizeof *loader->slots);
  for (int i = 0; i < loader->slot_count; i++) {
    Slot *slot = &loader->slots[i];
    slot->samples = mem_new(count, sizeof *slot->samples);
    slot->positions = mem_new(count, sizeof *slot->positions);
    slot->target_positions = mem_new(count, sizeof *slot->target_positions);
    slot->batch = (Batch){.count = (int)count,
                          .samples = slot->samples,
                          .positions = slot->positions,
                          .target_positions = slot->target_positions};
    TRY(allocate_batch(&bytes, &slot->batch, error));
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
    TRY(sample_reader_new(&loader->plan, &worker->reader, error));
    TRY(thread_start(&worker->thread, name, run_worker, worker, error));
    loader->worker_count++;
  }
done:
  return status;
}

Status loader_open(const Dataset *dataset, const Dataset *target, const LoaderOptions *options,
                   int64_t first_step, Loader **out, Error *error) {
  Status status = OK;
  Loader *loader = mem_new(1, sizeof *loader);
  *out = NULL;
  *loader = (Loader){.options = *options, .first_step = first_step};
  loader->skipped_batches =
      mem_new((size_t)options->skipped_batch_count + 1, sizeof *loader->skipped_batches);
  for (int64_t i = 0; i < options->skipped_batch_count; i++)
    loader->skipped_batches[i] = options->skipped_batches[i];
  pthread_mutex_init(&loader->mutex, NULL);
  condition_init(&loader->slot_free);
  condition_init(&loader->batch_ready);
  TRY(check_options(options, first_step, error));
  TRY(sample_plan_init(dataset, target, options, &loader->plan, error));
  loader->micros_per_step =
      (int)(options->global_batch / options->micro_batch / options->world_size);
  TRY(make_slots(loader, error));
  TRY(start_workers(loader, error));
  *out = loader;
  loader = NULL;
done:
  loader_close(loader);
  return status;
}

/* Waits for the workers to end. False if one still hangs in a read at the deadline. */
static bool join_workers(Loader *loader) {
  int seconds = loader->timed_out ? CLOSE_SECONDS_AFTER_TIMEOUT : CLOSE_SECONDS;
  double deadline = clock_seconds() + seconds;
  bool all = true;
  for (int i = 0; i < loader->worker_count; i++)
    if (!thread_join_until(loader->workers[i].thread, deadline)) {
      log_warning("loader thread %d still hangs in a read after %d s; it is abandoned", i, seconds);
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
  if (!join_workers(loader)) return; /* the abandoned thread still uses the loader */
  for (int i = 0; i < loader->options.threads && loader->workers; i++)
    sample_reader_free(loader->workers[i].reader);
  for (int i = 0; i < loader->slot_count; i++) {
    Slot *slot = &loader->slots[i];
    free(slot->batch.source);
    free(slot->batch.target);
    free(slot->batch.smoothed);
    free(slot->batch.flow);
    free(slot->batch.flow_mask);
    free(slot->target_positions);
    free(slot->positions);
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
  return loader->plan.shape;
}

/* Sets the error for micro-batch `next_deliver` being late. Called with the mutex held. */
static Status timeout_error(const Loader *loader, Slot *slot, Error *error) {
  long long step = loader->first_step + loader->next_deliver / loader->micros_per_step;
  int micro = (int)(loader->next_deliver % loader->micros_per_step);
  double timeout = loader->options.timeout;
  const Dataset *dataset = atomic_load(&slot->progress.dataset);
  if (slot->state == SLOT_FILLING)
    return error_set(error, ERROR_IO,
                     "step %lld, micro-batch %d: not read within %g s: loader thread %d is at clip "
                     "%lld%s%s (sample %lld) and started the batch %.1f s ago",
                     step, micro, timeout, slot->worker,
                     (long long)atomic_load(&slot->progress.clip), dataset ? " of " : "",
                     dataset ? dataset_path(dataset) : "",
                     (long long)atomic_load(&slot->progress.sample), clock_seconds() - slot->since);
  if (slot->state == SLOT_IN_USE)
    return error_set(error, ERROR_INTERNAL,
                     "step %lld, micro-batch %d: not read within %g s: its buffer is in use; the "
                     "batch %d before it was not released",
                     step, micro, timeout, loader->slot_count);
  return error_set(
      error, ERROR_IO,
      "step %lld, micro-batch %d: not read within %g s: no loader thread has started it", step,
      micro, timeout);
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
    status = timeout_error(loader, slot, error);
    loader->timed_out = true;
  } else if (slot->status != OK) {
    /* Keeps the slot, so that every further call fails in the same way. */
    status = error_set(error, slot->status, "step %lld, micro-batch %d: %s",
                       (long long)slot->batch.step, slot->batch.micro_index, slot->error.message);
  } else {
    slot->state = SLOT_IN_USE;
    loader->next_deliver++;
    *out = &slot->batch;
  }
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

int64_t loader_corrupt_clips(const Loader *loader) {
  return atomic_load(&loader->plan.corrupt_clips);
}
