/* Chooses the reader or writer for a path: video stream, frame folder or image. */
#include "data/video/video.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/video/internal.h"

struct VideoReader {
  const VideoReaderOps *ops;
  void *state;
  VideoInfo info;
};

struct VideoWriter {
  const VideoWriterOps *ops;
  void *state;
};

enum { MAX_SIDE = 32768 };

static MediaKind kind_of_name(const char *path) {
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  const char *dot = strrchr(name, '.');
  return dot && dot != name ? MEDIA_VIDEO : MEDIA_FOLDER;
}

Status media_kind(const char *path, MediaKind *out, Error *error) {
  Status status = OK;
  size_t length = strlen(path);
  bool exists = false, is_folder = false;
  TRY(path_is_folder(path, &is_folder, error));
  if (!is_folder) TRY(path_exists(path, &exists, error));
  if (is_folder || (length > 0 && path[length - 1] == '/'))
    *out = MEDIA_FOLDER;
  else if (length > 4 && strcasecmp(path + length - 4, ".png") == 0)
    *out = MEDIA_IMAGE;
  else
    *out = exists ? MEDIA_VIDEO : kind_of_name(path);
done:
  return status;
}

static Status check_size(const char *path, int width, int height, int minimum, Error *error) {
  if (width < minimum || height < minimum || width > MAX_SIDE || height > MAX_SIDE)
    return error_set(error, ERROR_USAGE, "%s: size %dx%d; expected %d to %d for each side", path,
                     width, height, minimum, MAX_SIDE);
  return OK;
}

static Status refuse_standard_stream(const char *path, const char *stream, Error *error) {
  if (strcmp(path, "-") != 0) return OK;
  return error_set(error, ERROR_USAGE,
                   "-: standard %s is not supported for videos; give a file or a folder of frames",
                   stream);
}

/* --- Reading ---------------------------------------------------------------------------------- */

Status video_open(const char *path, const VideoReaderOptions *options, VideoReader **out,
                  Error *error) {
  static const VideoReaderOptions none = {0};
  Status status = OK;
  VideoReader *reader = mem_new(1, sizeof *reader);
  *out = NULL;
  if (!options) options = &none;
  TRY(check_size(path, options->width, options->height, 0, error));
  TRY(refuse_standard_stream(path, "input", error));
  bool exists;
  MediaKind kind;
  TRY(path_exists(path, &exists, error));
  if (!exists) FAIL(error, ERROR_IO, "%s: no such file or folder", path);
  TRY(media_kind(path, &kind, error));
  reader->info.kind = kind;
  reader->ops = kind == MEDIA_VIDEO ? &stream_reader_ops : &folder_reader_ops;
  if (kind == MEDIA_VIDEO)
    TRY(stream_reader_open(path, options, &reader->info, &reader->state, error));
  else
    TRY(folder_reader_open(path, kind, options, &reader->info, &reader->state, error));
  *out = reader;
  reader = NULL;
done:
  video_close(reader);
  return status;
}

void video_close(VideoReader *reader) {
  if (!reader) return;
  if (reader->state) reader->ops->close(reader->state);
  free(reader);
}

const VideoInfo *video_info(const VideoReader *reader) {
  return &reader->info;
}

Status video_read(VideoReader *reader, uint8_t *rgb, bool *end, Error *error) {
  return reader->ops->read(reader->state, rgb, end, error);
}

const char *video_frame_name(const VideoReader *reader) {
  return reader->ops->frame_name ? reader->ops->frame_name(reader->state) : NULL;
}

/* --- Writing ---------------------------------------------------------------------------------- */

Status video_writer_open(const char *path, const VideoWriterOptions *options, VideoWriter **out,
                         Error *error) {
  Status status = OK;
  VideoWriter *writer = mem_new(1, sizeof *writer);
  *out = NULL;
  TRY(check_size(path, options->width, options->height, 1, error));
  TRY(refuse_standard_stream(path, "output", error));
  MediaKind kind;
  TRY(media_kind(path, &kind, error));
  writer->ops = kind == MEDIA_VIDEO ? &stream_writer_ops : &folder_writer_ops;
  if (kind == MEDIA_VIDEO)
    TRY(stream_writer_open(path, options, &writer->state, error));
  else
    TRY(folder_writer_open(path, kind, options, &writer->state, error));
  *out = writer;
  writer = NULL;
done:
  video_writer_abandon(writer);
  return status;
}

Status video_write(VideoWriter *writer, const uint8_t *rgb, const char *name, Error *error) {
  return writer->ops->write(writer->state, rgb, name, error);
}

Status video_writer_finish(VideoWriter *writer, Error *error) {
  Status status = writer->ops->finish(writer->state, error);
  video_writer_abandon(writer);
  return status;
}

void video_writer_abandon(VideoWriter *writer) {
  if (!writer) return;
  if (writer->state) writer->ops->close(writer->state);
  free(writer);
}
