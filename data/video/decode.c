/* Decodes videos. Damage is an error: FFmpeg would conceal it or skip it. */
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
  int64_t packets, shown; /* video packets; of those, the ones that are displayed */
  int64_t reached;        /* end time of the latest packet of any stream, in AV_TIME_BASE */
  char *fault;            /* the first error the demuxer skipped, or NULL; owned */
  bool pending;           /* `frame` was decoded for its format and is not yet filtered */
  bool no_more_frames;
} StreamReader;

/* True for codecs whose frame threads are safe on damaged files. MPEG-4's abort the process (FFmpeg
 * 5.1). Slice threads are not used at all: MPEG-2's reject good files, H.264's do not report
 * errors.
 */
static bool frame_threads_are_safe(enum AVCodecID id) {
  static const enum AVCodecID safe[] = {AV_CODEC_ID_H264, AV_CODEC_ID_HEVC,   AV_CODEC_ID_VP9,
                                        AV_CODEC_ID_AV1,  AV_CODEC_ID_PRORES, AV_CODEC_ID_DNXHD,
                                        AV_CODEC_ID_FFV1};
  for (size_t i = 0; i < sizeof safe / sizeof *safe; i++)
    if (safe[i] == id) return true;
  return false;
}

static Status open_decoder(StreamReader *reader, Error *error) {
  const AVCodec *decoder = NULL;
  int index = av_find_best_stream(reader->format, AVMEDIA_TYPE_VIDEO, -1, -1, &decoder, 0);
  if (index < 0 || !decoder)
    return ffmpeg_error(error, ERROR_DATA, index, "%s: no video stream that can be decoded",
                        reader->path);
  reader->stream = reader->format->streams[index];
  reader->codec = avcodec_alloc_context3(decoder);
  reader->packet = av_packet_alloc();
  reader->frame = av_frame_alloc();
  if (!reader->codec || !reader->packet || !reader->frame)
    return error_set(error, ERROR_INTERNAL, "%s: no memory for a decoder", reader->path);
  int code = avcodec_parameters_to_context(reader->codec, reader->stream->codecpar);
  reader->codec->pkt_timebase = reader->stream->time_base;
  reader->codec->thread_count = frame_threads_are_safe(decoder->id) ? 0 : 1;
  reader->codec->thread_type = FF_THREAD_FRAME;
  /* A damaged frame must be an error. Concealment stays on nevertheless, since only then does the
   * decoder mark the frames that it had to conceal. */
  reader->codec->err_recognition = AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER | AV_EF_EXPLODE;
  if (code >= 0) code = avcodec_open2(reader->codec, decoder, NULL);
  if (code < 0)
    return ffmpeg_error(error, ERROR_DATA, code, "%s: the %s decoder does not accept the stream",
                        reader->path, decoder->name);
  return OK;
}

static Status decode_error(const StreamReader *reader, int code, Error *error) {
  return ffmpeg_error(error, ERROR_DATA, code, "%s: damaged at frame %lld", reader->path,
                      (long long)reader->decoded);
}

static Status skipped_error(const StreamReader *reader, Error *error) {
  return error_set(error, ERROR_DATA, "%s: damaged at or before frame %lld: %s", reader->path,
                   (long long)reader->decoded, reader->fault);
}

/* Returns how much of a file's duration may be missing at its end, in AV_TIME_BASE: timestamps are
 * not exact, and streams may end at different times. Two frames if the demuxer has skipped errors.
 */
static int64_t allowed_shortfall(const StreamReader *reader, int64_t expected) {
  const int64_t half_a_second = AV_TIME_BASE / 2;
  AVRational rate = reader->stream->avg_frame_rate;
  if (reader->fault && rate.num > 0 && rate.den > 0)
    return 2 * av_rescale_q(1, av_inv_q(rate), AV_TIME_BASE_Q);
  return expected / 100 > half_a_second ? expected / 100 : half_a_second;
}

