#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/video/image.h"
#include "data/video/video.h"
#include "tests/unit/data/support_media.h"

static Error error;

/* --- Also without FFmpeg ---------------------------------------------------------------------- */

static MediaKind kind_of(const char *path) {
  MediaKind kind;
  assert_done(media_kind(path, &kind, &error), &error);
  return kind;
}

static void media_kind_follows_from_the_path(void **state) {
  (void)state;
  assert_int_equal(kind_of("a/b.png"), MEDIA_IMAGE);
  assert_int_equal(kind_of("a/b.PNG"), MEDIA_IMAGE);
  assert_int_equal(kind_of("a.b/frames"), MEDIA_FOLDER);
  assert_int_equal(kind_of("a/frames/"), MEDIA_FOLDER);
  assert_int_equal(kind_of("a/clip.mp4"), MEDIA_VIDEO);
  assert_int_equal(kind_of(media_path("")), MEDIA_FOLDER);
}

static void folders_round_trip(void **state) {
  (void)state;
  uint8_t frame[17 * 9 * 3], read[17 * 9 * 3];
  VideoReader *reader = NULL;
  bool end = false;
  media_make(media_path("frames"), 3, 17, 9, 25);
  assert_false(is_there(media_path("frames.tmp")));
  assert_done(video_open(media_path("frames"), NULL, &reader, &error), &error);
  const VideoInfo *info = video_info(reader);
  assert_int_equal(info->width, 17);
  assert_int_equal(info->height, 9);
  assert_int_equal(info->frames, 3);
  assert_int_equal(info->fps_numerator, 0);
  for (int i = 0; i < 3; i++) {
    char name[16];
    snprintf(name, sizeof name, "%06d.png", i);
    assert_done(video_read(reader, read, &end, &error), &error);
    assert_false(end);
    media_frame(i, 17, 9, frame);
    assert_memory_equal(read, frame, sizeof frame);
    assert_string_equal(video_frame_name(reader), name);
  }
  assert_done(video_read(reader, read, &end, &error), &error);
  assert_true(end);
  video_close(reader);
}

static void folder_frames_are_resized(void **state) {
  (void)state;
  VideoReader *reader = NULL;
  media_make(media_path("frames"), 1, 40, 20, 25);
  assert_done(video_open(media_path("frames"), &(VideoReaderOptions){.width = 20}, &reader, &error),
              &error);
  assert_int_equal(video_info(reader)->width, 20);
  assert_int_equal(video_info(reader)->height, 10);
  video_close(reader);
}

static void bad_folders_are_rejected(void **state) {
  (void)state;
  VideoReader *reader = NULL;
  VideoWriter *writer = NULL;
  uint8_t rgb[8 * 8 * 3] = {0};
  VideoWriterOptions options = {.width = 8, .height = 8};
  assert_int_equal(video_open(media_path("none"), NULL, &reader, &error), ERROR_IO);
  assert_mentions(&error, "none");
  assert_done(folder_create(media_path("empty"), &error), &error);
  assert_int_equal(video_open(media_path("empty"), NULL, &reader, &error), ERROR_DATA);
  assert_mentions(&error, "no PNG frames");
  assert_int_equal(video_writer_open(media_path("empty"), &options, &writer, &error), ERROR_USAGE);
  assert_mentions(&error, "already exists");
  media_make(media_path("mixed"), 2, 8, 8, 25);
  media_make(media_path("mixed/000002.png"), 1, 9, 8, 25);
  assert_int_equal(media_count(media_path("mixed"), NULL, NULL, &error), -1);
  assert_mentions(&error, "000002.png: 9x8, expected 8x8");
  assert_mentions(&error, "8x8");
  assert_done(video_writer_open(media_path("twice"), &options, &writer, &error), &error);
  assert_done(video_write(writer, rgb, "a.png", &error), &error);
  assert_int_equal(video_write(writer, rgb, "a.png", &error), ERROR_USAGE);
  assert_int_equal(video_write(writer, rgb, "../a.png", &error), ERROR_USAGE);
  video_writer_abandon(writer);
  assert_false(is_there(media_path("twice")));
  assert_false(is_there(media_path("twice.tmp")));
}

