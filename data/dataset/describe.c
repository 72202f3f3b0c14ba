/* Summaries of datasets and shards, for celforge info. */
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "data/dataset/manifest.h"
#include "data/dataset/shard.h"

enum { NAMES_SHOWN = 3 };

static void describe_side_alone(const ClipShape *shape, Text *out) {
  if (clip_has_source(shape))
    text_append(out, "  side         source only, %dx%d, %d channels\n", shape->source_width,
                shape->source_height, shape->source_channels);
  else
    text_append(out, "  side         target only, %dx%d, 3 channels\n", shape->target_width,
                shape->target_height);
}

static void describe_clips(const ClipShape *shape, int fps_numerator, int fps_denominator,
                           bool deflated, Text *out) {
  text_append(out, "  frames       %d per clip", shape->frames);
  if (fps_numerator > 0)
    text_append(out, ", %.6g per second", (double)fps_numerator / fps_denominator);
  text_append(out, "\n");
  if (!clip_is_paired(shape)) {
    describe_side_alone(shape, out);
  } else {
    text_append(out, "  source       %dx%d, %d channels\n", shape->source_width,
                shape->source_height, shape->source_channels);
    text_append(out, "  target       %dx%d, 3 channels\n", shape->target_width,
                shape->target_height);
  }
  text_append(out, "  stored       %s\n",
              deflated ? "deflated, one clip per chunk" : "uncompressed");
}

static void describe_bytes(double bytes, double decoded, Text *out) {
  text_append(out, "  size         ");
  text_append_size(out, bytes);
  text_append(out, " (");
  text_append_size(out, decoded);
  text_append(out, " decoded)\n");
}

/* A path or a text from a file may have control characters, which must not reach a terminal. */
static void describe_text(const char *what, const char *text, Text *out) {
  text_append(out, "%s", what);
  text_append_printable(out, text);
  text_append(out, "\n");
}

static void describe_name(int64_t clip, const ClipName *name, Text *out) {
  text_append(out, "  clip %-7lld ", (long long)clip);
  text_append_printable(out, name->id);
  text_append(out, ", from ");
  text_append_printable(out, name->origin);
  text_append(out, ", frame %lld\n", (long long)name->start_frame);
}

static Status describe_shard(const char *path, Text *out, Error *error) {
  Status status = OK;
  Shard shard = {0};
  TRY(shard_inspect(path, false, &shard, error));
  const ShardHeader *header = &shard.header;
  double decoded = (double)header->clips *
                   (double)(clip_source_bytes(&header->shape) + clip_target_bytes(&header->shape));
  describe_text("shard ", path, out);
  text_append(out, "  dataset      ");
  text_append_printable(out, header->uuid);
  text_append(out, ", shard %lld\n", (long long)header->shard);
  text_append(out, "  clips        %lld\n", (long long)header->clips);
  describe_clips(&header->shape, header->fps_numerator, header->fps_denominator, header->deflated,
                 out);
  describe_bytes((double)shard.layout.bytes, decoded, out);
  for (int64_t i = 0; i < header->clips && i < NAMES_SHOWN; i++) {
    ClipName name;
    TRY(shard_clip_name(path, i, &name, error));
    describe_name(i, &name, out);
  }
done:
  shard_free(&shard);
  return status;
}

static Status describe_dataset(const char *folder, Text *out, Error *error) {
  Status status = OK;
  Manifest manifest = {0};
  Dataset *dataset = NULL;
  double bytes = 0;
  TRY(dataset_open(folder, &dataset, error)); /* checks every shard */
  TRY(manifest_read(folder, &manifest, error));
  const DatasetInfo *info = &manifest.info;
  for (int i = 0; i < info->shards; i++) bytes += (double)manifest.shards[i].layout.bytes;
  double decoded = (double)info->clips *
                   (double)(clip_source_bytes(&info->shape) + clip_target_bytes(&info->shape));
  describe_text("dataset ", folder, out);
  text_append(out, "  uuid         %s\n", info->uuid);
  describe_text("  made by      ", manifest.maker, out);
  text_append(out, "  clips        %lld in %d shard%s\n", (long long)info->clips, info->shards,
              info->shards == 1 ? "" : "s");
  describe_clips(&info->shape, info->fps_numerator, info->fps_denominator, info->deflated, out);
  describe_bytes(bytes, decoded, out);
  for (int64_t i = 0; i < info->clips && i < NAMES_SHOWN; i++) {
    ClipName name;
    TRY(dataset_clip_name(dataset, i, &name, error));
    describe_name(i, &name, out);
  }
done:
  dataset_close(dataset);
  manifest_free(&manifest);
  return status;
}

Status dataset_describe(const char *path, Text *out, Error *error) {
  Status status = OK;
  bool exists, is_folder;
  TRY(path_exists(path, &exists, error));
  if (!exists) FAIL(error, ERROR_DATA, "%s: no such file or folder", path);
  TRY(path_is_folder(path, &is_folder, error));
  TRY(is_folder ? describe_dataset(path, out, error) : describe_shard(path, out, error));
done:
  return status;
}
