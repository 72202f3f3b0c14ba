/* Opens the videos of a series and reads them in step. */
#include <stdlib.h>

#include "base/log.h"
#include "base/text.h"
#include "data/build/pack.h"

size_t stream_bytes(const Stream *stream) {
  const VideoInfo *info = video_info(stream->reader);
  return (size_t)info->width * (size_t)info->height * 3;
}

const char *series_path(const Series *series) {
  return series->streams[0].path;
}

static bool is_filtered(const PackPlan *plan) {
  return plan->options->source_filter || plan->target_filter;
}

/* Streams whose lengths and rates must agree; the probe is compared with the first input. */
static int sides(const Series *series) {
  return series->inputs + (series->target >= 0);
}

/* --- Lengths ---------------------------------------------------------------------------------- */

static void append_lengths(const Series *series, Text *out) {
  for (int i = 0; i < sides(series); i++)
    text_append(out, "%s%s %s has %lld frames", i ? ", " : "", series->streams[i].side,
                series->streams[i].path, (long long)series->streams[i].length);
}

static bool lengths_agree(const Series *series, int streams) {
  for (int i = 1; i < streams; i++)
    if (series->streams[i].length != series->streams[0].length) return false;
  return true;
}

static Status lengths_differ(const PackPlan *plan, const Series *series, Error *error) {
  Text text = {0};
  append_lengths(series, &text);
  if (lengths_agree(series, sides(series)))
    error_set(
        error, ERROR_DATA,
        "pack: --source-filter changes the number of frames: %s, %lld without the filter; "
        "scene cuts and black frames are found without it: switch that off with --detect none",
        text.data, (long long)series->streams[series->analysed].length);
  else
    error_set(error, ERROR_DATA, "pack: %s differ in length: %s%s",
              series->target < 0 ? "the inputs" : "source and target", text.data,
              is_filtered(plan) ? " (after the filters)" : "");
  text_free(&text);
  return ERROR_DATA;
}

/* Compares the lengths that are known before hours of decoding. Frame folders are counted exactly;
 * containers may report a wrong length; filters may change both. */
static Status compare_reported_lengths(const PackPlan *plan, Series *series, Error *error) {
  Status status = OK;
  Text text = {0};
  bool exact = true, known = !is_filtered(plan);
  series->reported = -1;
  for (int i = 0; i < sides(series); i++) {
    const VideoInfo *info = video_info(series->streams[i].reader);
    int64_t frames = info->frames;
    series->streams[i].length = frames;
    known = known && frames > 0;
    exact = exact && info->kind != MEDIA_VIDEO;
    if (frames > 0 && (series->reported < 0 || frames < series->reported))
      series->reported = frames;
  }
  if (known && !lengths_agree(series, sides(series))) {
    if (exact) TRY(lengths_differ(plan, series, error));
    append_lengths(series, &text);
    if (!plan->inspected)
      log_warning(
          "pack: source and target seem to differ in length: %s; if so, pack will fail at the "
          "end of the shorter one",
          text.data);
  }
  for (int i = 0; i < sides(series); i++) series->streams[i].length = 0;
done:
  text_free(&text);
  return status;
}

/* --- Frame rates ------------------------------------------------------------------------------ */

/* Determines the common frame rate. Frame folders have none and take that of the other side. */
static Status check_rates(const PackPlan *plan, Series *series, Error *error) {
  const Stream *rated = NULL;
  series->fps_denominator = 1;
  for (int i = 0; i < series->count; i++) {
    const Stream *stream = &series->streams[i];
    const VideoInfo *info = video_info(stream->reader);
    if (info->fps_numerator == 0) continue;
    bool equal = !rated || (int64_t)info->fps_numerator * series->fps_denominator ==
                               (int64_t)series->fps_numerator * info->fps_denominator;
    if (!equal && i >= sides(series))
      return error_set(error, ERROR_DATA,
                       "pack: --source-filter changes the frame rate of %s from %d/%d to %d/%d; "
                       "scene cuts and black frames are found without it: switch that off with "
                       "--detect none",
                       stream->path, info->fps_numerator, info->fps_denominator,
                       series->fps_numerator, series->fps_denominator);
    if (!equal)
      return error_set(error, ERROR_DATA, "pack: frame rates differ: %s has %d/%d, %s has %d/%d%s",
                       rated->path, series->fps_numerator, series->fps_denominator, stream->path,
                       info->fps_numerator, info->fps_denominator,
                       is_filtered(plan) ? " (after the filters)" : "");
    if (rated) continue;
    rated = stream;
    series->fps_numerator = info->fps_numerator;
    series->fps_denominator = info->fps_denominator;
  }
  return OK;
}

