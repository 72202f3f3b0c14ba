/* Damaged videos must be rejected, and unusual intact ones accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/video/video.h"
#include "tests/unit/data/support_media.h"

#if WITH_FFMPEG

static Error error;
static char output[4096];

static void overwritten_videos_are_rejected(void **state) {
  (void)state;
  VideoReader *reader = NULL;
  char *bytes = NULL;
  size_t size;
  assert_done(atomic_file_replace(media_path("text.mp4"), "hello, world\n", 13, &error), &error);
  assert_int_equal(video_open(media_path("text.mp4"), NULL, &reader, &error), ERROR_DATA);
  assert_mentions(&error, "text.mp4");
  /* Matroska has its header first, so that an overwritten file can still be opened. */
  media_make(media_path("a.mkv"), 40, 64, 48, 25);
  assert_done(file_read(media_path("a.mkv"), 1 << 24, &bytes, &size, &error), &error);
  for (size_t i = size / 2; i < size / 2 + size / 4; i++) bytes[i] = (char)(i * 37);
  assert_done(atomic_file_replace(media_path("b.mkv"), bytes, size, &error), &error);
  assert_int_equal(media_count(media_path("b.mkv"), NULL, NULL, &error), -1);
  assert_int_equal(error.status, ERROR_DATA);
  assert_mentions(&error, "b.mkv: damaged at frame");
  assert_done(atomic_file_replace(media_path("short.mp4"), bytes, 0, &error), &error);
  assert_int_equal(video_open(media_path("short.mp4"), NULL, &reader, &error), ERROR_DATA);
  free(bytes);
}

/* The index at the start of a truncated file lists frames that are missing. */
static void truncated_videos_are_rejected(void **state) {
  (void)state;
  char *bytes = NULL;
  size_t size;
  if (!have_tool("ffmpeg")) skip();
  media_make(media_path("a.mp4"), 40, 64, 48, 25);
  assert_int_equal(media_shell(output, sizeof output,
                               "ffmpeg -v error -i '%s' -c copy -movflags +faststart '%s' 2>&1",
                               media_path("a.mp4"), media_path("front.mp4")),
                   0);
  assert_done(file_read(media_path("front.mp4"), 1 << 24, &bytes, &size, &error), &error);
  assert_done(atomic_file_replace(media_path("cut.mp4"), bytes, size * 9 / 10, &error), &error);
  free(bytes);
  assert_int_equal(media_count(media_path("cut.mp4"), NULL, NULL, &error), -1);
  assert_int_equal(error.status, ERROR_DATA);
  assert_mentions(&error, "cut.mp4: damaged at frame");
}

/* Intact streams that a decoder with strict settings might reject. */
static void intact_videos_are_accepted(void **state) {
  (void)state;
  static const char *const made[][2] = {
      {"slices.mp4", "-c:v libx264 -x264-params slices=4 -bf 2"},
      {"fields.ts", "-c:v libx264 -x264-params slices=4:interlaced=1 -f mpegts"},
      {"mpeg2.mpg", "-c:v mpeg2video -bf 2 -f mpeg"},
      {"mpeg4.avi", "-c:v mpeg4 -bf 2 -f avi"},
      {"hole.mkv", "-c:v libx264 -vf select='not(between(n\\,10\\,29))' -vsync vfr -f matroska"},
      {"later.mp4", "-c:v libx264 -bf 3"},
  };
  static const int frames[] = {40, 40, 40, 40, 20, 40};
  if (!have_tool("ffmpeg")) skip();
  for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
    const char *path = media_path(made[i][0]);
    if (media_shell(
            output, sizeof output,
            "ffmpeg -v error -f lavfi -i testsrc2=size=128x96:rate=25:duration=1.6 %s '%s' 2>&1",
            made[i][1], path) != 0)
      fail_msg("%s: %s", made[i][0], output);
    int64_t found = media_count(path, NULL, NULL, &error);
    if (found != frames[i])
      fail_msg("%s: %lld frames: %s", made[i][0], (long long)found, found < 0 ? error.message : "");
  }
  /* Frames before an edit's start are in the file, but not displayed. */
  assert_int_equal(media_shell(output, sizeof output,
                               "ffmpeg -v error -ss 0.5 -i '%s' -c copy '%s' 2>&1",
                               media_path("later.mp4"), media_path("edit.mp4")),
                   0);
  assert_int_equal(media_shell(output, sizeof output,
                               "ffprobe -v error -count_frames -show_entries stream=nb_read_frames "
                               "-of default=nk=1:nw=1 '%s'",
                               media_path("edit.mp4")),
                   0);
  assert_in_range(atoi(output), 20, 39);
  assert_int_equal(media_count(media_path("edit.mp4"), NULL, NULL, &error), atoi(output));
}

