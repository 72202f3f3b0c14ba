/* bench data: the loader alone, beside plain pread of the same files. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/thread.h"
#include "data/loader/loader.h"
#include "trainer/bench/bench.h"

enum { MICRO_BATCH = 1, BATCHES_AHEAD = 8, WAIT_SECONDS = 60 };

typedef struct Rate {
  double seconds, bytes, clips;
} Rate;

/* --- The loader ------------------------------------------------------------------------------- */

static Status measure_loader(const Dataset *dataset, const BenchDataOptions *options, Rate *rate,
                             Error *error) {
  Status status = OK;
  Loader *loader = NULL;
  Batch *batch = NULL;
  LoaderOptions how = {.seed = 1,
                       .global_batch = MICRO_BATCH,
                       .micro_batch = MICRO_BATCH,
                       .world_size = 1,
                       .crop_multiple = 1,
                       .flip = true,
                       .threads = options->threads,
                       .prefetch_batches = BATCHES_AHEAD,
                       .timeout = WAIT_SECONDS};
  const ClipShape *shape = &dataset_info(dataset)->shape;
  double bytes = (double)(clip_source_bytes(shape) + clip_target_bytes(shape));
  TRY(loader_open(dataset, NULL, &how, 0, &loader, error));
  double begin = clock_seconds();
  while (rate->seconds < options->seconds) {
    TRY(loader_next(loader, &batch, error));
    rate->clips += batch->count;
    loader_release(loader, batch);
    rate->seconds = clock_seconds() - begin;
  }
  rate->bytes = rate->clips * bytes;
done:
  loader_close(loader);
  return status;
}

/* --- pread ------------------------------------------------------------------------------------ */

typedef struct ShardFile {
  char *path;
  int descriptor;
  uint64_t bytes;
} ShardFile;

typedef struct Reading {
  ShardFile *files;
  int count, capacity;
  size_t block; /* bytes of a clip */
  double until; /* clock_seconds */
  _Atomic int64_t next, bytes;
  _Atomic bool failed;
  pthread_mutex_t mutex; /* of error */
  Error error;
} Reading;

/* Finds block `index` of the files, counted in clip-sized blocks; false past the last one. Threads
 * read the blocks in turn, again and again. */
static bool find_block(const Reading *reading, int64_t index, const ShardFile **file,
                       uint64_t *offset) {
  for (int i = 0; i < reading->count; i++) {
    int64_t blocks = (int64_t)(reading->files[i].bytes / reading->block);
    if (index < blocks) {
      *file = &reading->files[i];
      *offset = (uint64_t)index * reading->block;
      return true;
    }
    index -= blocks;
  }
  return false;
}

static int64_t count_blocks(const Reading *reading) {
  int64_t blocks = 0;
  for (int i = 0; i < reading->count; i++)
    blocks += (int64_t)(reading->files[i].bytes / reading->block);
  return blocks;
}

static void *read_blocks(void *argument) {
  Reading *reading = argument;
  Error error = {0};
  void *buffer = NULL;
  int64_t blocks = count_blocks(reading);
  Status status = mem_bulk(reading->block, "a clip", &buffer, &error);
  while (status == OK && clock_seconds() < reading->until && !reading->failed) {
    const ShardFile *file = NULL;
    uint64_t offset = 0;
    int64_t index = atomic_fetch_add(&reading->next, 1) % blocks;
    if (!find_block(reading, index, &file, &offset)) break;
    status = file_pread(file->descriptor, file->path, buffer, reading->block, offset, &error);
    if (status == OK) atomic_fetch_add(&reading->bytes, (int64_t)reading->block);
  }
  if (status != OK) {
    pthread_mutex_lock(&reading->mutex);
    reading->error = error;
    reading->failed = true;
    pthread_mutex_unlock(&reading->mutex);
  }
  free(buffer);
  return NULL;
}

