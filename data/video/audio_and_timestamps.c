#include "data/video/internal.h"

#if WITH_FFMPEG

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* --- Sound ------------------------------------------------------------------------------------ */

struct Sound {
  char *path;
  AVFormatContext *input, *output; /* output: the writer's */
  int *stream_of;                  /* [input streams]: index in output, or -1 */
  int64_t shift;                   /* taken from every time stamp, in AV_TIME_BASE */
  AVPacket *packet;
  bool waiting, ended; /* waiting: `packet` is read and not yet written */
};

static Status add_stream(Sound *sound, unsigned index, const char *output_path, Error *error) {
  const AVStream *from = sound->input->streams[index];
  const AVOutputFormat *format = sound->output->oformat;
  enum AVCodecID id = from->codecpar->codec_id;
  if (avformat_query_codec(format, id, FF_COMPLIANCE_NORMAL) == 0)
    return error_set(error, ERROR_USAGE,
                     "%s: the container %s cannot hold the sound of %s (%s); try .mkv", output_path,
                     format->name, sound->path, avcodec_get_name(id));
  AVStream *to = avformat_new_stream(sound->output, NULL);
  if (!to || avcodec_parameters_copy(to->codecpar, from->codecpar) < 0)
    return error_set(error, ERROR_INTERNAL, "%s: no memory for a sound stream", output_path);
  unsigned int tag;
  bool kept = format->codec_tag && av_codec_get_tag2(format->codec_tag, id, &tag) &&
              av_codec_get_id(format->codec_tag, from->codecpar->codec_tag) == id;
  if (!kept) to->codecpar->codec_tag = 0; /* the container picks its own */
  to->time_base = from->time_base;
  to->disposition = from->disposition;
  av_dict_copy(&to->metadata, from->metadata, 0);
  sound->stream_of[index] = to->index;
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

Status sound_open(const char *path, bool keep, AVFormatContext *output, const char *output_path,
                  Sound **out, Error *error) {
  Status status = OK;
  Sound *sound = mem_new(1, sizeof *sound);
  int streams = 0;
  *out = NULL;
  sound->path = mem_string(path);
  sound->output = output;
  TRY(video_demux(path, &sound->input, error));
  sound->stream_of = mem_new(sound->input->nb_streams, sizeof *sound->stream_of);
  for (unsigned i = 0; i < sound->input->nb_streams; i++) {
    sound->stream_of[i] = -1;
    if (sound->input->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_AUDIO) {
      TRY(add_stream(sound, i, output_path, error));
      streams++;
    } else {
      sound->input->streams[i]->discard = AVDISCARD_ALL;
    }
  }
  if (streams == 0) goto done;
  if (!keep) sound->shift = start_of_video(sound->input);
  sound->packet = av_packet_alloc();
  if (!sound->packet) FAIL(error, ERROR_INTERNAL, "%s: no memory for a packet", path);
  *out = sound;
  sound = NULL;
done:
  sound_close(sound);
  return status;
}

void sound_close(Sound *sound) {
  if (!sound) return;
  av_packet_free(&sound->packet);
  avformat_close_input(&sound->input);
  free(sound->stream_of);
  free(sound->path);
  free(sound);
}

/* The next audio packet, its stamps shifted, still in the input's time base. */
static Status next_packet(Sound *sound, Error *error) {
  AVPacket *packet = sound->packet;
  for (;;) {
    int code = av_read_frame(sound->input, packet);
    if (code == AVERROR_EOF) {
      sound->ended = true;
      return OK;
    }
    if (code < 0)
      return video_error(error, ERROR_DATA, code, "%s: its sound breaks off", sound->path);
    if (sound->stream_of[packet->stream_index] >= 0) break;
    av_packet_unref(packet);
  }
  AVRational base = sound->input->streams[packet->stream_index]->time_base;
  int64_t shift = av_rescale_q(sound->shift, AV_TIME_BASE_Q, base);
  if (packet->pts != AV_NOPTS_VALUE) packet->pts -= shift;
  if (packet->dts != AV_NOPTS_VALUE) packet->dts -= shift;
  sound->waiting = true;
  return OK;
}

Status sound_copy_until(Sound *sound, double seconds, Error *error) {
  Status status = OK;
  AVPacket *packet = sound->packet;
  for (;;) {
    if (!sound->waiting) TRY(next_packet(sound, error));
    if (sound->ended) break;
    AVRational base = sound->input->streams[packet->stream_index]->time_base;
    int64_t stamp = packet->dts != AV_NOPTS_VALUE ? packet->dts : packet->pts;
    if (stamp != AV_NOPTS_VALUE && (double)stamp * av_q2d(base) > seconds) break;
    packet->stream_index = sound->stream_of[packet->stream_index];
    packet->pos = -1;
    av_packet_rescale_ts(packet, base, sound->output->streams[packet->stream_index]->time_base);
    sound->waiting = false;
    int code = av_interleaved_write_frame(sound->output, packet);
    if (code < 0) {
      status = video_error(error, ERROR_IO, code, "%s: its sound could not be copied", sound->path);
      goto done;
    }
  }
done:
  return status;
}

/* --- Time stamps ------------------------------------------------------------------------------ */

enum { REORDERED = 64 }; /* more than any codec holds frames back */

typedef struct Stamp {
  int64_t time, duration;
} Stamp;

struct Timing {
  char *path;
  AVFormatContext *input;
  int stream;
  AVPacket *packet;
  Stamp heap[REORDERED]; /* the earliest first */
  int count;
  bool ended;
  Stamp last;
  int64_t pace; /* a frame's duration where packets do not say */
};

static void heap_push(Timing *timing, Stamp stamp) {
  int i = timing->count++;
  for (; i > 0 && timing->heap[(i - 1) / 2].time > stamp.time; i = (i - 1) / 2)
    timing->heap[i] = timing->heap[(i - 1) / 2];
  timing->heap[i] = stamp;
}

static Stamp heap_pop(Timing *timing) {
  Stamp first = timing->heap[0], moved = timing->heap[--timing->count];
  int i = 0;
  for (;;) {
    int child = 2 * i + 1;
    if (child + 1 < timing->count && timing->heap[child + 1].time < timing->heap[child].time)
      child++;
    if (child >= timing->count || timing->heap[child].time >= moved.time) break;
    timing->heap[i] = timing->heap[child];
    i = child;
  }
  if (timing->count > 0) timing->heap[i] = moved;
  return first;
}

static bool on_its_side(const AVStream *stream) {
  size_t size = 0;
  const uint8_t *matrix = av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (!matrix || size < 9 * sizeof(int32_t)) return false;
  double turn = av_display_rotation_get((const int32_t *)matrix);
  return (turn > 45 && turn < 135) || (turn < -45 && turn > -135);
}

static void describe(Timing *timing, TimingInfo *info) {
  AVStream *stream = timing->input->streams[timing->stream];
  const AVCodecParameters *codec = stream->codecpar;
  AVRational rate = av_guess_frame_rate(timing->input, stream, NULL);
  AVRational aspect = codec->sample_aspect_ratio;
  bool known = rate.num > 0 && rate.den > 0;
  bool turned = on_its_side(stream) && aspect.num > 0;
  *info = (TimingInfo){
      .base_numerator = stream->time_base.num,
      .base_denominator = stream->time_base.den,
      .rate_numerator = known ? rate.num : 0,
      .rate_denominator = known ? rate.den : 1,
      .aspect_numerator = turned ? aspect.den : aspect.num,
      .aspect_denominator = turned ? aspect.num : aspect.den,
      .range = (int)codec->color_range,
      .primaries = (int)codec->color_primaries,
      .transfer = (int)codec->color_trc,
      .matrix = (int)codec->color_space,
  };
  timing->pace = known ? av_rescale_q(1, av_inv_q(rate), stream->time_base) : 1;
  if (timing->pace < 1) timing->pace = 1;
}

Status timing_open(const char *path, Timing **out, TimingInfo *info, Error *error) {
  Status status = OK;
  Timing *timing = mem_new(1, sizeof *timing);
  *out = NULL;
  timing->path = mem_string(path);
  TRY(video_demux(path, &timing->input, error));
  timing->stream = av_find_best_stream(timing->input, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
  if (timing->stream < 0) FAIL(error, ERROR_DATA, "%s: has no video to take the timing from", path);
  for (unsigned i = 0; i < timing->input->nb_streams; i++)
    if ((int)i != timing->stream) timing->input->streams[i]->discard = AVDISCARD_ALL;
  timing->packet = av_packet_alloc();
  if (!timing->packet) FAIL(error, ERROR_INTERNAL, "%s: no memory for a packet", path);
  describe(timing, info);
  timing->last = (Stamp){-timing->pace, timing->pace};
  *out = timing;
  timing = NULL;
done:
  timing_close(timing);
  return status;
}

void timing_close(Timing *timing) {
  if (!timing) return;
  av_packet_free(&timing->packet);
  avformat_close_input(&timing->input);
  free(timing->path);
  free(timing);
}

static Status fill_heap(Timing *timing, Error *error) {
  AVPacket *packet = timing->packet;
  while (!timing->ended && timing->count < REORDERED) {
    int code = av_read_frame(timing->input, packet);
    if (code == AVERROR_EOF) {
      timing->ended = true;
      break;
    }
    if (code < 0)
      return video_error(error, ERROR_DATA, code, "%s: its time stamps break off", timing->path);
    int64_t time = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
    bool shown = packet->stream_index == timing->stream && !(packet->flags & AV_PKT_FLAG_DISCARD);
    if (shown && time != AV_NOPTS_VALUE) heap_push(timing, (Stamp){time, packet->duration});
    av_packet_unref(packet);
  }
  return OK;
}

Status timing_next(Timing *timing, int64_t *stamp, int64_t *duration, Error *error) {
  Status status = fill_heap(timing, error);
  if (status != OK) return status;
  Stamp next = {timing->last.time + timing->last.duration, timing->last.duration};
  if (timing->count > 0) {
    Stamp found = heap_pop(timing);
    /* Two frames at one time cannot be muxed: the later one moves by a tick. */
    next.time = timing->last.time >= 0 && found.time <= timing->last.time ? timing->last.time + 1
                                                                          : found.time;
    next.duration = found.duration > 0 ? found.duration : timing->pace;
  }
  timing->last = next;
  *stamp = next.time;
  *duration = next.duration;
  return OK;
}

#endif