/* Reads a copy in which `count` bytes from `at` are removed (`with` < 0) or set to `with`. */
static int64_t count_damaged(const char *bytes, size_t size, size_t at, size_t count, int with,
                             const char *path) {
  char *damaged = memcpy(mem_new(size, 1), bytes, size);
  size_t kept = size;
  if (with >= 0) {
    memset(damaged + at, with, count);
  } else {
    memmove(damaged + at, damaged + at + count, size - at - count);
    kept -= count;
  }
  assert_done(atomic_file_replace(path, damaged, kept, &error), &error);
  free(damaged);
  error = (Error){0};
  return media_count(path, NULL, NULL, &error);
}

/* The demuxer resynchronises after a gap in a Matroska file; the missing frames must be noticed. */
static void gaps_are_rejected(void **state) {
  (void)state;
  char *bytes = NULL;
  size_t size;
  media_make(media_path("a.mkv"), 60, 64, 48, 25);
  assert_done(file_read(media_path("a.mkv"), 1 << 24, &bytes, &size, &error), &error);
  for (int percent = 25; percent < 85; percent += 5) {
    size_t at = size * (size_t)percent / 100, count = size / 20;
    for (int with = -1; with <= 0; with++) {
      int64_t found = count_damaged(bytes, size, at, count, with, media_path("b.mkv"));
      if (found >= 0)
        fail_msg("%d %%, with %d: read as %lld frames of 60", percent, with, (long long)found);
      assert_int_equal(error.status, ERROR_DATA);
      assert_mentions(&error, "b.mkv");
    }
  }
  /* Extra bytes at the end are no damage. */
  bytes = mem_resize(bytes, size + 64, 1);
  memset(bytes + size, 0, 64);
  assert_done(atomic_file_replace(media_path("c.mkv"), bytes, size + 64, &error), &error);
  assert_int_equal(media_count(media_path("c.mkv"), NULL, NULL, &error), 60);
  free(bytes);
}

/* FFmpeg's threaded MPEG-4 decoder would abort the process on a damaged file. */
static void damaged_mpeg4_does_not_crash(void **state) {
  (void)state;
  char *bytes = NULL;
  size_t size;
  int rejected = 0;
  VideoWriter *writer = NULL;
  uint8_t rgb[128 * 96 * 3];
  const VideoWriterOptions options = {.width = 128,
                                      .height = 96,
                                      .fps_numerator = 25,
                                      .fps_denominator = 1,
                                      .codec = "mpeg4",
                                      .quality = 4};
  assert_done(video_writer_open(media_path("a.avi"), &options, &writer, &error), &error);
  for (int i = 0; i < 40; i++) {
    media_frame(i, 128, 96, rgb);
    assert_done(video_write(writer, rgb, NULL, &error), &error);
  }
  assert_done(video_writer_finish(writer, &error), &error);
  assert_done(file_read(media_path("a.avi"), 1 << 24, &bytes, &size, &error), &error);
  for (int percent = 20; percent < 90; percent += 7)
    rejected +=
        count_damaged(bytes, size, size * (size_t)percent / 100, 40, 0xa5, media_path("b.avi")) < 0;
  assert_in_range(rejected, 5, 10);
  free(bytes);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, media_setup, media_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(overwritten_videos_are_rejected), TEST(truncated_videos_are_rejected),
      TEST(intact_videos_are_accepted),      TEST(gaps_are_rejected),
      TEST(damaged_mpeg4_does_not_crash),
  };
  return cmocka_run_group_tests_name("damaged videos", tests, NULL, NULL);
}

#else

static void without_ffmpeg(void **state) {
  (void)state;
  print_message("# skipped: built without FFmpeg\n");
  skip();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(without_ffmpeg)};
  return cmocka_run_group_tests_name("damaged videos", tests, NULL, NULL);
}

#endif
