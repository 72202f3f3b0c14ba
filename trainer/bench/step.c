/* bench step: the speed of a training step, and where its time goes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/bulk_memory.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/statistics.h"
#include "base/thread.h"
#include "trainer/bench/bench.h"
#include "trainer/bench/step_trace.h"
#include "trainer/gan/device.h"
#include "trainer/gan/device_memory.h"
#include "trainer/gan/gan.h"
#include "trainer/gan/perceptual_loss.h"

/* On a device with graph capture, the second step records what later ones launch. */
enum { WARMUP_STEPS = 2, WARMUP_STEPS_CAPTURED = 4 };

typedef struct Bench {
  const Config *config;
  const BenchStepOptions *options;
  Backend *backend;
  Gan *gan;
  size_t free_at_first; /* bytes of device memory */
  DeviceMemoryNeeds memory;
  ClipShape shape;
  int micro_batches;
  uint8_t *source, *target; /* one micro-batch of noise, used for all micro-batches */
  float *flow;              /* zeros, also its mask; NULL if not needed */
  int64_t *samples;
  double *seconds; /* [steps] seconds of each timed step */
} Bench;

typedef struct Result {
  double step_seconds, spread, clips_per_second, gflops;
  double convolution_share, convolution_gflops, of_convolutions;
  double arena, parameters, memory, peak; /* bytes */
} Result;

/* --- Set-up ----------------------------------------------------------------------------------- */

/* Takes the size from the command line, else from the config's crop, else from the dataset. */
static Status choose_shape(Bench *bench, Error *error) {
  const Config *config = bench->config;
  const BenchStepOptions *options = bench->options;
  ClipShape *shape = &bench->shape;
  *shape = (ClipShape){.frames = options->frames ? options->frames : (int)config->data.frames,
                       .target_height = options->height,
                       .target_width = options->width,
                       .source_channels = 3};
  if (shape->target_height == 0) {
    shape->target_height = (int)config->data.crop_height;
    shape->target_width = (int)config->data.crop_width;
  }
  if (shape->frames == 0 || shape->target_height == 0) {
    Dataset *dataset = NULL;
    Status status = dataset_open(config->data.path, &dataset, error);
    if (status != OK)
      return error_set(error, status, "%s; give --frames and --size to run without a dataset",
                       error->message);
    if (!config_is_unpaired(config)) status = dataset_require_pairs(dataset, "this config", error);
    const ClipShape *clip = &dataset_info(dataset)->shape;
    bool has_target = clip_has_target(clip); /* unpaired clips have equal sizes, or a crop */
    if (shape->frames == 0) shape->frames = clip->frames;
    if (shape->target_height == 0) {
      shape->target_height = has_target ? clip->target_height : clip->source_height;
      shape->target_width = has_target ? clip->target_width : clip->source_width;
    }
    dataset_close(dataset);
    if (status != OK) return status;
  }
  shape->source_height = shape->target_height;
  shape->source_width = shape->target_width;
  return OK;
}

static Status make_clips(Bench *bench, Error *error) {
  Status status = OK;
  int64_t batch = bench->config->train.micro_batch;
  size_t bytes = (size_t)batch * clip_source_bytes(&bench->shape);
  Random random = random_stream((uint64_t)bench->config->run.seed, RANDOM_TEST, 0, 0);
  TRY(mem_bulk(bytes, "a micro-batch", (void **)&bench->source, error));
  TRY(mem_bulk(bytes, "a micro-batch", (void **)&bench->target, error));
  for (size_t i = 0; i < bytes; i++) {
    uint32_t bits = random_u32(&random);
    bench->source[i] = (uint8_t)bits;
    bench->target[i] = (uint8_t)(bits >> 8);
  }
  if (gan_needs_flow(bench->config, &bench->shape)) /* as good as any: nothing moves */
    TRY(mem_bulk(bytes * sizeof *bench->flow, "optical flow", (void **)&bench->flow, error));
  bench->samples = mem_new((size_t)batch, sizeof *bench->samples);
  for (int64_t i = 0; i < batch; i++) bench->samples[i] = i;
done:
  return status;
}

static Status find_free(const Bench *bench, size_t *bytes, Error *error) {
  DeviceMemory memory = {0};
  Backend *backend = bench->backend;
  Status status = backend->memory ? backend->memory(backend, &memory, error) : OK;
  *bytes = memory.free;
  return status;
}

static Status plan(Bench *bench, bool all_reduce, Error *error) {
  Status status = OK;
  const Config *config = bench->config;
  TRY(config_check(config, bench->options->sources, 1, error));
  TRY(choose_shape(bench, error));
  bench->micro_batches = (int)(config->train.global_batch / config->train.micro_batch);
  TRY(device_open(config, NULL, (int)config->train.threads, &bench->backend, error));
  TRY(find_free(bench, &bench->free_at_first, error));
  GanOptions options = {
      .shape = bench->shape, .micro_batches = bench->micro_batches, .all_reduce = all_reduce};
  TRY(gan_plan(config, bench->backend, &options, &bench->gan, error));
done:
  return status;
}

