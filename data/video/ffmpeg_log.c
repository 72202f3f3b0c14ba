#include <stdarg.h>
#include <stdio.h>

#include "data/video/internal.h"

#if WITH_FFMPEG

#include <libavutil/error.h>
#include <libavutil/log.h>
#include <pthread.h>
#include <string.h>

/* FFmpeg logs from any of its threads. */
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t log_once = PTHREAD_ONCE_INIT;
static char last_message[512];
/* Of this thread: one may read while another writes. */
static _Thread_local char own_message[sizeof last_message];
/* A demuxer's, of the thread that reads: it resynchronises and goes on as if nothing had been. */
static _Thread_local char demuxer_message[sizeof last_message];

static bool is_demuxer(void *context) {
  const AVClass *class = context ? *(const AVClass **)context : NULL;
  if (!class) return false;
  AVClassCategory category = class->get_category ? class->get_category(context) : class->category;
  return category == AV_CLASS_CATEGORY_DEMUXER;
}

static void keep_message(void *context, int level, const char *format, va_list arguments) {
  char line[sizeof last_message];
  int prefix = 1;
  if (level > AV_LOG_ERROR) return;
  if (av_log_format_line2(context, level, format, arguments, line, (int)sizeof line, &prefix) < 0)
    return;
  char *text = line;
  if (text[0] == '[' && strstr(text, "] ")) text = strstr(text, "] ") + 2; /* "[name @ address] " */
  size_t length = strlen(text);
  while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == ' ')) text[--length] = '\0';
  if (length == 0) return;
  if (is_demuxer(context)) memcpy(demuxer_message, text, length + 1);
  memcpy(own_message, text, length + 1);
  pthread_mutex_lock(&log_mutex);
  memcpy(last_message, text, length + 1);
  pthread_mutex_unlock(&log_mutex);
}

static void install(void) {
  av_log_set_callback(keep_message);
}

void video_log_start(void) {
  pthread_once(&log_once, install);
}

void video_log_forget(void) {
  pthread_mutex_lock(&log_mutex);
  last_message[0] = '\0';
  pthread_mutex_unlock(&log_mutex);
  own_message[0] = demuxer_message[0] = '\0';
}

const char *video_log_of_demuxer(void) {
  return demuxer_message;
}

Status video_error(Error *error, Status status, int code, const char *format, ...) {
  char text[1024], reason[AV_ERROR_MAX_STRING_SIZE] = "", message[sizeof last_message];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  av_strerror(code, reason, sizeof reason);
  pthread_mutex_lock(&log_mutex);
  memcpy(message, own_message[0] ? own_message : last_message, sizeof message);
  pthread_mutex_unlock(&log_mutex);
  return error_set(error, status, "%s: %s%s%s%s", text, reason, message[0] ? " (" : "", message,
                   message[0] ? ")" : "");
}

#else

/* A build without FFmpeg: pictures and folders of them work, videos and filters say why not. */

static Status skipped_batches(Error *error, const char *what) {
  return error_set(
      error, ERROR_USAGE,
      "%s: this celforge was built without FFmpeg (WITH_FFMPEG=0); use a folder of PNG "
      "frames, or build with FFmpeg",
      what);
}

Status stream_reader_open(const char *path, const VideoReaderOptions *options, VideoInfo *info,
                          void **state, Error *error) {
  (void)options, (void)info;
  *state = NULL;
  return skipped_batches(error, path);
}

Status stream_writer_open(const char *path, const VideoWriterOptions *options, void **state,
                          Error *error) {
  (void)options;
  *state = NULL;
  return skipped_batches(error, path);
}

Status frame_filter_open_rgb(int width, int height, const VideoReaderOptions *options,
                             FrameFilter **out, Error *error) {
  (void)width, (void)height;
  *out = NULL;
  return skipped_batches(error, options->filter);
}

void frame_filter_close(FrameFilter *filter) {
  (void)filter;
}

void frame_filter_shape(const FrameFilter *filter, int *width, int *height, int *rate_numerator,
                        int *rate_denominator) {
  (void)filter, (void)width, (void)height, (void)rate_numerator, (void)rate_denominator;
}

Status frame_filter_send(FrameFilter *filter, struct AVFrame *frame, Error *error) {
  (void)filter, (void)frame;
  return skipped_batches(error, "filter");
}

Status frame_filter_send_rgb(FrameFilter *filter, const uint8_t *rgb, Error *error) {
  (void)filter, (void)rgb;
  return skipped_batches(error, "filter");
}

Status frame_filter_receive(FrameFilter *filter, uint8_t *rgb, bool *got, bool *end, Error *error) {
  (void)filter, (void)rgb, (void)got, (void)end;
  return skipped_batches(error, "filter");
}

const ReaderKind stream_reader = {0};
const WriterKind stream_writer = {0};

#endif
