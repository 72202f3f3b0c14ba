#include "tests/unit/data/support_media.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/memory.h"

static char folder[256];

int media_setup(void **state) {
  (void)state;
  const char *root = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/celforge-media-XXXXXX", root && root[0] ? root : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

int media_teardown(void **state) {
  (void)state;
  return folder_remove(folder, NULL) == OK ? 0 : -1;
}

const char *media_path(const char *name) {
  static char buffers[8][512];
  static int next;
  char *buffer = buffers[next++ % 8];
  snprintf(buffer, sizeof buffers[0], "%s/%s", folder, name);
  return buffer;
}

bool is_there(const char *path) {
  return access(path, F_OK) == 0;
}

void assert_done(Status status, const Error *error) {
  if (status != OK) fail_msg("status %d: %s", (int)status, error->message);
}

void assert_mentions(const Error *error, const char *part) {
  if (!strstr(error->message, part)) fail_msg("\"%s\" is not in: %s", part, error->message);
}

int media_shell(char *output, size_t size, const char *format, ...) {
  char command[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(command, sizeof command, format, arguments);
  va_end(arguments);
  FILE *pipe = popen(command, "r");
  assert_non_null(pipe);
  size_t used = fread(output, 1, size - 1, pipe);
  output[used] = '\0';
  int status = pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool have_tool(const char *name) {
  char output[256];
  return media_shell(output, sizeof output, "command -v %s 2>/dev/null", name) == 0;
}

void media_frame(int index, int width, int height, uint8_t *rgb) {
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
      uint8_t *pixel = rgb + 3 * (y * width + x);
      pixel[0] = (uint8_t)(40 + 150 * x / width);
      pixel[1] = (uint8_t)(40 + 150 * y / height);
      pixel[2] = (uint8_t)(60 + 5 * abs(12 - index % 24));
    }
}

void media_make(const char *path, int frames, int width, int height, int rate) {
  Error error = {0};
  VideoWriter *writer = NULL;
  VideoWriterOptions options = {
      .width = width, .height = height, .fps_numerator = rate, .fps_denominator = 1, .quality = 6};
  uint8_t *rgb = mem_new((size_t)width * (size_t)height, 3);
  assert_done(video_writer_open(path, &options, &writer, &error), &error);
  for (int i = 0; i < frames; i++) {
    media_frame(i, width, height, rgb);
    assert_done(video_write(writer, rgb, NULL, &error), &error);
  }
  assert_done(video_writer_finish(writer, &error), &error);
  free(rgb);
}

int64_t media_count(const char *path, const VideoReaderOptions *options, uint8_t *last,
                    Error *error) {
  VideoReader *reader = NULL;
  if (video_open(path, options, &reader, error) != OK) return -1;
  const VideoInfo *info = video_info(reader);
  uint8_t *rgb = mem_new((size_t)info->width * (size_t)info->height, 3);
  int64_t frames = 0;
  for (bool end = false; !end;) {
    if (video_read(reader, rgb, &end, error) != OK) {
      frames = -1;
      break;
    }
    if (end) break;
    frames++;
    if (last) memcpy(last, rgb, (size_t)info->width * (size_t)info->height * 3);
  }
  free(rgb);
  video_close(reader);
  return frames;
}
