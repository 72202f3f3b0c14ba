#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "data/dataset/dataset_folder.h"
#include "data/dataset/manifest.h"

/* libhdf5 1.10, with which others read shards, searches all chunks to find one: listing n chunks
 * takes n * n steps, 0.7 s for 2048, 45 s for 16384. */
enum { DEFAULT_MAX_CLIPS_PER_SHARD = 2048, MAX_DEFLATED_CLIPS_PER_SHARD = 16384 };
static const int64_t default_shard_bytes = (int64_t)256 << 20;

struct DatasetWriter {
  DatasetFolder folder;
  ShardHeader header; /* of the next shard; .clips is its capacity */
  Manifest manifest;  /* of the complete shards */
  ShardWriter *shard; /* being written, or NULL */
};

/* --- Continuing an interrupted run ------------------------------------------------------------ */

/* Checks every clip's checksum, and computes the file's for the manifest. */
static Status check_content(const char *path, Shard *shard, Error *error) {
  Status status = OK;
  uint8_t *sides[SIDES] = {NULL, NULL};
  int descriptor = -1;
  uint64_t size;
  TRY(file_open_regular(path, &descriptor, &size, error));
  for (int side = 0; side < SIDES; side++) {
    if (!clip_has_side(&shard->header.shape, side)) continue;
    void *clip;
    TRY(mem_bulk(clip_side_bytes(&shard->header.shape, side), "a clip", &clip, error));
    sides[side] = clip;
  }
  ShardFile file = {path, descriptor, &shard->header.shape, &shard->layout,
                    (const uint32_t(*)[SIDES])shard->checksums};
  for (int64_t i = 0; i < shard->header.clips; i++) TRY(shard_read_clip(&file, i, sides, error));
  TRY(shard_file_crc32c(descriptor, path, shard->layout.bytes, NULL, &shard->layout.crc32c, error));
done:
  for (int side = 0; side < SIDES; side++) free(sides[side]);
  file_close(&descriptor);
  return status;
}

/* Keeps a shard of an interrupted run if it is the next one, full and intact. Removes any other, so
 * that the result has the same bytes as an uninterrupted run. A shard that cannot be read now is
 * not removed: ERROR_IO. */
