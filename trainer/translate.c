/* Video, picture or frame folder to the same. */
#include <stdlib.h>
#include <string.h>

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
  int input_count;
  VideoReader **readers; /* [input_count], the first one says what the output is like */
  VideoWriter *writer;
  int width, height;     /* of the output: the input's, times the model's scale */
  size_t pixels;         /* of an input */
  uint8_t *frame;        /* u8 [pixels,3], of one input */
  uint8_t *source;       /* u8 [pixels,3 * input_count], the inputs side by side */
  uint8_t *output_bytes; /* u8 [height,width,3] */
  float *output;
  size_t samples; /* height * width * 3 */
} Translation;

static const char *kind_name(MediaKind kind) {
  return kind == MEDIA_VIDEO ? "a video" : kind == MEDIA_IMAGE ? "a picture" : "a frame folder";
}

static Status check_paths(const TranslateOptions *options, Error *error) {
  MediaKind from = media_kind(options->input), to = media_kind(options->output);
  for (int i = -1; i < options->further_count; i++)
    if (path_is_same(i < 0 ? options->input : options->further[i], options->output))
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
  int64_t inputs = inference_source_channels(t->inference) / 3;
  if (inputs != t->input_count)
    FAIL(error, ERROR_USAGE,
         "%s: its generator reads %lld input%s, %d %s given; IN is the first, --also PATH each "
         "further one",
         t->checkpoint->path, (long long)inputs, inputs == 1 ? "" : "s", t->input_count,
         t->input_count == 1 ? "is" : "are");
done:
  return status;
}

static const char *input_path(const Translation *t, int index) {
  return index == 0 ? t->options->input : t->options->further[index - 1];
}

static Status open_inputs(Translation *t, Error *error) {
  Status status = OK;
  t->readers = mem_new((size_t)t->input_count, sizeof(VideoReader *));
  for (int i = 0; i < t->input_count; i++) {
    TRY(video_open(input_path(t, i), NULL, &t->readers[i], error));
    const VideoInfo *first = video_info(t->readers[0]), *info = video_info(t->readers[i]);
    if (info->width != first->width || info->height != first->height)
      FAIL(error, ERROR_DATA, "%s: is %dx%d, but %s is %dx%d; inputs of a model have one size",
           input_path(t, i), info->width, info->height, input_path(t, 0), first->width,
           first->height);
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
  t->width = info->width * scale;
  t->height = info->height * scale;
  InferenceShape shape = {1, info->height, info->width, 3 * t->input_count, t->height, t->width};
  VideoWriterOptions how = {.width = t->width,
                            .height = t->height,
                            .fps_numerator = info->fps_numerator,
                            .fps_denominator = info->fps_denominator,
                            .codec = options->codec,
                            .quality = options->quality,
                            .audio_from = video && info->has_audio ? options->input : NULL,
                            .timing_from = video ? options->input : NULL};
  t->samples = (size_t)t->height * (size_t)t->width * 3;
  t->pixels = (size_t)info->height * (size_t)info->width;
  TRY(mem_bulk(t->pixels * 3, "a frame", (void **)&t->frame, error));
  TRY(mem_bulk(t->pixels * 3 * (size_t)t->input_count, "a frame", (void **)&t->source, error));
  TRY(mem_bulk(t->samples, "a frame", (void **)&t->output_bytes, error));
  TRY(mem_bulk(t->samples * sizeof(float), "a frame", (void **)&t->output, error));
  TRY(inference_stream_begin(t->inference, &shape, error));
  TRY(video_writer_open(options->output, &how, &t->writer, error));
done:
  return status;
}

/* The next frame of all inputs, as they lie in a dataset; all have to end together. */
static Status read_source(Translation *t, bool *end, Error *error) {
  Status status = OK;
  size_t stride = 3 * (size_t)t->input_count;
  for (int i = 0; i < t->input_count; i++) {
    bool over = false;
    TRY(video_read(t->readers[i], t->frame, &over, error));
    if (i == 0) *end = over;
    if (over != *end)
      FAIL(error, ERROR_DATA, "%s: is %s than %s; inputs of a model have one length",
           input_path(t, i), over ? "shorter" : "longer", input_path(t, 0));
    for (size_t p = 0; !over && p < t->pixels; p++)
      memcpy(t->source + p * stride + 3 * (size_t)i, t->frame + 3 * p, 3);
  }
done:
  return status;
}

static Status translate_frames(Translation *t, Error *error) {
  Status status = OK;
  bool end = false;
  int64_t done = 0;
  Progress *progress = progress_new("translate", 0, video_info(t->readers[0])->frames);
  for (;;) {
    TRY(read_source(t, &end, error));
    if (end) break;
    TRY(inference_stream_frame(t->inference, t->source, t->output, error));
    frames_to_u8(t->output, t->samples, t->output_bytes);
    TRY(video_write(t->writer, t->output_bytes, video_frame_name(t->readers[0]), error));
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
  for (int i = 0; t->readers && i < t->input_count; i++) video_close(t->readers[i]);
  free(t->readers);
  free(t->frame);
  free(t->source);
  free(t->output_bytes);
  free(t->output);
  inference_free(t->inference);
  if (t->backend) t->backend->free(t->backend);
  checkpoint_close(t->checkpoint);
}

Status translate_run(const TranslateOptions *options, Error *error) {
  Status status = OK;
  Translation t = {.options = options, .input_count = 1 + options->further_count};
  TRY(check_paths(options, error));
  TRY(open_model(&t, error));
  TRY(open_media(&t, error));
  TRY(translate_frames(&t, error));
done:
  tear_down(&t);
  return status;
}
