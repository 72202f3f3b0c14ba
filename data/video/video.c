#include "data/video/video.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/video/internal.h"

struct VideoReader {
  const ReaderKind *kind;
  void *state;
  VideoInfo info;
};

struct VideoWriter {
  const WriterKind *kind;
  void *state;
};

enum { MAX_SIDE = 32768 };

MediaKind media_kind(const char *path) {
  size_t length = strlen(path);
  if (path_is_folder(path) || (length > 0 && path[length - 1] == '/')) return MEDIA_FOLDER;
  if (length > 4 && strcasecmp(path + length - 4, ".png") == 0) return MEDIA_IMAGE;
  if (path_exists(path)) return MEDIA_VIDEO;
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  const char *dot = strrchr(name, '.');
  return dot && dot != name ? MEDIA_VIDEO : MEDIA_FOLDER;
}

static Status check_size(const char *path, int width, int height, int least, Error *error) {
  if (width < least || height < least || width > MAX_SIDE || height > MAX_SIDE)
    return error_set(error, ERROR_USAGE, "%s: size %dx%d; allowed: %d to %d each way", path, width,
                     height, least, MAX_SIDE);
  return OK;
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
  if (!path_exists(path)) FAIL(error, ERROR_IO, "%s: no such file or folder", path);
  MediaKind kind = media_kind(path);
  reader->info.kind = kind;
  reader->kind = kind == MEDIA_VIDEO ? &stream_reader : &folder_reader;
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
  if (reader->state) reader->kind->close(reader->state);
  free(reader);
}

const VideoInfo *video_info(const VideoReader *reader) {
  return &reader->info;
}

Status video_read(VideoReader *reader, uint8_t *rgb, bool *end, Error *error) {
  return reader->kind->read(reader->state, rgb, end, error);
}

const char *video_frame_name(const VideoReader *reader) {
  return reader->kind->frame_name ? reader->kind->frame_name(reader->state) : NULL;
}

/* --- Writing ---------------------------------------------------------------------------------- */

Status video_writer_open(const char *path, const VideoWriterOptions *options, VideoWriter **out,
                         Error *error) {
  Status status = OK;
  VideoWriter *writer = mem_new(1, sizeof *writer);
  *out = NULL;
  TRY(check_size(path, options->width, options->height, 1, error));
  MediaKind kind = media_kind(path);
  writer->kind = kind == MEDIA_VIDEO ? &stream_writer : &folder_writer;
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
  return writer->kind->write(writer->state, rgb, name, error);
}

Status video_writer_finish(VideoWriter *writer, Error *error) {
  Status status = writer->kind->finish(writer->state, error);
  video_writer_abandon(writer);
  return status;
}

void video_writer_abandon(VideoWriter *writer) {
  if (!writer) return;
  if (writer->state) writer->kind->close(writer->state);
  free(writer);
}
