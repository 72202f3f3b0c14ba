/* Cuts videos into clips, one series after the other. */
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/build/pack.h"

enum { PROGRESS_EVERY = 16 };

typedef struct Pack {
  PackPlan plan;
  Windows windows;
  DatasetSpec spec;
  int64_t total; /* frames of all series as the containers report, or -1 */
  int64_t done;  /* frames read of all series */
  Tally sum;     /* of the series so far */
} Pack;

/* --- Inspecting all series before anything is written ----------------------------------------- */

static void set_spec(Pack *pack, const Series *series) {
  const PackOptions *o = pack->plan.options;
  const VideoInfo *source = pack->plan.inputs ? video_info(series->streams[0].reader) : NULL;
  const VideoInfo *target =
      series->target >= 0 ? video_info(series->streams[series->target].reader) : NULL;
  pack->spec = (DatasetSpec){
      .shape = {.frames = o->frames,
                .source_height = source ? source->height : 0,
                .source_width = source ? source->width : 0,
                .source_channels = 3 * pack->plan.inputs,
                .target_height = target ? target->height : 0,
                .target_width = target ? target->width : 0},
      .fps_numerator = series->fps_numerator,
      .fps_denominator = series->fps_denominator,
      .clips_per_shard = o->clips_per_shard,
      .deflate = o->deflate,
  };
}

/* Compares a further series' frame rate with the dataset's, that of the first one that has any. */
static Status check_rate(Pack *pack, const Series *series, Error *error) {
  DatasetSpec *spec = &pack->spec;
  if (spec->fps_numerator == 0) {
    spec->fps_numerator = series->fps_numerator;
    spec->fps_denominator = series->fps_denominator;
  }
  if (series->fps_numerator == 0 || (int64_t)series->fps_numerator * spec->fps_denominator ==
                                        (int64_t)spec->fps_numerator * series->fps_denominator)
    return OK;
  if (pack->plan.inputs && pack->plan.has_target)
    return error_set(error, ERROR_DATA,
                     "pack: frame rates differ: %s has %d/%d, the videos before it have %d/%d; "
                     "convert it first, or pack it alone",
                     series_path(series), series->fps_numerator, series->fps_denominator,
                     spec->fps_numerator, spec->fps_denominator);
  log_warning("pack: %s: %d/%d frames per second; the dataset records %d/%d, the rate of the first "
              "video",
              series_path(series), series->fps_numerator, series->fps_denominator,
              spec->fps_numerator, spec->fps_denominator);
  return OK;
}

/* Adds the frames that will be read of a series to the total. */
static void add_total(Pack *pack, const Series *series) {
  const PackOptions *o = pack->plan.options;
  bool stops = series->count == 1 && o->range_end >= 0;
  int64_t frames = stops && series->reported > o->range_end ? o->range_end : series->reported;
  if (frames < 0 || pack->total < 0)
    pack->total = -1;
  else
    pack->total += frames;
}

/* Opens every series once, so that a missing or unfit video is reported before hours of work. */
static Status inspect(Pack *pack, Error *error) {
  Status status = OK;
  Series series = {0};
  for (int i = 0; i < pack->plan.series; i++) {
    TRY(series_open(&pack->plan, i, &series, error));
    if (i == 0) {
      set_spec(pack, &series);
      TRY(windows_init(&pack->windows, &pack->plan, &series, error));
    }
    TRY(check_rate(pack, &series, error));
    add_total(pack, &series);
    series_close(&series);
  }
  pack->plan.inspected = true;
done:
  series_close(&series);
  return status;
}

static Status open_writer(Pack *pack, Error *error) {
  const PackOptions *o = pack->plan.options;
  const char *first = o->source_count > 0 ? o->sources[0] : o->targets[0];
  char *maker = o->command ? mem_string(o->command)
                           : mem_format("pack %s, seed %llu", first, (unsigned long long)o->seed);
  pack->spec.maker = maker;
  Status status = dataset_writer_open(o->out, &pack->spec, &pack->windows.writer,
                                      &pack->windows.already, error);
  pack->spec.maker = NULL;
  free(maker);
  return status;
}

/* --- Summary ---------------------------------------------------------------------------------- */

/* Appends "; 412 duplicates, 35 black frames dropped; 14 scene cuts", without what was not found.
 */
static void append_found(const Tally *tally, Text *out) {
  const struct {
    int64_t count;
    const char *one, *many;
  } dropped[] = {{tally->duplicates, "duplicate", "duplicates"},
                 {tally->black, "black or blank frame", "black or blank frames"},
                 {tally->titles, "title frame", "title frames"}};
  const char *before = "; ";
  for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++) {
    if (dropped[i].count == 0) continue;
    text_append(out, "%s%lld %s", before, (long long)dropped[i].count,
                dropped[i].count == 1 ? dropped[i].one : dropped[i].many);
    before = ", ";
  }
  if (*before == ',') text_append(out, " dropped");
  if (tally->cuts > 0)
    text_append(out, "; %lld scene cut%s", (long long)tally->cuts, tally->cuts == 1 ? "" : "s");
}