static Status keep_or_remove_shard(DatasetWriter *writer, int64_t index, Error *error) {
  Status status = OK;
  Error fault;
  Shard shard = {0};
  char *path = dataset_folder_shard_path(&writer->folder, index);
  TRY(dataset_folder_inspect_shard(&writer->folder, index, writer->header.uuid, &shard, error));
  bool next = index == writer->manifest.info.shards && shard.header.shard == index &&
              shard.header.clips == writer->header.clips;
  Status content = next ? check_content(path, &shard, &fault) : ERROR_DATA;
  if (content == OK) {
    manifest_add(&writer->manifest, shard.layout, writer->header.uuid, index);
    shard.layout = (ShardLayout){0};
    goto done;
  }
  if (content != ERROR_DATA) FAIL(error, content, "%s", fault.message);
  if (next) log_warning("%s; writing the shard again", fault.message);
  TRY(dataset_folder_remove_shard(&writer->folder, index, error));
done:
  shard_free(&shard);
  free(path);
  return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

static Status check_spec(const char *folder, const DatasetSpec *spec, Error *error) {
  Status status = OK;
  TRY(clip_shape_check(folder, &spec->shape, ERROR_USAGE, error));
  if (spec->fps_numerator < 0 || spec->fps_numerator > FPS_MAX || spec->fps_denominator < 1 ||
      spec->fps_denominator > FPS_MAX)
    FAIL(error, ERROR_USAGE, "%s: frame rate %d/%d; expected numbers from 0/1 to %d", folder,
         spec->fps_numerator, spec->fps_denominator, FPS_MAX);
  if (spec->clips_per_shard < 0 || spec->clips_per_shard > INT32_MAX)
    FAIL(error, ERROR_USAGE, "%s: %lld clips per shard; expected 0 to %d", folder,
         (long long)spec->clips_per_shard, INT32_MAX);
  if (spec->deflate && spec->clips_per_shard > MAX_DEFLATED_CLIPS_PER_SHARD)
    FAIL(error, ERROR_USAGE, "%s: %lld compressed clips per shard; expected 0 to %d", folder,
         (long long)spec->clips_per_shard, MAX_DEFLATED_CLIPS_PER_SHARD);
  if (!spec->maker) FAIL(error, ERROR_INTERNAL, "%s: no maker", folder);
done:
  return status;
}

static int64_t clips_per_shard(const DatasetSpec *spec) {
  if (spec->clips_per_shard > 0) return spec->clips_per_shard;
  int64_t clip = (int64_t)(clip_source_bytes(&spec->shape) + clip_target_bytes(&spec->shape));
  int64_t clips = default_shard_bytes / clip;
  return clips < 1 ? 1 : clips > DEFAULT_MAX_CLIPS_PER_SHARD ? DEFAULT_MAX_CLIPS_PER_SHARD : clips;
}

/* Fills in the header of all shards and the manifest, with the UUID that follows from both. */
static void init_headers(DatasetWriter *writer, const DatasetSpec *spec) {
  const ClipShape *s = &spec->shape;
  ShardHeader *header = &writer->header;
  *header = (ShardHeader){.shape = spec->shape,
                          .fps_numerator = spec->fps_numerator,
                          .fps_denominator = spec->fps_denominator,
                          .deflated = spec->deflate,
                          .clips = clips_per_shard(spec)};
  Text maker = {0};
  text_append_printable(&maker, spec->maker); /* a path in it may have any bytes */
  writer->manifest.maker = maker.data;
  char *identity = mem_format("%s\n%d %d %d %d %d %d\n%d/%d\n%lld %d", maker.data, s->frames,
                              s->source_height, s->source_width, s->source_channels,
                              s->target_height, s->target_width, spec->fps_numerator,
                              spec->fps_denominator, (long long)header->clips, spec->deflate);
  dataset_uuid_derive(identity, header->uuid);
  free(identity);
  DatasetInfo *info = &writer->manifest.info;
  info->shape = spec->shape;
  info->fps_numerator = spec->fps_numerator;
  info->fps_denominator = spec->fps_denominator;
  info->deflated = spec->deflate;
  memcpy(info->uuid, header->uuid, sizeof info->uuid);
}

Status dataset_writer_open(const char *folder, const DatasetSpec *spec, DatasetWriter **out,
                           int64_t *already, Error *error) {
  Status status = OK;
  DatasetWriter *writer = mem_new(1, sizeof *writer);
  int64_t *shards = NULL;
  size_t count = 0;
  *out = NULL;
  *already = 0;
  TRY(check_spec(folder, spec, error));
  init_headers(writer, spec);
  TRY(dataset_folder_open(folder, &writer->folder, &shards, &count, error));
  for (size_t i = 0; i < count; i++) TRY(keep_or_remove_shard(writer, shards[i], error));
  *already = writer->manifest.info.clips;
  *out = writer;
  writer = NULL;
done:
  free(shards);
  dataset_writer_abandon(writer);
  return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

static Status finish_shard(DatasetWriter *writer, Error *error) {
  ShardLayout layout = {0};
  Status status = shard_writer_finish(writer->shard, &layout, error);
  writer->shard = NULL;
  if (status == OK)
    manifest_add(&writer->manifest, layout, writer->header.uuid, writer->header.shard);
  return status;
}

Status dataset_writer_add(DatasetWriter *writer, const uint8_t *source, const uint8_t *target,
                          const ClipName *name, Error *error) {
  Status status = OK;
  char *path = NULL;
  if (!writer->shard) {
    writer->header.shard = writer->manifest.info.shards;
    if (writer->header.shard == DATASET_MAX_SHARDS)
      FAIL(error, ERROR_USAGE, "%s: more than %d shards; make larger ones with --clips-per-shard N",
           writer->folder.path, DATASET_MAX_SHARDS);
    path = dataset_folder_shard_path(&writer->folder, writer->header.shard);
    TRY(shard_writer_open(path, &writer->header, &writer->shard, error));
  }
  TRY(shard_writer_add(writer->shard, source, target, name, error));
  if (shard_writer_clips(writer->shard) == writer->header.clips) TRY(finish_shard(writer, error));
done:
  free(path);
  return status;
}

Status dataset_writer_finish(DatasetWriter *writer, Error *error) {
  Status status = OK;
  if (writer->shard) TRY(finish_shard(writer, error));
  if (writer->manifest.info.clips == 0)
    FAIL(error, ERROR_DATA, "%s: no clips; a dataset needs at least one", writer->folder.path);
  TRY(manifest_write(writer->folder.path, &writer->manifest, error));
done:
  dataset_writer_abandon(writer);
  return status;
}

void dataset_writer_abandon(DatasetWriter *writer) {
  if (!writer) return;
  if (writer->shard) shard_writer_abandon(writer->shard);
  dataset_folder_close(&writer->folder);
  manifest_free(&writer->manifest);
  free(writer);
}

void dataset_writer_discard(DatasetWriter *writer) {
  if (!writer) return;
  for (int64_t i = 0; i < writer->manifest.info.shards; i++) {
    Error fault;
    if (dataset_folder_remove_shard(&writer->folder, i, &fault) != OK)
      log_warning("%s", fault.message);
  }
  dataset_writer_abandon(writer);
}
