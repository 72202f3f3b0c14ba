/* Reads any bytes as a video: it is read to its end, or rejected with a message that names the
 * file. FFmpeg itself is not instrumented. The test looks for input that crashes the process, never
 * ends, or breaks the contract of data/video/video.h, despite our settings. */
#include <stdlib.h>
#include <string.h>

#include "data/video/video.h"
#include "tests/fuzz/support/fuzz.h"

enum { MAX_PIXELS = 1 << 20, MAX_FRAMES = 300 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  Dice dice = dice_new(seed);
  return mutate_container(data, size, room, &dice);
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
    if (status == OK) continue;
    require_error(status, &error);
    break;
  }
  free(rgb);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  VideoReader *reader = NULL;
  int descriptor;
  const char *path = scratch_file("", data, size, &descriptor);
  Status status = video_open(path, NULL, &reader, &error);
  if (status == OK)
    read_frames(reader);
  else
    require(!reader && error.status == status && strstr(error.message, path));
  video_close(reader);
  return 0;
}
