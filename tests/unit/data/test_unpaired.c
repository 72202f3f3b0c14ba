/* Loading sources of one dataset and targets of another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/memory.h"
#include "base/random.h"
#include "data/flow/clip_flow.h"
#include "data/loader/edge_smoothing.h"
#include "support_dataset.h"
#include "support_loader.h"

enum { LIVE_CLIPS = 10, CARTOON_CLIPS = 7 };

/* Sources of 3 frames of 18x14, and targets of 5 frames of 16x20 (width x height). */
typedef struct Fixture {
  char *live_folder, *cartoon_folder;
  Dataset *live, *cartoons;
} Fixture;

static DatasetSpec live_spec(void) {
  DatasetSpec spec = one_sided_spec(0);
  spec.shape.source_height = 14;
  spec.shape.source_width = 18;
  return spec;
}

static DatasetSpec cartoon_spec(void) {
  DatasetSpec spec = one_sided_spec(1);
  spec.shape.frames = 5;
  spec.shape.target_height = 20;
  spec.shape.target_width = 16;
  return spec;
}

static Dataset *open_dataset(const char *folder) {
  Error error;
  Dataset *dataset = NULL;
  if (dataset_open(inside(folder, "data"), &dataset, &error) != OK) fail_msg("%s", error.message);
  return dataset;
}

static int set_up(void **state) {
  Fixture *f = mem_new(1, sizeof *f);
  DatasetSpec live = live_spec(), cartoons = cartoon_spec();
  f->live_folder = temporary_folder();
  f->cartoon_folder = temporary_folder();
  make_dataset(f->live_folder, &live, LIVE_CLIPS);
  make_dataset(f->cartoon_folder, &cartoons, CARTOON_CLIPS);
  f->live = open_dataset(f->live_folder);
  f->cartoons = open_dataset(f->cartoon_folder);
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  Fixture *f = *state;
  dataset_close(f->live);
  dataset_close(f->cartoons);
  remove_folder(f->live_folder);
  remove_folder(f->cartoon_folder);
  free(f);
  return 0;
}

/* Two frames, crops of 12x10, flips, edges and flow. */
static LoaderOptions unpaired_options(void) {
  LoaderOptions options = plain_options();
  options.frames = 2;
  options.crop_height = 10;
  options.crop_width = 12;
  options.flip = true;
  options.smooth_edges = true;
  options.flow = true;
  return options;
}

static Loader *open_loader(const Dataset *live, const Dataset *cartoons,
                           const LoaderOptions *options, int64_t step) {
  Error error;
  Loader *loader = NULL;
  if (loader_open(live, cartoons, options, step, &loader, &error) != OK)
    fail_msg("%s", error.message);
  return loader;
}

/* --- Samples ---------------------------------------------------------------------------------- */

/* The plan of one side of a dataset. */
static AugmentPlan plan_of(const Dataset *dataset, int side, const LoaderOptions *o, int frames) {
  Error error;
  AugmentPlan plan;
  ClipShape shape = dataset_info(dataset)->shape;
  if (side == 0)
    shape.target_height = shape.target_width = 0;
  else
    shape.source_height = shape.source_width = shape.source_channels = 0;
  if (augment_plan(&shape, frames, o->crop_height, o->crop_width, o->crop_multiple, o->flip, &plan,
                   &error) != OK)
    fail_msg("%s", error.message);
  return plan;
}

static void assert_position(const SamplePosition *found, SamplePosition expected) {
  assert_int_equal(found->epoch, expected.epoch);
  assert_int_equal(found->position, expected.position);
  assert_int_equal(found->clip, expected.clip);
}

