/* Cuts paired videos into clips. All sides are read in step, frame by frame, to their ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/log.h"
#include "base/memory.h"
#include "data/build/build.h"
#include "data/dataset/dataset.h"
#include "data/video/video.h"

enum { MAX_CLIP_FRAMES = 4096, MAX_SIDE = 8192, MAX_SCALE = 16, PROGRESS_EVERY = 16 };

/* A source or the target, as a stream of frames. */
typedef struct Side {
  const char *path;
  VideoReader *reader;
  size_t bytes;    /* of a frame */
  uint8_t *window; /* [frames,height,width,3] the latest frames, oldest first */
  int64_t length;  /* frames read */
  bool ended;
} Side;

typedef struct Pack {
  const PackOptions *options;
  Side sides[PACK_MAX_SOURCES + 1]; /* the sources, then the target */
  int count;                        /* of sides */
  int stride;
  int64_t total;          /* frames as the containers report, or -1 */
  int in_window;          /* frames in every window */
  int64_t position;       /* frames read of every side */
  int64_t clips, already; /* cut so far; in complete shards of an interrupted run */
  uint8_t *source;        /* [frames,height,width,3 * sources], one clip */
  DatasetWriter *writer;
} Pack;

/* --- Options ---------------------------------------------------------------------------------- */

static bool parse_number(const char *text, size_t length, int64_t *out) {
  int64_t value = 0;
  if (length == 0 || length > 15) return false;
  for (size_t i = 0; i < length; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    value = value * 10 + (text[i] - '0');
  }
  *out = value;
  return true;
}

Status pack_parse_range(const char *text, int64_t *begin, int64_t *end, Error *error) {
  const char *colon = strchr(text, ':');
  int64_t a = 0, b = -1;
  if (!colon || (colon == text && !colon[1])) goto bad;
  if (colon > text && !parse_number(text, (size_t)(colon - text), &a)) goto bad;
  if (colon[1] && (!parse_number(colon + 1, strlen(colon + 1), &b) || b <= a)) goto bad;
  *begin = a;
  *end = b;
  return OK;
bad:
  return error_set(
      error, ERROR_USAGE,
      "pack: --range %s: expected A:B, A: or :B with whole numbers 0 <= A < B (frames, B "
      "excluded)",
      text);
}

static Status check_numbers(const PackOptions *o, Error *error) {
  if (o->frames < 1 || o->frames > MAX_CLIP_FRAMES)
    return error_set(error, ERROR_USAGE, "pack: --frames %d: expected 1 to %d", o->frames,
                     MAX_CLIP_FRAMES);
  if (o->stride < 0)
    return error_set(error, ERROR_USAGE,
                     "pack: --stride %d: expected 0 (the frames per clip) or more", o->stride);
  if (o->width < 0 || o->height < 0 || o->width > MAX_SIDE || o->height > MAX_SIDE)
    return error_set(error, ERROR_USAGE, "pack: --size %dx%d: expected at most %dx%d", o->width,
                     o->height, MAX_SIDE, MAX_SIDE);
  if (o->scale < 0 || o->scale > MAX_SCALE)
    return error_set(error, ERROR_USAGE, "pack: --scale %d: expected 1 to %d", o->scale, MAX_SCALE);
  if (o->range_begin < 0 || (o->range_end != -1 && o->range_end <= o->range_begin))
    return error_set(error, ERROR_USAGE, "pack: --range %lld:%lld: expected 0 <= A < B",
                     (long long)o->range_begin, (long long)o->range_end);
  return OK;
}

static Status check_options(const PackOptions *o, Error *error) {
  if (o->source_count < 1 || o->source_count > PACK_MAX_SOURCES)
    return error_set(error, ERROR_USAGE, "pack: %d sources (--source), expected 1 to %d",
                     o->source_count, PACK_MAX_SOURCES);
  for (int i = 0; i < o->source_count; i++)
    if (!o->sources[i] || !o->sources[i][0])
      return error_set(error, ERROR_USAGE, "pack: --source number %d is empty", i + 1);
  if (!o->target && !o->target_filter && !o->source_filter && (o->scale == 0 || o->scale == 1))
    return error_set(
        error, ERROR_USAGE,
        "pack: source and target would be equal; give --target, --target-filter or --scale");
  return check_numbers(o, error);
}

