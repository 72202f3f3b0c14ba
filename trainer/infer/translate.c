/* Translates a video, a picture or a frame folder to an output of the same kind. */
#include <stdlib.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/signals.h"
#include "data/video/video.h"
#include "trainer/infer/frame_pipeline.h"
#include "trainer/infer/translate.h"

typedef struct Translation {
  const TranslateOptions *options;
  Backend *backend;
  Inference *inference;
  int input_count;
  const char **paths; /* [input_count] */
  VideoReader *
      *readers; /* [input_count]; the first one sets size, timing and audio of the output */
  VideoWriter *writer;
  InferenceShape shape;
} Translation;

static const char *kind_name(MediaKind kind) {
  return kind == MEDIA_VIDEO ? "a video" : kind == MEDIA_IMAGE ? "a picture" : "a frame folder";
}

static Status check_paths(const TranslateOptions *options, Error *error) {
  Status status = OK;
  MediaKind from, to;
  bool same;
  TRY(media_kind(options->input, &from, error));
  TRY(media_kind(options->output, &to, error));
  for (int i = -1; i < options->further_count; i++) {
    TRY(path_is_same(i < 0 ? options->input : options->further[i], options->output, &same, error));
    if (same)
      FAIL(error, ERROR_USAGE, "%s: is also an input; choose another output", options->output);
  }
  if (from != to)
    FAIL(error, ERROR_USAGE,
         "%s: is %s, but %s is %s; both must be videos (by extension), PNG pictures, or folders "
         "of PNG frames",
         options->output, kind_name(to), options->input, kind_name(from));
done:
  return status;
}

static Status open_model(Translation *t, Error *error) {
  Status status = OK;
  const TranslateOptions *options = t->options;
  TRY(inference_open_model(&options->model, &options->device, &t->backend, &t->inference, error));
  int64_t inputs = inference_source_channels(t->inference) / 3;
  if (inputs != t->input_count)
    FAIL(error, ERROR_USAGE,
         "%s: its generator reads %lld input%s, but %d %s given; give the first as IN and each "
         "further one with --also PATH",
         inference_path(t->inference), (long long)inputs, inputs == 1 ? "" : "s", t->input_count,
         t->input_count == 1 ? "is" : "are");
done:
  return status;
}

static Status open_inputs(Translation *t, Error *error) {
  Status status = OK;
  t->paths = mem_new((size_t)t->input_count, sizeof *t->paths);
  t->readers = mem_new((size_t)t->input_count, sizeof *t->readers);
  for (int i = 0; i < t->input_count; i++) {
    t->paths[i] = i == 0 ? t->options->input : t->options->further[i - 1];
    TRY(video_open(t->paths[i], NULL, &t->readers[i], error));
    const VideoInfo *first = video_info(t->readers[0]), *info = video_info(t->readers[i]);
    if (info->width != first->width || info->height != first->height)
      FAIL(error, ERROR_DATA, "%s: is %dx%d, but %s is %dx%d; all inputs must have the same size",
           t->paths[i], info->width, info->height, t->paths[0], first->width, first->height);
  }
done:
  return status;
}

static Status open_media(Translation *t, Error *error) {
  Status status = OK;
  const TranslateOptions *options = t->options;
  TRY(open_inputs(t, error));
  const VideoInfo *info = video_info(t->readers[0]);
  bool video = info->kind == MEDIA_VIDEO;
  int scale = (int)inference_scale(t->inference);
  t->shape = (InferenceShape){.source_height = info->height,
                              .source_width = info->width,
                              .source_channels = 3 * t->input_count,
                              .height = (int64_t)info->height * scale,
                              .width = (int64_t)info->width * scale};
  VideoWriterOptions writer_options = {.width = (int)t->shape.width,
                                       .height = (int)t->shape.height,
                                       .fps_numerator = info->fps_numerator,
                                       .fps_denominator = info->fps_denominator,
                                       .codec = options->codec,
                                       .quality = options->quality,
                                       .audio_from =
                                           video && info->has_audio ? options->input : NULL,
                                       .timing_from = video ? options->input : NULL};
  status = inference_stream_begin(t->inference, &t->shape, error);
  if (status != OK) {
    error_context(error, "%s", options->input);
    goto done;
  }
  TRY(video_writer_open(options->output, &writer_options, &t->writer, error));
done:
  return status;
}

static Status translate_frames(Translation *t, Error *error) {
  Status status = OK;
  int64_t done = 0;
  const FramePipeline pipeline = {.inference = t->inference,
                                  .shape = t->shape,
                                  .readers = t->readers,
                                  .paths = t->paths,
                                  .input_count = t->input_count,
                                  .writer = t->writer};
  TRY(frame_pipeline_run(&pipeline, &done, error));
  if (done == 0) FAIL(error, ERROR_DATA, "%s: has no frames", t->options->input);
  VideoWriter *writer = t->writer;
  t->writer = NULL;
  TRY(video_writer_finish(writer, error));
  log_info("%s: %lld frame%s of %lldx%lld", t->options->output, (long long)done,
           done == 1 ? "" : "s", (long long)t->shape.width, (long long)t->shape.height);
done:
  return status;
}

static void tear_down(Translation *t) {
  video_writer_abandon(t->writer);
  for (int i = 0; t->readers && i < t->input_count; i++) video_close(t->readers[i]);
  free(t->readers);
  free(t->paths);
  inference_free(t->inference);
  if (t->backend) t->backend->free(t->backend);
}

Status translate_run(const TranslateOptions *options, Error *error) {
  Status status = OK;
  Translation t = {.options = options, .input_count = 1 + options->further_count};
  signals_install();
  TRY(check_paths(options, error));
  TRY(open_model(&t, error));
  TRY(open_media(&t, error));
  TRY(translate_frames(&t, error));
done:
  tear_down(&t);
  return status;
}