/* Compares a batch with the reference, clip by clip. */
static void assert_batch(const Fixture *f, const LoaderOptions *o, int frames, const Batch *batch) {
  const AugmentPlan source = plan_of(f->live, 0, o, frames);
  const AugmentPlan target = plan_of(f->cartoons, 1, o, frames);
  int64_t micro_batches = o->global_batch / o->micro_batch / o->world_size;
  for (int i = 0; i < batch->count; i++) {
    int64_t number = shuffle_batch_of_step(batch->step, o->skipped_batches, o->skipped_batch_count);
    int64_t sample = number * o->global_batch +
                     (o->rank * micro_batches + batch->micro_index) * o->micro_batch + i;
    assert_int_equal(batch->samples[i], sample);
    assert_position(&batch->positions[i], shuffle_sample(o->seed, sample, LIVE_CLIPS));
    assert_position(&batch->target_positions[i],
                    shuffle_target_sample(o->seed, sample, CARTOON_CLIPS));
    Augment a = augment_draw(&source, o->seed, sample);
    Augment b = augment_draw_target(&target, o->seed, sample);
    assert_sample_side(&source.clip, &source.out, &a, 0, batch->positions[i].clip,
                       batch->source + (size_t)i * clip_source_bytes(&source.out));
    assert_sample_side(&target.clip, &target.out, &b, 1, batch->target_positions[i].clip,
                       batch->target + (size_t)i * clip_target_bytes(&target.out));
  }
}

static void run_steps(const Fixture *f, const LoaderOptions *o, int frames, int64_t first,
                      int steps) {
  Loader *loader = open_loader(f->live, f->cartoons, o, first);
  int micro_batches = (int)(o->global_batch / o->micro_batch / o->world_size);
  assert_int_equal(loader_shape(loader).frames, frames);
  for (int64_t step = first; step < first + steps; step++)
    for (int micro = 0; micro < micro_batches; micro++) {
      Batch *batch = next_batch(loader);
      assert_int_equal(batch->step, step);
      assert_int_equal(batch->micro_index, micro);
      assert_batch(f, o, frames, batch);
      loader_release(loader, batch);
    }
  loader_close(loader);
}

static void samples_match_the_reference(void **state) {
  int64_t skipped_batches[] = {1, 4};
  LoaderOptions options = unpaired_options();
  run_steps(*state, &options, 2, 0, 6);
  run_steps(*state, &options, 2, 1000000007, 2);
  options.skipped_batches = skipped_batches;
  options.skipped_batch_count = 2;
  options.crop_multiple = 4;
  options.flip = options.flow = options.smooth_edges = false;
  run_steps(*state, &options, 2, 0, 6);
  options.frames = 0; /* the sources have 3, the targets 5 */
  run_steps(*state, &options, 3, 0, 3);
}

static void samples_are_the_same_for_every_world_size(void **state) {
  LoaderOptions options = unpaired_options();
  for (options.world_size = 2; options.world_size <= 4; options.world_size *= 2)
    for (options.rank = 0; options.rank < options.world_size; options.rank++)
      run_steps(*state, &options, 2, 7, 3);
}

/* --- Equal bytes ------------------------------------------------------------------------------ */

enum { STEPS = 6, MICRO_BATCHES = 4 };

/* Stores a checksum of all arrays of each micro-batch from step `first` to STEPS - 1, read by all
 * ranks. */
static void checksums(const Fixture *f, int ranks, int threads, int64_t first,
                      uint32_t out[STEPS][MICRO_BATCHES]) {
  LoaderOptions o = unpaired_options();
  o.world_size = ranks;
  o.threads = threads;
  for (o.rank = 0; o.rank < ranks; o.rank++) {
    Loader *loader = open_loader(f->live, f->cartoons, &o, first);
    ClipShape shape = loader_shape(loader);
    size_t count = (size_t)o.micro_batch, source = clip_source_bytes(&shape);
    size_t pixels = count * (size_t)(shape.source_height * shape.source_width);
    for (int64_t i = 0; i < (STEPS - first) * MICRO_BATCHES / ranks; i++) {
      Batch *batch = next_batch(loader);
      uint32_t sum = crc32c(0, batch->source, count * source);
      sum = crc32c(sum, batch->target, count * clip_target_bytes(&shape));
      sum = crc32c(sum, batch->smoothed, count * clip_target_bytes(&shape));
      sum = crc32c(sum, batch->flow, pixels * 2 * sizeof(float));
      sum = crc32c(sum, batch->flow_mask, pixels * sizeof(float));
      out[batch->step][o.rank * MICRO_BATCHES / ranks + batch->micro_index] = sum;
      loader_release(loader, batch);
    }
    loader_close(loader);
  }
}