/* --- Lengths ---------------------------------------------------------------------------------- */

static bool lengths_agree(const Pack *pack) {
  for (int i = 1; i < pack->count; i++)
    if (pack->sides[i].length != pack->sides[0].length) return false;
  return true;
}

static void append_lengths(const Pack *pack, Text *out) {
  for (int i = 0; i < pack->count; i++)
    text_append(out, "%s%s %s has %lld frames", i ? ", " : "",
                i == pack->count - 1 ? "target" : "source", pack->sides[i].path,
                (long long)pack->sides[i].length);
}

static bool is_filtered(const Pack *pack) {
  return pack->options->source_filter || pack->options->target_filter;
}

static Status lengths_differ(const Pack *pack, Error *error) {
  Text text = {0};
  append_lengths(pack, &text);
  error_set(error, ERROR_DATA, "pack: source and target differ in length: %s%s", text.data,
            is_filtered(pack) ? " (after the filters)" : "");
  text_free(&text);
  return ERROR_DATA;
}

/* Compares the lengths that are known before hours of decoding. Frame folders are counted exactly;
 * containers may report a wrong length; filters may change both. */
static Status compare_reported_lengths(Pack *pack, Error *error) {
  Status status = OK;
  Text text = {0};
  bool exact = true, known = !is_filtered(pack);
  for (int i = 0; i < pack->count; i++) {
    const VideoInfo *info = video_info(pack->sides[i].reader);
    pack->sides[i].length = info->frames;
    known = known && info->frames > 0;
    exact = exact && info->kind != MEDIA_VIDEO;
  }
  if (known && !lengths_agree(pack)) {
    if (exact) TRY(lengths_differ(pack, error));
    append_lengths(pack, &text);
    log_warning(
        "pack: source and target seem to differ in length: %s; if so, pack will fail at the "
        "end of the shorter one",
        text.data);
  }
  for (int i = 0; i < pack->count; i++) pack->sides[i].length = 0;
done:
  text_free(&text);
  return status;
}

/* --- Opening source and target ---------------------------------------------------------------- */

static Status open_side(Side *side, const char *path, const VideoReaderOptions *options,
                        int clip_frames, Error *error) {
  Status status = OK;
  void *window = NULL;
  side->path = path;
  TRY(video_open(path, options, &side->reader, error));
  const VideoInfo *info = video_info(side->reader);
  side->bytes = (size_t)info->width * (size_t)info->height * 3;
  TRY(mem_bulk(side->bytes * (size_t)clip_frames, "a clip's frames", &window, error));
  side->window = window;
done:
  return status;
}

/* Determines the common frame rate. Frame folders have none and take that of the other side. */
static Status check_rates(const Pack *pack, int *numerator, int *denominator, Error *error) {
  const Side *rated = NULL;
  *numerator = 0;
  *denominator = 1;
  for (int i = 0; i < pack->count; i++) {
    const Side *side = &pack->sides[i];
    const VideoInfo *info = video_info(side->reader);
    if (info->fps_numerator == 0) continue;
    if (rated &&
        (int64_t)info->fps_numerator * *denominator != (int64_t)*numerator * info->fps_denominator)
      return error_set(error, ERROR_DATA, "pack: frame rates differ: %s has %d/%d, %s has %d/%d%s",
                       rated->path, *numerator, *denominator, side->path, info->fps_numerator,
                       info->fps_denominator, is_filtered(pack) ? " (after the filters)" : "");
    if (!rated) {
      rated = side;
      *numerator = info->fps_numerator;
      *denominator = info->fps_denominator;
    }
  }
  return OK;
}