/* --- Opening ---------------------------------------------------------------------------------- */

static Status open_stream(Series *series, int at, const char *path, const char *side,
                          const VideoReaderOptions *options, Error *error) {
  Stream *stream = &series->streams[at];
  *stream = (Stream){.path = path, .side = side};
  if (at >= series->count) series->count = at + 1;
  return video_open(path, options, &stream->reader, error);
}

/* Logs that a further video takes the first one's size. */
static void report_size(const PackPlan *plan, const Stream *stream) {
  const VideoInfo *info = video_info(stream->reader);
  int64_t across = (int64_t)info->file_width * plan->height;
  int64_t down = (int64_t)info->file_height * plan->width;
  int64_t apart = across > down ? across - down : down - across;
  if (apart * 50 > down)
    log_warning(
        "pack: %s: %dx%d is stretched to %dx%d, the size of all clips; crop the video first "
        "if its pictures must keep their proportions",
        stream->path, info->file_width, info->file_height, plan->width, plan->height);
  else if (!plan->options->width && !plan->options->height &&
           (info->file_width != plan->width || info->file_height != plan->height))
    log_info("pack: %s: %dx%d is scaled to %dx%d, the size of the first video", stream->path,
             info->file_width, info->file_height, plan->width, plan->height);
}

/* Opens the side that determines the size of all clips: the target, or the only side. */
static Status open_first(PackPlan *plan, int index, Series *series, Error *error) {
  Status status = OK;
  const PackOptions *o = plan->options;
  int width = plan->width ? plan->width : o->width;
  int height = plan->width ? plan->height : o->height;
  bool source = !plan->has_target, first = plan->width == 0;
  const char *path = o->target_count > 0 ? o->targets[index] : o->sources[index];
  VideoReaderOptions options = {source ? o->source_filter : plan->target_filter, width, height};
  int at = source ? 0 : series->inputs;
  TRY(open_stream(series, at, path, source ? "source" : "target", &options, error));
  const VideoInfo *info = video_info(series->streams[at].reader);
  plan->width = info->width;
  plan->height = info->height;
  if (!first && !plan->inspected) report_size(plan, &series->streams[at]);
  if (info->width % plan->scale || info->height % plan->scale)
    FAIL(error, ERROR_USAGE,
         "pack: --scale %d does not divide the target size %dx%d; change --size", plan->scale,
         info->width, info->height);
done:
  return status;
}

Status series_open(PackPlan *plan, int index, Series *series, Error *error) {
  Status status = OK;
  const PackOptions *o = plan->options;
  *series = (Series){.inputs = plan->inputs, .target = plan->has_target ? plan->inputs : -1};
  TRY(open_first(plan, index, series, error));
  VideoReaderOptions source = {o->source_filter, plan->width / plan->scale,
                               plan->height / plan->scale};
  for (int i = plan->has_target ? 0 : 1; i < plan->inputs; i++)
    TRY(open_stream(series, i, i == 0 ? o->sources[index] : o->also[i - 1], "source", &source,
                    error));
  if (plan->has_probe) {
    series->analysed = series->count;
    source.filter = NULL;
    TRY(open_stream(series, series->analysed, o->sources[index], "source", &source, error));
  }
  TRY(check_rates(plan, series, error));
  TRY(compare_reported_lengths(plan, series, error));
done:
  return status;
}

void series_close(Series *series) {
  for (int i = 0; i < series->count; i++) video_close(series->streams[i].reader);
  series->count = 0;
}

/* --- Reading ---------------------------------------------------------------------------------- */

static Status read_step(Series *series, uint8_t *const *frames, bool *ended, Error *error) {
  Status status = OK;
  *ended = true;
  for (int i = 0; i < series->count; i++) {
    Stream *stream = &series->streams[i];
    if (stream->ended) continue;
    TRY(video_read(stream->reader, frames[i], &stream->ended, error));
    if (stream->ended) continue;
    stream->length++;
    *ended = false;
  }
done:
  return status;
}

Status series_read(const PackPlan *plan, Series *series, uint8_t *const *frames, bool *ended,
                   Error *error) {
  Status status = OK;
  TRY(read_step(series, frames, ended, error));
  if (lengths_agree(series, series->count)) return OK;
  while (!*ended) TRY(read_step(series, frames, ended, error)); /* for the message */
  status = lengths_differ(plan, series, error);
done:
  return status;
}
