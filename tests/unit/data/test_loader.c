#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "data/loader/augment.h"
#include "data/loader/loader.h"
#include "support_dataset.h"
#include "support_loader.h"

enum { CLIPS = 10 };

typedef struct Fixture {
  char *folder;
  Dataset *dataset;
} Fixture;

static int set_up(void **state) {
  Error error;
  Fixture *fixture = mem_new(1, sizeof *fixture);
  DatasetSpec spec = small_spec();
  fixture->folder = temporary_folder();
  make_dataset(fixture->folder, &spec, CLIPS);
  if (dataset_open(inside(fixture->folder, "data"), &fixture->dataset, &error) != OK) return 1;
  *state = fixture;
  return 0;
}

static int tear_down(void **state) {
  Fixture *fixture = *state;
  dataset_close(fixture->dataset);
  remove_folder(fixture->folder);
  free(fixture);
  return 0;
}

static Loader *open_loader(const Fixture *fixture, const LoaderOptions *options, int64_t step) {
  Error error;
  Loader *loader = NULL;
  if (loader_open(fixture->dataset, NULL, options, step, &loader, &error) != OK)
    fail_msg("%s", error.message);
  return loader;
}

/* Returns the next batch and waits through any number of timeouts. */
static Batch *next_despite_timeouts(Loader *loader) {
  Error error;
  Batch *batch = NULL;
  while (loader_next(loader, &batch, &error) != OK) assert_int_equal(error.status, ERROR_IO);
  return batch;
}

static void assert_batch(const Fixture *fixture, const LoaderOptions *o, const Batch *batch) {
  AugmentPlan plan;
  Error error;
  const ClipShape *clip = &dataset_info(fixture->dataset)->shape;
  assert_int_equal(augment_plan(clip, o->frames, o->crop_height, o->crop_width, o->crop_multiple,
                                o->flip, &plan, &error),
                   OK);
  int64_t micro_batches = o->global_batch / o->micro_batch / o->world_size;
  for (int i = 0; i < batch->count; i++) {
    int64_t number = shuffle_batch_of_step(batch->step, o->skipped_batches, o->skipped_batch_count);
    int64_t sample = number * o->global_batch +
                     (o->rank * micro_batches + batch->micro_index) * o->micro_batch + i;
    SamplePosition place = shuffle_sample(o->seed, sample, CLIPS);
    assert_int_equal(batch->samples[i], sample);
    assert_int_equal(batch->positions[i].epoch, place.epoch);
    assert_int_equal(batch->positions[i].position, place.position);
    assert_int_equal(batch->positions[i].clip, place.clip);
    Augment augment = augment_draw(&plan, o->seed, sample);
    assert_sample_side(clip, &plan.out, &augment, 0, place.clip,
                       batch->source + (size_t)i * clip_source_bytes(&plan.out));
    assert_sample_side(clip, &plan.out, &augment, 1, place.clip,
                       batch->target + (size_t)i * clip_target_bytes(&plan.out));
  }
}

static void run_steps(const Fixture *fixture, const LoaderOptions *options, int64_t first,
                      int steps) {
  Loader *loader = open_loader(fixture, options, first);
  int micro_batches = (int)(options->global_batch / options->micro_batch / options->world_size);
  for (int64_t step = first; step < first + steps; step++)
    for (int micro = 0; micro < micro_batches; micro++) {
      Batch *batch = next_batch(loader);
      assert_int_equal(batch->step, step);
      assert_int_equal(batch->micro_index, micro);
      assert_int_equal(batch->count, options->micro_batch);
      assert_batch(fixture, options, batch);
      loader_release(loader, batch);
    }
  loader_close(loader);
}

static void loads_whole_clips_in_order(void **state) {
  LoaderOptions options = plain_options();
  run_steps(*state, &options, 0, 6);
  run_steps(*state, &options, 1000000007, 2);
  options.threads = 1;
  options.prefetch_batches = 1;
  run_steps(*state, &options, 3, 4);
}

static void crops_and_flips_match_the_reference(void **state) {
  LoaderOptions options = plain_options();
  options.frames = 2;
  options.crop_height = 6;
  options.crop_width = 10;
  options.crop_multiple = 2;
  options.flip = true;
  run_steps(*state, &options, 5, 8);
  options.frames = 0;
  options.crop_height = options.crop_width = 0;
  run_steps(*state, &options, 0, 3); /* only flips */
}

