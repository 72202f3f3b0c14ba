/* Keeps FFmpeg's messages for error texts instead of printing them. Also stands in for the other
 * FFmpeg files in a build without FFmpeg. */
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
/* Of this thread: others may use FFmpeg at the same time. */
static _Thread_local char own_message[sizeof last_message];
/* A demuxer's, of this thread: after an error it resynchronises and reports success. */
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

static void install_callback(void) {
  av_log_set_callback(keep_message);
}

void ffmpeg_log_capture(void) {
  pthread_once(&log_once, install_callback);
}

void ffmpeg_log_clear(void) {
  pthread_mutex_lock(&log_mutex);
  last_message[0] = '\0';
  pthread_mutex_unlock(&log_mutex);
  own_message[0] = demuxer_message[0] = '\0';
}

const char *ffmpeg_log_demuxer_error(void) {
  return demuxer_message;
}

Status ffmpeg_error(Error *error, Status status, int code, const char *format, ...) {
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

/* Without FFmpeg, images and frame folders work; videos and filters fail with this message. */
static Status unsupported(Error *error, const char *what) {
  return error_set(error, ERROR_USAGE,
                   "%s: celforge was built without FFmpeg (WITH_FFMPEG=0); use a folder of PNG "
                   "frames, or rebuild with "
                   "FFmpeg",
                   what);
}

Status stream_reader_open(const char *path, const VideoReaderOptions *options, VideoInfo *info,
                          void **state, Error *error) {
  (void)options, (void)info;
  *state = NULL;
  return unsupported(error, path);
}

Status stream_writer_open(const char *path, const VideoWriterOptions *options, void **state,
                          Error *error) {
  (void)options;
  *state = NULL;
  return unsupported(error, path);
}

Status frame_filter_open_rgb(int width, int height, const VideoReaderOptions *options,
                             FrameFilter **out, Error *error) {
  (void)width, (void)height;
  *out = NULL;
  return unsupported(error, options->filter);
}

void frame_filter_close(FrameFilter *filter) {
  (void)filter;
}

void frame_filter_output(const FrameFilter *filter, int *width, int *height, int *rate_numerator,
                         int *rate_denominator) {
  (void)filter, (void)width, (void)height, (void)rate_numerator, (void)rate_denominator;
}

Status frame_filter_send(FrameFilter *filter, struct AVFrame *frame, Error *error) {
  (void)filter, (void)frame;
  return unsupported(error, "filter");
}

Status frame_filter_send_rgb(FrameFilter *filter, const uint8_t *rgb, Error *error) {
  (void)filter, (void)rgb;
  return unsupported(error, "filter");
}

Status frame_filter_receive(FrameFilter *filter, uint8_t *rgb, bool *got, bool *end, Error *error) {
  (void)filter, (void)rgb, (void)got, (void)end;
  return unsupported(error, "filter");
}

const VideoReaderOps stream_reader_ops = {0};
const VideoWriterOps stream_writer_ops = {0};

#endif
