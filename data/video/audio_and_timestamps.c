/* Copies audio, frame timestamps and colour properties from one video to another. */
#include "data/video/internal.h"

#if WITH_FFMPEG

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* --- Audio ------------------------------------------------------------------------------------ */

struct AudioCopy {
  char *path;
  AVFormatContext *input, *output; /* output: the writer's */
  int *output_stream;              /* [input streams]: index in output, or -1 */
  int64_t shift;                   /* subtracted from every timestamp, in AV_TIME_BASE */
  AVPacket *packet;
  bool pending, ended; /* pending: `packet` is read and not yet written */
};

static Status add_stream(AudioCopy *audio, unsigned index, const char *output_path, Error *error) {
  const AVStream *from = audio->input->streams[index];
  const AVOutputFormat *format = audio->output->oformat;
  enum AVCodecID id = from->codecpar->codec_id;
  if (avformat_query_codec(format, id, FF_COMPLIANCE_NORMAL) == 0)
    return error_set(error, ERROR_USAGE,
                     "%s: container %s cannot hold the audio of %s (%s); write an .mkv file",
                     output_path, format->name, audio->path, avcodec_get_name(id));
  AVStream *to = avformat_new_stream(audio->output, NULL);
  if (!to || avcodec_parameters_copy(to->codecpar, from->codecpar) < 0)
    return error_set(error, ERROR_INTERNAL, "%s: no memory for an audio stream", output_path);
  unsigned int tag;
  bool kept = format->codec_tag && av_codec_get_tag2(format->codec_tag, id, &tag) &&
              av_codec_get_id(format->codec_tag, from->codecpar->codec_tag) == id;
  if (!kept) to->codecpar->codec_tag = 0; /* the container chooses its own */
  to->time_base = from->time_base;
  to->disposition = from->disposition;
  av_dict_copy(&to->metadata, from->metadata, 0);
  audio->output_stream[index] = to->index;
  return OK;
}

static int64_t start_of_video(const AVFormatContext *input) {
  for (unsigned i = 0; i < input->nb_streams; i++) {
    const AVStream *stream = input->streams[i];
    if (stream->codecpar->codec_type == AVMEDIA_TYPE_VIDEO && stream->start_time != AV_NOPTS_VALUE)
      return av_rescale_q(stream->start_time, stream->time_base, AV_TIME_BASE_Q);
  }
  return 0;
}

Status audio_copy_open(const char *path, bool keep_timestamps, AVFormatContext *output,
                       const char *output_path, AudioCopy **out, Error *error) {
  Status status = OK;
  AudioCopy *audio = mem_new(1, sizeof *audio);
  int streams = 0;
  *out = NULL;
  audio->path = mem_string(path);
  audio->output = output;
  TRY(demuxer_open(path, &audio->input, error));
  audio->output_stream = mem_new(audio->input->nb_streams, sizeof *audio->output_stream);
  for (unsigned i = 0; i < audio->input->nb_streams; i++) {
    audio->output_stream[i] = -1;
    if (audio->input->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_AUDIO) {
      TRY(add_stream(audio, i, output_path, error));
      streams++;
    } else {
      audio->input->streams[i]->discard = AVDISCARD_ALL;
    }
  }
  if (streams == 0) goto done;
  if (!keep_timestamps) audio->shift = start_of_video(audio->input);
  audio->packet = av_packet_alloc();
  if (!audio->packet) FAIL(error, ERROR_INTERNAL, "%s: no memory for a packet", path);
  *out = audio;
  audio = NULL;
done:
  audio_copy_close(audio);
  return status;
}

void audio_copy_close(AudioCopy *audio) {
  if (!audio) return;
  av_packet_free(&audio->packet);
  demuxer_close(&audio->input);
  free(audio->output_stream);
  free(audio->path);
  free(audio);
}

