/* The commands synth, pack, join and verify: creating and checking datasets. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/signals.h"
#include "data/build/build.h"
#include "data/build/looks.h"
#include "data/dataset/dataset.h"
#include "data/video/video.h"
#include "trainer/cli/options.h"

/* --- Shared by synth, pack and join ----------------------------------------------------------- */

/* Returns false once a signal has asked the process to stop. */
static bool show_progress(void *context, int64_t done, int64_t total, const char *what) {
  Progress **progress = context;
  if (!*progress) *progress = progress_new(what, done, total);
  progress_update(*progress, done);
  return !signals_stop_requested();
}

static Status report(const char *folder, Error *error) {
  Dataset *dataset = NULL;
  Status status = dataset_open(folder, &dataset, error);
  if (status != OK) return status;
  const DatasetInfo *info = dataset_info(dataset);
  const ClipShape *shape = &info->shape;
  bool target = clip_has_target(shape);
  log_info("%s: %lld clip%s of %d frames, %dx%d, in %d shard%s%s", folder, (long long)info->clips,
           info->clips == 1 ? "" : "s", shape->frames,
           target ? shape->target_width : shape->source_width,
           target ? shape->target_height : shape->source_height, info->shards,
           info->shards == 1 ? "" : "s",
           clip_is_paired(shape) ? ""
           : target              ? " (targets alone)"
                                 : " (sources alone)");
  dataset_close(dataset);
  return OK;
}

enum { SYNTH_FPS = 25 };

#define DEFLATE_OPTION(Values)                                                                     \
  {                                                                                                \
    "deflate", OPTION_FLAG, offsetof(Values, deflate),                                             \
        .help = "compress the clips (deflate), for slow storage"                                   \
  }
#define SHARD_OPTION(Values)                                                                       \
  {                                                                                                \
    "clips-per-shard", OPTION_NUMBER, offsetof(Values, clips_per_shard),                           \
        .maximum = 1000000, .value = "N", .default_text = "0",                                     \
        .help = "clips per shard file; 0: about 256 MiB, at most 2048 clips"                       \
  }

/* --- synth ------------------------------------------------------------------------------------ */

typedef struct Synth {
  const char *out;
  int64_t clips, frames, seed, first_clip, threads, clips_per_shard;
  PictureSize size;
  bool deflate;
} Synth;

static const Option SYNTH_OPTIONS[] = {
    {"OUT", OPTION_ARGUMENT, offsetof(Synth, out), true,
     .help = "dataset folder to create; NAME.mp4: the source side of one clip, as a video"},
    {"clips", OPTION_NUMBER, offsetof(Synth, clips), .minimum = 1, .maximum = 100000000,
     .value = "N", .default_text = "256", .help = "number of clips"},
    {"frames", OPTION_NUMBER, offsetof(Synth, frames), .minimum = 1, .maximum = 4096, .value = "T",
     .default_text = "8", .help = "frames per clip"},
    {"size", OPTION_SIZE, offsetof(Synth, size), .value = "WxH", .default_text = "64x64",
     .help = "frame size, pixels"},
    {"seed", OPTION_NUMBER, offsetof(Synth, seed), .maximum = INT64_MAX, .value = "S",
     .default_text = "1", .help = "seed of an endless series of clips"},
    {"first-clip", OPTION_NUMBER, offsetof(Synth, first_clip), .maximum = INT64_MAX / 2,
     .value = "K", .default_text = "0", .help = "first clip of the series"},
    {"threads", OPTION_NUMBER, offsetof(Synth, threads), .maximum = 1024, .value = "N",
     .default_text = "0", .help = "rendering threads; 0: all processors"},
    DEFLATE_OPTION(Synth),
    SHARD_OPTION(Synth),
};

static bool is_video_name(const char *path) {
  static const char *const ENDINGS[] = {".mp4", ".mkv", ".mov", ".webm", ".avi"};
  const char *dot = strrchr(path, '.');
  for (size_t i = 0; dot && i < sizeof ENDINGS / sizeof *ENDINGS; i++)
    if (strcmp(dot, ENDINGS[i]) == 0) return true;
  return false;
}

/* Writes the source side of one clip as a video: something to translate. */
static Status synth_video(const Synth *synth, Error *error) {
  Status status = OK;
  VideoWriter *writer = NULL;
  uint8_t *source = NULL, *target = NULL;
  int width = synth->size.width, height = synth->size.height;
  VideoWriterOptions options = {.width = width,
                                .height = height,
                                .fps_numerator = SYNTH_FPS,
                                .fps_denominator = 1,
                                .quality = -1};
  size_t frame = (size_t)width * (size_t)height * 3, bytes = (size_t)synth->frames * frame;
  TRY(mem_bulk(bytes, "the source frames", (void **)&source, error));
  TRY(mem_bulk(bytes, "the target frames", (void **)&target, error));
  TRY(video_writer_open(synth->out, &options, &writer, error));
  synth_clip((uint64_t)synth->seed, synth->first_clip, (int)synth->frames, width, height, source,
             target);
  for (int64_t t = 0; t < synth->frames; t++) {
    if (signals_stop_requested())
      FAIL(error, STOPPED, "synth: stopped by a signal; no output is left");
    TRY(video_write(writer, source + (size_t)t * frame, NULL, error));
  }
  VideoWriter *finished = writer;
  writer = NULL;
  TRY(video_writer_finish(finished, error));
done:
  video_writer_abandon(writer);
  free(source);
  free(target);
  return status;
}

