/* Common containers are read; files that would make FFmpeg read other files (playlists, patterns,
 * session descriptions) or wait (pipes) are refused, whatever their names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/files.h"
#include "data/video/video.h"
#include "tests/unit/data/support_media.h"

static Error error;

/* --- Also without FFmpeg ---------------------------------------------------------------------- */

static void refused(const char *path, Status expected, const char *mentioned) {
  VideoReader *reader = NULL;
  alarm(20); /* ends the test if opening waits */
  Status status = video_open(path, NULL, &reader, &error);
  alarm(0);
  if (status == OK) fail_msg("%s: was opened", path);
  if (status != expected) fail_msg("status %d: %s", (int)status, error.message);
  assert_null(reader);
  assert_mentions(&error, path);
  assert_mentions(&error, mentioned);
}

static void standard_streams_are_refused(void **state) {
  (void)state;
  VideoWriter *writer = NULL;
  const VideoWriterOptions options = {.width = 8, .height = 8};
  refused("-", ERROR_USAGE, "standard input");
  assert_int_equal(video_writer_open("-", &options, &writer, &error), ERROR_USAGE);
  assert_mentions(&error, "standard output");
}

#if WITH_FFMPEG

static char output[4096];

/* Stands in for the system call, for the video reader. */
static int reads, failing_read = -1, failing_errno;

ssize_t pread(int descriptor, void *buffer, size_t size, off_t offset) {
  if (reads++ == failing_read) {
    errno = failing_errno;
    return -1;
  }
  size_t most = failing_errno == EINTR && size > 1000 ? 1000 : size; /* also comes short */
  return syscall(SYS_pread64, descriptor, buffer, most, offset);
}

/* Whichever read fails: the file may be good, so it is no ERROR_DATA. */
static void failed_reads_are_io_errors(void **state) {
  (void)state;
  media_make(media_path("a.mkv"), 40, 640, 480, 25);
  int64_t frames = -1;
  failing_errno = EIO;
  for (failing_read = 0; frames < 0; failing_read++) {
    reads = 0;
    frames = media_count(media_path("a.mkv"), NULL, NULL, &error);
    if (frames >= 0) break;
    assert_int_equal(error.status, ERROR_IO);
    assert_mentions(&error, "a.mkv: cannot read: Input/output error");
  }
  assert_int_equal(frames, 40);
  assert_true(failing_read > 2);
  failing_errno = EINTR;
  for (failing_read = 0; failing_read < 3; failing_read++) {
    reads = 0;
    assert_int_equal(media_count(media_path("a.mkv"), NULL, NULL, &error), 40);
  }
  failing_read = -1;
}

static void pipes_sockets_and_devices_are_refused(void **state) {
  (void)state;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  assert_int_equal(mkfifo(media_path("pipe.mp4"), 0600), 0);
  refused(media_path("pipe.mp4"), ERROR_USAGE, "is a pipe");
  refused("/dev/zero", ERROR_USAGE, "is a device");
  snprintf(address.sun_path, sizeof address.sun_path, "%s", media_path("socket.mp4"));
  int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
  assert_int_equal(bind(descriptor, (struct sockaddr *)&address, sizeof address), 0);
  refused(media_path("socket.mp4"), ERROR_USAGE, "is a socket");
  close(descriptor);
}

/* --- Containers that are read ----------------------------------------------------------------- */

