/* Videos as streams of RGB frames, read and written through FFmpeg; and folders of PNG frames and
 * single PNG images in the same way, also in a build without FFmpeg (where videos fail with a clear
 * message). Frames are u8 [height,width,3]. Memory does not grow with the length. */
#ifndef CELFORGE_DATA_VIDEO_VIDEO_H
#define CELFORGE_DATA_VIDEO_VIDEO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef enum MediaKind { MEDIA_VIDEO, MEDIA_FOLDER, MEDIA_IMAGE } MediaKind;

typedef struct VideoInfo {
  MediaKind kind;
  int width, height;                  /* of the frames read: after rotation, resize and filter */
  int file_width, file_height;        /* after rotation alone */
  int fps_numerator, fps_denominator; /* 0/1 for folders and images */
  int64_t frames; /* exact for folders and images; for videos as the container reports, or -1 */
  bool has_audio;
} VideoInfo;

typedef struct VideoReaderOptions {
  const char *filter; /* an FFmpeg filter graph with one input and one output, or NULL */
  int width, height;  /* size to scale to; 0: unchanged. A single 0 keeps the aspect ratio, rounded
                         to even. Frames are scaled before the filter, so that what it draws has
                         its width in pixels of this size; again behind it if it changes the size */
} VideoReaderOptions;

typedef struct VideoReader VideoReader;
/* Opens a video, folder or image. `options` may be NULL. ERROR_IO if it cannot be opened or read,
 * ERROR_DATA if it cannot be decoded, ERROR_USAGE with FFmpeg's message if the filter graph is
 * wrong, and for pipes, sockets and devices.
 *
 * The content of a video is not trusted: its container must be one of those in demuxer.c, and
 * whatever it refers to is not opened. A filter graph is trusted like the command line that it
 * comes from: its filters may read and write files (movie=, metadata=file). */
Status video_open(const char *path, const VideoReaderOptions *options, VideoReader **out,
                  Error *error);
void video_close(VideoReader *reader);
const VideoInfo *video_info(const VideoReader *reader);
/* Reads the next frame into `rgb`. At the end it sets *end and writes nothing. ERROR_DATA, naming
 * the frame, if the stream is damaged, also where FFmpeg would conceal the damage or resynchronise.
 * Truncation is noticed if the container states its length (MPEG-TS and Ogg do not). */
Status video_read(VideoReader *reader, uint8_t *rgb, bool *end, Error *error);
/* Returns the file name of the frame just read from a folder ("0001.png"); NULL for videos. */
const char *video_frame_name(const VideoReader *reader);

typedef struct VideoWriterOptions {
  int width, height;
  int fps_numerator, fps_denominator;
  const char *codec;       /* FFmpeg's encoder name; NULL: libx264 */
  int quality;             /* constant rate factor, 0 best; negative: 18 */
  const char *audio_from;  /* a video whose audio streams are copied unchanged, or NULL */
  const char *timing_from; /* a video whose frame timestamps and colour tags are copied (variable
                              frame rates), or NULL */
} VideoWriterOptions;

typedef struct VideoWriter VideoWriter;
/* Opens the output under a temporary name, which video_writer_finish renames. `path` determines its
 * kind: an image if it ends in .png, a folder if it has no extension, else a video in the container
 * that FFmpeg knows by the extension. Odd sizes are kept, as yuv444p instead of yuv420p. */
Status video_writer_open(const char *path, const VideoWriterOptions *options, VideoWriter **out,
                         Error *error);
/* Writes a frame. `name` is its file name in a folder; NULL: 000000.png and so on. */
Status video_write(VideoWriter *writer, const uint8_t *rgb, const char *name, Error *error);
/* Completes and renames the output. Frees the writer, also on failure, which leaves no output. */
Status video_writer_finish(VideoWriter *writer, Error *error);
void video_writer_abandon(VideoWriter *writer);

/* Sets *out to the kind as which a path is opened or written. ERROR_IO if it cannot be looked up.
 */
Status media_kind(const char *path, MediaKind *out, Error *error);

#endif