static Status read_perceptual(Bench *bench, Error *error) {
  const Parameters *network = gan_perceptual_network(bench->gan);
  float *weights = NULL;
  if (network->total == 0) return OK;
  Status status = perceptual_read(bench->config->loss.perceptual_weights, network, &weights, error);
  if (status == OK) gan_set_perceptual_weights(bench->gan, weights);
  return status;
}

static Status set_up(Bench *bench, Error *error) {
  Status status = OK;
  TRY(read_perceptual(bench, error));
  TRY(device_memory_needs(bench->gan, &bench->memory, error));
  TRY(device_memory_allocate(&bench->gan, error));
  TRY(gan_initialize(bench->gan, error));
  TRY(make_clips(bench, error));
  bench->seconds = mem_new((size_t)bench->options->steps, sizeof *bench->seconds);
done:
  return status;
}

/* --- Measuring -------------------------------------------------------------------------------- */

static Status run_steps(Bench *bench, const char *what, int64_t count, double *seconds,
                        Error *error) {
  Status status = OK;
  /* The first step after pretraining and the adversarial ramp: the complete GAN step. */
  const OptimConfig *optim = &bench->config->optim;
  StepControls controls =
      schedule_at(bench->config, optim->pretrain_steps + optim->adversarial_ramp_steps);
  controls.apply_r1 = false;
  MicroBatch *batches = mem_new((size_t)bench->micro_batches, sizeof *batches);
  Progress *progress = progress_new(what, 0, count);
  for (int i = 0; i < bench->micro_batches; i++)
    batches[i] = (MicroBatch){.source = bench->source,
                              .target = bench->target,
                              .smoothed = bench->target,
                              .flow = bench->flow,
                              .flow_mask = bench->flow,
                              .samples = bench->samples};
  for (int64_t step = 0; step < count; step++) {
    double begin = clock_seconds();
    TRY(gan_step(bench->gan, &controls, batches, error));
    TRY(bench->backend->synchronize(bench->backend, error));
    if (seconds) seconds[step] = clock_seconds() - begin;
    progress_update(progress, step + 1);
  }
done:
  progress_end(progress);
  free(batches);
  return status;
}

/* Times steps first and profiles others afterwards, because profiling makes them slower. */
static Status time_steps(Bench *bench, double *step_seconds, Error *error) {
  Status status = OK;
  int64_t steps = bench->options->steps;
  Backend *backend = bench->backend;
  int64_t warmup = backend->capture_begin ? WARMUP_STEPS_CAPTURED : WARMUP_STEPS;
  TRY(run_steps(bench, "warm-up", warmup, NULL, error));
  if (backend->profiler_range) backend->profiler_range(backend, true);
  TRY(run_steps(bench, "timing", steps, bench->seconds, error));
  if (backend->profiler_range) backend->profiler_range(backend, false);
  gan_profile(bench->gan, true);
  TRY(run_steps(bench, "profiling", steps, NULL, error));
  *step_seconds = median(bench->seconds, steps);
done:
  return status;
}

/* The standard deviation of the logarithms, robustly from the quartiles: those of a normal
 * distribution are 1.349 standard deviations apart. */
static double spread(const double *ascending_seconds, int64_t count) {
  double low = ascending_seconds[count / 4], high = ascending_seconds[(3 * count - 1) / 4];
  return log(high / low) / 1.349;
}

static Status measure(Bench *bench, Result *result, Error *error) {
  Status status = OK;
  int64_t steps = bench->options->steps;
  TRY(time_steps(bench, &result->step_seconds, error));
  result->spread = spread(bench->seconds, steps);
  ProgramCost cost = gan_cost(bench->gan, 0);
  ProgramTimes times = gan_times(bench->gan);
  struct rusage usage;
  size_t free_now = 0;
  getrusage(RUSAGE_SELF, &usage);
  result->clips_per_second = (double)bench->config->train.global_batch / result->step_seconds;
  result->gflops = cost.flops / result->step_seconds / 1e9;
  result->convolution_share = times.convolutions / (times.convolutions + times.others);
  result->convolution_gflops = cost.convolution_flops * (double)steps / times.convolutions / 1e9;
  result->of_convolutions = result->gflops / result->convolution_gflops;
  result->arena = (double)cost.arena_bytes;
  result->parameters = (double)bench->memory.parameters;
  TRY(find_free(bench, &free_now, error));
  result->memory = bench->free_at_first > free_now ? (double)(bench->free_at_first - free_now)
                                                   : (double)bench->memory.total;
  result->peak = (double)usage.ru_maxrss * 1024;
done:
  return status;
}

/* --- Reporting -------------------------------------------------------------------------------- */