/* Compares the frames and duration read with the container's header, since some demuxers take a gap
 * in the file for its end. */
static Status check_length(const StreamReader *reader, Error *error) {
  const AVFormatContext *format = reader->format;
  int64_t expected = format->duration, start = format->start_time;
  if (reader->stream->nb_frames > reader->packets)
    return error_set(error, ERROR_DATA, "%s: damaged at frame %lld of %lld: the file is truncated",
                     reader->path, (long long)reader->decoded,
                     (long long)reader->stream->nb_frames);
  if (expected <= 0 || format->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE)
    return reader->fault ? skipped_error(reader, error) : OK;
  int64_t got = reader->reached - (start != AV_NOPTS_VALUE ? start : 0);
  if (got + allowed_shortfall(reader, expected) >= expected) return OK;
  return error_set(error, ERROR_DATA,
                   "%s: damaged at frame %lld: only %.2f of %.2f s could be read%s%s%s",
                   reader->path, (long long)reader->decoded, (double)got / AV_TIME_BASE,
                   (double)expected / AV_TIME_BASE, reader->fault ? " (" : "",
                   reader->fault ? reader->fault : "", reader->fault ? ")" : "");
}

/* True for codecs in which every packet is a frame. In others a packet may be a field, a frame that
 * is never displayed, or one that refers to frames an edit has removed. */
static bool packets_are_frames(const AVCodecContext *codec) {
  const AVCodecDescriptor *descriptor = avcodec_descriptor_get(codec->codec_id);
  return codec->codec_id == AV_CODEC_ID_AV1 ||
         (descriptor && descriptor->props & AV_CODEC_PROP_INTRA_ONLY);
}

static Status check_end(const StreamReader *reader, Error *error) {
  Status status = OK;
  TRY(check_length(reader, error));
  if (packets_are_frames(reader->codec) && reader->decoded < reader->shown)
    FAIL(error, ERROR_DATA, "%s: damaged: only %lld of %lld frames could be decoded", reader->path,
         (long long)reader->decoded, (long long)reader->shown);
done:
  return status;
}

/* Keeps the demuxer's first error message; the next FFmpeg call clears it. */
static void keep_fault(StreamReader *reader) {
  const char *message = ffmpeg_log_demuxer_error();
  if (message[0] && !reader->fault) reader->fault = mem_string(message);
}

/* Counts a packet and extends the time reached. */
static void count_packet(StreamReader *reader, const AVPacket *packet) {
  int64_t timestamp = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
  if (packet->stream_index == reader->stream->index) {
    reader->packets++;
    reader->shown += packet->size > 0 && !(packet->flags & AV_PKT_FLAG_DISCARD);
  }
  if (timestamp == AV_NOPTS_VALUE) return;
  AVRational base = reader->format->streams[packet->stream_index]->time_base;
  int64_t end = av_rescale_q(timestamp + packet->duration, base, AV_TIME_BASE_Q);
  if (end > reader->reached) reader->reached = end;
}

/* Sends the next video packet, or the end of the stream, to the decoder. */
static Status send_next_packet(StreamReader *reader, Error *error) {
  Status status = OK;
  AVPacket *packet = reader->packet;
  for (;;) {
    int code = av_read_frame(reader->format, packet);
    keep_fault(reader);
    TRY(demuxer_check(reader->format, error));
    if (code == AVERROR_EOF) {
      avcodec_send_packet(reader->codec, NULL);
      return OK;
    }
    if (code < 0) return decode_error(reader, code, error);
    count_packet(reader, packet);
    if (packet->stream_index == reader->stream->index) break;
    av_packet_unref(packet);
  }
  /* The demuxer has resynchronised after an error; the data in between is lost. */
  if (reader->fault) TRY(skipped_error(reader, error));
  int code = packet->flags & AV_PKT_FLAG_CORRUPT ? AVERROR_INVALIDDATA
                                                 : avcodec_send_packet(reader->codec, packet);
  if (code < 0) status = decode_error(reader, code, error);
done:
  av_packet_unref(packet);
  return status;
}