/* Opens the target first: sources are resized to its size, divided by the scale. */
static Status open_sides(Pack *pack, Error *error) {
  Status status = OK;
  const PackOptions *o = pack->options;
  int scale = o->scale ? o->scale : 1;
  VideoReaderOptions target = {o->target_filter, o->width, o->height};
  Side *last = &pack->sides[o->source_count];
  pack->count = o->source_count + 1;
  TRY(open_side(last, o->target ? o->target : o->sources[0], &target, o->frames, error));
  const VideoInfo *info = video_info(last->reader);
  if (info->width % scale || info->height % scale)
    FAIL(error, ERROR_USAGE,
         "pack: --scale %d does not divide the target size %dx%d; change --size", scale,
         info->width, info->height);
  VideoReaderOptions source = {o->source_filter, info->width / scale, info->height / scale};
  for (int i = 0; i < o->source_count; i++)
    TRY(open_side(&pack->sides[i], o->sources[i], &source, o->frames, error));
  TRY(compare_reported_lengths(pack, error));
  pack->total = -1;
  for (int i = 0; i < pack->count; i++) {
    int64_t reported = video_info(pack->sides[i].reader)->frames;
    if (reported > 0 && (pack->total < 0 || reported < pack->total)) pack->total = reported;
  }
done:
  return status;
}

static Status open_writer(Pack *pack, Error *error) {
  Status status = OK;
  const PackOptions *o = pack->options;
  const VideoInfo *source = video_info(pack->sides[0].reader);
  const VideoInfo *target = video_info(pack->sides[pack->count - 1].reader);
  void *clip = NULL;
  DatasetSpec spec = {
      .shape = {.frames = o->frames,
                .source_height = source->height,
                .source_width = source->width,
                .source_channels = 3 * o->source_count,
                .target_height = target->height,
                .target_width = target->width},
      .clips_per_shard = o->clips_per_shard,
      .deflate = o->deflate,
  };
  char *maker = o->command
                    ? mem_string(o->command)
                    : mem_format("pack %s, seed %llu", o->sources[0], (unsigned long long)o->seed);
  spec.maker = maker;
  TRY(check_rates(pack, &spec.fps_numerator, &spec.fps_denominator, error));
  TRY(mem_bulk(clip_source_bytes(&spec.shape), "a clip's source", &clip, error));
  pack->source = clip;
  TRY(dataset_writer_open(o->out, &spec, &pack->writer, &pack->already, error));
done:
  free(maker);
  return status;
}

/* --- Frames ----------------------------------------------------------------------------------- */

/* Reads the next frame of every side into its window; *ended if all sides have ended. */
static Status read_frames(Pack *pack, bool *ended, Error *error) {
  Status status = OK;
  *ended = true;
  for (int i = 0; i < pack->count; i++) {
    Side *side = &pack->sides[i];
    if (side->ended) continue;
    TRY(video_read(side->reader, side->window + side->bytes * (size_t)pack->in_window, &side->ended,
                   error));
    if (side->ended) continue;
    side->length++;
    *ended = false;
  }
done:
  return status;
}

/* Fails with the lengths of all sides, reading the longer ones to their ends first. */
static Status fail_with_lengths(Pack *pack, Error *error) {
  Status status = OK;
  pack->in_window = 0;
  for (bool ended = false; !ended;) TRY(read_frames(pack, &ended, error));
  status = lengths_differ(pack, error);
done:
  return status;
}

/* --- Clips ------------------------------------------------------------------------------------ */

/* Interleaves the sources along the channels: three of each per pixel. */
static const uint8_t *stack_sources(const Pack *pack) {
  int sources = pack->count - 1;
  if (sources == 1) return pack->sides[0].window;
  size_t pixels = pack->sides[0].bytes / 3 * (size_t)pack->options->frames;
  for (int s = 0; s < sources; s++) {
    const uint8_t *from = pack->sides[s].window;
    uint8_t *to = pack->source + 3 * s;
    for (size_t p = 0; p < pixels; p++, from += 3, to += (size_t)3 * (size_t)sources)
      memcpy(to, from, 3);
  }
  return pack->source;
}

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash && slash[1] ? slash + 1 : path;
}

