/* The frame pipeline translates all frames in order, and the failure of a stage ends the others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/signals.h"
#include "tests/unit/trainer/infer/support_generator.h"
#include "trainer/infer/frame_pipeline.h"

enum { FRAMES = 20, HEIGHT = 13, WIDTH = 18, BYTES = HEIGHT * WIDTH * 3 };
static const InferenceShape SHAPE = {HEIGHT, WIDTH, 3, HEIGHT, WIDTH};

static Error error;
static char folder[256];
static Backend *backend;
static SmallGenerator generator;

static void check(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* A path in the test's folder; the caller frees it. */
static char *inside(const char *name) {
  return path_join(folder, name);
}

static void random_frame(uint32_t index, uint8_t *rgb) {
  Random random = random_stream(3, RANDOM_TEST, 1, index);
  for (size_t i = 0; i < BYTES; i++) rgb[i] = (uint8_t)random_below(&random, 256);
}

static void write_file(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

static void write_input(void) {
  const VideoWriterOptions how = {.width = WIDTH, .height = HEIGHT};
  VideoWriter *writer;
  uint8_t rgb[BYTES];
  char *path = inside("input"), name[32];
  check(video_writer_open(path, &how, &writer, &error));
  for (int t = 0; t < FRAMES; t++) {
    random_frame((uint32_t)t, rgb);
    snprintf(name, sizeof name, "take-%03d.png", t);
    check(video_write(writer, rgb, name, &error));
  }
  check(video_writer_finish(writer, &error));
  free(path);
}

static int set_up(void **state) {
  (void)state;
  const char *root = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/celforge-pipeline-XXXXXX", root && root[0] ? root : "/tmp");
  if (!mkdtemp(folder) || backend_cpu_new(1, &backend, &error) != OK) return -1;
  small_generator_open(&generator, (const char *const[]){"model.temporal=conv3d", NULL}, 3,
                       backend);
  write_input();
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  small_generator_close(&generator);
  backend->free(backend);
  return folder_remove(folder, &error) == OK ? 0 : -1;
}

/* Translates the folder "input" to the folder `name`; `existing`: the name of a frame that is in
 * the way. */
static Status translate(const char *name, const char *existing, int64_t *done) {
  const VideoWriterOptions how = {.width = WIDTH, .height = HEIGHT};
  char *from = inside("input"), *to = inside(name);
  VideoReader *reader;
  VideoWriter *writer;
  check(video_open(from, NULL, &reader, &error));
  check(video_writer_open(to, &how, &writer, &error));
  if (existing) {
    char *temporary = mem_format("%s.tmp", to), *path = path_join(temporary, existing);
    write_file(path, "");
    free(temporary);
    free(path);
  }
  check(inference_stream_begin(generator.inference, &SHAPE, &error));
  const FramePipeline pipeline = {.inference = generator.inference,
                                  .shape = SHAPE,
                                  .readers = &reader,
                                  .paths = (const char *const[]){from},
                                  .input_count = 1,
                                  .writer = writer};
  const Status status = frame_pipeline_run(&pipeline, done, &error);
  if (status == OK) {
    Error late = {0};
    if (video_writer_finish(writer, &late) != OK) fail_msg("%s", late.message);
  } else
    video_writer_abandon(writer);
  video_close(reader);
  assert_int_equal(access(to, F_OK) == 0, status == OK);
  free(from);
  free(to);
  return status;
}

/* The frames equal those of the inference without threads, and keep the names of their sources. */
static void frames_are_translated_in_order(void **state) {
  (void)state;
  int64_t done = 0;
  VideoReader *reader;
  uint8_t source[BYTES], expected[BYTES], found[BYTES];
  float *output = mem_new(BYTES, sizeof *output);
  char *path = inside("output"), name[32];
  bool end = false;
  check(translate("output", NULL, &done));
  assert_int_equal(done, FRAMES);
  check(video_open(path, NULL, &reader, &error));
  check(inference_stream_begin(generator.inference, &SHAPE, &error));
  for (int t = 0; t < FRAMES; t++) {
    random_frame((uint32_t)t, source);
    check(inference_stream_frame(generator.inference, source, output, &error));
    frames_to_u8(output, BYTES, expected);
    check(video_read(reader, found, &end, &error));
    assert_false(end);
    assert_memory_equal(found, expected, BYTES);
    snprintf(name, sizeof name, "take-%03d.png", t);
    assert_string_equal(video_frame_name(reader), name);
  }
  check(video_read(reader, found, &end, &error));
  assert_true(end);
  video_close(reader);
  free(output);
  free(path);
}

static void a_broken_input_frame_ends_the_run(void **state) {
  (void)state;
  int64_t done = 0;
  char *path = inside("input/take-011.png");
  write_file(path, "broken");
  assert_int_equal(translate("broken", NULL, &done), ERROR_DATA);
  assert_non_null(strstr(error.message, "take-011.png"));
  assert_in_range(done, 0, 11);
  assert_int_equal(remove(path), 0);
  free(path);
}

static void a_failing_writer_ends_the_run(void **state) {
  (void)state;
  int64_t done = 0;
  assert_int_equal(translate("taken", "take-003.png", &done), ERROR_USAGE);
  assert_non_null(strstr(error.message, "\"take-003.png\""));
  assert_int_equal(done, 3);
}

/* Runs last: the process stays marked as stopped. */
static void a_signal_stops_the_run(void **state) {
  (void)state;
  int64_t done = 0;
  signals_install();
  assert_int_equal(raise(SIGTERM), 0);
  assert_int_equal(translate("stopped", NULL, &done), STOPPED);
  assert_non_null(strstr(error.message, "stopped by a signal"));
  assert_int_equal(done, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(frames_are_translated_in_order),
      cmocka_unit_test(a_broken_input_frame_ends_the_run),
      cmocka_unit_test(a_failing_writer_ends_the_run),
      cmocka_unit_test(a_signal_stops_the_run),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
