/* Videos as streams of RGB frames, in and out, through FFmpeg; folders of PNG frames and single
 * pictures likewise, which also work in a build without FFmpeg (then videos fail with a message
 * that says so). Frames are u8 [height,width,3]. Constant memory whatever the length. */
#ifndef CELFORGE_DATA_VIDEO_VIDEO_H
#define CELFORGE_DATA_VIDEO_VIDEO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef enum MediaKind { MEDIA_VIDEO, MEDIA_FOLDER, MEDIA_IMAGE } MediaKind;

typedef struct VideoInfo {
  MediaKind kind;
  int width, height;                  /* as delivered: behind filter and resize, rotation applied */
  int fps_numerator, fps_denominator; /* 0/1 for folders and pictures */
  int64_t frames; /* counted exactly for folders and pictures; the container's claim, or -1, for
                     videos */
  bool has_audio;
} VideoInfo;

typedef struct VideoReaderOptions {
  const char *filter; /* an FFmpeg filter graph with one input and one output, or NULL */
  int width, height;  /* resize to this behind the filter; 0: keep. One of them 0: keep the aspect,
                         rounded to even */
} VideoReaderOptions;

typedef struct VideoReader VideoReader;
Status video_open(const char *path, const VideoReaderOptions *options, VideoReader **out,
                  Error *error);
void video_close(VideoReader *reader);
const VideoInfo *video_info(const VideoReader *reader);
/* The next frame into `rgb`; *end is true, and nothing written, behind the last one. A stream that
 * breaks in the middle is ERROR_DATA naming the frame: also where FFmpeg would conceal what is
 * missing or find its way to what follows. A cut is noticed where the container says how long it is
 * (MPEG-TS and Ogg do not). */
Status video_read(VideoReader *reader, uint8_t *rgb, bool *end, Error *error);
/* For folders: the name of the frame just read ("0001.png"). NULL for videos. */
const char *video_frame_name(const VideoReader *reader);

typedef struct VideoWriterOptions {
  int width, height;
  int fps_numerator, fps_denominator;
  const char *codec;       /* FFmpeg's name; NULL: libx264 */
  int quality;             /* constant rate factor, 0 best; negative: 18 */
  const char *audio_from;  /* a video whose audio streams are copied unchanged, or NULL */
  const char *timing_from; /* a video whose frame time stamps are kept (variable rates), or NULL */
} VideoWriterOptions;

/* Written under a temporary name, renamed by video_writer_finish. The kind follows from `path`:
 * a name ending in .png is a picture, one without an extension a folder, else a video whose
 * container FFmpeg knows by its extension. Odd sizes are kept (yuv444p where yuv420p cannot hold
 * them). */
typedef struct VideoWriter VideoWriter;
Status video_writer_open(const char *path, const VideoWriterOptions *options, VideoWriter **out,
                         Error *error);
/* `name` is the frame's file name in a folder, or NULL: 000000.png and so on. */
Status video_write(VideoWriter *writer, const uint8_t *rgb, const char *name, Error *error);
/* Frees, also on failure; then nothing stands under the final name. */
Status video_writer_finish(VideoWriter *writer, Error *error);
void video_writer_abandon(VideoWriter *writer);

/* The kind a path would be opened or written as. */
MediaKind media_kind(const char *path);

#endif