static Status write_clip(Pack *pack, int64_t first_frame, Error *error) {
  ClipName name = {.start_frame = first_frame};
  const char *origin = base_name(pack->sides[0].path);
  if (pack->clips++ < pack->already) return OK; /* in a complete shard already */
  snprintf(name.id, sizeof name.id, "%.40s@%lld", origin, (long long)first_frame);
  snprintf(name.origin, sizeof name.origin, "%.180s", pack->sides[0].path);
  return dataset_writer_add(pack->writer, stack_sources(pack), pack->sides[pack->count - 1].window,
                            &name, error);
}

/* Advances the windows by the stride. Returns how many unread frames a longer stride skips. */
static int64_t advance_windows(Pack *pack) {
  int frames = pack->options->frames, kept = pack->stride < frames ? frames - pack->stride : 0;
  for (int i = 0; i < pack->count; i++) {
    Side *side = &pack->sides[i];
    memmove(side->window, side->window + side->bytes * (size_t)(frames - kept),
            side->bytes * (size_t)kept);
  }
  pack->in_window = kept;
  return pack->stride > frames ? pack->stride - frames : 0;
}

static void report(const Pack *pack) {
  const PackOptions *o = pack->options;
  if (o->progress) o->progress(o->progress_context, pack->position, pack->total, "frames");
}

/* Reads all sides to their ends, also after the range, since their lengths must agree. */
static Status pack_frames(Pack *pack, Error *error) {
  Status status = OK;
  const PackOptions *o = pack->options;
  int64_t skip = o->range_begin, dropped = 0;
  for (;; pack->position++) {
    bool ended;
    TRY(read_frames(pack, &ended, error));
    if (!lengths_agree(pack)) TRY(fail_with_lengths(pack, error));
    if (ended) break;
    bool after_range = o->range_end >= 0 && pack->position >= o->range_end;
    if (pack->position % PROGRESS_EVERY == 0) report(pack);
    if (after_range) continue;
    if (skip > 0) {
      skip--;
      continue;
    }
    if (++pack->in_window < o->frames) continue;
    TRY(write_clip(pack, pack->position + 1 - o->frames, error));
    skip = advance_windows(pack);
  }
  dropped = pack->in_window -
            (pack->clips > 0 && pack->stride < o->frames ? o->frames - pack->stride : 0);
  if (pack->clips == 0)
    FAIL(error, ERROR_DATA,
         "%s: %lld frames, %lld of them in the range; a clip needs %d (--frames)",
         pack->sides[0].path, (long long)pack->position, (long long)pack->in_window, o->frames);
  if (o->range_end >= 0 && pack->position < o->range_end)
    log_warning("pack: --range ends at frame %lld, but the video has only %lld frames",
                (long long)o->range_end, (long long)pack->position);
  if (dropped > 0)
    log_info("pack: unused frames at the end, too few for a clip: %lld", (long long)dropped);
  report(pack);
done:
  return status;
}

Status pack_run(const PackOptions *options, Error *error) {
  Status status = OK;
  Pack pack = {.options = options};
  TRY(check_options(options, error));
  pack.stride = options->stride ? options->stride : options->frames;
  TRY(open_sides(&pack, error));
  TRY(open_writer(&pack, error));
  TRY(pack_frames(&pack, error));
  DatasetWriter *writer = pack.writer;
  pack.writer = NULL;
  TRY(dataset_writer_finish(writer, error));
done:
  /* Another run would fail alike, so the shards of a bad pair are removed. */
  if (status == ERROR_DATA)
    dataset_writer_discard(pack.writer);
  else
    dataset_writer_abandon(pack.writer);
  free(pack.source);
  for (int i = 0; i < pack.count; i++) {
    video_close(pack.sides[i].reader);
    free(pack.sides[i].window);
  }
  return status;
}
