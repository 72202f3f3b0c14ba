/* Reads any bytes as a video: it is read to its end, or rejected with a message that names the
 * file. FFmpeg itself is not instrumented. The test looks for input that crashes the process, never
 * ends, or breaks the contract of data/video/video.h, despite our settings. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/video/video.h"

enum { MAX_PIXELS = 1 << 20, MAX_FRAMES = 300 };

/* FFmpeg needs a file with a path; this one is in memory and reused for every input. */
static char path[] = "/dev/shm/celforge-fuzz-XXXXXX";
static int descriptor = -1;

static void remove_file(void) {
  unlink(path);
}

static void require(bool good) {
  if (!good) abort();
}

static void read_frames(VideoReader *reader) {
  const VideoInfo *info = video_info(reader);
  Error error = {0};
  require(info->width > 0 && info->height > 0);
  if ((int64_t)info->width * info->height > MAX_PIXELS) return;
  uint8_t *rgb = malloc((size_t)info->width * (size_t)info->height * 3);
  bool end = false;
  for (int i = 0; i < MAX_FRAMES && !end; i++) {
    Status status = video_read(reader, rgb, &end, &error);
    require(status == OK || (error.status == status && error.message[0]));
    if (status != OK) break;
  }
  free(rgb);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  VideoReader *reader = NULL;
  if (descriptor < 0) {
    descriptor = mkstemp(path);
    if (descriptor < 0 || atexit(remove_file) != 0) abort();
  }
  if (ftruncate(descriptor, 0) != 0 || pwrite(descriptor, data, size, 0) != (ssize_t)size) abort();
  Status status = video_open(path, NULL, &reader, &error);
  if (status == OK)
    read_frames(reader);
  else
    require(!reader && error.status == status && strstr(error.message, path));
  video_close(reader);
  return 0;
}
