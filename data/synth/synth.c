#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/memory.h"
#include "data/build/build.h"
#include "data/dataset/dataset.h"

enum { MAX_FRAMES = 4096, MIN_SIDE = 8, MAX_SIDE = 8192, MAX_THREADS = 256 };

static Status check(const SynthOptions *o, Error *error) {
  if (o->clips < 1)
    return error_set(error, ERROR_USAGE, "synth: %lld clips; allowed: 1 and more",
                     (long long)o->clips);
  if (o->first_clip < 0)
    return error_set(error, ERROR_USAGE, "synth: the first clip is %lld; allowed: 0 and more",
                     (long long)o->first_clip);
  if (o->frames < 1 || o->frames > MAX_FRAMES)
    return error_set(error, ERROR_USAGE, "synth: %d frames a clip; allowed: 1 to %d", o->frames,
                     MAX_FRAMES);
  if (o->width < MIN_SIDE || o->height < MIN_SIDE || o->width > MAX_SIDE || o->height > MAX_SIDE)
    return error_set(error, ERROR_USAGE, "synth: size %dx%d; allowed: %dx%d to %dx%d", o->width,
                     o->height, MIN_SIDE, MIN_SIDE, MAX_SIDE, MAX_SIDE);
  if (o->threads < 0 || o->threads > MAX_THREADS)
    return error_set(error, ERROR_USAGE, "synth: %d threads; allowed: 0 (every core) to %d",
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

/* Renders `count` clips, one a thread, into `films` and `cels`, `bytes` each. */
static void render(const SynthOptions *o, int64_t first, int count, int threads, uint8_t *films,
                   uint8_t *cels, size_t bytes) {
  (void)threads; /* where the compiler has no OpenMP */
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int i = 0; i < count; i++)
    synth_clip(o->seed, first + i, o->frames, o->width, o->height, films + bytes * (size_t)i,
               cels + bytes * (size_t)i);
}

/* Rounds of as many clips as there are threads, each written in order behind its rendering. */
static Status write_clips(const SynthOptions *o, int64_t already, DatasetWriter *writer,
                          Error *error) {
  Status status = OK;
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  int threads = o->threads            ? o->threads
                : cores < 1           ? 1
                : cores > MAX_THREADS ? MAX_THREADS
                                      : (int)cores;
  size_t bytes = (size_t)o->frames * (size_t)o->width * (size_t)o->height * 3;
  void *films = NULL, *cels = NULL;
  TRY(mem_bulk(bytes * (size_t)threads, "the rendered clips", &films, error));
  TRY(mem_bulk(bytes * (size_t)threads, "the rendered clips", &cels, error));
  for (int64_t done = already; done < o->clips;) {
    int count = o->clips - done < threads ? (int)(o->clips - done) : threads;
    render(o, o->first_clip + done, count, threads, films, cels, bytes);
    for (int i = 0; i < count; i++) {
      ClipName name = name_clip(o->seed, o->first_clip + done + i);
      TRY(dataset_writer_add(writer, (uint8_t *)films + bytes * (size_t)i,
                             (uint8_t *)cels + bytes * (size_t)i, &name, error));
    }
    done += count;
    if (o->progress) o->progress(o->progress_context, done, o->clips, "clips");
  }
done:
  free(cels);
  free(films);
  return status;
}

Status synth_run(const SynthOptions *options, Error *error) {
  Status status = OK;
  DatasetWriter *writer = NULL;
  int64_t already = 0;
  char *maker = NULL;
  TRY(check(options, error));
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