static void images_round_trip(void **state) {
  (void)state;
  uint8_t frame[12 * 6 * 3], read[12 * 6 * 3];
  VideoWriter *writer = NULL;
  VideoWriterOptions options = {.width = 12, .height = 6};
  media_make(media_path("one.png"), 1, 12, 6, 25);
  assert_int_equal(media_count(media_path("one.png"), NULL, read, &error), 1);
  media_frame(0, 12, 6, frame);
  assert_memory_equal(read, frame, sizeof frame);
  assert_done(video_writer_open(media_path("two.png"), &options, &writer, &error), &error);
  assert_done(video_write(writer, frame, NULL, &error), &error);
  assert_int_equal(video_write(writer, frame, NULL, &error), ERROR_USAGE);
  video_writer_abandon(writer);
  assert_false(is_there(media_path("two.png")));
}

#if WITH_FFMPEG

static char output[65536], other[65536];

static void close_to(const uint8_t *a, const uint8_t *b, size_t size, int tolerance) {
  for (size_t i = 0; i < size; i++) {
    int difference = abs(a[i] - b[i]);
    if (difference > tolerance) fail_msg("byte %zu: %d and %d", i, a[i], b[i]);
  }
}

/* --- Videos ----------------------------------------------------------------------------------- */

static void videos_round_trip(void **state) {
  (void)state;
  static const int sizes[2][2] = {{64, 48}, {33, 21}};
  for (int s = 0; s < 2; s++) {
    int width = sizes[s][0], height = sizes[s][1];
    size_t bytes = (size_t)width * (size_t)height * 3;
    uint8_t *frame = mem_new(bytes, 1), *read = mem_new(bytes, 1);
    VideoReader *reader = NULL;
    bool end = false;
    media_make(media_path("a.mp4"), 30, width, height, 25);
    assert_done(video_open(media_path("a.mp4"), NULL, &reader, &error), &error);
    assert_int_equal(video_info(reader)->width, width);
    assert_int_equal(video_info(reader)->height, height);
    assert_int_equal(video_info(reader)->fps_numerator, 25);
    assert_int_equal(video_info(reader)->frames, 30);
    assert_false(video_info(reader)->has_audio);
    for (int i = 0; i < 30; i++) {
      assert_done(video_read(reader, read, &end, &error), &error);
      assert_false(end);
      media_frame(i, width, height, frame);
      close_to(read, frame, bytes, 8);
    }
    assert_done(video_read(reader, read, &end, &error), &error);
    assert_true(end);
    video_close(reader);
    free(frame);
    free(read);
  }
}

static void probe(const char *path, char *out, size_t size, const char *entries) {
  int code = media_shell(
      out, size, "ffprobe -v error -select_streams v -show_entries %s -of csv '%s'", entries, path);
  assert_int_equal(code, 0);
}

static void ffprobe_reads_our_videos(void **state) {
  (void)state;
  if (!have_tool("ffprobe")) skip();
  media_make(media_path("a.mp4"), 23, 64, 48, 30);
  probe(media_path("a.mp4"), output, sizeof output,
        "stream=codec_name,width,height,pix_fmt,r_frame_rate,avg_frame_rate,nb_frames,color_space,"
        "color_range");
  assert_string_equal(output, "stream,h264,64,48,yuv420p,tv,bt709,30/1,30/1,23\n");
  media_make(media_path("odd.mkv"), 5, 33, 21, 25);
  probe(media_path("odd.mkv"), output, sizeof output, "stream=width,height,pix_fmt");
  assert_string_equal(output, "stream,33,21,yuv444p\n");
}

/* ffmpeg decodes our video to the same pixels as we do. */
static void ffmpeg_decodes_equal_pixels(void **state) {
  (void)state;
  static uint8_t ours[64 * 48 * 3], theirs[64 * 48 * 3];
  if (!have_tool("ffmpeg")) skip();
  media_make(media_path("a.mp4"), 12, 64, 48, 25);
  assert_int_equal(media_count(media_path("a.mp4"), NULL, ours, &error), 12);
  assert_int_equal(media_shell(output, sizeof output,
                               "ffmpeg -v error -i '%s' -vf 'select=eq(n\\,11)' -f rawvideo "
                               "-pix_fmt rgb24 '%s'",
                               media_path("a.mp4"), media_path("a.rgb")),
                   0);
  char *bytes = NULL;
  size_t size;
  assert_done(file_read(media_path("a.rgb"), 1 << 20, &bytes, &size, &error), &error);
  assert_int_equal(size, sizeof theirs);
  memcpy(theirs, bytes, size);
  free(bytes);
  close_to(ours, theirs, sizeof ours, 8);
}

