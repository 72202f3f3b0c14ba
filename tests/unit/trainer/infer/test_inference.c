/* Translation frame by frame equals translation of the whole clip in one program. */
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

typedef struct Fixture {
  SmallGenerator generator;
  Inference *inference; /* owned by `generator` */
  InferenceShape shape;
  uint8_t *source;
  float *whole, *streamed; /* [FRAMES,height,width,3] */
  size_t source_frame, output_frame;
} Fixture;

static void check(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static Fixture *fixture_new(const char *const *assignments, InferenceShape shape) {
  Fixture *f = mem_new(1, sizeof *f);
  f->shape = shape;
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
  check(inference_stream_begin(f->inference, &f->shape, &error));
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
  small_generator_clip(&f->generator, &f->shape, FRAMES, f->source, f->whole);
  stream(f, FRAMES, f->streamed);
  double difference = largest_difference(f->whole, f->streamed, FRAMES * f->output_frame);
  if (!(difference <= TOLERANCE)) fail_msg("clip and stream differ by %g", difference);
  /* A second clip starts from a reset state. */
  stream(f, FRAMES, f->streamed);
  assert_true(largest_difference(f->whole, f->streamed, FRAMES * f->output_frame) <= TOLERANCE);
  fixture_free(f);
}

#define ASSIGNMENTS(...) ((const char *const[]){__VA_ARGS__, NULL})
static const InferenceShape EVEN = {16, 24, 3, 16, 24};

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

static void test_convgru(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.temporal=convgru", "model.norm=rms"), EVEN);
  check_stream(ASSIGNMENTS("model.temporal=convgru", "model.norm=group"),
               (InferenceShape){9, 11, 3, 18, 22});
}

static void test_without_temporal_layers(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.temporal=none", "model.norm=rms"), EVEN);
  check_stream(ASSIGNMENTS("model.temporal=none", "model.norm=instance"), EVEN);
}

static void test_pix2pixhd(void **state) {
  (void)state;
  static const InferenceShape ODD = {17, 22, 3, 17, 22}, STACKED = {9, 11, 6, 18, 22};
#define PIX2PIXHD "model.generator=pix2pixhd", "model.temporal=none"
  check_stream(ASSIGNMENTS(PIX2PIXHD, "model.norm=instance", "model.downsamplings=3"), ODD);
  check_stream(ASSIGNMENTS(PIX2PIXHD, "model.norm=rms", "model.downsamplings=2",
                           "model.local_enhancers=1", "model.noise_channels=2"),
               STACKED);
}

/* The global generator can be trained first: its parameters have the same names and shapes inside
 * the local enhancer. */
static void test_enhancer_keeps_the_names_of_the_global_generator(void **state) {
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

/* Every side must be larger than the reflect padding at the lowest resolution. */
static void test_too_small_frames_are_rejected(void **state) {
  (void)state;
  Fixture *f = fixture_new(ASSIGNMENTS(PIX2PIXHD, "model.downsamplings=3"), EVEN);
  const InferenceShape small = {8, 24, 3, 8, 24};
  assert_int_equal(inference_stream_begin(f->inference, &small, &error), ERROR_USAGE);
  assert_non_null(strstr(error.message,
                         "generator.block0.conv1: conv3d: reflect padding 1 and 1 in "
                         "height must be less than the length 1"));
  fixture_free(f);
}

static void test_odd_sizes(void **state) {
  (void)state;
  static const InferenceShape ODD[] = {
      {17, 22, 3, 17, 22}, {19, 13, 3, 19, 13}, {14, 15, 3, 14, 15}};
  for (size_t i = 0; i < sizeof ODD / sizeof *ODD; i++)
    check_stream(ASSIGNMENTS("model.temporal=conv3d", "model.norm=rms"), ODD[i]);
  check_stream(ASSIGNMENTS("model.temporal=conv3d", "model.norm=instance"), ODD[0]);
}

static void test_noise(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.noise_channels=2"), EVEN);
  check_stream(ASSIGNMENTS("model.noise_channels=1", "model.temporal=none"), EVEN);
}

static void test_stacked_and_upsampled_sources(void **state) {
  (void)state;
  check_stream(ASSIGNMENTS("model.norm=rms"), (InferenceShape){16, 16, 6, 16, 16});
  check_stream(ASSIGNMENTS("model.norm=rms"), (InferenceShape){9, 11, 3, 18, 22});
}

/* The other tests need a generator that changes its input and depends on earlier frames. */
static void check_temporal_dependence(const char *temporal) {
  Fixture *f = fixture_new(ASSIGNMENTS(temporal), EVEN);
  const uint8_t *second = f->source + f->source_frame;
  stream(f, 2, f->streamed);
  check(inference_stream_begin(f->inference, &f->shape, &error));
  check(inference_stream_frame(f->inference, second, f->whole, &error));
  assert_true(largest_difference(f->whole, f->streamed + f->output_frame, f->output_frame) > 1e-2);
  for (size_t i = 0; i < f->output_frame; i++) f->streamed[i] = (float)second[i] / 127.5f - 1;
  assert_true(largest_difference(f->whole, f->streamed, f->output_frame) > 1e-2);
  fixture_free(f);
}

static void test_output_depends_on_earlier_frames(void **state) {
  (void)state;
  check_temporal_dependence("model.temporal=conv3d");
  check_temporal_dependence("model.temporal=convgru");
}

/* Two clips have the same noise; two frames of a clip, here of equal pixels, do not. */
static void test_noise_depends_on_the_frame_index(void **state) {
  (void)state;
  Fixture *f = fixture_new(ASSIGNMENTS("model.noise_channels=2", "model.temporal=none"), EVEN);
  memcpy(f->source + f->source_frame, f->source, f->source_frame);
  stream(f, 2, f->whole);
  stream(f, 2, f->streamed);
  assert_memory_equal(f->whole, f->streamed, 2 * f->output_frame * sizeof(float));
  assert_true(largest_difference(f->whole, f->whole + f->output_frame, f->output_frame) > 1e-3);
  fixture_free(f);
}

/* Going back to an earlier shape after another one gives the same output again. */
static void test_change_of_shape(void **state) {
  (void)state;
  static const InferenceShape OTHER = {8, 8, 3, 8, 8};
  Fixture *f = fixture_new(ASSIGNMENTS("model.temporal=convgru"), EVEN);
  stream(f, FRAMES, f->whole);
  check(inference_stream_begin(f->inference, &OTHER, &error));
  check(inference_stream_frame(f->inference, f->source, f->streamed, &error));
  stream(f, FRAMES, f->streamed);
  assert_memory_equal(f->whole, f->streamed, FRAMES * f->output_frame * sizeof(float));
  fixture_free(f);
}

static void test_frame_without_begin_fails(void **state) {
  (void)state;
  Fixture *f = fixture_new(ASSIGNMENTS("model.temporal=none"), EVEN);
  assert_int_equal(inference_stream_frame(f->inference, f->source, f->whole, &error),
                   ERROR_INTERNAL);
  assert_int_equal(inference_source_channels(f->inference), 3);
  fixture_free(f);
}

static void test_frames_to_u8_clamps_and_rounds(void **state) {
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
      cmocka_unit_test(test_convgru),
      cmocka_unit_test(test_without_temporal_layers),
      cmocka_unit_test(test_pix2pixhd),
      cmocka_unit_test(test_enhancer_keeps_the_names_of_the_global_generator),
      cmocka_unit_test(test_too_small_frames_are_rejected),
      cmocka_unit_test(test_odd_sizes),
      cmocka_unit_test(test_noise),
      cmocka_unit_test(test_stacked_and_upsampled_sources),
      cmocka_unit_test(test_output_depends_on_earlier_frames),
      cmocka_unit_test(test_noise_depends_on_the_frame_index),
      cmocka_unit_test(test_change_of_shape),
      cmocka_unit_test(test_frame_without_begin_fails),
      cmocka_unit_test(test_frames_to_u8_clamps_and_rounds),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