static void bytes_do_not_depend_on_threads_or_ranks(void **state) {
  uint32_t one[STEPS][MICRO_BATCHES] = {0}, other[STEPS][MICRO_BATCHES];
  checksums(*state, 1, 1, 0, one);
  for (int i = 1; i < STEPS; i++) assert_memory_not_equal(one[0], one[i], sizeof one[0]);
  for (int ranks = 1; ranks <= 4; ranks *= 2)
    for (int threads = 1; threads <= 5; threads += 2) {
      memset(other, 0, sizeof other);
      checksums(*state, ranks, threads, 0, other);
      assert_memory_equal(one, other, sizeof one);
    }
}

static void any_step_resumes_with_equal_bytes(void **state) {
  uint32_t all[STEPS][MICRO_BATCHES] = {0}, resumed[STEPS][MICRO_BATCHES];
  checksums(*state, 1, 3, 0, all);
  for (int64_t first = 1; first < STEPS; first++) {
    memset(resumed, 0, sizeof resumed);
    checksums(*state, first % 2 ? 2 : 1, 2, first, resumed);
    assert_memory_equal(all[first], resumed[first], sizeof *all * (size_t)(STEPS - first));
  }
}

/* --- Independence of the two sides ------------------------------------------------------------ */

/* Chi-square statistic of a table of counts against the uniform distribution. */
static double chi_square(const int *counts, int cells, int samples) {
  double expected = (double)samples / cells, chi = 0;
  for (int i = 0; i < cells; i++) chi += (counts[i] - expected) * (counts[i] - expected) / expected;
  return chi;
}

/* With c cells the mean is about c - 1 and the variance 2 (c - 1); five deviations are one in
 * millions. */
static void assert_uniform(const int *counts, int cells, int samples) {
  double chi = chi_square(counts, cells, samples), over = chi - (cells - 1);
  if (over * over > 25 * 2 * (cells - 1)) fail_msg("%d cells: chi-square %g", cells, chi);
}

/* Every source meets every target equally often, also if both datasets have as many clips. */
static void orders_are_independent(void **state) {
  (void)state;
  enum { N = 8, SAMPLES = 64 * 400 };
  int pairs[N * N] = {0}, equal_orders = 0;
  for (int64_t sample = 0; sample < SAMPLES; sample++) {
    int64_t a = shuffle_sample(5, sample, N).clip, b = shuffle_target_sample(5, sample, N).clip;
    pairs[a * N + b]++;
  }
  assert_uniform(pairs, N * N, SAMPLES);
  for (int64_t sample = 0; sample < 1000; sample++)
    equal_orders +=
        shuffle_sample(5, sample, 1000).clip == shuffle_target_sample(5, sample, 1000).clip;
  assert_true(equal_orders < 12); /* 1 on average */
}

static void augmentations_are_independent(void **state) {
  const Fixture *f = *state;
  LoaderOptions o = unpaired_options();
  const AugmentPlan source = plan_of(f->live, 0, &o, 2), target = plan_of(f->cartoons, 1, &o, 2);
  enum { SAMPLES = 35000 };
  int flips[4] = {0}, frames[2 * 4] = {0}, across[7 * 5] = {0}, down[5 * 11] = {0};
  for (int64_t sample = 0; sample < SAMPLES; sample++) {
    Augment a = augment_draw(&source, 3, sample), b = augment_draw_target(&target, 3, sample);
    flips[2 * a.flip + b.flip]++;
    frames[4 * a.frame + b.frame]++;
    across[5 * a.source_x + b.target_x]++;
    down[11 * a.source_y + b.target_y]++;
  }
  assert_uniform(flips, 4, SAMPLES);
  assert_uniform(frames, 2 * 4, SAMPLES);
  assert_uniform(across, 7 * 5, SAMPLES);
  assert_uniform(down, 5 * 11, SAMPLES);
}