/* Decodes the next frame into reader->frame, or sets no_more_frames. */
static Status decode(StreamReader *reader, Error *error) {
  AVFrame *frame = reader->frame;
  ffmpeg_log_clear();
  for (;;) {
    int code = avcodec_receive_frame(reader->codec, frame);
    if (code == AVERROR_EOF) {
      reader->no_more_frames = true;
      return check_end(reader, error);
    }
    if (code == AVERROR(EAGAIN)) {
      Status status = send_next_packet(reader, error);
      if (status != OK) return status;
      continue;
    }
    if (code < 0) return decode_error(reader, code, error);
    if (frame->flags & AV_FRAME_FLAG_CORRUPT || frame->decode_error_flags)
      return decode_error(reader, AVERROR_INVALIDDATA, error);
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

/* Opens the filter graph for the format of the first decoded frame. */
static Status open_filter(StreamReader *reader, VideoInfo *info, Error *error) {
  Status status = OK;
  AVRational rate = av_guess_frame_rate(reader->format, reader->stream, NULL);
  TRY(decode(reader, error));
  if (reader->no_more_frames) FAIL(error, ERROR_DATA, "%s: no frames", reader->path);
  reader->pending = true;
  reader->width = reader->frame->width;
  reader->height = reader->frame->height;
  const FilterInput input = {
      .width = reader->frame->width,
      .height = reader->frame->height,
      .format = reader->frame->format,
      .time_base_numerator = reader->stream->time_base.num,
      .time_base_denominator = reader->stream->time_base.den,
      .rate_numerator = rate.num,
      .rate_denominator = rate.den,
      .aspect_numerator = reader->frame->sample_aspect_ratio.num,
      .aspect_denominator = reader->frame->sample_aspect_ratio.den,
      .rotation = rotation_of(reader->stream),
  };
  bool turned = input.rotation % 180 != 0;
  info->file_width = turned ? input.height : input.width;
  info->file_height = turned ? input.width : input.height;
  status = frame_filter_open(&input, &reader->options, &reader->filter, error);
  if (status != OK) status = error_context(error, "%s", reader->path);
  if (status != OK) goto done;
  frame_filter_output(reader->filter, &info->width, &info->height, &info->fps_numerator,
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
  TRY(demuxer_open(path, &reader->format, error));
  keep_fault(reader);
  TRY(open_decoder(reader, error));
  TRY(open_filter(reader, info, error));
  info->frames = reader->stream->nb_frames > 0 ? reader->stream->nb_frames : -1;
  info->has_audio = av_find_best_stream(reader->format, AVMEDIA_TYPE_AUDIO, -1, -1, NULL, 0) >= 0;
  reader->options.filter = NULL; /* owned by the caller */
done:
  return status;
}

/* Passes one frame, or the end, from the decoder to the filter. */
static Status filter_next(StreamReader *reader, Error *error) {
  Status status = OK;
  AVFrame *frame = reader->frame;
  if (!reader->pending) TRY(decode(reader, error));
  reader->pending = false;
  if (reader->no_more_frames) return frame_filter_send(reader->filter, NULL, error);
  if (frame->width != reader->width || frame->height != reader->height)
    FAIL(error, ERROR_DATA, "%s: frame %lld: the frame size changes from %dx%d to %dx%d",
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
      FAIL(error, ERROR_DATA, "%s: the filter graph neither returns a frame nor ends",
           reader->path);
    drained = reader->no_more_frames;
    TRY(filter_next(reader, error));
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
  demuxer_close(&reader->format);
  free(reader->fault);
  free(reader->path);
  free(reader);
}

const VideoReaderOps stream_reader_ops = {stream_read, NULL, stream_reader_close};

#endif
