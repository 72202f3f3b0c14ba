/* Internal to data/video.
 *
 *   video.c                  chooses the reader or writer
 *   frame_folder.c           folders of PNG frames and single images
 *   demuxer.c                opening of video files, and the containers that are allowed
 *   decode.c                 decoding
 *   filter_graph.c           filter graph, resize, conversion to RGB
 *   encode.c                 conversion from RGB, encoding, muxing
 *   audio_and_timestamps.c   audio and timestamps copied from another video
 *   ffmpeg_log.c             FFmpeg's messages; stubs for a build without FFmpeg
 *
 * Only the last six include FFmpeg headers. */
#ifndef CELFORGE_DATA_VIDEO_INTERNAL_H
#define CELFORGE_DATA_VIDEO_INTERNAL_H

#include "base/error.h"
#include "data/video/video.h"

/* The operations of a kind of reader or writer; `state` is its own. */
typedef struct VideoReaderOps {
  Status (*read)(void *state, uint8_t *rgb, bool *end, Error *error);
  const char *(*frame_name)(const void *state); /* may be NULL */
  void (*close)(void *state);
} VideoReaderOps;

typedef struct VideoWriterOps {
  Status (*write)(void *state, const uint8_t *rgb, const char *name, Error *error);
  Status (*finish)(void *state, Error *error); /* does not free */
  void (*close)(void *state);                  /* removes unfinished output and frees */
} VideoWriterOps;

extern const VideoReaderOps folder_reader_ops, stream_reader_ops;
extern const VideoWriterOps folder_writer_ops, stream_writer_ops;

/* These set *state also on failure; the caller then closes it. */
Status folder_reader_open(const char *path, MediaKind kind, const VideoReaderOptions *options,
                          VideoInfo *info, void **state, Error *error);
Status stream_reader_open(const char *path, const VideoReaderOptions *options, VideoInfo *info,
                          void **state, Error *error);
Status folder_writer_open(const char *path, MediaKind kind, const VideoWriterOptions *options,
                          void **state, Error *error);
Status stream_writer_open(const char *path, const VideoWriterOptions *options, void **state,
                          Error *error);

/* --- A filter graph from frames of any format to RGB frames of one size ------------------------
 */
typedef struct FrameFilter FrameFilter;
struct AVFrame;

typedef struct FilterInput {
  int width, height, format; /* format: AVPixelFormat */
  int time_base_numerator, time_base_denominator;
  int rate_numerator, rate_denominator;     /* frame rate; 0/1: unknown */
  int aspect_numerator, aspect_denominator; /* of a pixel */
  int rotation;                             /* clockwise: 0, 90, 180 or 270 degrees */
} FilterInput;

/* Builds the graph. ERROR_USAGE with FFmpeg's message if options->filter is wrong. */
Status frame_filter_open(const FilterInput *input, const VideoReaderOptions *options,
                         FrameFilter **out, Error *error);
/* The same for RGB frames without timestamps. */
Status frame_filter_open_rgb(int width, int height, const VideoReaderOptions *options,
                             FrameFilter **out, Error *error);
void frame_filter_close(FrameFilter *filter);
/* Returns the size and frame rate of the output; the rate is 0/1 if unknown. */
void frame_filter_output(const FrameFilter *filter, int *width, int *height, int *rate_numerator,
                         int *rate_denominator);
/* Sends a frame into the graph; NULL ends the stream. */
Status frame_filter_send(FrameFilter *filter, struct AVFrame *frame, Error *error);
Status frame_filter_send_rgb(FrameFilter *filter, const uint8_t *rgb, Error *error);
/* Sets *got and writes `rgb`, or sets *end, or sets neither if the graph needs more input. */
Status frame_filter_receive(FrameFilter *filter, uint8_t *rgb, bool *got, bool *end, Error *error);

/* --- FFmpeg's messages -------------------------------------------------------------------------
 */
/* Stops FFmpeg from printing; its last error message is kept instead. */
void ffmpeg_log_capture(void);
/* Clears the messages kept. */
void ffmpeg_log_clear(void);
/* Returns the last error message of a demuxer in this thread since then, or "". */
const char *ffmpeg_log_demuxer_error(void);
/* Sets the error: the formatted text, FFmpeg's text for `code`, and its last message in
 * parentheses. Returns `status`. */
Status ffmpeg_error(Error *error, Status status, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* --- Audio and timestamps copied from another video ---------------------------------------------
 */
struct AVFormatContext;

typedef struct AudioCopy AudioCopy; /* copies audio packets into the output as its video advances */
/* Adds a stream to `output` for each audio stream of `path`. *out is NULL if there is none. With
 * `keep_timestamps` they stay unchanged, else they count from the start of the file's video. */
Status audio_copy_open(const char *path, bool keep_timestamps, struct AVFormatContext *output,
                       const char *output_path, AudioCopy **out, Error *error);
/* Writes all packets up to `seconds`. */
Status audio_copy_until(AudioCopy *audio, double seconds, Error *error);
void audio_copy_close(AudioCopy *audio);

/* The timestamps of a video's frames, read from its packets and sorted. */
typedef struct FrameTimestamps FrameTimestamps;
typedef struct VideoProperties {
  int time_base_numerator, time_base_denominator;
  int rate_numerator, rate_denominator;     /* frame rate; 0/1: unknown */
  int aspect_numerator, aspect_denominator; /* of a pixel, as displayed; 0/1: unknown */
  int range, primaries, transfer, matrix;   /* AVColorRange and so on */
} VideoProperties;
Status frame_timestamps_open(const char *path, FrameTimestamps **out, VideoProperties *info,
                             Error *error);
/* Returns the next frame's timestamp and duration, in the time base. After the last frame it
 * continues with the last duration. */
Status frame_timestamps_next(FrameTimestamps *timestamps, int64_t *timestamp, int64_t *duration,
                             Error *error);
void frame_timestamps_close(FrameTimestamps *timestamps);

/* --- Demuxing -----------------------------------------------------------------------------------
 */
/* Opens a file and reads its header; the caller closes *out with demuxer_close. FFmpeg reads the
 * file through a descriptor of ours and can open no other file. ERROR_USAGE if the path is a pipe,
 * socket or device; ERROR_IO if it cannot be read; ERROR_DATA if its container is unknown or not
 * allowed, which names the container and the allowed ones. */
Status demuxer_open(const char *path, struct AVFormatContext **out, Error *error);
/* After av_read_frame, which may hide it: ERROR_IO if a read has failed, ERROR_DATA if the demuxer
 * has asked for another file. */
Status demuxer_check(const struct AVFormatContext *format, Error *error);
/* Closes the file and sets *format to NULL. */
void demuxer_close(struct AVFormatContext **format);

#endif