/* Copies the frames, audio and timestamps of `from` to `to`. */
static void copy_video(const char *from, const char *to) {
  VideoReader *reader = NULL;
  VideoWriter *writer = NULL;
  bool end = false;
  assert_done(video_open(from, NULL, &reader, &error), &error);
  const VideoInfo *info = video_info(reader);
  VideoWriterOptions options = {.width = info->width,
                                .height = info->height,
                                .fps_numerator = info->fps_numerator,
                                .fps_denominator = info->fps_denominator,
                                .quality = -1,
                                .audio_from = from,
                                .timing_from = from};
  uint8_t *rgb = mem_new((size_t)info->width * (size_t)info->height, 3);
  assert_done(video_writer_open(to, &options, &writer, &error), &error);
  for (;;) {
    assert_done(video_read(reader, rgb, &end, &error), &error);
    if (end) break;
    assert_done(video_write(writer, rgb, NULL, &error), &error);
  }
  assert_done(video_writer_finish(writer, &error), &error);
  video_close(reader);
  free(rgb);
}

static void same_probe(const char *a, const char *b, const char *entries) {
  probe(a, output, sizeof output, entries);
  probe(b, other, sizeof other, entries);
  assert_string_equal(output, other);
  assert_true(strlen(output) > 10);
}

static void audio_is_copied(void **state) {
  (void)state;
  static const char *containers[] = {"mp4", "mkv"};
  if (!have_tool("ffmpeg") || !have_tool("ffprobe")) skip();
  for (int i = 0; i < 2; i++) {
    char from_name[16], to_name[16];
    snprintf(from_name, sizeof from_name, "from.%s", containers[i]);
    snprintf(to_name, sizeof to_name, "to.%s", containers[i]);
    const char *from = media_path(from_name), *to = media_path(to_name);
    assert_int_equal(
        media_shell(output, sizeof output,
                    "ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=25 -f lavfi -i "
                    "sine=frequency=440 -t 2 -c:v libx264 -pix_fmt yuv420p -c:a aac '%s' 2>&1",
                    from),
        0);
    copy_video(from, to);
    same_probe(from, to, "stream=width,height,r_frame_rate,avg_frame_rate,nb_frames,color_space");
    same_probe(from, to, "frame=pts_time");
    for (int side = 0; side < 2; side++)
      assert_int_equal(
          media_shell(side ? other : output, sizeof output,
                      "ffprobe -v error -select_streams a -show_packets -show_data_hash "
                      "MD5 -show_entries packet=pts_time,dts_time,size,data_hash -of "
                      "csv '%s'",
                      side ? to : from),
          0);
    assert_true(strlen(output) > 1000);
    assert_string_equal(output, other);
  }
}

static void variable_frame_rates_are_kept(void **state) {
  (void)state;
  if (!have_tool("ffmpeg") || !have_tool("ffprobe")) skip();
  const char *from = media_path("from.mp4"), *to = media_path("to.mp4");
  assert_int_equal(media_shell(output, sizeof output,
                               "ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=25 -t 3 -vf "
                               "'setpts=PTS+floor(N/7)*0.11/TB' -vsync vfr -c:v libx264 -pix_fmt "
                               "yuv420p -video_track_timescale 90000 '%s' 2>&1",
                               from),
                   0);
  copy_video(from, to);
  same_probe(from, to, "frame=pts_time");
  same_probe(from, to, "stream=nb_frames,avg_frame_rate,duration");
}

