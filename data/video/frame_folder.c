/* Reads and writes folders of PNG frames, in the order of their names, and single images. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/temporary.h"
#include "data/video/image.h"
#include "data/video/internal.h"

/* --- Reading ---------------------------------------------------------------------------------- */

typedef struct FolderReader {
  char *folder; /* NULL for an image */
  char **names;
  size_t count, next;
  int width, height; /* of the files */
  Image resized;     /* buffer, if resizing without a filter */
  FrameFilter *filter;
  bool sent_all;
} FolderReader;

static bool is_png(const char *name) {
  size_t length = strlen(name);
  return length > 4 && name[0] != '.' && strcasecmp(name + length - 4, ".png") == 0;
}

static Status list_frames(FolderReader *reader, Error *error) {
  char **names;
  size_t count, kept = 0;
  Status status = folder_list(reader->folder, &names, &count, error);
  if (status != OK) return status;
  for (size_t i = 0; i < count; i++) {
    if (is_png(names[i]))
      names[kept++] = names[i];
    else
      free(names[i]);
  }
  reader->names = names;
  reader->count = kept;
  if (kept == 0)
    return error_set(error, ERROR_DATA, "%s: no PNG frames in this folder", reader->folder);
  return OK;
}

static Status read_file(const FolderReader *reader, size_t index, Image *out, Error *error) {
  const char *name = reader->names[index];
  if (!reader->folder) return image_read_png(name, out, error);
  char *path = path_join(reader->folder, name);
  Status status = image_read_png(path, out, error);
  free(path);
  return status;
}

/* Replaces the size by the requested one. A single side keeps the aspect ratio, rounded to even. */
static void apply_requested_size(const VideoReaderOptions *options, int *width, int *height) {
  int w = options->width, h = options->height;
  if (w && !h) h = (int)(((int64_t)*height * w + *width) / (2 * (int64_t)*width)) * 2;
  if (h && !w) w = (int)(((int64_t)*width * h + *height) / (2 * (int64_t)*height)) * 2;
  if (w || h) {
    *width = w > 2 ? w : options->width ? w : 2;
    *height = h > 2 ? h : options->height ? h : 2;
  }
}

Status folder_reader_open(const char *path, MediaKind kind, const VideoReaderOptions *options,
                          VideoInfo *info, void **state, Error *error) {
  Status status = OK;
  Image first = {0};
  FolderReader *reader = mem_new(1, sizeof *reader);
  *state = reader;
  if (kind == MEDIA_FOLDER) {
    reader->folder = mem_string(path);
    TRY(list_frames(reader, error));
  } else {
    reader->names = mem_new(1, sizeof *reader->names);
    reader->names[0] = mem_string(path);
    reader->count = 1;
  }
  TRY(read_file(reader, 0, &first, error));
  info->width = info->file_width = reader->width = first.width;
  info->height = info->file_height = reader->height = first.height;
  info->fps_numerator = 0;
  info->fps_denominator = 1;
  info->frames = (int64_t)reader->count;
  if (options->filter) {
    int numerator, denominator;
    TRY(frame_filter_open_rgb(first.width, first.height, options, &reader->filter, error));
    frame_filter_output(reader->filter, &info->width, &info->height, &numerator, &denominator);
    goto done;
  }
  apply_requested_size(options, &info->width, &info->height);
  if (info->width != first.width || info->height != first.height)
    TRY(image_new(info->width, info->height, &reader->resized, error));
done:
  image_free(&first);
  return status;
}

static Status next_image(FolderReader *reader, Image *out, Error *error) {
  Status status = read_file(reader, reader->next, out, error);
  if (status != OK) return status;
  const char *name = reader->names[reader->next++];
  if (out->width == reader->width && out->height == reader->height) return OK;
  return error_set(error, ERROR_DATA, "%s%s%s: %dx%d, expected %dx%d like the frames before",
                   reader->folder ? reader->folder : "", reader->folder ? "/" : "", name,
                   out->width, out->height, reader->width, reader->height);
}

static Status read_filtered(FolderReader *reader, uint8_t *rgb, bool *end, Error *error) {
  Status status = OK;
  Image picture = {0};
  bool got = false;
  for (;;) {
    TRY(frame_filter_receive(reader->filter, rgb, &got, end, error));
    if (got || *end) break;
    if (reader->sent_all)
      FAIL(error, ERROR_DATA, "%s: the filter graph neither returns a frame nor ends",
           reader->folder ? reader->folder : reader->names[0]);
    if (reader->next == reader->count) {
      reader->sent_all = true;
      TRY(frame_filter_send(reader->filter, NULL, error));
      continue;
    }
    TRY(next_image(reader, &picture, error));
    TRY(frame_filter_send_rgb(reader->filter, picture.pixels, error));
    image_free(&picture);
  }
done:
  image_free(&picture);
  return status;
}

static Status folder_read(void *state, uint8_t *rgb, bool *end, Error *error) {
  Status status = OK;
  FolderReader *reader = state;
  Image picture = {0};
  *end = false;
  if (reader->filter) return read_filtered(reader, rgb, end, error);
  if (reader->next == reader->count) {
    *end = true;
    return OK;
  }
  TRY(next_image(reader, &picture, error));
  const Image *delivered = &picture;
  if (reader->resized.pixels) {
    image_resize(&picture, &reader->resized);
    delivered = &reader->resized;
  }
  memcpy(rgb, delivered->pixels, (size_t)delivered->width * (size_t)delivered->height * 3);
done:
  image_free(&picture);
  return status;
}

static const char *folder_frame_name(const void *state) {
  const FolderReader *reader = state;
  return reader->folder && reader->next > 0 ? reader->names[reader->next - 1] : NULL;
}

