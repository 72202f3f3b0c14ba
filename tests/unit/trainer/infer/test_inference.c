/* Translating frame by frame gives what the whole clip at once gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "tests/unit/trainer/infer/support_generator.h"

enum { FRAMES = 5 };
static const double TOLERANCE = 1e-5;

static Backend *backend;
static Error error;

static int open_backend(void **state) {
  (void)state;
  return backend_cpu_new(1, &backend, &error) == OK ? 0 : -1;
}

static int close_backend(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

/* A generator with random weights. */
typedef struct Fixture {
  SmallGenerator generator;
  Inference *inference; /* the generator's */
  InferenceShape clip, frame;
  uint8_t *source;
  float *whole, *streamed; /* [FRAMES,height,width,3] */
  size_t source_frame, output_frame;
} Fixture;

static void check(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static Fixture *fixture_new(const char *const *assignments, InferenceShape shape) {
  Fixture *f = mem_new(1, sizeof *f);
  f->clip = f->frame = shape;
  f->clip.frames = FRAMES;
  f->frame.frames = 1;
  small_generator_open(&f->generator, assignments, shape.source_channels, backend);
  f->inference = f->generator.inference;
  f->source_frame = (size_t)(shape.source_height * shape.source_width * shape.source_channels);
  f->output_frame = (size_t)(shape.height * shape.width * 3);
  f->source = mem_new(FRAMES, f->source_frame);
  f->whole = mem_new(FRAMES * f->output_frame, sizeof *f->whole);
  f->streamed = mem_new(FRAMES * f->output_frame, sizeof *f->streamed);
  Random random = random_stream(9, RANDOM_TEST, 1, 0);
  for (size_t i = 0; i < FRAMES * f->source_frame; i++)
    f->source[i] = (uint8_t)random_below(&random, 256);
  return f;
}

static void fixture_free(Fixture *f) {
  small_generator_close(&f->generator);
  free(f->source);
  free(f->whole);
  free(f->streamed);
  free(f);
}

static void stream(Fixture *f, int frames, float *out) {
  check(inference_stream_begin(f->inference, &f->frame, &error));
  for (int t = 0; t < frames; t++)
    check(inference_stream_frame(f->inference, f->source + (size_t)t * f->source_frame,
                                 out + (size_t)t * f->output_frame, &error));
}

static double largest_difference(const float *a, const float *b, size_t count) {
  double largest = 0;
  for (size_t i = 0; i < count; i++) {
    double difference = fabs((double)a[i] - (double)b[i]);
    if (!(difference <= largest)) largest = difference; /* NaN too */
  }
  return largest;
}

static void check_stream(const char *const *assignments, InferenceShape shape) {
  Fixture *f = fixture_new(assignments, shape);
  check(inference_clip(f->inference, &f->clip, f->source, 0, f->whole, &error));
  stream(f, FRAMES, f->streamed);
  double difference = largest_difference(f->whole, f->streamed, FRAMES * f->output_frame);
  if (!(difference <= TOLERANCE)) fail_msg("clip and stream differ by %g", difference);
  /* A second stream starts from nothing. */
  stream(f, FRAMES, f->streamed);
  assert_true(largest_difference(f->whole, f->streamed, FRAMES * f->output_frame) <= TOLERANCE);
  fixture_free(f);
}

#define ASSIGNMENTS(...) ((const char *const[]){__VA_ARGS__, NULL})
static const InferenceShape EVEN = {1, 16, 24, 3, 16, 24};

static void test_conv3d_rms(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.temporal=conv3d", "model.norm=rms"), EVEN);
}

static void test_conv3d_instance(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.temporal=conv3d", "model.norm=instance"), EVEN);
}

static void test_conv3d_without_norm(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.temporal=conv3d", "model.norm=none"), EVEN);
}

static void test_recurrence(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.temporal=convgru", "model.norm=rms"), EVEN);
  check_stream(ASSIGNMENTS("model.temporal=convgru", "model.norm=group"),
               (InferenceShape){1, 9, 11, 3, 18, 22});
}

static void test_no_time(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.temporal=none", "model.norm=rms"), EVEN);
  check_stream(ASSIGNMENTS("model.temporal=none", "model.norm=instance"), EVEN);
}

static void test_pix2pixhd(void **state) {
  (void)state;
  static const InferenceShape ODD = {1, 17, 22, 3, 17, 22}, STACKED = {1, 9, 11, 6, 18, 22};
#define PIX2PIXHD "model.generator=pix2pixhd", "model.temporal=none"
  check_stream(ASSIGNMENTS(PIX2PIXHD, "model.norm=instance", "model.downsamplings=3"), ODD);
  check_stream(ASSIGNMENTS(PIX2PIXHD, "model.norm=rms", "model.downsamplings=2",
                           "model.local_enhancers=1", "model.noise_channels=2"),
               STACKED);
}

/* The global generator is trained first, then both together: its parameters keep their names. */
static void test_global_generator_in_the_enhancer(void **state) {
  (void)state;
  Fixture *alone = fixture_new(ASSIGNMENTS(PIX2PIXHD, "model.downsamplings=1"), EVEN);
  Fixture *both =
      fixture_new(ASSIGNMENTS(PIX2PIXHD, "model.downsamplings=1", "model.local_enhancers=1"), EVEN);
  int shared = 0;
  Parameters *few = &alone->generator.parameters, *all = &both->generator.parameters;
  for (int i = 0; i < few->count; i++) {
    const Parameter *one = &few->items[i];
    const Parameter *other = parameters_find(all, one->name);
    if (strncmp(one->name, "head.", 5) == 0) {
      assert_null(other);
      continue;
    }
    assert_non_null(other);
    for (int axis = 0; axis < RANK; axis++)
      assert_int_equal(one->shape.dim[axis], other->shape.dim[axis]);
    shared++;
  }
  assert_int_equal(shared, few->count - 2);
  for (int i = 0; i < all->count; i++) {
    const char *name = all->items[i].name;
    assert_true(strncmp(name, "enhancer.", 9) == 0 || parameters_find(few, name));
  }
  fixture_free(alone);
  fixture_free(both);
}

/* Each side needs room for the paddings at the lowest resolution. */
static void test_too_small_a_picture(void **state) {
  (void)state;
  Fixture *f = fixture_new(ASSIGNMENTS(PIX2PIXHD, "model.downsamplings=3"), EVEN);
  const InferenceShape small = {1, 8, 24, 3, 8, 24};
  assert_int_equal(inference_clip(f->inference, &small, f->source, 0, f->whole, &error),
                   ERROR_USAGE);
  assert_non_null(strstr(error.message,
                         "generator.block0.conv1: conv3d: reflect padding 1 and 1 in "
                         "height must be less than the length 1"));
  fixture_free(f);
}

static void test_odd_sizes(void **state) {
  (void)state;
  static const InferenceShape ODD[] = {
      {1, 17, 22, 3, 17, 22}, {1, 19, 13, 3, 19, 13}, {1, 14, 15, 3, 14, 15}};
  for (size_t i = 0; i < sizeof ODD / sizeof *ODD; i++)
    check_stream(ASSIGNMENTS("model.temporal=conv3d", "model.norm=rms"), ODD[i]);
  check_stream(ASSIGNMENTS("model.temporal=conv3d", "model.norm=instance"), ODD[0]);
}

static void test_noise(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.noise_channels=2"), EVEN);
  check_stream(ASSIGNMENTS("model.noise_channels=1", "model.temporal=none"), EVEN);
}

static void test_stacked_and_smaller_sources(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.norm=rms"), (InferenceShape){1, 16, 16, 6, 16, 16});
  check_stream(ASSIGNMENTS("model.norm=rms"), (InferenceShape){1, 9, 11, 3, 18, 22});
}

/* The comparison would mean little if the network ignored the frames before, or did nothing. */
static void frames_before_matter(const char *temporal) {
  Fixture *f = fixture_new(ASSIGNMENTS(temporal), EVEN);
  const uint8_t *second = f->source + f->source_frame;
  stream(f, 2, f->streamed);
  check(inference_stream_begin(f->inference, &f->frame, &error));
  check(inference_stream_frame(f->inference, second, f->whole, &error));
  assert_true(largest_difference(f->whole, f->streamed + f->output_frame, f->output_frame) > 1e-2);
  for (size_t i = 0; i < f->output_frame; i++) f->streamed[i] = (float)second[i] / 127.5f - 1;
  assert_true(largest_difference(f->whole, f->streamed, f->output_frame) > 1e-2);
  fixture_free(f);
}

static void test_frames_before_matter(void **state) {
  (void)state;
  frames_before_matter("model.temporal=conv3d");
  frames_before_matter("model.temporal=convgru");
}

/* Nothing looks ahead: the first frames of a clip are those of a shorter one. */
static void test_causal(void **state) {
  (void)state;
  Fixture *f = fixture_new(ASSIGNMENTS("model.temporal=conv3d"), EVEN);
  InferenceShape three = f->clip;
  three.frames = 3;
  check(inference_clip(f->inference, &f->clip, f->source, 0, f->whole, &error));
  check(inference_clip(f->inference, &three, f->source, 0, f->streamed, &error));
  assert_true(largest_difference(f->whole, f->streamed, 3 * f->output_frame) <= TOLERANCE);
  fixture_free(f);
}

static void test_noise_is_keyed_by_frame(void **state) {
  (void)state;
  Fixture *f = fixture_new(ASSIGNMENTS("model.noise_channels=2", "model.temporal=none"), EVEN);
  check(inference_clip(f->inference, &f->frame, f->source, 0, f->whole, &error));
  check(inference_clip(f->inference, &f->frame, f->source, 0, f->streamed, &error));
  assert_memory_equal(f->whole, f->streamed, f->output_frame * sizeof(float));
  check(inference_clip(f->inference, &f->frame, f->source, 1, f->streamed, &error));
  assert_true(largest_difference(f->whole, f->streamed, f->output_frame) > 1e-3);
  fixture_free(f);
}

static void test_a_frame_needs_a_stream(void **state) {
  (void)state;
  Fixture *f = fixture_new(ASSIGNMENTS("model.temporal=none"), EVEN);
  assert_int_equal(inference_stream_frame(f->inference, f->source, f->whole, &error),
                   ERROR_INTERNAL);
  assert_int_equal(inference_stream_begin(f->inference, &f->clip, &error), ERROR_INTERNAL);
  assert_int_equal(inference_source_channels(f->inference), 3);
  fixture_free(f);
}

static void test_to_bytes(void **state) {
  (void)state;
  const float frames[] = {-1, 1, 0, -3, 7, -0.5f, 254.0f / 127.5f - 1, 0.6f / 127.5f - 1};
  const uint8_t expected[] = {0, 255, 128, 0, 255, 64, 254, 1};
  uint8_t bytes[8];
  frames_to_u8(frames, 8, bytes);
  assert_memory_equal(bytes, expected, sizeof bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_conv3d_rms),
      cmocka_unit_test(test_conv3d_instance),
      cmocka_unit_test(test_conv3d_without_norm),
      cmocka_unit_test(test_recurrence),
      cmocka_unit_test(test_no_time),
      cmocka_unit_test(test_pix2pixhd),
      cmocka_unit_test(test_global_generator_in_the_enhancer),
      cmocka_unit_test(test_too_small_a_picture),
      cmocka_unit_test(test_odd_sizes),
      cmocka_unit_test(test_noise),
      cmocka_unit_test(test_stacked_and_smaller_sources),
      cmocka_unit_test(test_frames_before_matter),
      cmocka_unit_test(test_causal),
      cmocka_unit_test(test_noise_is_keyed_by_frame),
      cmocka_unit_test(test_a_frame_needs_a_stream),
      cmocka_unit_test(test_to_bytes),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