static void rotation_is_applied(void **state) {
  (void)state;
  VideoReader *reader = NULL;
  uint8_t *rgb = mem_new(48 * 64, 3);
  if (!have_tool("ffmpeg")) skip();
  media_make(media_path("a.mp4"), 2, 64, 48, 25);
  assert_int_equal(media_shell(output, sizeof output,
                               "ffmpeg -v error -i '%s' -c copy -metadata:s:v rotate=90 '%s' 2>&1",
                               media_path("a.mp4"), media_path("turned.mp4")),
                   0);
  assert_done(video_open(media_path("turned.mp4"), NULL, &reader, &error), &error);
  assert_int_equal(video_info(reader)->width, 48);
  assert_int_equal(video_info(reader)->height, 64);
  bool end;
  assert_done(video_read(reader, rgb, &end, &error), &error);
  /* The pixels are those that ffmpeg rotates. */
  assert_int_equal(
      media_shell(output, sizeof output,
                  "ffmpeg -v error -i '%s' -frames:v 1 -f rawvideo -pix_fmt rgb24 '%s'",
                  media_path("turned.mp4"), media_path("turned.rgb")),
      0);
  char *bytes = NULL;
  size_t size;
  assert_done(file_read(media_path("turned.rgb"), 1 << 20, &bytes, &size, &error), &error);
  assert_int_equal(size, 48 * 64 * 3);
  close_to(rgb, (uint8_t *)bytes, size, 8);
  free(bytes);
  free(rgb);
  video_close(reader);
}

static void filters_are_applied(void **state) {
  (void)state;
  static uint8_t last[64 * 48 * 3];
  VideoReader *reader = NULL;
  VideoReaderOptions options = {.filter = "split[a][b];[b]negate[c];[a][c]blend=all_mode=average"};
  media_make(media_path("a.mp4"), 10, 64, 48, 25);
  assert_int_equal(media_count(media_path("a.mp4"), &options, last, &error), 10);
  assert_in_range(last[3000], 120, 134); /* an image and its negative cancel */
  options.filter = "fps=50";
  assert_done(video_open(media_path("a.mp4"), &options, &reader, &error), &error);
  assert_int_equal(video_info(reader)->fps_numerator, 50);
  video_close(reader);
  assert_int_equal(media_count(media_path("a.mp4"), &options, NULL, &error), 20);
  /* Frames are scaled before the filter, and again where it changes the size. */
  options = (VideoReaderOptions){.filter = "crop=10:8", .width = 32};
  assert_done(video_open(media_path("a.mp4"), &options, &reader, &error), &error);
  assert_int_equal(video_info(reader)->width, 32);
  assert_int_equal(video_info(reader)->height, 26);
  assert_int_equal(video_info(reader)->file_width, 64);
  assert_int_equal(video_info(reader)->file_height, 48);
  video_close(reader);
  media_make(media_path("frames"), 4, 16, 16, 25);
  options = (VideoReaderOptions){.filter = "negate"};
  assert_int_equal(media_count(media_path("frames"), &options, last, &error), 4);
  assert_in_range(last[0], 214, 216);
}

static void bad_filters_are_rejected(void **state) {
  (void)state;
  VideoReader *reader = NULL;
  media_make(media_path("a.mp4"), 2, 64, 48, 25);
  static const char *bad[][2] = {
      {"nosuchfilter", "No such filter: 'nosuchfilter'"},
      {"split", "one open input and one open output"},
      {"negate=never=3", "never"},
      {"crop=9999:9999", "crop=9999:9999"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    VideoReaderOptions options = {.filter = bad[i][0]};
    assert_int_equal(video_open(media_path("a.mp4"), &options, &reader, &error), ERROR_USAGE);
    assert_mentions(&error, bad[i][0]);
    assert_mentions(&error, bad[i][1]);
  }
}

/* A full disk, simulated by a limit on file sizes. */
static void full_disk_leaves_no_files(void **state) {
  (void)state;
  VideoWriter *writer = NULL;
  VideoWriterOptions options = {
      .width = 64, .height = 64, .fps_numerator = 25, .fps_denominator = 1, .quality = 0};
  static uint8_t rgb[64 * 64 * 3];
  Status status = OK;
  struct rlimit before;
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  assert_done(video_writer_open(media_path("a.mp4"), &options, &writer, &error), &error);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){32768, before.rlim_max}), 0);
  for (int i = 0; i < 200 && status == OK; i++) {
    for (size_t k = 0; k < sizeof rgb; k++)
      rgb[k] = (uint8_t)((k * 2654435761u + (size_t)i * 40503u * k) >> 9);
    status = video_write(writer, rgb, NULL, &error);
  }
  if (status == OK)
    status = video_writer_finish(writer, &error);
  else
    video_writer_abandon(writer);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_int_equal(status, ERROR_IO);
  assert_mentions(&error, "a.mp4");
  assert_mentions(&error, "File too large");
  char **names;
  size_t count;
  assert_done(folder_list(media_path(""), &names, &count, &error), &error);
  assert_int_equal(count, 0);
  folder_list_free(names, count);
}

