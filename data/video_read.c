#include "data/video_parts.h"

#if WITH_FFMPEG

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

typedef struct StreamReader {
  char *path;
  VideoReaderOptions options;
  AVFormatContext *format;
  AVCodecContext *codec;
  AVStream *stream; /* the format's */
  AVPacket *packet;
  AVFrame *frame;
  FrameFilter *filter;
  int width, height; /* of every frame, before the filter */
  int64_t decoded, packets;
  int64_t reached; /* the end of the latest packet of any stream, in AV_TIME_BASE */
  bool pending;    /* `frame` was decoded to learn its format and not yet filtered */
  bool no_more_frames;
} StreamReader;

Status video_demux(const char *path, AVFormatContext **out, Error *error) {
  video_log_start();
  video_log_forget();
  *out = NULL;
  /* "file:" keeps a name with a colon from being taken for an address. */
  char *url = mem_format("file:%s", path);
  AVDictionary *options = NULL;
  av_dict_set(&options, "protocol_whitelist", "file", 0);
  int code = avformat_open_input(out, url, NULL, &options);
  av_dict_free(&options);
  free(url);
  if (code < 0) {
    bool system = code == AVERROR(ENOENT) || code == AVERROR(EACCES) || code == AVERROR(EIO);
    return video_error(error, system ? ERROR_IO : ERROR_DATA, code, "%s: cannot be read as a video",
                       path);
  }
  code = avformat_find_stream_info(*out, NULL);
  if (code < 0) {
    avformat_close_input(out);
    return video_error(error, ERROR_DATA, code, "%s: no stream can be understood", path);
  }
  return OK;
}

static Status open_decoder(StreamReader *reader, Error *error) {
  const AVCodec *decoder = NULL;
  int index = av_find_best_stream(reader->format, AVMEDIA_TYPE_VIDEO, -1, -1, &decoder, 0);
  if (index < 0 || !decoder)
    return video_error(error, ERROR_DATA, index, "%s: has no video that can be decoded",
                       reader->path);
  reader->stream = reader->format->streams[index];
  reader->codec = avcodec_alloc_context3(decoder);
  reader->packet = av_packet_alloc();
  reader->frame = av_frame_alloc();
  if (!reader->codec || !reader->packet || !reader->frame)
    return error_set(error, ERROR_INTERNAL, "%s: no memory for a decoder", reader->path);
  int code = avcodec_parameters_to_context(reader->codec, reader->stream->codecpar);
  reader->codec->pkt_timebase = reader->stream->time_base;
  reader->codec->thread_count = 0;
  /* A damaged picture must be an error, not a guess at what it showed. */
  reader->codec->err_recognition = AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER | AV_EF_EXPLODE;
  reader->codec->error_concealment = 0;
  if (code >= 0) code = avcodec_open2(reader->codec, decoder, NULL);
  if (code < 0)
    return video_error(error, ERROR_DATA, code, "%s: the %s decoder does not take it", reader->path,
                       decoder->name);
  return OK;
}

static Status broken(const StreamReader *reader, int code, Error *error) {
  return video_error(error, ERROR_DATA, code, "%s: breaks at frame %lld", reader->path,
                     (long long)reader->decoded);
}

/* Some demuxers take a hole in a file for its end, so what came is held against what the container
 * promised: half a second, or a hundredth, may be missing. */
static Status check_end(const StreamReader *reader, Error *error) {
  const AVFormatContext *format = reader->format;
  int64_t promised = format->duration, start = format->start_time;
  if (reader->stream->nb_frames > reader->packets)
    return error_set(error, ERROR_DATA, "%s: breaks at frame %lld of %lld: the file is cut short",
                     reader->path, (long long)reader->decoded,
                     (long long)reader->stream->nb_frames);
  if (promised <= 0 || format->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE) return OK;
  int64_t got = reader->reached - (start != AV_NOPTS_VALUE ? start : 0);
  int64_t slack = promised / 100 > AV_TIME_BASE / 2 ? promised / 100 : AV_TIME_BASE / 2;
  if (got + slack >= promised) return OK;
  return error_set(error, ERROR_DATA,
                   "%s: breaks at frame %lld: %.2f of %.2f seconds could be read", reader->path,
                   (long long)reader->decoded, (double)got / AV_TIME_BASE,
                   (double)promised / AV_TIME_BASE);
}

static void note_packet(StreamReader *reader, const AVPacket *packet) {
  int64_t stamp = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
  if (packet->stream_index == reader->stream->index) reader->packets++;
  if (stamp == AV_NOPTS_VALUE) return;
  AVRational base = reader->format->streams[packet->stream_index]->time_base;
  int64_t end = av_rescale_q(stamp + packet->duration, base, AV_TIME_BASE_Q);
  if (end > reader->reached) reader->reached = end;
}

/* The next packet of the video, or the end, to the decoder. */
static Status feed(StreamReader *reader, Error *error) {
  Status status = OK;
  AVPacket *packet = reader->packet;
  for (;;) {
    int code = av_read_frame(reader->format, packet);
    const AVIOContext *file = reader->format->pb;
    if (code == AVERROR_EOF && file && file->error < 0 && file->error != AVERROR_EOF)
      code = file->error;
    if (code == AVERROR_EOF) {
      avcodec_send_packet(reader->codec, NULL);
      return OK;
    }
    if (code < 0) return broken(reader, code, error);
    note_packet(reader, packet);
    if (packet->stream_index == reader->stream->index) break;
    av_packet_unref(packet);
  }
  int code = packet->flags & AV_PKT_FLAG_CORRUPT ? AVERROR_INVALIDDATA
                                                 : avcodec_send_packet(reader->codec, packet);
  if (code < 0) status = broken(reader, code, error);
  av_packet_unref(packet);
  return status;
}