/* --- Edges and flow --------------------------------------------------------------------------- */

static void check_extras(const Batch *batch, const ClipShape *shape) {
  Error error;
  EdgeSmoother *smoother = NULL;
  ClipFlow *flow = NULL;
  size_t pixels = (size_t)(shape->source_height * shape->source_width);
  size_t frame = (size_t)(shape->target_height * shape->target_width) * 3;
  size_t pairs = (size_t)shape->frames - 1;
  uint8_t *smoothed = mem_new(frame, 1);
  float *expected = mem_new(pairs * pixels * 3, sizeof *expected);
  assert_int_equal(edge_smoother_new(shape->target_height, shape->target_width, &smoother, &error),
                   OK);
  assert_int_equal(clip_flow_new(shape->source_height, shape->source_width, &flow, &error), OK);
  for (size_t i = 0; i < (size_t)(batch->count * shape->frames); i++) {
    edge_smoother_apply(smoother, batch->target + i * frame, smoothed);
    assert_memory_equal(batch->smoothed + i * frame, smoothed, frame);
    assert_memory_not_equal(batch->target + i * frame, smoothed, frame); /* noise is all edges */
  }
  for (size_t i = 0; i < (size_t)batch->count; i++) {
    float *mask = expected + pairs * pixels * 2;
    clip_flow_compute(flow, batch->source + i * clip_source_bytes(shape), shape->frames,
                      shape->source_channels, expected, mask);
    assert_memory_equal(batch->flow + i * pairs * pixels * 2, expected,
                        pairs * pixels * 2 * sizeof *expected);
    assert_memory_equal(batch->flow_mask + i * pairs * pixels, mask, pairs * pixels * sizeof *mask);
  }
  edge_smoother_free(smoother);
  clip_flow_free(flow);
  free(smoothed);
  free(expected);
}

static void edges_and_flow_are_those_of_the_samples(void **state) {
  const Fixture *f = *state;
  LoaderOptions options = unpaired_options();
  options.frames = 3;
  Loader *loader = open_loader(f->live, f->cartoons, &options, 3);
  ClipShape shape = loader_shape(loader);
  for (int i = 0; i < 8; i++) {
    Batch *batch = next_batch(loader);
    check_extras(batch, &shape);
    loader_release(loader, batch);
  }
  loader_close(loader);
}

/* Pairs may have them too; what is not asked for is NULL. */
static void edges_and_flow_are_optional(void **state) {
  (void)state;
  DatasetSpec spec = small_spec();
  char *folder = temporary_folder();
  make_dataset(folder, &spec, 4);
  Dataset *pairs = open_dataset(folder);
  for (int i = 0; i < 4; i++) {
    LoaderOptions options = plain_options();
    options.smooth_edges = i & 1;
    options.flow = i & 2;
    Loader *loader = open_loader(pairs, NULL, &options, 0);
    ClipShape shape = loader_shape(loader);
    Batch *batch = next_batch(loader);
    assert_int_equal(batch->smoothed != NULL, options.smooth_edges);
    assert_int_equal(batch->flow != NULL, options.flow);
    assert_int_equal(batch->flow_mask != NULL, options.flow);
    for (int k = 0; k < batch->count; k++)
      assert_position(&batch->target_positions[k], batch->positions[k]);
    if (i == 3) check_extras(batch, &shape);
    loader_release(loader, batch);
    loader_close(loader);
  }
  dataset_close(pairs);
  remove_folder(folder);
}

/* --- Corrupt clips ---------------------------------------------------------------------------- */