static void micro_batches_are_the_same_for_every_world_size(void **state) {
  LoaderOptions options = plain_options();
  for (options.world_size = 2; options.world_size <= 4; options.world_size *= 2)
    for (options.rank = 0; options.rank < options.world_size; options.rank++)
      run_steps(*state, &options, 7, 3);
}

static void crop_offsets_are_uniform(void **state) {
  AugmentPlan plan;
  Error error;
  int seen_y[7] = {0}, seen_x[7] = {0}, seen_t[2] = {0}, flips = 0;
  const Fixture *fixture = *state;
  const ClipShape *clip = &dataset_info(fixture->dataset)->shape;
  assert_int_equal(augment_plan(clip, 2, 6, 10, 1, true, &plan, &error), OK);
  assert_int_equal(plan.out.source_height, 3);
  assert_int_equal(plan.out.source_width, 5);
  for (int64_t sample = 0; sample < 2000; sample++) {
    Augment augment = augment_draw(&plan, 3, sample);
    assert_int_equal(augment.target_y, 2 * augment.source_y);
    assert_int_equal(augment.target_x, 2 * augment.source_x);
    seen_y[augment.target_y]++;
    seen_x[augment.target_x]++;
    seen_t[augment.frame]++;
    flips += augment.flip;
  }
  for (int i = 0; i <= 6; i += 2) {
    assert_in_range(seen_y[i], 400, 600); /* 500 +- 5 deviations of 19 */
    assert_in_range(seen_x[i], 400, 600);
  }
  assert_in_range(seen_t[0], 888, 1112);
  assert_in_range(flips, 888, 1112);
}

static void expect_usage_error(const Fixture *fixture, const LoaderOptions *options,
                               const char *says) {
  Error error = {0};
  Loader *loader = NULL;
  assert_int_equal(loader_open(fixture->dataset, NULL, options, 0, &loader, &error), ERROR_USAGE);
  assert_null(loader);
  assert_says(&error, says, NULL);
}

static void bad_options_are_rejected(void **state) {
  LoaderOptions options = plain_options();
  options.global_batch = 12;
  options.world_size = 4;
  expect_usage_error(*state, &options,
                     "cannot be split over 4 ranks; possible world sizes: 1, 2, 3, 6");
  options = plain_options();
  options.micro_batch = 3;
  expect_usage_error(*state, &options,
                     "a global batch of 8 clips is not a multiple of a micro-batch of 3");
  options = plain_options();
  options.crop_width = 17;
  expect_usage_error(*state, &options, "the crop's width is 17; the clips have only 16");
  options.crop_width = 7;
  expect_usage_error(*state, &options, "expected a multiple of 2");
  options = plain_options();
  options.frames = 4;
  expect_usage_error(*state, &options, "data.frames is 4; the clips have only 3");
  options = plain_options();
  options.threads = 0;
  expect_usage_error(*state, &options, "0 loader threads");
}

/* --- Corrupt clips ---------------------------------------------------------------------------- */

static void corrupt(const Fixture *fixture, int64_t clip) {
  uint8_t bytes[3 * 6 * 8 * 3];
  char name[64];
  snprintf(name, sizeof name, "data/shard-%05d.h5", (int)(clip / 4));
  clip_bytes(clip, 0, bytes, sizeof bytes);
  const char *path = inside(fixture->folder, name);
  flip_byte(path, find_bytes(path, bytes, sizeof bytes) + 1);
}

static void corrupt_clip_fails_by_default(void **state) {
  Error error;
  LoaderOptions options = plain_options();
  corrupt(*state, 6);
  Loader *loader = open_loader(*state, &options, 0);
  Status status = OK;
  Batch *batch;
  int64_t place = 0; /* of clip 6 in the first epoch */
  while (shuffle_sample(options.seed, place, CLIPS).clip != 6) place++;
  for (int64_t i = 0; i < place / 2; i++) loader_release(loader, next_batch(loader));
  for (int again = 0; again < 2; again++) {
    status = loader_next(loader, &batch, &error);
    assert_int_equal(status, ERROR_DATA);
    assert_null(batch);
    assert_says(&error, "clip 6 of the dataset", "shard-00001.h5: clip 2 (source)", "CRC-32C",
                NULL);
  }
  loader_close(loader);
}