static Status run_synth(const void *values, const Invocation *invocation, Error *error) {
  const Synth *synth = values;
  signals_install();
  if (is_video_name(synth->out)) return synth_video(synth, error);
  Progress *progress = NULL;
  SynthOptions options = {.out = synth->out,
                          .clips = synth->clips,
                          .first_clip = synth->first_clip,
                          .frames = (int)synth->frames,
                          .width = synth->size.width,
                          .height = synth->size.height,
                          .seed = (uint64_t)synth->seed,
                          .threads = (int)synth->threads,
                          .deflate = synth->deflate,
                          .clips_per_shard = synth->clips_per_shard,
                          .command = invocation->line,
                          .progress = show_progress,
                          .progress_context = &progress};
  Status status = synth_run(&options, error);
  progress_end(progress);
  return status == OK ? report(synth->out, error) : status;
}

const Command command_synth = {
    .name = "synth",
    .summary = "render a dataset of paired clips: shaded source, cartoon target",
    .options = SYNTH_OPTIONS,
    .option_count = sizeof SYNTH_OPTIONS / sizeof *SYNTH_OPTIONS,
    .values_size = sizeof(Synth),
    .run = run_synth};

/* --- pack ------------------------------------------------------------------------------------- */

typedef struct Pack {
  const char *out, *source_filter, *target_filter, *look, *range, *detect;
  TextList sources, targets, also;
  int64_t frames, stride, scale, seed, clips_per_shard;
  PictureSize size;
  bool deflate;
} Pack;

static const Option PACK_OPTIONS[] = {
    {"OUT", OPTION_ARGUMENT, offsetof(Pack, out), true, .help = "dataset folder to create"},
    {"source", OPTION_LIST, offsetof(Pack, sources), .value = "PATH",
     .help = "source video or folder of PNG frames; repeat for several; alone: a dataset without "
             "targets"},
    {"target", OPTION_LIST, offsetof(Pack, targets), .value = "PATH",
     .help = "target (cartoon) video or folder, one for each --source; alone: a dataset without "
             "sources"},
    {"also", OPTION_LIST, offsetof(Pack, also), .value = "PATH",
     .help = "further input of the only --source, stacked along its channels; repeatable"},
    {"look", OPTION_TEXT, offsetof(Pack, look), .value = "NAME",
     .help = "draw the target from each source in this look (listed below)"},
    {"source-filter", OPTION_TEXT, offsetof(Pack, source_filter), .value = "GRAPH",
     .help = "FFmpeg filter graph applied to the sources, scaled to --size before"},
    {"target-filter", OPTION_TEXT, offsetof(Pack, target_filter), .value = "GRAPH",
     .help = "the same for the targets; without --target each source makes its own"},
    {"frames", OPTION_NUMBER, offsetof(Pack, frames), .minimum = 1, .maximum = 4096, .value = "T",
     .default_text = "8", .help = "frames per clip"},
    {"size", OPTION_SIDES, offsetof(Pack, size), .value = "WxH",
     .help = "scale to this size; 320x keeps the aspect ratio; default: the first video's size"},
    {"scale", OPTION_NUMBER, offsetof(Pack, scale), .minimum = 1, .maximum = 16, .value = "N",
     .default_text = "1",
     .help = "make the source N times smaller than the target (super-resolution)"},
    {"range", OPTION_TEXT, offsetof(Pack, range), .value = "A:B",
     .help = "use frames A to B of every video, B excluded; A: and :B are open ended; pairs are "
             "read to the end anyway, to compare their lengths"},
    {"stride", OPTION_NUMBER, offsetof(Pack, stride), .maximum = 1000000, .value = "N",
     .default_text = "0", .help = "frames between the starts of clips; 0: the frames per clip"},
    {"detect", OPTION_TEXT, offsetof(Pack, detect), .value = "LIST",
     .help = "all, none, or some of cuts,black,titles,duplicates: clips end at scene cuts, the "
             "other frames are dropped; default: all; for pairs cuts,black"},
    {"seed", OPTION_NUMBER, offsetof(Pack, seed), .maximum = INT64_MAX, .value = "S",
     .default_text = "1", .help = "seed of the dataset's UUID"},
    DEFLATE_OPTION(Pack),
    SHARD_OPTION(Pack),
};