static void corrupt(const char *folder, const ClipShape *shape, int side, int64_t clip) {
  char name[64];
  size_t size = side == 0 ? clip_source_bytes(shape) : clip_target_bytes(shape);
  uint8_t *bytes = mem_new(size, 1);
  snprintf(name, sizeof name, "data/shard-%05d.h5", (int)(clip / 4));
  clip_bytes(clip, side, bytes, size);
  const char *path = inside(folder, name);
  flip_byte(path, find_bytes(path, bytes, size) + 1);
  free(bytes);
}

static void corrupt_target_fails_by_default(void **state) {
  Error error;
  const Fixture *f = *state;
  LoaderOptions options = unpaired_options();
  Batch *batch;
  corrupt(f->cartoon_folder, &dataset_info(f->cartoons)->shape, 1, 5);
  Loader *loader = open_loader(f->live, f->cartoons, &options, 0);
  int64_t place = 0; /* of clip 5 in the first epoch of the targets */
  while (shuffle_target_sample(options.seed, place, CARTOON_CLIPS).clip != 5) place++;
  for (int64_t i = 0; i < place / 2; i++) loader_release(loader, next_batch(loader));
  assert_int_equal(loader_next(loader, &batch, &error), ERROR_DATA);
  assert_says(&error, f->cartoon_folder, "shard-00001.h5: clip 1 (target)", "CRC-32C", NULL);
  loader_close(loader);
}

enum { SAMPLES = 280 }; /* 28 epochs of the sources, 40 of the targets */

/* Stores the clips of both sides for samples 0 .. SAMPLES-1. Returns the number of corrupt clips.
 */
static int64_t read_clips(const Fixture *f, int ranks, int threads, int64_t clips[SAMPLES][2]) {
  int64_t corrupt_total = 0;
  LoaderOptions o = unpaired_options();
  o.on_corrupt = CORRUPT_SUBSTITUTE;
  o.flow = o.smooth_edges = false;
  o.world_size = ranks;
  o.threads = threads;
  for (o.rank = 0; o.rank < ranks; o.rank++) {
    Loader *loader = open_loader(f->live, f->cartoons, &o, 0);
    for (int i = 0; i < SAMPLES / ranks / o.micro_batch; i++) {
      Batch *batch = next_batch(loader);
      for (int k = 0; k < batch->count; k++) {
        /* Prefetching may have started the batches after the last one. */
        if (batch->samples[k] >= SAMPLES) continue;
        clips[batch->samples[k]][0] = batch->positions[k].clip;
        clips[batch->samples[k]][1] = batch->target_positions[k].clip;
      }
      loader_release(loader, batch);
    }
    corrupt_total += loader_corrupt_clips(loader);
    loader_close(loader);
  }
  return corrupt_total;
}

/* The clip that is read for a sample whose own clip is `bad`: the first other one of a stream of
 * random numbers for each attempt. Resuming relies on it. */
static int64_t substitute_of(RandomPurpose purpose, int64_t sample, int64_t bad, int64_t clips) {
  int64_t clip = bad;
  for (uint32_t attempt = 1; clip == bad; attempt++) {
    Random random = random_stream(11, purpose, (uint64_t)sample, attempt);
    clip = (int64_t)random_below(&random, (uint64_t)clips);
  }
  return clip;
}

static void corrupt_clips_are_substituted_per_side(void **state) {
  const Fixture *f = *state;
  int64_t one[SAMPLES][2] = {0}, four[SAMPLES][2] = {0};
  corrupt(f->live_folder, &dataset_info(f->live)->shape, 0, 6);
  corrupt(f->cartoon_folder, &dataset_info(f->cartoons)->shape, 1, 2);
  assert_true(read_clips(f, 1, 3, one) >= 28 + 40);
  assert_true(read_clips(f, 4, 2, four) >= 28 + 40);
  assert_memory_equal(one, four, sizeof one);
  int substitutes[2] = {0};
  for (int64_t i = 0; i < SAMPLES; i++) {
    const int64_t drawn[2] = {shuffle_sample(11, i, LIVE_CLIPS).clip,
                              shuffle_target_sample(11, i, CARTOON_CLIPS).clip};
    const int64_t bad[2] = {6, 2};
    const int64_t instead[2] = {substitute_of(RANDOM_AUGMENT, i, 6, LIVE_CLIPS),
                                substitute_of(RANDOM_AUGMENT_TARGET, i, 2, CARTOON_CLIPS)};
    for (int side = 0; side < 2; side++) {
      assert_int_equal(one[i][side], drawn[side] == bad[side] ? instead[side] : drawn[side]);
      substitutes[side] += one[i][side] != drawn[side];
    }
  }
  assert_int_equal(substitutes[0], 28);
  assert_int_equal(substitutes[1], 40);
}

