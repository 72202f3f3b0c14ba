/* bench translate: the speed of frame-by-frame inference, without decoding and encoding. */
#include <stdio.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/statistics.h"
#include "base/thread.h"
#include "trainer/bench/bench.h"

enum { WARMUP_FRAMES = 4 }; /* devices with graph capture record the second one */

typedef struct Bench {
  const BenchTranslateOptions *options;
  Backend *backend;
  Inference *inference;
  InferenceShape shape;
  uint8_t *source; /* u8 [source_height,source_width,source_channels], noise */
  float *output;
  double *seconds; /* [frames] */
} Bench;

static Status set_up(Bench *bench, Error *error) {
  Status status = OK;
  const BenchTranslateOptions *options = bench->options;
  InferenceShape *shape = &bench->shape;
  TRY(inference_open_model(&options->model, &options->device, &bench->backend, &bench->inference,
                           error));
  int64_t scale = inference_scale(bench->inference);
  *shape = (InferenceShape){.source_height = options->height,
                            .source_width = options->width,
                            .source_channels = inference_source_channels(bench->inference),
                            .height = options->height * scale,
                            .width = options->width * scale};
  size_t bytes = (size_t)(shape->source_height * shape->source_width * shape->source_channels);
  size_t samples = (size_t)(shape->height * shape->width * 3);
  TRY(mem_bulk(bytes, "a frame", (void **)&bench->source, error));
  TRY(mem_bulk(samples * sizeof(float), "a frame", (void **)&bench->output, error));
  Random random = random_stream(1, RANDOM_TEST, 0, 0);
  for (size_t i = 0; i < bytes; i++) bench->source[i] = (uint8_t)random_u32(&random);
  bench->seconds = mem_new((size_t)options->frames, sizeof *bench->seconds);
  TRY(inference_stream_begin(bench->inference, shape, error));
done:
  return status;
}

static Status stream(Bench *bench, const char *what, int64_t frames, double *seconds,
                     Error *error) {
  Status status = OK;
  Progress *progress = progress_new(what, 0, frames);
  for (int64_t t = 0; t < frames; t++) {
    double begin = clock_seconds();
    TRY(inference_stream_frame(bench->inference, bench->source, bench->output, error));
    if (seconds) seconds[t] = clock_seconds() - begin;
    progress_update(progress, t + 1);
  }
done:
  progress_end(progress);
  return status;
}

static void print_result(const Bench *bench, double seconds, double flops) {
  const InferenceShape *shape = &bench->shape;
  printf("%s\n", bench->backend->describe(bench->backend));
  printf("frames of %lldx%lld to %lldx%lld, %s, frame by frame, median of %lld\n\n",
         (long long)shape->source_width, (long long)shape->source_height, (long long)shape->width,
         (long long)shape->height, dtype_name(bench->options->device.precision),
         (long long)bench->options->frames);
  printf("milliseconds per frame %10.3f\n", 1e3 * seconds);
  printf("frames per second      %10.2f\n", 1 / seconds);
  printf("GFLOP per frame        %10.2f\n", flops / 1e9);
  printf("GFLOP/s                %10.1f\n", flops / seconds / 1e9);
}

static Status write_json(const Bench *bench, double seconds, double flops, Error *error) {
  const InferenceShape *shape = &bench->shape;
  const char *device = bench->backend->describe(bench->backend);
  json_t *json =
      json_pack("{s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:s, s:s}", "frame_seconds", seconds,
                "frames_per_second", 1 / seconds, "gflop", flops / 1e9, "gflops",
                flops / seconds / 1e9, "frames", (json_int_t)bench->options->frames, "height",
                (json_int_t)shape->height, "width", (json_int_t)shape->width, "precision",
                dtype_name(bench->options->device.precision), "device", device);
  Status status = json_write_file(bench->options->json, json, error);
  json_decref(json);
  return status;
}

Status bench_translate_run(const BenchTranslateOptions *options, Error *error) {
  Status status = OK;
  Bench bench = {.options = options};
  TRY(set_up(&bench, error));
  TRY(stream(&bench, "warm-up", WARMUP_FRAMES, NULL, error));
  TRY(stream(&bench, "timing", options->frames, bench.seconds, error));
  double seconds = median(bench.seconds, options->frames);
  double flops = inference_stream_cost(bench.inference).flops;
  print_result(&bench, seconds, flops);
  if (options->json) TRY(write_json(&bench, seconds, flops, error));
done:
  inference_free(bench.inference);
  if (bench.backend) bench.backend->free(bench.backend);
  free(bench.source);
  free(bench.output);
  free(bench.seconds);
  return status;
}