static void bad_outputs_are_rejected(void **state) {
  (void)state;
  VideoWriter *writer = NULL;
  VideoWriterOptions options = {
      .width = 16, .height = 16, .fps_numerator = 25, .fps_denominator = 1, .quality = -1};
  assert_int_equal(video_writer_open(media_path("a.nosuch"), &options, &writer, &error),
                   ERROR_USAGE);
  assert_mentions(&error, "a.nosuch");
  options.codec = "nosuchcodec";
  assert_int_equal(video_writer_open(media_path("a.mp4"), &options, &writer, &error), ERROR_USAGE);
  assert_mentions(&error, "nosuchcodec");
  options.codec = NULL;
  assert_int_equal(video_writer_open(media_path("no/where.mp4"), &options, &writer, &error),
                   ERROR_IO);
  assert_done(video_writer_open(media_path("a.mp4"), &options, &writer, &error), &error);
  assert_int_equal(video_writer_finish(writer, &error), ERROR_DATA);
  options.fps_numerator = 0;
  assert_int_equal(video_writer_open(media_path("a.mp4"), &options, &writer, &error), ERROR_USAGE);
  char **names;
  size_t count;
  assert_done(folder_list(media_path(""), &names, &count, &error), &error);
  assert_int_equal(count, 0); /* no unfinished files */
  folder_list_free(names, count);
}

static void abandoned_writer_leaves_no_files(void **state) {
  (void)state;
  VideoWriter *writer = NULL;
  uint8_t rgb[16 * 16 * 3] = {0};
  VideoWriterOptions options = {
      .width = 16, .height = 16, .fps_numerator = 25, .fps_denominator = 1, .quality = -1};
  assert_done(video_writer_open(media_path("a.mp4"), &options, &writer, &error), &error);
  assert_done(video_write(writer, rgb, NULL, &error), &error);
  assert_false(is_there(media_path("a.mp4")));
  video_writer_abandon(writer);
  char **names;
  size_t count;
  assert_done(folder_list(media_path(""), &names, &count, &error), &error);
  assert_int_equal(count, 0);
  folder_list_free(names, count);
}

#else

static void videos_fail_without_ffmpeg(void **state) {
  (void)state;
  VideoReader *reader = NULL;
  VideoWriter *writer = NULL;
  VideoWriterOptions options = {.width = 8, .height = 8, .fps_numerator = 25, .fps_denominator = 1};
  assert_done(atomic_file_replace(media_path("a.mp4"), "x", 1, &error), &error);
  assert_int_equal(video_open(media_path("a.mp4"), NULL, &reader, &error), ERROR_USAGE);
  assert_mentions(&error, "without FFmpeg");
  assert_int_equal(video_writer_open(media_path("b.mp4"), &options, &writer, &error), ERROR_USAGE);
  assert_mentions(&error, "without FFmpeg");
  media_make(media_path("frames"), 1, 8, 8, 25);
  assert_int_equal(
      video_open(media_path("frames"), &(VideoReaderOptions){.filter = "negate"}, &reader, &error),
      ERROR_USAGE);
}

#endif

#define TEST(function) cmocka_unit_test_setup_teardown(function, media_setup, media_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(media_kind_follows_from_the_path),
    TEST(folders_round_trip),
    TEST(folder_frames_are_resized),
    TEST(bad_folders_are_rejected),
    TEST(images_round_trip),
#if WITH_FFMPEG
    TEST(videos_round_trip),
    TEST(ffprobe_reads_our_videos),
    TEST(ffmpeg_decodes_equal_pixels),
    TEST(audio_is_copied),
    TEST(variable_frame_rates_are_kept),
    TEST(rotation_is_applied),
    TEST(filters_are_applied),
    TEST(bad_filters_are_rejected),
    TEST(full_disk_leaves_no_files),
    TEST(bad_outputs_are_rejected),
    TEST(abandoned_writer_leaves_no_files),
#else
    TEST(videos_fail_without_ffmpeg),
#endif
  };
  return cmocka_run_group_tests_name("video", tests, NULL, NULL);
}