static void folder_reader_close(void *state) {
  FolderReader *reader = state;
  frame_filter_close(reader->filter);
  folder_list_free(reader->names, reader->count);
  image_free(&reader->resized);
  free(reader->folder);
  free(reader);
}

const VideoReaderOps folder_reader_ops = {folder_read, folder_frame_name, folder_reader_close};

/* --- Writing ---------------------------------------------------------------------------------- */

typedef struct FolderWriter {
  char *path, *temporary; /* temporary: NULL for an image, and after the rename */
  int lock;               /* descriptor of `temporary`, or -1 */
  Image frame;
  bool is_image;
  int64_t written;
} FolderWriter;

/* Opens and locks a folder; *descriptor is -1 if it does not exist. File systems that cannot lock
 * folders are used without a lock. */
static Status lock_folder(const char *path, int *descriptor, Error *error) {
  *descriptor = file_open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (*descriptor < 0 && errno == ENOENT) return OK;
  if (*descriptor < 0) return error_errno(error, errno, "%s: cannot open", path);
  int result;
  do result = flock(*descriptor, LOCK_EX | LOCK_NB);
  while (result != 0 && errno == EINTR);
  if (result == 0 || errno != EWOULDBLOCK) return OK;
  file_close(descriptor);
  return error_set(error, ERROR_USAGE, "%s: another process is writing to this folder", path);
}

/* Creates the folder with its parents, and locks it before anything that takes time. */
static Status create_locked(const char *path, int *descriptor, Error *error) {
  if (mkdir(path, 0777) != 0) {
    if (errno != ENOENT) return error_errno(error, errno, "%s: cannot create", path);
    Status status = folder_create(path, error);
    if (status != OK) return status;
  }
  Status status = lock_folder(path, descriptor, error);
  if (status == OK && (*descriptor < 0 || !temporary_is_held(path, *descriptor)))
    status = error_set(error, ERROR_USAGE, "%s: another process is writing to this folder", path);
  return status == OK ? folder_sync_parent(path, error) : status;
}

/* Creates and locks the folder that is renamed at the end. Removes that of an interrupted run,
 * whose lock is free. */
static Status create_temporary(FolderWriter *writer, Error *error) {
  Status status = OK;
  int left = -1;
  char *path = mem_format("%s.tmp", writer->path);
  TRY(lock_folder(path, &left, error));
  if (left >= 0) TRY(folder_remove(path, error));
  TRY(create_locked(path, &writer->lock, error));
  writer->temporary = path;
  path = NULL;
done:
  file_close(&left);
  free(path);
  return status;
}

Status folder_writer_open(const char *path, MediaKind kind, const VideoWriterOptions *options,
                          void **state, Error *error) {
  Status status = OK;
  FolderWriter *writer = mem_new(1, sizeof *writer);
  *state = writer;
  writer->lock = -1;
  writer->is_image = kind == MEDIA_IMAGE;
  writer->path = mem_string(path);
  size_t length = strlen(path);
  while (length > 1 && writer->path[length - 1] == '/') writer->path[--length] = '\0';
  TRY(image_new(options->width, options->height, &writer->frame, error));
  if (writer->is_image) temporary_remove_leftovers_of(path);
  if (writer->is_image) goto done;
  bool exists;
  TRY(path_exists(writer->path, &exists, error));
  if (exists)
    FAIL(error, ERROR_USAGE, "%s: already exists; choose a new folder for the frames",
         writer->path);
  TRY(create_temporary(writer, error));
done:
  return status;
}

static Status folder_write(void *state, const uint8_t *rgb, const char *name, Error *error) {
  FolderWriter *writer = state;
  char numbered[32];
  memcpy(writer->frame.pixels, rgb, (size_t)writer->frame.width * (size_t)writer->frame.height * 3);
  if (writer->is_image) {
    if (writer->written++ == 0) return OK;
    return error_set(error, ERROR_USAGE,
                     "%s: %lld frames, but an image holds one; write a folder or a video",
                     writer->path, (long long)writer->written);
  }
  snprintf(numbered, sizeof numbered, "%06lld.png", (long long)writer->written);
  if (!name) name = numbered;
  if (strchr(name, '/') || !is_png(name))
    return error_set(error, ERROR_USAGE, "%s: \"%s\": expected a file name ending in .png",
                     writer->path, name);
  char *path = path_join(writer->temporary, name);
  bool exists;
  Status status = path_exists(path, &exists, error);
  if (status == OK && exists)
    status =
        error_set(error, ERROR_USAGE, "%s: two frames have the name \"%s\"", writer->path, name);
  else if (status == OK)
    status = image_write_png(path, &writer->frame, error);
  free(path);
  if (status == OK) writer->written++;
  return status;
}

static Status folder_finish(void *state, Error *error) {
  FolderWriter *writer = state;
  if (writer->written == 0)
    return error_set(error, ERROR_DATA, "%s: no frames were written", writer->path);
  if (writer->is_image)
    return writer->written == 1
               ? image_write_png(writer->path, &writer->frame, error)
               : error_set(error, ERROR_USAGE,
                           "%s: %lld frames, but an image holds one; write a folder or a video",
                           writer->path, (long long)writer->written);
  Status status = folder_commit(writer->temporary, writer->path, error);
  if (status == OK) {
    free(writer->temporary);
    writer->temporary = NULL;
  }
  return status;
}

static void folder_writer_close(void *state) {
  FolderWriter *writer = state;
  if (writer->temporary) folder_remove(writer->temporary, NULL);
  file_close(&writer->lock);
  image_free(&writer->frame);
  free(writer->temporary);
  free(writer->path);
  free(writer);
}

const VideoWriterOps folder_writer_ops = {folder_write, folder_finish, folder_writer_close};