static void append_tally(const Pack *pack, const char *name, const Tally *tally, Text *out) {
  text_append(out, "%s: %lld frame%s", name, (long long)tally->frames,
              tally->frames == 1 ? "" : "s");
  append_found(tally, out);
  text_append(out, "; %lld clip%s of %d frame%s", (long long)tally->clips,
              tally->clips == 1 ? "" : "s", pack->spec.shape.frames,
              pack->spec.shape.frames == 1 ? "" : "s");
  if (tally->unused > 0)
    text_append(out, "; %lld frame%s unused (scenes or their ends too short for a clip)",
                (long long)tally->unused, tally->unused == 1 ? "" : "s");
}

static void add_tally(Tally *sum, const Tally *tally) {
  sum->frames += tally->frames;
  sum->duplicates += tally->duplicates;
  sum->black += tally->black;
  sum->titles += tally->titles;
  sum->cuts += tally->cuts;
  sum->clips += tally->clips;
  sum->unused += tally->unused;
}

/* The detection that took most frames; scene cuts took the unused ones. */
static PackDetect largest_loss(const Tally *sum) {
  PackDetect detect = PACK_DETECT_NOTHING;
  int64_t most = 0;
  const struct {
    int64_t frames;
    PackDetect detect;
  } losses[] = {{sum->duplicates, PACK_DETECT_DUPLICATES},
                {sum->black, PACK_DETECT_BLACK},
                {sum->titles, PACK_DETECT_TITLES},
                {sum->cuts ? sum->unused : 0, PACK_DETECT_CUTS}};
  for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
    if (losses[i].frames <= most) continue;
    most = losses[i].frames;
    detect = losses[i].detect;
  }
  return detect;
}

static Status no_clips(const Pack *pack, const char *path, Error *error) {
  const Tally *sum = &pack->sum;
  Text text = {0};
  int frames = pack->spec.shape.frames;
  PackDetect loss = sum->frames >= frames ? largest_loss(sum) : PACK_DETECT_NOTHING;
  append_found(sum, &text);
  text_append(&text, "; a clip needs %d%s (--frames)", frames,
              sum->cuts + sum->black + sum->titles > 0 ? " in one scene" : "");
  if (loss) {
    text_append(&text, "; make shorter clips, or drop less: --detect ");
    pack_append_detect(pack->plan.detect & ~loss, &text);
  }
  error_set(error, ERROR_DATA, "pack: no clip: %s: %lld frames in the range%s",
            pack->plan.series > 1 ? "all videos together" : path, (long long)sum->frames,
            text.data);
  text_free(&text);
  return ERROR_DATA;
}

/* --- Packing ---------------------------------------------------------------------------------- */

static Status report(const Pack *pack, Error *error) {
  const PackOptions *o = pack->plan.options;
  return build_report(o->progress, o->progress_context, pack->done, pack->total, "frames", error);
}

/* Reads a series. Several streams are read to their ends, also after the range, since their lengths
 * must agree. */
static Status pack_frames(Pack *pack, Series *series, int64_t *frames, Error *error) {
  Status status = OK;
  const PackOptions *o = pack->plan.options;
  uint8_t *next[MAX_STREAMS];
  for (int64_t position = 0;; position++) {
    bool ended = false;
    *frames = position;
    if (series->count == 1 && o->range_end >= 0 && position >= o->range_end) break;
    windows_next(&pack->windows, next);
    TRY(series_read(&pack->plan, series, next, &ended, error));
    if (ended) break;
    if (pack->done++ % PROGRESS_EVERY == 0) TRY(report(pack, error));
    if (position < o->range_begin || (o->range_end >= 0 && position >= o->range_end)) continue;
    TRY(windows_take(&pack->windows, series, position, error));
  }
  TRY(windows_end_scene(&pack->windows, series, error));
done:
  return status;
}

static Status pack_series(Pack *pack, int index, Error *error) {
  Status status = OK;
  Series series = {0};
  Text line = {0};
  int64_t frames = 0;
  int64_t end = pack->plan.options->range_end;
  pack->windows.tally = (Tally){0};
  TRY(series_open(&pack->plan, index, &series, error));
  TRY(pack_frames(pack, &series, &frames, error));
  const Tally *tally = &pack->windows.tally;
  if (end >= 0 && frames < end)
    log_warning("pack: --range ends at frame %lld, but %s has only %lld frames", (long long)end,
                series_path(&series), (long long)frames);
  append_tally(pack, series_path(&series), tally, &line);
  log_info("%s", line.data);
  add_tally(&pack->sum, tally);
  if (index + 1 < pack->plan.series) goto done;
  if (pack->sum.clips == 0) TRY(no_clips(pack, series_path(&series), error));
  TRY(report(pack, error));
done:
  text_free(&line);
  series_close(&series);
  return status;
}

Status pack_run(const PackOptions *options, Error *error) {
  Status status = OK;
  Pack pack = {0};
  TRY(pack_plan(options, &pack.plan, error));
  TRY(inspect(&pack, error));
  TRY(open_writer(&pack, error));
  for (int i = 0; i < pack.plan.series; i++) TRY(pack_series(&pack, i, error));
  DatasetWriter *writer = pack.windows.writer;
  pack.windows.writer = NULL;
  TRY(dataset_writer_finish(writer, error));
done:
  /* Another run would fail alike, so the shards of a bad pair are removed. */
  if (status == ERROR_DATA)
    dataset_writer_discard(pack.windows.writer);
  else
    dataset_writer_abandon(pack.windows.writer);
  windows_free(&pack.windows);
  return status;
}