static void common_containers_are_read(void **state) {
  (void)state;
  static const char *const WAYS[][2] = {
      {"a.mp4", "-c:v libx264"},
      {"a.mov", "-c:v prores"},
      {"a.3gp", "-c:v libx264"},
      {"a.mkv", "-c:v libx264"},
      {"a.webm", "-c:v libvpx-vp9 -deadline realtime"},
      {"a.avi", "-c:v mpeg4"},
      {"a.ts", "-c:v libx264"},
      {"a.m2ts", "-c:v libx264"},
      {"a.mpg", "-c:v mpeg2video"},
      {"a.vob", "-c:v mpeg2video"},
      {"a.ogv", "-c:v libtheora"},
      {"a.flv", "-c:v flv"},
      {"a.wmv", "-c:v wmv2"},
      {"a.asf", "-c:v msmpeg4"},
      {"a.mxf", "-c:v mpeg2video"},
      {"a.nut", "-c:v ffv1"},
      {"a.y4m", "-pix_fmt yuv420p"},
      {"a.gif", ""},
      {"a.apng", "-f apng"},
      {"a.ivf", "-c:v libvpx"},
      {"a.h264", "-c:v libx264"},
      {"a.hevc", "-c:v libx265 -x265-params log-level=none"},
      {"a.m2v", "-c:v mpeg2video"},
      {"a.m4v", "-c:v mpeg4"},
      {"a.mjpeg", "-c:v mjpeg -pix_fmt yuvj420p"},
      {"no-extension", "-c:v libx264 -f mp4"},
      {"odd%d:name.mp4", "-c:v libx264"},
  };
  if (!have_tool("ffmpeg")) skip();
  for (size_t i = 0; i < sizeof WAYS / sizeof *WAYS; i++) {
    const char *path = media_path(WAYS[i][0]);
    int code = media_shell(output, sizeof output,
                           "ffmpeg -v error -y -f lavfi -i testsrc=size=96x64:rate=25 -frames:v 12 "
                           "-pix_fmt yuv420p %s 'file:%s' 2>&1",
                           WAYS[i][1], path);
    if (strstr(output, "Unknown encoder")) continue; /* FFmpeg without this library */
    if (code != 0) fail_msg("%s: %s", path, output);
    int64_t frames = media_count(path, NULL, NULL, &error);
    if (frames != 12) fail_msg("%s: %lld frames: %s", path, (long long)frames, error.message);
  }
}

/* --- Containers that refer to other files ----------------------------------------------------- */

static void text_is_refused(const char *name, const char *text, const char *demuxer) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "FFmpeg's \"%s\"", demuxer);
  assert_done(atomic_file_replace(media_path(name), text, strlen(text), &error), &error);
  refused(media_path(name), ERROR_DATA, quoted);
  assert_mentions(&error, "allowed: MP4/MOV/3GP, Matroska/WebM");
}

static void playlists_are_refused(void **state) {
  (void)state;
  static const char *const NAMES[] = {"clip.mp4", "clip.m3u8", "clip.ffconcat", "clip.mpd", "clip"};
  char text[2048];
  if (!have_tool("ffmpeg")) skip();
  media_make(media_path("secret.ts"), 12, 64, 48, 25);
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
    snprintf(text, sizeof text,
             "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
             "#EXTINF:0.48,\n%s\n#EXT-X-ENDLIST\n",
             media_path("secret.ts"));
    text_is_refused(NAMES[i], text, "hls");
    text_is_refused(NAMES[i], "ffconcat version 1.0\nfile secret.ts\n", "concat");
  }
}

static void manifests_are_refused(void **state) {
  (void)state;
  static const char dash[] =
      "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" "
      "mediaPresentationDuration=\"PT1S\" "
      "profiles=\"urn:mpeg:dash:profile:isoff-on-demand:2011\"><Period><AdaptationSet "
      "mimeType=\"video/mp4\"><Representation id=\"1\" "
      "bandwidth=\"1\"><BaseURL>secret.mp4</BaseURL>"
      "</Representation></AdaptationSet></Period></MPD>\n";
  static const char session[] = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
                                "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n";
  if (!have_tool("ffmpeg")) skip();
  /* A build of FFmpeg may lack DASH, and says so with another message. */
  int has_dash =
      media_shell(output, sizeof output, "ffmpeg -v error -demuxers | grep -qw dash") == 0;
  if (has_dash) text_is_refused("manifest.mp4", dash, "dash");
  text_is_refused("session.mp4", session, "sdp");
}

static void name_patterns_are_refused(void **state) {
  (void)state;
  if (!have_tool("ffmpeg")) skip();
  assert_int_equal(media_shell(output, sizeof output,
                               "cd '%s' && ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=25 "
                               "-frames:v 3 'frame%%d.jpg' 2>&1 && cp frame1.jpg 'frame%%d.jpg'",
                               media_path("")),
                   0);
  refused(media_path("frame%d.jpg"), ERROR_DATA, "FFmpeg's \"image2\"");
  assert_int_equal(media_count(media_path("frame1.jpg"), NULL, NULL, &error), 1);
}

#endif

#define TEST(function) cmocka_unit_test_setup_teardown(function, media_setup, media_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(standard_streams_are_refused),
#if WITH_FFMPEG
    TEST(failed_reads_are_io_errors),
    TEST(pipes_sockets_and_devices_are_refused),
    TEST(common_containers_are_read),
    TEST(playlists_are_refused),
    TEST(manifests_are_refused),
    TEST(name_patterns_are_refused),
#endif
  };
  return cmocka_run_group_tests_name("video_containers", tests, NULL, NULL);
}