/* The next decoded frame into reader->frame, or no_more_frames. */
static Status decode(StreamReader *reader, Error *error) {
  AVFrame *frame = reader->frame;
  video_log_forget();
  for (;;) {
    int code = avcodec_receive_frame(reader->codec, frame);
    if (code == AVERROR_EOF) {
      reader->no_more_frames = true;
      return check_end(reader, error);
    }
    if (code == AVERROR(EAGAIN)) {
      Status status = feed(reader, error);
      if (status != OK) return status;
      continue;
    }
    if (code < 0) return broken(reader, code, error);
    if (frame->flags & AV_FRAME_FLAG_CORRUPT || frame->decode_error_flags)
      return broken(reader, AVERROR_INVALIDDATA, error);
    frame->pts = frame->best_effort_timestamp;
    if (frame->pts == AV_NOPTS_VALUE) frame->pts = reader->decoded;
    frame->pict_type = AV_PICTURE_TYPE_NONE;
    reader->decoded++;
    return OK;
  }
}

static int rotation_of(const AVStream *stream) {
  size_t size = 0;
  const uint8_t *matrix = av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (!matrix || size < 9 * sizeof(int32_t)) return 0;
  double turn = -av_display_rotation_get((const int32_t *)matrix);
  if (isnan(turn)) return 0;
  int degrees = ((int)lround(turn) % 360 + 360) % 360;
  return degrees % 90 == 0 ? degrees : 0;
}

/* The graph follows from what the decoder really delivers. */
static Status open_filter(StreamReader *reader, VideoInfo *info, Error *error) {
  Status status = OK;
  AVRational rate = av_guess_frame_rate(reader->format, reader->stream, NULL);
  TRY(decode(reader, error));
  if (reader->no_more_frames) FAIL(error, ERROR_DATA, "%s: holds no frame", reader->path);
  reader->pending = true;
  reader->width = reader->frame->width;
  reader->height = reader->frame->height;
  const FilterInput input = {
      .width = reader->frame->width,
      .height = reader->frame->height,
      .format = reader->frame->format,
      .base_numerator = reader->stream->time_base.num,
      .base_denominator = reader->stream->time_base.den,
      .rate_numerator = rate.num,
      .rate_denominator = rate.den,
      .aspect_numerator = reader->frame->sample_aspect_ratio.num,
      .aspect_denominator = reader->frame->sample_aspect_ratio.den,
      .rotation = rotation_of(reader->stream),
  };
  TRY(frame_filter_open(&input, &reader->options, &reader->filter, error));
  frame_filter_shape(reader->filter, &info->width, &info->height, &info->fps_numerator,
                     &info->fps_denominator);
done:
  return status;
}

Status stream_reader_open(const char *path, const VideoReaderOptions *options, VideoInfo *info,
                          void **state, Error *error) {
  Status status = OK;
  StreamReader *reader = mem_new(1, sizeof *reader);
  *state = reader;
  reader->path = mem_string(path);
  reader->options = *options;
  TRY(video_demux(path, &reader->format, error));
  TRY(open_decoder(reader, error));
  TRY(open_filter(reader, info, error));
  info->frames = reader->stream->nb_frames > 0 ? reader->stream->nb_frames : -1;
  info->has_audio = av_find_best_stream(reader->format, AVMEDIA_TYPE_AUDIO, -1, -1, NULL, 0) >= 0;
  reader->options.filter = NULL; /* the caller's */
done:
  return status;
}

/* One frame, or the end, from the decoder to the filter. */
static Status advance(StreamReader *reader, Error *error) {
  Status status = OK;
  AVFrame *frame = reader->frame;
  if (!reader->pending) TRY(decode(reader, error));
  reader->pending = false;
  if (reader->no_more_frames) return frame_filter_send(reader->filter, NULL, error);
  if (frame->width != reader->width || frame->height != reader->height)
    FAIL(error, ERROR_DATA, "%s: frame %lld: the picture's size changes from %dx%d to %dx%d",
         reader->path, (long long)reader->decoded - 1, reader->width, reader->height, frame->width,
         frame->height);
  TRY(frame_filter_send(reader->filter, frame, error));
done:
  av_frame_unref(frame);
  return status;
}

static Status stream_read(void *state, uint8_t *rgb, bool *end, Error *error) {
  Status status = OK;
  StreamReader *reader = state;
  bool got = false, drained = false;
  for (;;) {
    TRY(frame_filter_receive(reader->filter, rgb, &got, end, error));
    if (got || *end) break;
    if (drained)
      FAIL(error, ERROR_DATA, "%s: the filter graph neither ends nor delivers", reader->path);
    drained = reader->no_more_frames;
    TRY(advance(reader, error));
  }
done:
  return status;
}

static void stream_reader_close(void *state) {
  StreamReader *reader = state;
  frame_filter_close(reader->filter);
  av_frame_free(&reader->frame);
  av_packet_free(&reader->packet);
  avcodec_free_context(&reader->codec);
  avformat_close_input(&reader->format);
  free(reader->path);
  free(reader);
}

const ReaderKind stream_reader = {stream_read, NULL, stream_reader_close};

#endif
