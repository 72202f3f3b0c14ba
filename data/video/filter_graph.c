/* FFmpeg filter graphs: rotation, resize, the user's graph and conversion to RGB. */
#include "data/video/internal.h"

#if WITH_FFMPEG

#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavutil/frame.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixfmt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct FrameFilter {
  AVFilterGraph *graph;
  AVFilterContext *source, *sink; /* the graph's */
  AVFrame *filtered, *picture;    /* picture: buffer of frame_filter_send_rgb */
  int width, height;              /* of the output */
  int64_t sent, received;
  int64_t end;              /* end time of the last frame sent, in the source's time base */
  int64_t default_duration; /* of frames without one */
};

/* Appends a filter after *last and makes it *last. */
static Status append(FrameFilter *filter, AVFilterContext **last, const char *name,
                     const char *arguments, Error *error) {
  AVFilterContext *next = NULL;
  const AVFilter *kind = avfilter_get_by_name(name);
  if (!kind)
    return error_set(error, ERROR_INTERNAL, "FFmpeg was built without the filter \"%s\"", name);
  int code = avfilter_graph_create_filter(&next, kind, name, arguments, NULL, filter->graph);
  if (code >= 0 && *last) code = avfilter_link(*last, 0, next, 0);
  if (code < 0)
    return ffmpeg_error(error, ERROR_INTERNAL, code, "cannot create FFmpeg filter %s=%s", name,
                        arguments ? arguments : "");
  *last = next;
  return OK;
}

/* Appends the user's graph after *last. */
static Status append_graph(FrameFilter *filter, AVFilterContext **last, const char *text,
                           Error *error) {
  Status status = OK;
  AVFilterInOut *inputs = NULL, *outputs = NULL;
  int code = avfilter_graph_parse2(filter->graph, text, &inputs, &outputs);
  if (code < 0) {
    status = ffmpeg_error(error, ERROR_USAGE, code, "filter graph \"%s\"", text);
    goto done;
  }
  if (!inputs || inputs->next || !outputs || outputs->next)
    FAIL(error, ERROR_USAGE, "filter graph \"%s\": expected one open input and one open output",
         text);
  code = avfilter_link(*last, 0, inputs->filter_ctx, (unsigned)inputs->pad_idx);
  if (code < 0) {
    status = ffmpeg_error(error, ERROR_USAGE, code, "filter graph \"%s\"", text);
    goto done;
  }
  AVFilterContext *end = outputs->filter_ctx;
  if (outputs->pad_idx != 0) { /* the next filter is linked to pad 0 */
    AVFilterContext *pass = NULL;
    code = avfilter_graph_create_filter(&pass, avfilter_get_by_name("null"), "pass", NULL, NULL,
                                        filter->graph);
    if (code >= 0) code = avfilter_link(end, (unsigned)outputs->pad_idx, pass, 0);
    if (code < 0) {
      status = ffmpeg_error(error, ERROR_USAGE, code, "filter graph \"%s\"", text);
      goto done;
    }
    end = pass;
  }
  *last = end;
done:
  avfilter_inout_free(&inputs);
  avfilter_inout_free(&outputs);
  return status;
}

static Status append_source(FrameFilter *filter, const FilterInput *input, AVFilterContext **last,
                            Error *error) {
  char arguments[256];
  int length = snprintf(arguments, sizeof arguments,
                        "video_size=%dx%d:pix_fmt=%d:time_base=%d/%d:pixel_aspect=%d/%d",
                        input->width, input->height, input->format, input->time_base_numerator,
                        input->time_base_denominator, input->aspect_numerator,
                        input->aspect_denominator > 0 ? input->aspect_denominator : 1);
  if (input->rate_numerator > 0 && input->rate_denominator > 0)
    snprintf(arguments + length, sizeof arguments - (size_t)length, ":frame_rate=%d/%d",
             input->rate_numerator, input->rate_denominator);
  Status status = append(filter, last, "buffer", arguments, error);
  filter->source = *last;
  return status;
}

static Status append_rotation(FrameFilter *filter, int rotation, AVFilterContext **last,
                              Error *error) {
  Status status = OK;
  if (rotation == 90) return append(filter, last, "transpose", "clock", error);
  if (rotation == 270) return append(filter, last, "transpose", "cclock", error);
  if (rotation != 180) return OK;
  TRY(append(filter, last, "hflip", NULL, error));
  TRY(append(filter, last, "vflip", NULL, error));
done:
  return status;
}

static Status append_resize(FrameFilter *filter, const VideoReaderOptions *options,
                            AVFilterContext **last, Error *error) {
  char arguments[128];
  if (!options->width && !options->height) return OK;
  snprintf(arguments, sizeof arguments, "%d:%d:flags=bicubic+accurate_rnd+full_chroma_int",
           options->width ? options->width : -2, options->height ? options->height : -2);
  return append(filter, last, "scale", arguments, error);
}

static Status build(FrameFilter *filter, const FilterInput *input,
                    const VideoReaderOptions *options, Error *error) {
  Status status = OK;
  AVFilterContext *last = NULL;
  filter->graph = avfilter_graph_alloc();
  filter->filtered = av_frame_alloc();
  if (!filter->graph || !filter->filtered)
    FAIL(error, ERROR_INTERNAL, "no memory for a filter graph");
  filter->graph->nb_threads = 1; /* the same frames on every machine */
  filter->graph->scale_sws_opts = av_strdup("flags=bicubic+accurate_rnd+full_chroma_int");
  TRY(append_source(filter, input, &last, error));
  TRY(append_rotation(filter, input->rotation, &last, error));
  TRY(append_resize(filter, options, &last, error));
  if (options->filter) {
    TRY(append_graph(filter, &last, options->filter, error));
    TRY(append_resize(filter, options, &last, error)); /* passes frames of this size unchanged */
  }
  TRY(append(filter, &last, "format", "rgb24", error));
  TRY(append(filter, &last, "buffersink", NULL, error));
  filter->sink = last;
  int code = avfilter_graph_config(filter->graph, NULL);
  if (code < 0)
    status = ffmpeg_error(error, options->filter ? ERROR_USAGE : ERROR_INTERNAL, code,
                          "filter graph \"%s\"", options->filter ? options->filter : "");
done:
  return status;
}

