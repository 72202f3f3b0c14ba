#include "data/video/internal.h"

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
  int width, height;      /* of every frame, before the filter */
  int64_t decoded;        /* frames */
  int64_t packets, shown; /* of the video; shown: those that are not to be discarded */
  int64_t reached;        /* the end of the latest packet of any stream, in AV_TIME_BASE */
  char *fault;            /* what the demuxer passed over, or NULL */
  bool pending;           /* `frame` was decoded to learn its format and not yet filtered */
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
  video_log_forget(); /* of the header: odd, perhaps, but the file can be opened */
  code = avformat_find_stream_info(*out, NULL);
  if (code < 0) {
    avformat_close_input(out);
    return video_error(error, ERROR_DATA, code, "%s: no stream can be understood", path);
  }
  return OK;
}

/* Those that keep their word on damaged files: MPEG-4's frame threads abort the whole process
 * (FFmpeg 5.1), MPEG-2's slice threads refuse good files. Slice threads of H.264 keep no account of
 * errors. */
static bool threads_are_sound(enum AVCodecID id) {
  static const enum AVCodecID sound[] = {AV_CODEC_ID_H264, AV_CODEC_ID_HEVC,   AV_CODEC_ID_VP9,
                                         AV_CODEC_ID_AV1,  AV_CODEC_ID_PRORES, AV_CODEC_ID_DNXHD,
                                         AV_CODEC_ID_FFV1};
  for (size_t i = 0; i < sizeof sound / sizeof *sound; i++)
    if (sound[i] == id) return true;
  return false;
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
  reader->codec->thread_count = threads_are_sound(decoder->id) ? 0 : 1;
  reader->codec->thread_type = FF_THREAD_FRAME;
  /* A damaged picture must be an error, not a guess at what it showed. Concealment stays on: only
   * then does the decoder keep account of what is missing and mark the frames it had to make up. */
  reader->codec->err_recognition = AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER | AV_EF_EXPLODE;
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

static Status passed_over(const StreamReader *reader, Error *error) {
  return error_set(error, ERROR_DATA, "%s: breaks at or before frame %lld: %s", reader->path,
                   (long long)reader->decoded, reader->fault);
}

/* How much of a file's length may be missing at its end: stamps are not exact, and streams may end
 * apart. Where the demuxer found a fault there is less reason for patience. */
static int64_t allowed_shortfall(const StreamReader *reader, int64_t promised) {
  const int64_t half_a_second = AV_TIME_BASE / 2;
  AVRational rate = reader->stream->avg_frame_rate;
  if (reader->fault && rate.num > 0 && rate.den > 0)
    return 2 * av_rescale_q(1, av_inv_q(rate), AV_TIME_BASE_Q);
  return promised / 100 > half_a_second ? promised / 100 : half_a_second;
}

/* Some demuxers take a hole in a file for its end, so what came is held against what the container
 * promised. */
static Status check_length(const StreamReader *reader, Error *error) {
  const AVFormatContext *format = reader->format;
  int64_t promised = format->duration, start = format->start_time;
  if (reader->stream->nb_frames > reader->packets)
    return error_set(error, ERROR_DATA, "%s: breaks at frame %lld of %lld: the file is cut short",
                     reader->path, (long long)reader->decoded,
                     (long long)reader->stream->nb_frames);
  if (promised <= 0 || format->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE)
    return reader->fault ? passed_over(reader, error) : OK;
  int64_t got = reader->reached - (start != AV_NOPTS_VALUE ? start : 0);
  if (got + allowed_shortfall(reader, promised) >= promised) return OK;
  return error_set(error, ERROR_DATA,
                   "%s: breaks at frame %lld: %.2f of %.2f seconds could be read%s%s%s",
                   reader->path, (long long)reader->decoded, (double)got / AV_TIME_BASE,
                   (double)promised / AV_TIME_BASE, reader->fault ? " (" : "",
                   reader->fault ? reader->fault : "", reader->fault ? ")" : "");
}

/* Of these every packet is a frame. Of others some are fields, or frames that are never shown, or
 * refer to what a cut took away. */
static bool packets_are_frames(const AVCodecContext *codec) {
  const AVCodecDescriptor *descriptor = avcodec_descriptor_get(codec->codec_id);
  return codec->codec_id == AV_CODEC_ID_AV1 ||
         (descriptor && descriptor->props & AV_CODEC_PROP_INTRA_ONLY);
}

static Status check_end(const StreamReader *reader, Error *error) {
  Status status = OK;
  TRY(check_length(reader, error));
  if (packets_are_frames(reader->codec) && reader->decoded < reader->shown)
    FAIL(error, ERROR_DATA, "%s: breaks somewhere: of %lld frames only %lld could be decoded",
         reader->path, (long long)reader->shown, (long long)reader->decoded);
done:
  return status;
}

/* Kept at once, since the next call forgets it. */
static void note_fault(StreamReader *reader) {
  const char *said = video_log_of_demuxer();
  if (said[0] && !reader->fault) reader->fault = mem_string(said);
}

static void note_packet(StreamReader *reader, const AVPacket *packet) {
  int64_t stamp = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
  if (packet->stream_index == reader->stream->index) {
    reader->packets++;
    reader->shown += packet->size > 0 && !(packet->flags & AV_PKT_FLAG_DISCARD);
  }
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
    note_fault(reader);
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
  /* Behind a fault the demuxer has found its feet again; what lay between is lost. */
  if (reader->fault) TRY(passed_over(reader, error));
  int code = packet->flags & AV_PKT_FLAG_CORRUPT ? AVERROR_INVALIDDATA
                                                 : avcodec_send_packet(reader->codec, packet);
  if (code < 0) status = broken(reader, code, error);
done:
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
  note_fault(reader);
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
  free(reader->fault);
  free(reader->path);
  free(reader);
}

const ReaderKind stream_reader = {stream_read, NULL, stream_reader_close};

#endif
