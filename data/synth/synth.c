#include <stdio.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/host.h"
#include "base/memory.h"
#include "data/build/build.h"
#include "data/dataset/dataset.h"

enum { MAX_FRAMES = 4096, MIN_SIDE = 8, MAX_SIDE = 8192, MAX_THREADS = 256 };

static Status check_options(const SynthOptions *o, Error *error) {
  if (o->clips < 1)
    return error_set(error, ERROR_USAGE, "synth: --clips %lld: expected 1 or more",
                     (long long)o->clips);
  if (o->first_clip < 0)
    return error_set(error, ERROR_USAGE, "synth: --first-clip %lld: expected 0 or more",
                     (long long)o->first_clip);
  if (o->frames < 1 || o->frames > MAX_FRAMES)
    return error_set(error, ERROR_USAGE, "synth: --frames %d: expected 1 to %d", o->frames,
                     MAX_FRAMES);
  if (o->width < MIN_SIDE || o->height < MIN_SIDE || o->width > MAX_SIDE || o->height > MAX_SIDE)
    return error_set(error, ERROR_USAGE, "synth: --size %dx%d: expected %dx%d to %dx%d", o->width,
                     o->height, MIN_SIDE, MIN_SIDE, MAX_SIDE, MAX_SIDE);
  if (o->threads < 0 || o->threads > MAX_THREADS)
    return error_set(error, ERROR_USAGE, "synth: --threads %d: expected 0 (all processors) to %d",
                     o->threads, MAX_THREADS);
  return OK;
}

static ClipName name_clip(uint64_t seed, int64_t clip) {
  ClipName name = {.start_frame = 0};
  snprintf(name.id, sizeof name.id, "synth-%llu-%lld", (unsigned long long)seed, (long long)clip);
  snprintf(name.origin, sizeof name.origin, "synth, seed %llu, clip %lld", (unsigned long long)seed,
           (long long)clip);
  return name;
}

/* Renders `count` clips in parallel into `sources` and `targets`, with `bytes` per clip. */
static void render(const SynthOptions *o, int64_t first, int count, int threads, uint8_t *sources,
                   uint8_t *targets, size_t bytes) {
  (void)threads; /* where the compiler has no OpenMP */
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int i = 0; i < count; i++)
    synth_clip(o->seed, first + i, o->frames, o->width, o->height, sources + bytes * (size_t)i,
               targets + bytes * (size_t)i);
}

/* Renders as many clips at a time as there are threads, then writes them in order. */
static Status write_clips(const SynthOptions *o, int64_t already, DatasetWriter *writer,
                          Error *error) {
  Status status = OK;
  int threads = o->threads ? o->threads : host_processor_count();
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  size_t bytes = (size_t)o->frames * (size_t)o->width * (size_t)o->height * 3;
  void *sources = NULL, *targets = NULL;
  TRY(mem_bulk(bytes * (size_t)threads, "the rendered clips", &sources, error));
  TRY(mem_bulk(bytes * (size_t)threads, "the rendered clips", &targets, error));
  for (int64_t done = already; done < o->clips;) {
    int count = o->clips - done < threads ? (int)(o->clips - done) : threads;
    render(o, o->first_clip + done, count, threads, sources, targets, bytes);
    for (int i = 0; i < count; i++) {
      ClipName name = name_clip(o->seed, o->first_clip + done + i);
      TRY(dataset_writer_add(writer, (uint8_t *)sources + bytes * (size_t)i,
                             (uint8_t *)targets + bytes * (size_t)i, &name, error));
    }
    done += count;
    TRY(build_report(o->progress, o->progress_context, done, o->clips, "clips", error));
  }
done:
  free(targets);
  free(sources);
  return status;
}

Status synth_run(const SynthOptions *options, Error *error) {
  Status status = OK;
  DatasetWriter *writer = NULL;
  int64_t already = 0;
  char *maker = NULL;
  TRY(check_options(options, error));
  DatasetSpec spec = {
      .shape = {.frames = options->frames,
                .source_height = options->height,
                .source_width = options->width,
                .source_channels = 3,
                .target_height = options->height,
                .target_width = options->width},
      .fps_numerator = 25,
      .fps_denominator = 1,
      .clips_per_shard = options->clips_per_shard,
      .deflate = options->deflate,
  };
  maker = options->command
              ? mem_string(options->command)
              : mem_format("synth --seed %llu --first-clip %lld", (unsigned long long)options->seed,
                           (long long)options->first_clip);
  spec.maker = maker;
  TRY(dataset_writer_open(options->out, &spec, &writer, &already, error));
  TRY(write_clips(options, already, writer, error));
  DatasetWriter *finished = writer;
  writer = NULL;
  TRY(dataset_writer_finish(finished, error));
done:
  if (writer) dataset_writer_abandon(writer);
  free(maker);
  return status;
}