static Status open_shards(const char *folder, Reading *reading, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  TRY(folder_list(folder, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    struct stat facts;
    const char *dot = strrchr(names[i], '.');
    if (!dot || strcmp(dot, ".h5") != 0) continue;
    MEM_PUSH_SLOT(reading->files, reading->count, reading->capacity);
    ShardFile *file = &reading->files[reading->count++];
    file->path = path_join(folder, names[i]);
    file->descriptor = open(file->path, O_RDONLY | O_CLOEXEC);
    if (file->descriptor < 0 || fstat(file->descriptor, &facts) != 0) {
      status = error_errno(error, errno, "%s", file->path);
      goto done;
    }
    file->bytes = (uint64_t)facts.st_size;
  }
done:
  folder_list_free(names, count);
  return status;
}

static Status read_with_threads(Reading *reading, int threads, Error *error) {
  Status status = OK;
  int started = 0;
  pthread_t *running = mem_new((size_t)threads, sizeof *running);
  for (; status == OK && started < threads; started += status == OK)
    status = thread_start(&running[started], "pread", read_blocks, reading, error);
  for (int i = 0; i < started; i++) pthread_join(running[i], NULL);
  if (status == OK && reading->failed) {
    *error = reading->error;
    status = error->status;
  }
  free(running);
  return status;
}

static Status measure_pread(const char *folder, const ClipShape *shape,
                            const BenchDataOptions *options, Rate *rate, Error *error) {
  Status status = OK;
  Reading reading = {.block = clip_source_bytes(shape) + clip_target_bytes(shape),
                     .mutex = PTHREAD_MUTEX_INITIALIZER};
  TRY(open_shards(folder, &reading, error));
  double begin = clock_seconds();
  if (count_blocks(&reading) == 0) goto done; /* deflated to less than one clip */
  reading.until = begin + options->seconds;
  TRY(read_with_threads(&reading, options->threads, error));
  rate->seconds = clock_seconds() - begin;
  rate->bytes = (double)reading.bytes;
  rate->clips = rate->bytes / (double)reading.block;
done:
  for (int i = 0; i < reading.count; i++) {
    if (reading.files[i].descriptor >= 0) close(reading.files[i].descriptor);
    free(reading.files[i].path);
  }
  free(reading.files);
  return status;
}

/* --- The command ------------------------------------------------------------------------------ */

static double per_second(double amount, const Rate *rate) {
  return rate->seconds > 0 ? amount / rate->seconds : 0;
}

static void print_row(const char *name, const Rate *rate) {
  printf("%-22s %12.1f %10.3f\n", name, per_second(rate->clips, rate),
         per_second(rate->bytes, rate) / 1e9);
}

static Status write_json(const BenchDataOptions *options, const Rate *loader, const Rate *plain,
                         Error *error) {
  json_t *json =
      json_pack("{s:f, s:f, s:f, s:f, s:i}", "clips_per_second", per_second(loader->clips, loader),
                "gb_per_second", per_second(loader->bytes, loader) / 1e9, "pread_clips_per_second",
                per_second(plain->clips, plain), "pread_gb_per_second",
                per_second(plain->bytes, plain) / 1e9, "threads", options->threads);
  Status status = json_write_file(options->json, json, error);
  json_decref(json);
  return status;
}

Status bench_data_run(const BenchDataOptions *options, Error *error) {
  Status status = OK;
  Dataset *dataset = NULL;
  Rate loader = {0}, plain = {0};
  TRY(dataset_open(options->data, &dataset, error));
  const DatasetInfo *info = dataset_info(dataset);
  TRY(measure_pread(options->data, &info->shape, options, &plain, error)); /* warms the cache */
  plain = (Rate){0};
  TRY(measure_loader(dataset, options, &loader, error));
  TRY(measure_pread(options->data, &info->shape, options, &plain, error));
  printf("%s: clips of %dx%dx%d%s, %d thread%s, warm page cache\n\n", options->data,
         info->shape.frames, info->shape.target_height, info->shape.target_width,
         info->deflated ? ", deflated" : "", options->threads, options->threads == 1 ? "" : "s");
  printf("%-22s %12s %10s\n", "", "clips/s", "GB/s");
  print_row("loader", &loader);
  print_row(info->deflated ? "pread, as stored" : "pread", &plain);
  if (options->json) TRY(write_json(options, &loader, &plain, error));
done:
  dataset_close(dataset);
  return status;
}