/* Reads the next audio packet and shifts its timestamps, still in the input's time base. */
static Status next_packet(AudioCopy *audio, Error *error) {
  AVPacket *packet = audio->packet;
  for (;;) {
    int code = av_read_frame(audio->input, packet);
    Status status = demuxer_check(audio->input, error);
    if (status != OK) return status;
    if (code == AVERROR_EOF) {
      audio->ended = true;
      return OK;
    }
    if (code < 0)
      return ffmpeg_error(error, ERROR_DATA, code, "%s: audio cannot be read", audio->path);
    if (audio->output_stream[packet->stream_index] >= 0) break;
    av_packet_unref(packet);
  }
  AVRational base = audio->input->streams[packet->stream_index]->time_base;
  int64_t shift = av_rescale_q(audio->shift, AV_TIME_BASE_Q, base);
  if (packet->pts != AV_NOPTS_VALUE) packet->pts -= shift;
  if (packet->dts != AV_NOPTS_VALUE) packet->dts -= shift;
  audio->pending = true;
  return OK;
}

Status audio_copy_until(AudioCopy *audio, double seconds, Error *error) {
  Status status = OK;
  AVPacket *packet = audio->packet;
  for (;;) {
    if (!audio->pending) TRY(next_packet(audio, error));
    if (audio->ended) break;
    AVRational base = audio->input->streams[packet->stream_index]->time_base;
    int64_t timestamp = packet->dts != AV_NOPTS_VALUE ? packet->dts : packet->pts;
    if (timestamp != AV_NOPTS_VALUE && (double)timestamp * av_q2d(base) > seconds) break;
    packet->stream_index = audio->output_stream[packet->stream_index];
    packet->pos = -1;
    av_packet_rescale_ts(packet, base, audio->output->streams[packet->stream_index]->time_base);
    audio->pending = false;
    int code = av_interleaved_write_frame(audio->output, packet);
    if (code < 0) {
      status = ffmpeg_error(error, ERROR_IO, code, "%s: audio cannot be copied", audio->path);
      goto done;
    }
  }
done:
  return status;
}

/* --- Timestamps ------------------------------------------------------------------------------- */

enum { REORDER_DEPTH = 64 }; /* packets; more than any codec reorders */

typedef struct Timestamp {
  int64_t time, duration;
} Timestamp;

struct FrameTimestamps {
  char *path;
  AVFormatContext *input;
  int stream;
  AVPacket *packet;
  Timestamp heap[REORDER_DEPTH]; /* min-heap by time */
  int count;
  bool ended;
  Timestamp last;
  int64_t default_duration; /* of frames whose packets have none */
};

static void heap_push(FrameTimestamps *timestamps, Timestamp timestamp) {
  int i = timestamps->count++;
  for (; i > 0 && timestamps->heap[(i - 1) / 2].time > timestamp.time; i = (i - 1) / 2)
    timestamps->heap[i] = timestamps->heap[(i - 1) / 2];
  timestamps->heap[i] = timestamp;
}

static Timestamp heap_pop(FrameTimestamps *timestamps) {
  Timestamp first = timestamps->heap[0], moved = timestamps->heap[--timestamps->count];
  int i = 0;
  for (;;) {
    int child = 2 * i + 1;
    if (child + 1 < timestamps->count &&
        timestamps->heap[child + 1].time < timestamps->heap[child].time)
      child++;
    if (child >= timestamps->count || timestamps->heap[child].time >= moved.time) break;
    timestamps->heap[i] = timestamps->heap[child];
    i = child;
  }
  if (timestamps->count > 0) timestamps->heap[i] = moved;
  return first;
}

static bool is_rotated_by_quarter(const AVStream *stream) {
  size_t size = 0;
  const uint8_t *matrix = av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (!matrix || size < 9 * sizeof(int32_t)) return false;
  double turn = av_display_rotation_get((const int32_t *)matrix);
  return (turn > 45 && turn < 135) || (turn < -45 && turn > -135);
}