/* Equal sizes need no crop: the clips are read straight into the batch. The targets of the pairs
 * are not read, so that their damage does not matter. */
static void whole_clips_of_equal_size_need_no_crop(void **state) {
  (void)state;
  DatasetSpec pairs = small_spec(), cartoons = one_sided_spec(1);
  cartoons.shape.target_height = pairs.shape.source_height;
  cartoons.shape.target_width = pairs.shape.source_width;
  Fixture f = {.live_folder = temporary_folder(), .cartoon_folder = temporary_folder()};
  make_dataset(f.live_folder, &pairs, LIVE_CLIPS);
  make_dataset(f.cartoon_folder, &cartoons, CARTOON_CLIPS);
  for (int64_t i = 0; i < LIVE_CLIPS; i++) corrupt(f.live_folder, &pairs.shape, 1, i);
  f.live = open_dataset(f.live_folder);
  f.cartoons = open_dataset(f.cartoon_folder);
  LoaderOptions options = plain_options();
  run_steps(&f, &options, 3, 0, 5);
  dataset_close(f.live);
  dataset_close(f.cartoons);
  remove_folder(f.live_folder);
  remove_folder(f.cartoon_folder);
}

/* Pairs serve as either side; their other side is not read, so that its damage does not matter. */
static void pairs_serve_as_either_side(void **state) {
  const Fixture *f = *state;
  DatasetSpec spec = small_spec(); /* sources of 8x6, targets of 16x12 */
  LoaderOptions options = unpaired_options();
  options.crop_height = 6;
  options.crop_width = 8;
  for (int side = 0; side < 2; side++) {
    char *folder = temporary_folder();
    make_dataset(folder, &spec, side == 0 ? LIVE_CLIPS : CARTOON_CLIPS);
    for (int64_t i = 0; i < CARTOON_CLIPS; i++) corrupt(folder, &spec.shape, 1 - side, i);
    Fixture with_pairs = *f;
    *(side == 0 ? &with_pairs.live : &with_pairs.cartoons) = open_dataset(folder);
    run_steps(&with_pairs, &options, 2, 0, 4);
    dataset_close(side == 0 ? with_pairs.live : with_pairs.cartoons);
    remove_folder(folder);
  }
}

/* --- Messages --------------------------------------------------------------------------------- */

static void expect_usage_error(const Dataset *live, const Dataset *cartoons,
                               const LoaderOptions *options, const char *names, const char *says) {
  Error error = {0};
  Loader *loader = NULL;
  assert_int_equal(loader_open(live, cartoons, options, 0, &loader, &error), ERROR_USAGE);
  assert_null(loader);
  assert_says(&error, names, says, NULL);
}

