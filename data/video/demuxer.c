/* Opens videos for demuxing. FFmpeg reads through a descriptor of ours and may open nothing else:
 * the container must be in CONTAINERS, and a demuxer that asks for another file or URL (a playlist,
 * external tracks of a MOV file) is refused. A video from an untrusted place thus cannot make the
 * program read other files. */
#include "data/video/internal.h"

#if WITH_FFMPEG

#include <errno.h>
#include <fcntl.h>
#include <libavformat/avformat.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"

enum { BUFFER_BYTES = 64 << 10 };

/* Names of FFmpeg's demuxers. None of them opens another file by itself, but mov with enable_drefs,
 * which stays off. */
static const struct {
  const char *demuxer, *name; /* name: NULL for further demuxers of the line above */
} CONTAINERS[] = {
    {"mov,mp4,m4a,3gp,3g2,mj2", "MP4/MOV/3GP"},
    {"matroska,webm", "Matroska/WebM"},
    {"avi", "AVI"},
    {"mpegts", "MPEG-TS"},
    {"mpeg", "MPEG-PS"},
    {"ogg", "Ogg"},
    {"flv", "FLV"},
    {"asf", "ASF/WMV"},
    {"mxf", "MXF"},
    {"nut", "NUT"},
    {"dv", "DV"},
    {"ivf", "IVF"},
    {"yuv4mpegpipe", "YUV4MPEG2"},
    {"gif", "GIF"},
    {"apng", "APNG"},
    {"h264", "raw H.264, HEVC, VVC, AV1, MPEG-1/2/4 and Motion JPEG"},
    {"hevc", NULL},
    {"vvc", NULL},
    {"obu", NULL},
    {"av1", NULL},
    {"mpegvideo", NULL},
    {"m4v", NULL},
    {"mjpeg", NULL},
    {"jpeg_pipe", NULL}, /* what Motion JPEG is usually taken for */
};
enum { CONTAINER_COUNT = sizeof CONTAINERS / sizeof *CONTAINERS };

/* The file behind an AVIOContext. */
typedef struct Source {
  char *path;
  int descriptor;
  int64_t position;
  int errnum;    /* of the first failed read, else 0 */
  char *refused; /* the first other file that the demuxer asked for, or NULL; owned */
} Source;

static Source *source_of(const AVFormatContext *format) {
  return format->pb->opaque;
}

/* --- Reading through our descriptor ----------------------------------------------------------- */

static int read_source(void *opaque, uint8_t *buffer, int size) {
  Source *source = opaque;
  ssize_t n;
  do n = pread(source->descriptor, buffer, (size_t)size, source->position);
  while (n < 0 && errno == EINTR);
  if (n < 0) {
    int errnum = errno;
    if (source->errnum == 0) source->errnum = errnum;
    return AVERROR(errnum);
  }
  source->position += n;
  return n == 0 ? AVERROR_EOF : (int)n;
}

static int64_t seek_source(void *opaque, int64_t offset, int whence) {
  Source *source = opaque;
  struct stat info;
  int64_t base = 0;
  whence &= ~AVSEEK_FORCE;
  if (whence == AVSEEK_SIZE || whence == SEEK_END) {
    if (fstat(source->descriptor, &info) != 0) return AVERROR(errno);
    base = info.st_size;
    if (whence == AVSEEK_SIZE) return base;
  } else if (whence == SEEK_CUR) {
    base = source->position;
  } else if (whence != SEEK_SET) {
    return AVERROR(EINVAL);
  }
  if (offset > INT64_MAX - base || base + offset < 0) return AVERROR(EINVAL);
  return source->position = base + offset;
}

/* Replaces AVFormatContext.io_open, through which demuxers open further files. */
static int refuse_to_open(AVFormatContext *format, AVIOContext **out, const char *url, int flags,
                          AVDictionary **options) {
  Source *source = source_of(format);
  (void)flags, (void)options;
  *out = NULL;
  if (!source->refused) source->refused = mem_string(url);
  return AVERROR(EPERM);
}

/* Fails unless the path leads to a regular file. */
static Status check_kind(const char *path, mode_t mode, Error *error) {
  if (S_ISREG(mode)) return OK;
  const char *kind = S_ISDIR(mode)    ? "a folder"
                     : S_ISFIFO(mode) ? "a pipe"
                     : S_ISSOCK(mode) ? "a socket"
                                      : "a device";
  return error_set(error, ERROR_USAGE,
                   "%s: is %s; a video must be a file, since it is read more than once (frames, "
                   "sound, timestamps)",
                   path, kind);
}

/* Opens the file and checks its kind, before that too: opening a device may have effects.
 * O_NONBLOCK: opening a pipe without a writer would block. */
static Status open_source(const char *path, Source **out, Error *error) {
  Status status = OK;
  struct stat info;
  int descriptor = -1;
  if (stat(path, &info) != 0) {
    status = error_errno(error, errno, "%s: cannot open as a video", path);
    goto done;
  }
  TRY(check_kind(path, info.st_mode, error));
  do descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0 || fstat(descriptor, &info) != 0) {
    status = error_errno(error, errno, "%s: cannot open as a video", path);
    goto done;
  }
  TRY(check_kind(path, info.st_mode, error));
  Source *source = *out = mem_new(1, sizeof *source);
  source->path = mem_string(path);
  source->descriptor = descriptor;
  descriptor = -1;
done:
  if (descriptor >= 0) close(descriptor);
  return status;
}