/* Fills in *info and the default duration from the stream. */
static void read_properties(FrameTimestamps *timestamps, VideoProperties *info) {
  AVStream *stream = timestamps->input->streams[timestamps->stream];
  const AVCodecParameters *codec = stream->codecpar;
  AVRational rate = av_guess_frame_rate(timestamps->input, stream, NULL);
  AVRational aspect = codec->sample_aspect_ratio;
  bool known = rate.num > 0 && rate.den > 0;
  bool turned = is_rotated_by_quarter(stream) && aspect.num > 0;
  *info = (VideoProperties){
      .time_base_numerator = stream->time_base.num,
      .time_base_denominator = stream->time_base.den,
      .rate_numerator = known ? rate.num : 0,
      .rate_denominator = known ? rate.den : 1,
      .aspect_numerator = turned ? aspect.den : aspect.num,
      .aspect_denominator = turned ? aspect.num : aspect.den,
      .range = (int)codec->color_range,
      .primaries = (int)codec->color_primaries,
      .transfer = (int)codec->color_trc,
      .matrix = (int)codec->color_space,
  };
  timestamps->default_duration = known ? av_rescale_q(1, av_inv_q(rate), stream->time_base) : 1;
  if (timestamps->default_duration < 1) timestamps->default_duration = 1;
}

Status frame_timestamps_open(const char *path, FrameTimestamps **out, VideoProperties *info,
                             Error *error) {
  Status status = OK;
  FrameTimestamps *timestamps = mem_new(1, sizeof *timestamps);
  *out = NULL;
  timestamps->path = mem_string(path);
  TRY(demuxer_open(path, &timestamps->input, error));
  timestamps->stream = av_find_best_stream(timestamps->input, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
  if (timestamps->stream < 0)
    FAIL(error, ERROR_DATA, "%s: no video stream to copy timestamps from", path);
  for (unsigned i = 0; i < timestamps->input->nb_streams; i++)
    if ((int)i != timestamps->stream) timestamps->input->streams[i]->discard = AVDISCARD_ALL;
  timestamps->packet = av_packet_alloc();
  if (!timestamps->packet) FAIL(error, ERROR_INTERNAL, "%s: no memory for a packet", path);
  read_properties(timestamps, info);
  timestamps->last = (Timestamp){-timestamps->default_duration, timestamps->default_duration};
  *out = timestamps;
  timestamps = NULL;
done:
  frame_timestamps_close(timestamps);
  return status;
}

void frame_timestamps_close(FrameTimestamps *timestamps) {
  if (!timestamps) return;
  av_packet_free(&timestamps->packet);
  demuxer_close(&timestamps->input);
  free(timestamps->path);
  free(timestamps);
}

static Status fill_heap(FrameTimestamps *timestamps, Error *error) {
  AVPacket *packet = timestamps->packet;
  while (!timestamps->ended && timestamps->count < REORDER_DEPTH) {
    int code = av_read_frame(timestamps->input, packet);
    Status status = demuxer_check(timestamps->input, error);
    if (status != OK) return status;
    if (code == AVERROR_EOF) {
      timestamps->ended = true;
      break;
    }
    if (code < 0)
      return ffmpeg_error(error, ERROR_DATA, code, "%s: timestamps cannot be read",
                          timestamps->path);
    int64_t time = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
    bool shown =
        packet->stream_index == timestamps->stream && !(packet->flags & AV_PKT_FLAG_DISCARD);
    if (shown && time != AV_NOPTS_VALUE) heap_push(timestamps, (Timestamp){time, packet->duration});
    av_packet_unref(packet);
  }
  return OK;
}

Status frame_timestamps_next(FrameTimestamps *timestamps, int64_t *timestamp, int64_t *duration,
                             Error *error) {
  Status status = fill_heap(timestamps, error);
  if (status != OK) return status;
  Timestamp next = {timestamps->last.time + timestamps->last.duration, timestamps->last.duration};
  if (timestamps->count > 0) {
    Timestamp found = heap_pop(timestamps);
    /* Two frames with equal timestamps cannot be muxed: move the later one by a tick. */
    next.time = timestamps->last.time >= 0 && found.time <= timestamps->last.time
                    ? timestamps->last.time + 1
                    : found.time;
    next.duration = found.duration > 0 ? found.duration : timestamps->default_duration;
  }
  timestamps->last = next;
  *timestamp = next.time;
  *duration = next.duration;
  return OK;
}

#endif