/* Stores the clips read for samples 0 .. count-1 by all of `ranks` ranks. Returns how many corrupt
 * clips the loaders report. */
static int64_t read_clips(const Fixture *fixture, int ranks, int threads, int64_t *clips,
                          int64_t count) {
  LoaderOptions options = plain_options();
  options.on_corrupt = CORRUPT_SUBSTITUTE;
  options.world_size = ranks;
  options.threads = threads;
  int64_t corrupt_total = 0;
  for (options.rank = 0; options.rank < ranks; options.rank++) {
    Loader *loader = open_loader(fixture, &options, 0);
    for (int64_t i = 0; i < count / ranks / options.micro_batch; i++) {
      Batch *batch = next_batch(loader);
      for (int k = 0; k < batch->count; k++) clips[batch->samples[k]] = batch->positions[k].clip;
      loader_release(loader, batch);
    }
    corrupt_total += loader_corrupt_clips(loader);
    loader_close(loader);
  }
  return corrupt_total;
}

static void substitutes_are_the_same_for_every_world_size(void **state) {
  enum { SAMPLES = 80 };
  int64_t one[SAMPLES], four[SAMPLES];
  corrupt(*state, 6);
  corrupt(*state, 1);
  assert_true(read_clips(*state, 1, 3, one, SAMPLES) >= 16);
  assert_true(read_clips(*state, 4, 2, four, SAMPLES) >= 16);
  assert_memory_equal(one, four, sizeof one);
  int substitutes = 0;
  for (int64_t i = 0; i < SAMPLES; i++) {
    int64_t clip = shuffle_sample(11, i, CLIPS).clip;
    assert_true(one[i] != 6 && one[i] != 1);
    if (clip != 6 && clip != 1) assert_int_equal(one[i], clip);
    substitutes += one[i] != clip;
  }
  assert_int_equal(substitutes, 16); /* 8 epochs, two clips each */
}

static void fails_if_all_clips_are_corrupt(void **state) {
  Error error;
  LoaderOptions options = plain_options();
  options.on_corrupt = CORRUPT_SUBSTITUTE;
  Batch *batch;
  for (int64_t i = 0; i < CLIPS; i++) corrupt(*state, i);
  Loader *loader = open_loader(*state, &options, 0);
  assert_int_equal(loader_next(loader, &batch, &error), ERROR_DATA);
  assert_says(&error, "8 substitutes are corrupt", NULL);
  loader_close(loader);
}

/* --- Timeouts --------------------------------------------------------------------------------- */

static void batch_held_too_long_times_out(void **state) {
  Error error;
  LoaderOptions options = plain_options();
  options.prefetch_batches = 2;
  options.timeout = 0.2;
  Loader *loader = open_loader(*state, &options, 0);
  Batch *batches[3], *none;
  for (int i = 0; i < 3; i++) batches[i] = next_despite_timeouts(loader);
  double begin = clock_seconds();
  assert_int_equal(loader_next(loader, &none, &error), ERROR_INTERNAL);
  assert_says(&error, "step 0, micro-batch 3", "was not released", NULL);
  assert_true(clock_seconds() - begin >= 0.19);
  for (int i = 0; i < 3; i++) loader_release(loader, batches[i]);
  Batch *batch = next_despite_timeouts(loader);
  assert_int_equal(batch->micro_index, 3);
  loader_close(loader); /* with a batch still in use */
}

/* With a timeout too short for any thread, the message names the batch; a later call succeeds. */
static void late_batch_times_out(void **state) {
  Error error;
  Status status = OK;
  LoaderOptions options = plain_options();
  options.timeout = 1e-9;
  options.global_batch = options.micro_batch = 4096;
  options.prefetch_batches = 1;
  for (int i = 0; i < 100 && status == OK; i++) {
    Batch *batch;
    Loader *loader = open_loader(*state, &options, 5);
    status = loader_next(loader, &batch, &error);
    if (status != OK) {
      assert_int_equal(status, ERROR_IO);
      assert_says(&error, "step 5, micro-batch 0: not read within 1e-09 s", NULL);
      while (loader_next(loader, &batch, &error) != OK) usleep(1000);
      assert_int_equal(batch->step, 5);
    }
    loader_close(loader);
  }
  assert_int_equal(status, ERROR_IO);
}