static void print_result(const Bench *bench, const Result *result) {
  Text text = {0};
  const ClipShape *shape = &bench->shape;
  const DevicePeaks *peaks = &bench->options->peaks;
  gan_print_profile(bench->gan, peaks->flops > 0 || peaks->bytes > 0 ? peaks : NULL, &text);
  text_append(&text, "\n%s\n", bench->backend->describe(bench->backend));
  text_append(&text, "a step of %lld clips of %dx%dx%d, %d micro-batch%s, median of %lld steps\n\n",
              (long long)bench->config->train.global_batch, shape->frames, shape->target_height,
              shape->target_width, bench->micro_batches, bench->micro_batches == 1 ? "" : "es",
              (long long)bench->options->steps);
  if (bench->config->loss.r1 > 0 && bench->config->loss.r1_interval > 1)
    text_append(&text, "without R1, which is in every %lldth step; --plan prints its cost\n\n",
                (long long)bench->config->loss.r1_interval);
  text_append(&text, "seconds per step                %10.4f\n", result->step_seconds);
  text_append(&text, "spread of the steps             %10.1f %%\n", 100 * result->spread);
  text_append(&text, "clips per second                %10.3f\n", result->clips_per_second);
  text_append(&text, "GFLOP/s of the step             %10.1f\n", result->gflops);
  text_append(&text, "GFLOP/s of its convolutions     %10.1f\n", result->convolution_gflops);
  text_append(&text, "step / convolutions             %10.1f %%\n", 100 * result->of_convolutions);
  text_append(&text, "time in convolutions            %10.1f %%\n",
              100 * result->convolution_share);
  text_append(&text, "arena, planned                  %10.1f MiB\n", result->arena / 1048576);
  text_append(&text, "parameters and their state      %10.1f MiB\n", result->parameters / 1048576);
  text_append(&text, "device memory in use            %10.1f MiB\n", result->memory / 1048576);
  text_append(&text, "peak resident memory            %10.1f MiB\n", result->peak / 1048576);
  fputs(text.data, stdout);
  text_free(&text);
}

static Status write_json(const Bench *bench, const Result *result, Error *error) {
  const ClipShape *shape = &bench->shape;
  json_t *json = json_pack(
      "{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "clips_per_second",
      result->clips_per_second, "step_seconds", result->step_seconds, "step_spread", result->spread,
      "gflops", result->gflops, "convolution_gflops", result->convolution_gflops,
      "share_of_convolution_speed", result->of_convolutions, "share_of_time_in_convolutions",
      result->convolution_share, "arena_bytes", result->arena, "parameter_bytes",
      result->parameters, "memory_bytes", result->memory, "peak_resident_bytes", result->peak);
  json_t *setting =
      json_pack("{s:I, s:i, s:i, s:i, s:I, s:I, s:s}", "steps", (json_int_t)bench->options->steps,
                "frames", shape->frames, "height", shape->target_height, "width",
                shape->target_width, "global_batch", (json_int_t)bench->config->train.global_batch,
                "micro_batch", (json_int_t)bench->config->train.micro_batch, "device",
                bench->backend->describe(bench->backend));
  json_object_update(json, setting);
  Status status = json_write_file(bench->options->json, json, error);
  json_decref(setting);
  json_decref(json);
  return status;
}

static void tear_down(Bench *bench) {
  gan_free(bench->gan);
  if (bench->backend) bench->backend->free(bench->backend);
  free(bench->source);
  free(bench->target);
  free(bench->flow);
  free(bench->samples);
  free(bench->seconds);
}

static Status print_plan(const Bench *bench, Error *error) {
  Text text = {0};
  text_append(&text, "device: %s\n\n", bench->backend->describe(bench->backend));
  gan_print_plan(bench->gan, &text);
  const Status status = device_memory_print(bench->gan, &text, error);
  if (status == OK) fputs(text.data, stdout);
  text_free(&text);
  return status;
}

Status bench_step_run(const Config *config, const BenchStepOptions *options, Error *error) {
  Status status = OK;
  Bench bench = {.config = config, .options = options};
  Result result;
  TRY(plan(&bench, false, error));
  if (options->plan) {
    status = print_plan(&bench, error);
    goto done;
  }
  TRY(set_up(&bench, error));
  TRY(measure(&bench, &result, error));
  print_result(&bench, &result);
  if (options->json) TRY(write_json(&bench, &result, error));
done:
  tear_down(&bench);
  return status;
}

/* The step is planned with all-reduces, which do nothing when a single process runs it. Planning
 * alone needs no GPU. */
Status bench_step_trace(const Config *config, const BenchStepOptions *options, bool measured,
                        StepTrace *trace, Error *error) {
  Status status = OK;
  Config planned = *config;
  Bench bench = {.config = &planned, .options = options};
  double seconds = 0;
  if (!measured) planned.train.device = DEVICE_CPU;
  TRY(plan(&bench, true, error));
  if (measured) {
    TRY(set_up(&bench, error));
    TRY(time_steps(&bench, &seconds, error));
  }
  step_trace_of_model(bench.gan, trace);
  step_trace_scale(trace, seconds);
done:
  tear_down(&bench);
  return status;
}
