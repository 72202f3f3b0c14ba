/* Encodes and muxes videos. */
#include "data/video/internal.h"

#if WITH_FFMPEG

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/temporary.h"

enum { DEFAULT_QUALITY = 18 };

typedef struct StreamWriter {
  char *path;
  AtomicFile file;
  AVFormatContext *format;
  AVCodecContext *codec;
  AVStream *stream; /* the format's */
  struct SwsContext *convert;
  AVFrame *frame;
  AVFrame *picture; /* RGB with padded rows, since swscale reads a few bytes past the end */
  AVPacket *packet;
  AudioCopy *audio;            /* NULL: no audio */
  FrameTimestamps *timestamps; /* NULL: constant frame rate */
  int64_t written, duration;
  bool header_written;
} StreamWriter;

static Status encode_error(const StreamWriter *writer, Status status, int code, const char *what,
                           Error *error) {
  return ffmpeg_error(error, status, code, "%s: %s", writer->path, what);
}

/* --- Opening ---------------------------------------------------------------------------------- */

static Status open_container(StreamWriter *writer, Error *error) {
  Status status = OK;
  char *url = NULL;
  const AVOutputFormat *kind = av_guess_format(NULL, writer->path, NULL);
  if (!kind || kind->flags & AVFMT_NOFILE)
    FAIL(error, ERROR_USAGE,
         "%s: FFmpeg has no video container with this extension; use .mp4, .mkv or .mov",
         writer->path);
  temporary_remove_leftovers_of(writer->path);
  TRY(atomic_file_open(writer->path, &writer->file, error));
  url = mem_format("file:%s", writer->file.temporary);
  int code = avformat_alloc_output_context2(&writer->format, kind, NULL, url);
  if (code >= 0) {
    do code = avio_open(&writer->format->pb, url, AVIO_FLAG_WRITE);
    while (code == AVERROR(EINTR));
  }
  if (code < 0) status = encode_error(writer, ERROR_IO, code, "cannot write", error);
done:
  free(url);
  return status;
}

/* Chooses 4:2:0 for even sizes and 4:4:4 for odd ones, if the encoder supports it. */
static enum AVPixelFormat choose_format(const AVCodec *encoder, int width, int height) {
  enum AVPixelFormat wanted = width % 2 || height % 2 ? AV_PIX_FMT_YUV444P : AV_PIX_FMT_YUV420P;
  if (!encoder->pix_fmts) return wanted;
  for (int i = 0; encoder->pix_fmts[i] != AV_PIX_FMT_NONE; i++)
    if (encoder->pix_fmts[i] == wanted) return wanted;
  return avcodec_find_best_pix_fmt_of_list(encoder->pix_fmts, AV_PIX_FMT_RGB24, 0, NULL);
}

static void set_colours(AVCodecContext *codec, const VideoProperties *properties) {
  if (properties) {
    codec->color_range = (enum AVColorRange)properties->range;
    codec->color_primaries = (enum AVColorPrimaries)properties->primaries;
    codec->color_trc = (enum AVColorTransferCharacteristic)properties->transfer;
    codec->colorspace = (enum AVColorSpace)properties->matrix;
    if (codec->colorspace == AVCOL_SPC_RGB) codec->colorspace = AVCOL_SPC_UNSPECIFIED;
    return;
  }
  codec->color_range = AVCOL_RANGE_MPEG;
  codec->color_primaries = AVCOL_PRI_BT709;
  codec->color_trc = AVCOL_TRC_BT709;
  codec->colorspace = AVCOL_SPC_BT709;
}

static Status open_encoder(StreamWriter *writer, const VideoWriterOptions *options,
                           const VideoProperties *properties, Error *error) {
  const char *name = options->codec ? options->codec : "libx264";
  const AVCodec *encoder = avcodec_find_encoder_by_name(name);
  int quality = options->quality < 0 ? DEFAULT_QUALITY : options->quality;
  if (!encoder || encoder->type != AVMEDIA_TYPE_VIDEO)
    return error_set(error, ERROR_USAGE, "%s: FFmpeg has no video encoder \"%s\"", writer->path,
                     name);
  AVCodecContext *codec = writer->codec = avcodec_alloc_context3(encoder);
  if (!codec) return error_set(error, ERROR_INTERNAL, "%s: no memory for an encoder", writer->path);
  codec->width = options->width;
  codec->height = options->height;
  codec->pix_fmt = choose_format(encoder, options->width, options->height);
  codec->framerate = (AVRational){options->fps_numerator, options->fps_denominator};
  codec->time_base =
      properties ? (AVRational){properties->time_base_numerator, properties->time_base_denominator}
                 : av_inv_q(codec->framerate);
  if (properties)
    codec->sample_aspect_ratio =
        (AVRational){properties->aspect_numerator, properties->aspect_denominator};
  set_colours(codec, properties);
  if (writer->format->oformat->flags & AVFMT_GLOBALHEADER)
    codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  if (!codec->priv_data || av_opt_set_double(codec->priv_data, "crf", quality, 0) < 0) {
    codec->flags |= AV_CODEC_FLAG_QSCALE; /* constant quality in older codecs */
    codec->global_quality = (quality < 1 ? 1 : quality) * FF_QP2LAMBDA;
  }
  int code = avcodec_open2(codec, encoder, NULL);
  if (code < 0) return encode_error(writer, ERROR_USAGE, code, "cannot start the encoder", error);
  return OK;
}