static void closing_does_not_wait_for_prefetching(void **state) {
  LoaderOptions options = plain_options();
  options.threads = 8;
  options.prefetch_batches = 64;
  double begin = clock_seconds();
  for (int i = 0; i < 50; i++) {
    Loader *loader = open_loader(*state, &options, i);
    for (int k = 0; k < i % 4; k++) {
      Batch *batch = next_batch(loader);
      if (k % 2) loader_release(loader, batch);
    }
    loader_close(loader);
  }
  assert_true(clock_seconds() - begin < 120);
}

typedef struct Releaser {
  Loader *loader;
  Queue *queue; /* of batches */
} Releaser;

static void *release_all(void *argument) {
  Releaser *releaser = argument;
  void *batch;
  while (queue_pop(releaser->queue, &batch)) loader_release(releaser->loader, batch);
  return NULL;
}

static void batches_may_be_released_by_another_thread(void **state) {
  Error error;
  LoaderOptions options = plain_options();
  options.threads = 6;
  options.prefetch_batches = 7;
  options.flip = true;
  options.crop_width = options.crop_height = 8;
  Queue *queue = queue_new(4);
  pthread_t thread;
  Loader *loader = open_loader(*state, &options, 0);
  Releaser releaser = {loader, queue};
  assert_int_equal(thread_start(&thread, "release", release_all, &releaser, &error), OK);
  for (int64_t i = 0; i < 600; i++) {
    Batch *batch = next_batch(loader);
    assert_int_equal(batch->step * 4 + batch->micro_index, i);
    if (i % 37 == 0) assert_batch(*state, &options, batch);
    assert_true(queue_push(queue, batch));
  }
  queue_close(queue);
  pthread_join(thread, NULL);
  loader_close(loader);
  queue_free(queue);
}

static void skipped_batches_are_not_loaded(void **state) {
  int64_t skipped_batches[] = {1, 2, 6};
  for (int world_size = 1; world_size <= 4; world_size *= 2)
    for (int rank = 0; rank < world_size; rank++) {
      LoaderOptions options = plain_options();
      options.skipped_batches = skipped_batches;
      options.skipped_batch_count = 3;
      options.world_size = world_size;
      options.rank = rank;
      run_steps(*state, &options, 0, 6);
      run_steps(*state, &options, 3, 3);
    }
  LoaderOptions options = plain_options();
  options.skipped_batches = skipped_batches;
  options.skipped_batch_count = 3;
  Loader *loader = open_loader(*state, &options, 1);
  skipped_batches[0] = 0; /* the loader has copied them */
  Batch *batch = next_batch(loader);
  assert_int_equal(batch->samples[0], 3 * options.global_batch);
  loader_release(loader, batch);
  loader_close(loader);
}

static void world_sizes_are_listed(void **state) {
  (void)state;
  Text text = {0};
  loader_world_sizes(24, 2, 8, &text);
  assert_string_equal(text.data, "1, 2, 3, 4, 6");
  text_free(&text);
}

int main(void) {
  setenv("CELFORGE_LOG", "error", 1);
#define WITH_DATA(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      WITH_DATA(loads_whole_clips_in_order),
      WITH_DATA(crops_and_flips_match_the_reference),
      WITH_DATA(micro_batches_are_the_same_for_every_world_size),
      WITH_DATA(skipped_batches_are_not_loaded),
      WITH_DATA(crop_offsets_are_uniform),
      WITH_DATA(bad_options_are_rejected),
      WITH_DATA(corrupt_clip_fails_by_default),
      WITH_DATA(substitutes_are_the_same_for_every_world_size),
      WITH_DATA(fails_if_all_clips_are_corrupt),
      WITH_DATA(batch_held_too_long_times_out),
      WITH_DATA(late_batch_times_out),
      WITH_DATA(closing_does_not_wait_for_prefetching),
      WITH_DATA(batches_may_be_released_by_another_thread),
      cmocka_unit_test(world_sizes_are_listed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