static void source_free(Source *source) {
  if (!source) return;
  close(source->descriptor);
  free(source->refused);
  free(source->path);
  free(source);
}

static void io_free(AVIOContext *io) {
  if (!io) return;
  source_free(io->opaque);
  av_freep(&io->buffer);
  avio_context_free(&io);
}

static Status io_open(const char *path, AVIOContext **out, Error *error) {
  Source *source = NULL;
  Status status = open_source(path, &source, error);
  if (status != OK) return status;
  unsigned char *buffer = av_malloc(BUFFER_BYTES);
  *out = buffer
             ? avio_alloc_context(buffer, BUFFER_BYTES, 0, source, read_source, NULL, seek_source)
             : NULL;
  if (*out) return OK;
  av_free(buffer);
  source_free(source);
  return error_set(error, ERROR_INTERNAL, "%s: no memory to read a video", path);
}

/* --- Containers ------------------------------------------------------------------------------- */

static bool is_allowed(const AVInputFormat *format) {
  for (size_t i = 0; i < CONTAINER_COUNT; i++)
    if (strcmp(CONTAINERS[i].demuxer, format->name) == 0) return true;
  return false;
}

static Status container_error(const char *path, const AVInputFormat *format, Error *error) {
  Text allowed = {0};
  for (size_t i = 0; i < CONTAINER_COUNT; i++)
    if (CONTAINERS[i].name) text_append(&allowed, "%s%s", i > 0 ? ", " : "", CONTAINERS[i].name);
  Status status = error_set(error, ERROR_DATA,
                            "%s: is not a video in one file, but %s (FFmpeg's \"%s\"); allowed: "
                            "%s. Playlists and other formats that refer to further files are not "
                            "followed",
                            path, format->long_name ? format->long_name : format->name,
                            format->name, allowed.data);
  text_free(&allowed);
  return status;
}

/* Options of avformat_open_input; the caller frees them. They also hold for demuxers that a demuxer
 * opens. */
static AVDictionary *restrictions(void) {
  Text names = {0};
  AVDictionary *options = NULL;
  for (size_t i = 0; i < CONTAINER_COUNT; i++)
    text_append(&names, "%s%s", i > 0 ? "," : "", CONTAINERS[i].demuxer);
  av_dict_set(&options, "format_whitelist", names.data, 0);
  av_dict_set(&options, "protocol_whitelist", "", 0);
  av_dict_set(&options, "enable_drefs", "0", 0); /* external tracks, of mov; others ignore it */
  text_free(&names);
  return options;
}

static Status open_failed(const char *path, const AVIOContext *io, int code, const char *what,
                          Error *error) {
  const Source *source = io->opaque;
  if (source->errnum) return error_errno(error, source->errnum, "%s: cannot read", path);
  return ffmpeg_error(error, ERROR_DATA, code, "%s: %s", path, what);
}

/* Finds out the container from the file's first bytes and its name. */
static Status choose_container(const char *path, AVIOContext *io, const AVInputFormat **out,
                               Error *error) {
  const char *slash = strrchr(path, '/');
  *out = NULL;
  int code = av_probe_input_buffer2(io, out, slash ? slash + 1 : path, NULL, 0, 0);
  if (code < 0) return open_failed(path, io, code, "cannot open as a video", error);
  return is_allowed(*out) ? OK : container_error(path, *out, error);
}

/* Opens the container and reads its header. Frees `io` on failure. */
static Status open_container(const char *path, AVIOContext *io, AVFormatContext **out,
                             Error *error) {
  Status status = OK;
  const AVInputFormat *container = NULL;
  AVFormatContext *format = NULL;
  AVDictionary *options = restrictions();
  TRY(choose_container(path, io, &container, error));
  format = avformat_alloc_context();
  if (!format) FAIL(error, ERROR_INTERNAL, "%s: no memory for a demuxer", path);
  format->pb = io;
  format->io_open = refuse_to_open;
  int code = avformat_open_input(&format, path, container, &options);
  if (code < 0) { /* has freed `format` */
    status = open_failed(path, io, code, "cannot open as a video", error);
    goto done;
  }
  *out = format;
  io = NULL;
done:
  av_dict_free(&options);
  io_free(io);
  return status;
}

Status demuxer_open(const char *path, AVFormatContext **out, Error *error) {
  AVIOContext *io = NULL;
  ffmpeg_log_capture();
  ffmpeg_log_clear();
  *out = NULL;
  Status status = io_open(path, &io, error);
  if (status == OK) status = open_container(path, io, out, error);
  if (status != OK || !*out) return status; /* never NULL, which clang's analyzer does not see */
  ffmpeg_log_clear(); /* errors in the header, if the file can be opened, do not matter */
  int code = avformat_find_stream_info(*out, NULL);
  status = demuxer_check(*out, error);
  if (status == OK && code < 0)
    status = open_failed(path, io, code, "no stream can be decoded", error);
  if (status != OK) demuxer_close(out);
  return status;
}

Status demuxer_check(const AVFormatContext *format, Error *error) {
  const Source *source = source_of(format);
  if (source->errnum) return error_errno(error, source->errnum, "%s: cannot read", source->path);
  if (source->refused)
    return error_set(error, ERROR_DATA,
                     "%s: refers to another file, \"%s\", which is not followed; a video must be "
                     "one file",
                     source->path, source->refused);
  return OK;
}

void demuxer_close(AVFormatContext **format) {
  if (!*format) return;
  AVIOContext *io = (*format)->pb;
  avformat_close_input(format);
  io_free(io);
}

#endif