static Status add_video_stream(StreamWriter *writer, Error *error) {
  AVStream *stream = writer->stream = avformat_new_stream(writer->format, NULL);
  if (!stream) return error_set(error, ERROR_INTERNAL, "%s: no memory for a stream", writer->path);
  stream->time_base = writer->codec->time_base;
  stream->avg_frame_rate = stream->r_frame_rate = writer->codec->framerate;
  stream->sample_aspect_ratio = writer->codec->sample_aspect_ratio;
  int code = avcodec_parameters_from_context(stream->codecpar, writer->codec);
  if (code < 0)
    return encode_error(writer, ERROR_INTERNAL, code, "cannot set the stream's parameters", error);
  return OK;
}

/* Sets up the conversion with the matrix and range of the encoder's colour tags. swscale reads
 * untagged video as BT.601, so it is written as BT.601. */
static Status open_conversion(StreamWriter *writer, Error *error) {
  const AVCodecContext *codec = writer->codec;
  writer->convert = sws_getContext(
      codec->width, codec->height, AV_PIX_FMT_RGB24, codec->width, codec->height, codec->pix_fmt,
      SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, NULL, NULL, NULL);
  writer->frame = av_frame_alloc();
  writer->picture = av_frame_alloc();
  writer->packet = av_packet_alloc();
  if (!writer->convert || !writer->frame || !writer->picture || !writer->packet)
    return error_set(error, ERROR_INTERNAL, "%s: no memory for %dx%d frames", writer->path,
                     codec->width, codec->height);
  int matrix = codec->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : (int)codec->colorspace;
  const int *coefficients = sws_getCoefficients(matrix);
  int full = codec->color_range == AVCOL_RANGE_JPEG;
  sws_setColorspaceDetails(writer->convert, sws_getCoefficients(SWS_CS_DEFAULT), 1, coefficients,
                           full, 0, 1 << 16, 1 << 16);
  writer->frame->format = codec->pix_fmt;
  writer->frame->width = codec->width;
  writer->frame->height = codec->height;
  writer->frame->color_range = codec->color_range;
  writer->frame->colorspace = codec->colorspace;
  writer->picture->format = AV_PIX_FMT_RGB24;
  writer->picture->width = codec->width;
  writer->picture->height = codec->height;
  int code = av_frame_get_buffer(writer->frame, 0);
  if (code >= 0) code = av_frame_get_buffer(writer->picture, 0);
  if (code < 0) return encode_error(writer, ERROR_INTERNAL, code, "cannot allocate a frame", error);
  return OK;
}

