/* Joins datasets with clips of one shape: what was packed apart becomes one. */
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/make.h"
#include "data/manifest.h"

typedef struct Join {
  const JoinOptions *options;
  char **names; /* of the parts, sorted */
  size_t count;
  char *first;      /* path of the first part */
  DatasetInfo info; /* of the first part; .clips and .shards of all of them */
  char *maker;
  DatasetWriter *writer;
  int64_t already, done; /* clips */
  uint8_t *sides[SIDES]; /* a clip */
} Join;

/* --- What there is to join -------------------------------------------------------------------- */

static Status find_parts(Join *join, Error *error) {
  const JoinOptions *o = join->options;
  if (!path_is_folder(o->parts))
    return error_set(error, ERROR_DATA, "%s: no such folder", o->parts);
  Status status = folder_list(o->parts, &join->names, &join->count, error);
  if (status != OK) return status;
  if (join->count == 0) return error_set(error, ERROR_DATA, "%s: holds no dataset", o->parts);
  if (o->count > 0 && (uint64_t)o->count != join->count)
    return error_set(error, ERROR_DATA, "%s: holds %zu parts; there must be %lld", o->parts,
                     join->count, (long long)o->count);
  return OK;
}

static Status check_alike(const Join *join, const char *path, const DatasetInfo *info,
                          Error *error) {
  const ClipShape *a = &join->info.shape, *b = &info->shape;
  const struct {
    const char *name;
    int first, found;
  } pairs[] = {
      {"frames", a->frames, b->frames},
      {"the source's height", a->source_height, b->source_height},
      {"the source's width", a->source_width, b->source_width},
      {"the source's channels", a->source_channels, b->source_channels},
      {"the target's height", a->target_height, b->target_height},
      {"the target's width", a->target_width, b->target_width},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
    if (pairs[i].first != pairs[i].found)
      return error_set(error, ERROR_DATA,
                       "%s: %s: %d; in %s: %d; parts must have clips of one shape", path,
                       pairs[i].name, pairs[i].found, join->first, pairs[i].first);
  if ((int64_t)info->fps_numerator * join->info.fps_denominator !=
      (int64_t)join->info.fps_numerator * info->fps_denominator)
    return error_set(error, ERROR_DATA,
                     "%s: %d/%d frames a second; in %s: %d/%d; parts must have one rate", path,
                     info->fps_numerator, info->fps_denominator, join->first,
                     join->info.fps_numerator, join->info.fps_denominator);
  return OK;
}

/* Reads every part's manifest before a byte is written. The joined dataset is named after what its
 * parts are called, so that it does not depend on where they lay. */
static Status look_at_parts(Join *join, Error *error) {
  Status status = OK;
  Text names = {0};
  char identity[37], *path = NULL;
  Manifest manifest = {0};
  for (size_t i = 0; i < join->count; i++) {
    path = path_join(join->options->parts, join->names[i]);
    TRY(manifest_read(path, &manifest, error));
    if (i == 0) {
      join->info = manifest.info;
      join->first = mem_string(path);
    } else {
      TRY(check_alike(join, path, &manifest.info, error));
      join->info.clips += manifest.info.clips;
    }
    text_append(&names, "%s\n", manifest.info.uuid);
    manifest_free(&manifest);
    free(path);
    path = NULL;
  }
  dataset_uuid(names.data, identity);
  join->maker = mem_format("join of %zu datasets, %s", join->count, identity);
done:
  manifest_free(&manifest);
  free(path);
  text_free(&names);
  return status;
}

/* --- Copying ---------------------------------------------------------------------------------- */

static Status open_writer(Join *join, Error *error) {
  Status status = OK;
  const JoinOptions *o = join->options;
  DatasetSpec spec = {.shape = join->info.shape,
                      .fps_numerator = join->info.fps_numerator,
                      .fps_denominator = join->info.fps_denominator,
                      .clips_per_shard = o->clips_per_shard,
                      .deflate = o->deflate,
                      .maker = join->maker};
  for (int side = 0; side < SIDES; side++) {
    void *clip;
    TRY(mem_bulk(clip_side_bytes(&spec.shape, side), "a clip", &clip, error));
    join->sides[side] = clip;
  }
  TRY(dataset_writer_open(o->out, &spec, &join->writer, &join->already, error));
done:
  return status;
}

/* Clips that whole shards of an interrupted run hold are passed over. */
static Status copy_part(Join *join, const char *path, Error *error) {
  Status status = OK;
  const JoinOptions *o = join->options;
  Dataset *part = NULL;
  ClipName name;
  TRY(dataset_open(path, &part, error));
  int64_t clips = dataset_info(part)->clips;
  for (int64_t i = 0; i < clips; i++, join->done++) {
    if (join->done < join->already) continue;
    TRY(dataset_read(part, i, join->sides[SIDE_SOURCE], join->sides[SIDE_TARGET], error));
    TRY(dataset_clip_name(part, i, &name, error));
    TRY(dataset_writer_add(join->writer, join->sides[SIDE_SOURCE], join->sides[SIDE_TARGET], &name,
                           error));
  }
  if (o->progress) o->progress(o->progress_context, join->done, join->info.clips, "clips");
done:
  dataset_close(part);
  return status;
}

static Status copy_parts(Join *join, Error *error) {
  Status status = OK;
  for (size_t i = 0; i < join->count && status == OK; i++) {
    char *path = path_join(join->options->parts, join->names[i]);
    status = copy_part(join, path, error);
    free(path);
  }
  return status;
}

Status join_run(const JoinOptions *options, Error *error) {
  Status status = OK;
  Join join = {.options = options};
  TRY(find_parts(&join, error));
  TRY(look_at_parts(&join, error));
  TRY(open_writer(&join, error));
  TRY(copy_parts(&join, error));
  DatasetWriter *writer = join.writer;
  join.writer = NULL;
  TRY(dataset_writer_finish(writer, error));
done:
  if (join.writer) dataset_writer_abandon(join.writer);
  for (int side = 0; side < SIDES; side++) free(join.sides[side]);
  folder_list_free(join.names, join.count);
  free(join.first);
  free(join.maker);
  return status;
}
