/* Video, picture or frame folder to the same. */
#include <stdlib.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "data/video.h"
#include "trainer/commands.h"
#include "trainer/device.h"
#include "trainer/inference.h"
#include "trainer/progress.h"

typedef struct Translation {
  const TranslateOptions *options;
  Checkpoint *checkpoint;
  Backend *backend;
  Inference *inference;
  VideoReader *reader;
  VideoWriter *writer;
  int width, height;     /* of the output: the input's, times the model's scale */
  uint8_t *source;       /* u8, the input's height * width * 3 */
  uint8_t *output_bytes; /* u8 [height,width,3] */
  float *output;
  size_t samples; /* height * width * 3 */
} Translation;

static const char *kind_name(MediaKind kind) {
  return kind == MEDIA_VIDEO ? "a video" : kind == MEDIA_IMAGE ? "a picture" : "a frame folder";
}

static Status check_paths(const TranslateOptions *options, Error *error) {
  MediaKind from = media_kind(options->input), to = media_kind(options->output);
  if (path_is_same(options->input, options->output))
    return error_set(error, ERROR_USAGE, "%s: is the input too; choose another output",
                     options->output);
  if (from != to)
    return error_set(
        error, ERROR_USAGE,
        "%s: names %s, but %s is %s; both must be videos (by extension), PNG pictures, "
        "or folders of PNG frames",
        options->output, kind_name(to), options->input, kind_name(from));
  return OK;
}

static Status open_model(Translation *t, Error *error) {
  Status status = OK;
  const TranslateOptions *options = t->options;
  TRY(checkpoint_open_path(options->checkpoint, &t->checkpoint, error));
  TRY(device_open_default(options->device, options->threads, &t->backend, error));
  TRY(inference_of_checkpoint(t->checkpoint, options->ema, options->precision, t->backend,
                              &t->inference, error));
  int64_t channels = inference_source_channels(t->inference);
  if (channels != 3)
    FAIL(error, ERROR_USAGE,
         "%s: its generator reads %lld stacked inputs (%lld channels); translate gives one (3 "
         "channels)",
         t->checkpoint->path, (long long)(channels / 3), (long long)channels);
done:
  return status;
}

static Status open_media(Translation *t, Error *error) {
  Status status = OK;
  const TranslateOptions *options = t->options;
  TRY(video_open(options->input, NULL, &t->reader, error));
  const VideoInfo *info = video_info(t->reader);
  bool video = info->kind == MEDIA_VIDEO;
  int scale = (int)inference_scale(t->inference);
  t->width = info->width * scale;
  t->height = info->height * scale;
  InferenceShape shape = {1, info->height, info->width, 3, t->height, t->width};
  VideoWriterOptions how = {.width = t->width,
                            .height = t->height,
                            .fps_numerator = info->fps_numerator,
                            .fps_denominator = info->fps_denominator,
                            .codec = options->codec,
                            .quality = options->quality,
                            .audio_from = video && info->has_audio ? options->input : NULL,
                            .timing_from = video ? options->input : NULL};
  t->samples = (size_t)t->height * (size_t)t->width * 3;
  TRY(mem_bulk((size_t)info->height * (size_t)info->width * 3, "a frame", (void **)&t->source,
               error));
  TRY(mem_bulk(t->samples, "a frame", (void **)&t->output_bytes, error));
  TRY(mem_bulk(t->samples * sizeof(float), "a frame", (void **)&t->output, error));
  TRY(inference_stream_begin(t->inference, &shape, error));
  TRY(video_writer_open(options->output, &how, &t->writer, error));
done:
  return status;
}

static Status translate_frames(Translation *t, Error *error) {
  Status status = OK;
  bool end = false;
  int64_t done = 0;
  Progress *progress = progress_new("translate", 0, video_info(t->reader)->frames);
  for (;;) {
    TRY(video_read(t->reader, t->source, &end, error));
    if (end) break;
    TRY(inference_stream_frame(t->inference, t->source, t->output, error));
    frames_to_u8(t->output, t->samples, t->output_bytes);
    TRY(video_write(t->writer, t->output_bytes, video_frame_name(t->reader), error));
    progress_update(progress, ++done, NULL);
  }
  if (done == 0) FAIL(error, ERROR_DATA, "%s: holds no frames", t->options->input);
  VideoWriter *writer = t->writer;
  t->writer = NULL;
  TRY(video_writer_finish(writer, error));
done:
  progress_end(progress);
  if (status == OK)
    log_info("%s: %lld frame%s of %dx%d", t->options->output, (long long)done, done == 1 ? "" : "s",
             t->width, t->height);
  return status;
}

static void tear_down(Translation *t) {
  video_writer_abandon(t->writer);
  video_close(t->reader);
  free(t->source);
  free(t->output_bytes);
  free(t->output);
  inference_free(t->inference);
  if (t->backend) t->backend->free(t->backend);
  checkpoint_close(t->checkpoint);
}

Status translate_run(const TranslateOptions *options, Error *error) {
  Status status = OK;
  Translation t = {.options = options};
  TRY(check_paths(options, error));
  TRY(open_model(&t, error));
  TRY(open_media(&t, error));
  TRY(translate_frames(&t, error));
done:
  tear_down(&t);
  return status;
}