Status stream_writer_open(const char *path, const VideoWriterOptions *options, void **state,
                          Error *error) {
  Status status = OK;
  StreamWriter *writer = mem_new(1, sizeof *writer);
  VideoProperties properties = {0};
  *state = writer;
  writer->path = mem_string(path);
  writer->file.descriptor = -1;
  ffmpeg_log_capture();
  ffmpeg_log_clear();
  if (options->fps_numerator < 1 || options->fps_denominator < 1)
    FAIL(error, ERROR_USAGE, "%s: frame rate %d/%d; expected a positive number", path,
         options->fps_numerator, options->fps_denominator);
  if (options->timing_from)
    TRY(frame_timestamps_open(options->timing_from, &writer->timestamps, &properties, error));
  TRY(open_container(writer, error));
  TRY(open_encoder(writer, options, writer->timestamps ? &properties : NULL, error));
  TRY(add_video_stream(writer, error));
  TRY(open_conversion(writer, error));
  if (options->audio_from)
    TRY(audio_copy_open(options->audio_from, writer->timestamps != NULL, writer->format, path,
                        &writer->audio, error));
  int code = avformat_write_header(writer->format, NULL);
  if (code < 0) {
    bool write_failed = writer->format->pb->error < 0; /* else the muxer refused */
    status = encode_error(
        writer, write_failed ? ERROR_IO : ERROR_USAGE, code,
        write_failed ? "cannot write" : "the container does not accept the streams", error);
    goto done;
  }
  writer->header_written = true;
done:
  return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* Writes all packets that the encoder has ready, each after the audio before it. */
static Status write_ready_packets(StreamWriter *writer, Error *error) {
  Status status = OK;
  AVPacket *packet = writer->packet;
  for (;;) {
    int code = avcodec_receive_packet(writer->codec, packet);
    if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return OK;
    if (code < 0) return encode_error(writer, ERROR_INTERNAL, code, "cannot encode", error);
    if (packet->duration == 0) packet->duration = writer->duration;
    double seconds = (double)packet->dts * av_q2d(writer->codec->time_base);
    if (writer->audio) TRY(audio_copy_until(writer->audio, seconds, error));
    packet->stream_index = writer->stream->index;
    av_packet_rescale_ts(packet, writer->codec->time_base, writer->stream->time_base);
    code = av_interleaved_write_frame(writer->format, packet);
    if (code >= 0 && writer->format->pb->error < 0) code = writer->format->pb->error;
    if (code < 0) return encode_error(writer, ERROR_IO, code, "cannot write", error);
  }
done:
  av_packet_unref(packet);
  return status;
}

/* Copies a frame, repeating each row's last pixel, since swscale's reads past the width may affect
 * the border. */
static void copy_padded(AVFrame *picture, const uint8_t *rgb) {
  size_t bytes = (size_t)picture->width * 3, room = (size_t)picture->linesize[0];
  for (int y = 0; y < picture->height; y++) {
    uint8_t *row = picture->data[0] + (ptrdiff_t)y * picture->linesize[0];
    memcpy(row, rgb + (size_t)y * bytes, bytes);
    for (size_t i = bytes; i < room; i++) row[i] = row[i - 3];
  }
}

static Status stream_write(void *state, const uint8_t *rgb, const char *name, Error *error) {
  Status status = OK;
  StreamWriter *writer = state;
  AVFrame *frame = writer->frame;
  const AVFrame *picture = writer->picture;
  (void)name; /* only frame folders use it */
  ffmpeg_log_clear();
  int code = av_frame_make_writable(frame);
  if (code < 0) return encode_error(writer, ERROR_INTERNAL, code, "cannot allocate a frame", error);
  copy_padded(writer->picture, rgb);
  sws_scale(writer->convert, (const uint8_t *const *)picture->data, picture->linesize, 0,
            picture->height, frame->data, frame->linesize);
  frame->pts = writer->written;
  writer->duration = 1;
  if (writer->timestamps)
    TRY(frame_timestamps_next(writer->timestamps, &frame->pts, &writer->duration, error));
  code = avcodec_send_frame(writer->codec, frame);
  if (code < 0) return encode_error(writer, ERROR_INTERNAL, code, "cannot encode", error);
  writer->written++;
  TRY(write_ready_packets(writer, error));
done:
  return status;
}

static Status stream_finish(void *state, Error *error) {
  Status status = OK;
  StreamWriter *writer = state;
  if (writer->written == 0) FAIL(error, ERROR_DATA, "%s: no frames were written", writer->path);
  ffmpeg_log_clear();
  avcodec_send_frame(writer->codec, NULL);
  TRY(write_ready_packets(writer, error));
  if (writer->audio) TRY(audio_copy_until(writer->audio, 1e300, error));
  int code = av_write_trailer(writer->format);
  writer->header_written = false;
  int closed = avio_closep(&writer->format->pb);
  if (code >= 0 && closed != AVERROR(EINTR)) code = closed; /* after EINTR it is closed, too */
  if (code < 0) {
    status = encode_error(writer, ERROR_IO, code, "cannot write", error);
    goto done;
  }
  TRY(atomic_file_commit(&writer->file, error));
done:
  return status;
}

static void stream_writer_close(void *state) {
  StreamWriter *writer = state;
  audio_copy_close(writer->audio);
  frame_timestamps_close(writer->timestamps);
  sws_freeContext(writer->convert);
  av_frame_free(&writer->frame);
  av_frame_free(&writer->picture);
  av_packet_free(&writer->packet);
  avcodec_free_context(&writer->codec);
  if (writer->format) {
    if (writer->header_written) av_write_trailer(writer->format); /* frees the muxer's buffers */
    avio_closep(&writer->format->pb);
    avformat_free_context(writer->format);
  }
  atomic_file_abort(&writer->file);
  free(writer->path);
  free(writer);
}

const VideoWriterOps stream_writer_ops = {stream_write, stream_finish, stream_writer_close};

#endif