Status frame_filter_open(const FilterInput *input, const VideoReaderOptions *options,
                         FrameFilter **out, Error *error) {
  FrameFilter *filter = mem_new(1, sizeof *filter);
  ffmpeg_log_capture();
  ffmpeg_log_clear();
  *out = NULL;
  Status status = build(filter, input, options, error);
  if (status != OK) {
    frame_filter_close(filter);
    return status;
  }
  filter->default_duration =
      input->rate_numerator > 0
          ? av_rescale_q(1, (AVRational){input->rate_denominator, input->rate_numerator},
                         (AVRational){input->time_base_numerator, input->time_base_denominator})
          : 0;
  filter->width = av_buffersink_get_w(filter->sink);
  filter->height = av_buffersink_get_h(filter->sink);
  *out = filter;
  return OK;
}

Status frame_filter_open_rgb(int width, int height, const VideoReaderOptions *options,
                             FrameFilter **out, Error *error) {
  const FilterInput input = {
      .width = width,
      .height = height,
      .format = AV_PIX_FMT_RGB24,
      .time_base_numerator = 1,
      .time_base_denominator = 25,
      .rate_numerator = 25,
      .rate_denominator = 1,
      .aspect_numerator = 1,
      .aspect_denominator = 1,
  };
  Status status = frame_filter_open(&input, options, out, error);
  if (status != OK) return status;
  AVFrame *picture = (*out)->picture = av_frame_alloc();
  if (!picture) return error_set(error, ERROR_INTERNAL, "no memory for a frame");
  picture->format = AV_PIX_FMT_RGB24;
  picture->width = width;
  picture->height = height;
  return OK;
}

void frame_filter_close(FrameFilter *filter) {
  if (!filter) return;
  av_frame_free(&filter->filtered);
  av_frame_free(&filter->picture);
  avfilter_graph_free(&filter->graph);
  free(filter);
}

void frame_filter_output(const FrameFilter *filter, int *width, int *height, int *rate_numerator,
                         int *rate_denominator) {
  AVRational rate = av_buffersink_get_frame_rate(filter->sink);
  bool known = rate.num > 0 && rate.den > 0;
  *width = filter->width;
  *height = filter->height;
  *rate_numerator = known ? rate.num : 0;
  *rate_denominator = known ? rate.den : 1;
}

Status frame_filter_send(FrameFilter *filter, AVFrame *frame, Error *error) {
  int code;
  ffmpeg_log_clear();
  if (frame) {
    int64_t duration = frame->pkt_duration > 0 ? frame->pkt_duration : filter->default_duration;
    filter->end = frame->pts + duration;
    code = av_buffersrc_add_frame_flags(filter->source, frame, AV_BUFFERSRC_FLAG_KEEP_REF);
  } else {
    code = av_buffersrc_close(filter->source, filter->end, 0); /* keeps the last frame's duration */
  }
  if (code < 0 && code != AVERROR_EOF)
    return ffmpeg_error(error, ERROR_DATA, code, "cannot filter frame %lld",
                        (long long)filter->sent);
  if (frame) filter->sent++;
  return OK;
}

Status frame_filter_send_rgb(FrameFilter *filter, const uint8_t *rgb, Error *error) {
  AVFrame *picture = filter->picture;
  /* The graph may still use the previous frame's buffer, so each frame has its own. */
  av_buffer_unref(&picture->buf[0]);
  int code = av_frame_get_buffer(picture, 0);
  if (code < 0)
    return ffmpeg_error(error, ERROR_INTERNAL, code, "no memory for a frame of %dx%d",
                        picture->width, picture->height);
  for (int y = 0; y < picture->height; y++)
    memcpy(picture->data[0] + (ptrdiff_t)y * picture->linesize[0],
           rgb + (size_t)y * (size_t)picture->width * 3, (size_t)picture->width * 3);
  picture->pts = filter->sent;
  return frame_filter_send(filter, picture, error);
}

Status frame_filter_receive(FrameFilter *filter, uint8_t *rgb, bool *got, bool *end, Error *error) {
  Status status = OK;
  AVFrame *frame = filter->filtered;
  *got = *end = false;
  ffmpeg_log_clear();
  int code = av_buffersink_get_frame(filter->sink, frame);
  if (code == AVERROR(EAGAIN)) return OK;
  if (code == AVERROR_EOF) {
    *end = true;
    return OK;
  }
  if (code < 0)
    return ffmpeg_error(error, ERROR_DATA, code, "cannot filter frame %lld",
                        (long long)filter->received);
  if (frame->width != filter->width || frame->height != filter->height)
    FAIL(error, ERROR_DATA, "frame %lld: the filter's frame size changes from %dx%d to %dx%d",
         (long long)filter->received, filter->width, filter->height, frame->width, frame->height);
  for (int y = 0; y < frame->height; y++)
    memcpy(rgb + (size_t)y * (size_t)frame->width * 3,
           frame->data[0] + (ptrdiff_t)y * frame->linesize[0], (size_t)frame->width * 3);
  filter->received++;
  *got = true;
done:
  av_frame_unref(frame);
  return status;
}

#endif