static void describe_looks(Text *out) {
  text_append(out, "\nLooks:\n");
  looks_describe(out);
}

static Status run_pack(const void *values, const Invocation *invocation, Error *error) {
  Status status = OK;
  const Pack *pack = values;
  Progress *progress = NULL;
  PackOptions options = {.out = pack->out,
                         .sources = pack->sources.items,
                         .targets = pack->targets.items,
                         .also = pack->also.items,
                         .source_count = pack->sources.count,
                         .target_count = pack->targets.count,
                         .also_count = pack->also.count,
                         .source_filter = pack->source_filter,
                         .target_filter = pack->target_filter,
                         .look = pack->look,
                         .frames = (int)pack->frames,
                         .width = pack->size.width,
                         .height = pack->size.height,
                         .scale = (int)pack->scale,
                         .stride = (int)pack->stride,
                         .range_end = -1,
                         .detect = PACK_DETECT_DEFAULT,
                         .seed = (uint64_t)pack->seed,
                         .deflate = pack->deflate,
                         .clips_per_shard = pack->clips_per_shard,
                         .command = invocation->line,
                         .progress = show_progress,
                         .progress_context = &progress};
  signals_install();
  if (pack->range)
    TRY(pack_parse_range(pack->range, &options.range_begin, &options.range_end, error));
  if (pack->detect) TRY(pack_parse_detect(pack->detect, &options.detect, error));
  TRY(pack_run(&options, error));
  progress_end(progress);
  progress = NULL;
  TRY(report(pack->out, error));
done:
  progress_end(progress);
  return status;
}

const Command command_pack = {.name = "pack",
                              .summary = "cut a dataset of clips from videos: pairs, or one side",
                              .options = PACK_OPTIONS,
                              .option_count = sizeof PACK_OPTIONS / sizeof *PACK_OPTIONS,
                              .values_size = sizeof(Pack),
                              .more_help = describe_looks,
                              .run = run_pack};

/* --- join ------------------------------------------------------------------------------------- */

typedef struct Join {
  const char *out, *parts;
  int64_t count, clips_per_shard;
  bool deflate;
} Join;

static const Option JOIN_OPTIONS[] = {
    {"OUT", OPTION_ARGUMENT, offsetof(Join, out), true, .help = "dataset folder to create"},
    {"PARTS", OPTION_ARGUMENT, offsetof(Join, parts), true,
     .help = "folder of datasets, joined in the order of their names"},
    {"count", OPTION_NUMBER, offsetof(Join, count), .maximum = 1000000, .value = "N",
     .default_text = "0", .help = "expected number of datasets; 0: any"},
    {"deflate", OPTION_FLAG, offsetof(Join, deflate),
     .help = "rewrite all clips, compressed, instead of linking the shard files"},
    {"clips-per-shard", OPTION_NUMBER, offsetof(Join, clips_per_shard), .maximum = 1000000,
     .value = "N", .default_text = "0",
     .help = "rewrite all clips, N per shard file; 0: link or copy the shard files"},
};

static Status run_join(const void *values, const Invocation *invocation, Error *error) {
  const Join *join = values;
  (void)invocation;
  Progress *progress = NULL;
  JoinOptions options = {.out = join->out,
                         .parts = join->parts,
                         .count = join->count,
                         .deflate = join->deflate,
                         .clips_per_shard = join->clips_per_shard,
                         .progress = show_progress,
                         .progress_context = &progress};
  signals_install();
  Status status = join_run(&options, error);
  progress_end(progress);
  return status == OK ? report(join->out, error) : status;
}

const Command command_join = {.name = "join",
                              .summary = "join several datasets into one",
                              .options = JOIN_OPTIONS,
                              .option_count = sizeof JOIN_OPTIONS / sizeof *JOIN_OPTIONS,
                              .values_size = sizeof(Join),
                              .run = run_join};

/* --- verify ----------------------------------------------------------------------------------- */

typedef struct Verify {
  const char *path;
} Verify;

static const Option VERIFY_OPTIONS[] = {
    {"DATASET", OPTION_ARGUMENT, offsetof(Verify, path), true, .help = "dataset folder"}};

static Status run_verify(const void *values, const Invocation *invocation, Error *error) {
  const Verify *verify = values;
  (void)invocation;
  Text bad = {0};
  Status status = dataset_verify(verify->path, &bad, error);
  if (bad.data) fputs(bad.data, stdout);
  if (status == OK) printf("%s: all checksums match\n", verify->path);
  text_free(&bad);
  return status;
}

const Command command_verify = {.name = "verify",
                                .summary = "check the structure and all checksums of a dataset",
                                .options = VERIFY_OPTIONS,
                                .option_count = sizeof VERIFY_OPTIONS / sizeof *VERIFY_OPTIONS,
                                .values_size = sizeof(Verify),
                                .run = run_verify};
