/* How data/video*.c share the work. Internal to them.
 *
 *   video.c          opens the right kind of reader or writer
 *   video_folder.c   folders of PNG frames and single pictures
 *   video_read.c     demuxing and decoding
 *   video_filter.c   filter graph, resize, conversion to RGB
 *   video_write.c    conversion from RGB, encoding, muxing
 *   video_tracks.c   what a written video takes from another: sound, time stamps
 *   video_log.c      FFmpeg's messages, kept instead of printed
 *
 * Only the last five include FFmpeg; without it they are left out but for an answer that says so.
 */
#ifndef CELFORGE_DATA_VIDEO_INTERNAL_H
#define CELFORGE_DATA_VIDEO_INTERNAL_H

#include "base/error.h"
#include "data/video/video.h"

/* A reader or writer of one kind; `state` is its own. */
typedef struct ReaderKind {
  Status (*read)(void *state, uint8_t *rgb, bool *end, Error *error);
  const char *(*frame_name)(const void *state); /* may be NULL */
  void (*close)(void *state);
} ReaderKind;

typedef struct WriterKind {
  Status (*write)(void *state, const uint8_t *rgb, const char *name, Error *error);
  Status (*finish)(void *state, Error *error); /* does not free */
  void (*close)(void *state);                  /* removes what is unfinished, frees */
} WriterKind;

extern const ReaderKind folder_reader, stream_reader;
extern const WriterKind folder_writer, stream_writer;

/* Each sets *state, also when it fails: then close it. */
Status folder_reader_open(const char *path, MediaKind kind, const VideoReaderOptions *options,
                          VideoInfo *info, void **state, Error *error);
Status stream_reader_open(const char *path, const VideoReaderOptions *options, VideoInfo *info,
                          void **state, Error *error);
Status folder_writer_open(const char *path, MediaKind kind, const VideoWriterOptions *options,
                          void **state, Error *error);
Status stream_writer_open(const char *path, const VideoWriterOptions *options, void **state,
                          Error *error);

/* --- A filter graph between frames of any format and RGB frames of one size. ------------------ */
typedef struct FrameFilter FrameFilter;
struct AVFrame;

typedef struct FilterInput {
  int width, height, format; /* AVPixelFormat */
  int base_numerator, base_denominator;
  int rate_numerator, rate_denominator; /* 0/1: none */
  int aspect_numerator, aspect_denominator;
  int rotation; /* clockwise degrees to turn by: 0, 90, 180, 270 */
} FilterInput;

/* ERROR_USAGE with FFmpeg's own text where the graph is wrong. */
Status frame_filter_open(const FilterInput *input, const VideoReaderOptions *options,
                         FrameFilter **out, Error *error);
/* The same for RGB pictures, which come without time. */
Status frame_filter_open_rgb(int width, int height, const VideoReaderOptions *options,
                             FrameFilter **out, Error *error);
void frame_filter_close(FrameFilter *filter);
/* What comes out. A rate of 0/1: none is known. */
void frame_filter_shape(const FrameFilter *filter, int *width, int *height, int *rate_numerator,
                        int *rate_denominator);
/* NULL says that no more will come. */
Status frame_filter_send(FrameFilter *filter, struct AVFrame *frame, Error *error);
Status frame_filter_send_rgb(FrameFilter *filter, const uint8_t *rgb, Error *error);
/* *got is true and `rgb` written, or *end is true, or neither: send more. */
Status frame_filter_receive(FrameFilter *filter, uint8_t *rgb, bool *got, bool *end, Error *error);

/* --- FFmpeg's messages ------------------------------------------------------------------------ */
/* From here on FFmpeg prints nothing; its last error message of any thread is kept. */
void video_log_start(void);
void video_log_forget(void);
/* What a demuxer complained of in this thread since then, or "". */
const char *video_log_of_demuxer(void);
/* ERROR_DATA and the like, with FFmpeg's word for `code` and its last message behind the text. */
Status video_error(Error *error, Status status, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* --- What a written video takes from others --------------------------------------------------- */
struct AVFormatContext;

typedef struct Sound Sound; /* copies audio packets into the output in step with its video */
/* Adds a stream to `output` for each audio stream. *out is NULL where there is none. With `keep`
 * time stamps stay as they are, else they count from the start of the file's video. */
Status sound_open(const char *path, bool keep, struct AVFormatContext *output,
                  const char *output_path, Sound **out, Error *error);
/* Writes all packets up to `seconds`. */
Status sound_copy_until(Sound *sound, double seconds, Error *error);
void sound_close(Sound *sound);

/* The frames' time stamps of a video's packets, sorted, and how its picture is to be understood. */
typedef struct Timing Timing;
typedef struct TimingInfo {
  int base_numerator, base_denominator;
  int rate_numerator, rate_denominator;
  int aspect_numerator, aspect_denominator; /* of a pixel, as displayed; 0/1 unknown */
  int range, primaries, transfer, matrix;   /* AVColorRange and so on */
} TimingInfo;
Status timing_open(const char *path, Timing **out, TimingInfo *info, Error *error);
/* Behind the last one they go on at the last one's pace. */
Status timing_next(Timing *timing, int64_t *stamp, int64_t *duration, Error *error);
void timing_close(Timing *timing);

/* Opens a file for demuxing, nothing else than a file; *out is closed by avformat_close_input. */
Status video_demux(const char *path, struct AVFormatContext **out, Error *error);

#endif