static void bad_input_is_named(void **state) {
  const Fixture *f = *state;
  const char *live = dataset_path(f->live), *cartoons = dataset_path(f->cartoons);
  LoaderOptions options = unpaired_options();
  expect_usage_error(f->live, NULL, &options, live,
                     "has sources only, but no data.target_path is set: pack pairs, or set "
                     "data.target_path to a dataset of cartoons");
  expect_usage_error(f->cartoons, NULL, &options, cartoons,
                     "has no sources, only targets: set data.path to a dataset of sources, and "
                     "data.target_path to this one, or pack pairs");
  expect_usage_error(f->cartoons, f->cartoons, &options, cartoons,
                     "has no sources, only targets: set data.path to a dataset of sources");
  expect_usage_error(f->live, f->live, &options, live,
                     "has no targets, only sources: set data.target_path to a dataset of cartoons");
  options.crop_height = 0;
  expect_usage_error(f->live, f->cartoons, &options, live, "are 12x14");
  expect_usage_error(f->live, f->cartoons, &options, cartoons, "12x20: set data.crop_height");
  options.crop_height = 15; /* fits the targets alone */
  expect_usage_error(f->live, f->cartoons, &options, live,
                     "the crop's height is 15; the clips have only 14");
  options = unpaired_options();
  options.crop_width = 17; /* fits the sources alone */
  expect_usage_error(f->live, f->cartoons, &options, cartoons,
                     "the crop's width is 17; the clips have only 16");
  options = unpaired_options();
  options.frames = 4;
  expect_usage_error(f->live, f->cartoons, &options, live,
                     "data.frames is 4; the clips have only 3");
  options.frames = 1;
  expect_usage_error(f->live, f->cartoons, &options, live,
                     "optical flow needs samples of 2 frames or more, not of 1");
}

/* Opens a loader in a child process, and returns the warnings it logs. The level of the log is read
 * once, with the first message. */
static char *logged(const Dataset *live, const Dataset *cartoons, const LoaderOptions *options) {
  char *folder = temporary_folder(), *text = NULL;
  const char *path = inside(folder, "log");
  Error error;
  size_t size = 0;
  int result = 0;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    Loader *loader = NULL;
    setenv("CELFORGE_LOG", "warning", 1);
    if (!freopen(path, "w", stderr)) _exit(1);
    Status status = loader_open(live, cartoons, options, 0, &loader, &error);
    loader_close(loader);
    _exit(status == OK ? 0 : 2);
  }
  assert_int_equal(waitpid(child, &result, 0), child);
  assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
  assert_int_equal(file_read(path, 1 << 16, &text, &size, &error), OK);
  remove_folder(folder);
  return text;
}

static void rates_and_few_clips_are_warned_of(void **state) {
  const Fixture *f = *state;
  DatasetSpec spec = cartoon_spec();
  spec.fps_numerator = 12;
  char *folder = temporary_folder();
  make_dataset(folder, &spec, CARTOON_CLIPS);
  Dataset *on_twos = open_dataset(folder);
  LoaderOptions options = unpaired_options();
  char *text = logged(f->live, on_twos, &options);
  assert_non_null(strstr(text, "has 25 frames per second"));
  assert_non_null(strstr(text, "data 12: "));
  assert_non_null(strstr(text, "has 7 clips, fewer than a global batch of 8"));
  free(text);
  options.world_size = 2;
  options.rank = 1;
  text = logged(f->live, on_twos, &options);
  assert_string_equal(text, "");
  free(text);
  options = unpaired_options();
  options.global_batch = 6;
  text = logged(f->live, f->cartoons, &options);
  assert_string_equal(text, "");
  free(text);
  dataset_close(on_twos);
  remove_folder(folder);
}

int main(void) {
  setenv("CELFORGE_LOG", "error", 1);
#define WITH_DATA(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      WITH_DATA(rates_and_few_clips_are_warned_of), /* first, before any message */
      WITH_DATA(samples_match_the_reference),
      WITH_DATA(samples_are_the_same_for_every_world_size),
      WITH_DATA(bytes_do_not_depend_on_threads_or_ranks),
      WITH_DATA(any_step_resumes_with_equal_bytes),
      cmocka_unit_test(orders_are_independent),
      WITH_DATA(augmentations_are_independent),
      WITH_DATA(edges_and_flow_are_those_of_the_samples),
      cmocka_unit_test(edges_and_flow_are_optional),
      WITH_DATA(corrupt_target_fails_by_default),
      WITH_DATA(corrupt_clips_are_substituted_per_side),
      cmocka_unit_test(whole_clips_of_equal_size_need_no_crop),
      WITH_DATA(pairs_serve_as_either_side),
      WITH_DATA(bad_input_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
