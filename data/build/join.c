/* Joins datasets with clips of one shape. Shard files are linked or copied unchanged, or on request
 * all clips are rewritten into shards of one size. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "data/build/build.h"
#include "data/dataset/dataset_folder.h"
#include "data/dataset/manifest.h"

typedef struct Join {
  const JoinOptions *options;
  bool rewrite;
  char **names; /* of the parts, sorted */
  size_t count;
  char *first;     /* path of the first part */
  Manifest joined; /* .clips of all parts; if not rewriting also their shards */
  char **files;    /* [joined.info.shards] paths of the parts' shards; NULL if rewriting */
  int file_capacity;
  bool copying; /* a link has failed */
} Join;

/* --- Inspecting the parts --------------------------------------------------------------------- */

/* Removes the output folder from the parts: it may lie among them after an interrupted join. */
static Status exclude_output(Join *join, Error *error) {
  Status status = OK;
  size_t kept = 0;
  for (size_t i = 0; i < join->count; i++) {
    bool same = false;
    char *path = path_join(join->options->parts, join->names[i]);
    if (status == OK) status = path_is_same(path, join->options->out, &same, error);
    if (same)
      free(join->names[i]);
    else
      join->names[kept++] = join->names[i];
    free(path);
  }
  join->count = kept;
  return status;
}

static Status find_parts(Join *join, Error *error) {
  const JoinOptions *o = join->options;
  Status status = OK;
  bool is_folder;
  TRY(path_is_folder(o->parts, &is_folder, error));
  if (!is_folder) FAIL(error, ERROR_DATA, "%s: no such folder", o->parts);
  TRY(folder_list(o->parts, &join->names, &join->count, error));
  TRY(exclude_output(join, error));
  if (join->count == 0) FAIL(error, ERROR_DATA, "%s: no datasets in this folder", o->parts);
  if (o->count > 0 && (uint64_t)o->count != join->count)
    FAIL(error, ERROR_DATA, "%s: %zu parts, expected %lld (--count)", o->parts, join->count,
         (long long)o->count);
done:
  return status;
}

static const char *storage(bool deflated) {
  return deflated ? "deflated" : "uncompressed";
}

static const char *sides_of(const ClipShape *shape) {
  return clip_is_paired(shape) ? "pairs" : clip_has_source(shape) ? "sources only" : "targets only";
}

/* Fails if a part's clips differ from the first part's. */
static Status check_compatible(const Join *join, const char *path, const DatasetInfo *info,
                               Error *error) {
  const DatasetInfo *first = &join->joined.info;
  const ClipShape *a = &first->shape, *b = &info->shape;
  const struct {
    const char *name;
    int first, found;
  } pairs[] = {
      {"frames", a->frames, b->frames},
      {"source height", a->source_height, b->source_height},
      {"source width", a->source_width, b->source_width},
      {"source channels", a->source_channels, b->source_channels},
      {"target height", a->target_height, b->target_height},
      {"target width", a->target_width, b->target_width},
  };
  if (clip_has_source(a) != clip_has_source(b) || clip_has_target(a) != clip_has_target(b))
    return error_set(error, ERROR_DATA,
                     "%s: has %s, expected %s as in %s; all parts need the same sides", path,
                     sides_of(b), sides_of(a), join->first);
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
    if (pairs[i].first != pairs[i].found)
      return error_set(error, ERROR_DATA,
                       "%s: %s is %d, expected %d as in %s; all parts need clips of one shape",
                       path, pairs[i].name, pairs[i].found, pairs[i].first, join->first);
  if ((int64_t)info->fps_numerator * first->fps_denominator !=
      (int64_t)first->fps_numerator * info->fps_denominator)
    return error_set(error, ERROR_DATA,
                     "%s: frame rate %d/%d, expected %d/%d as in %s; all parts need one rate", path,
                     info->fps_numerator, info->fps_denominator, first->fps_numerator,
                     first->fps_denominator, join->first);
  if (!join->rewrite && info->deflated != first->deflated)
    return error_set(error, ERROR_DATA,
                     "%s: clips are %s, expected %s as in %s; rewrite all clips with --deflate or "
                     "--clips-per-shard N",
                     path, storage(info->deflated), storage(first->deflated), join->first);
  return OK;
}

/* Appends the part's shards to the joined manifest. */
static Status append_shards(Join *join, const char *path, Manifest *part, Error *error) {
  Status status = OK;
  Dataset *dataset = NULL;
  TRY(dataset_open(path, &dataset, error)); /* checks every shard */
  for (int i = 0; i < part->info.shards; i++) {
    ManifestShard *shard = &part->shards[i];
    int at = join->joined.info.shards;
    char name[SHARD_NAME_SIZE];
    if (at == DATASET_MAX_SHARDS)
      FAIL(error, ERROR_DATA,
           "%s: more than %d shards in total; rewrite all clips into larger ones with "
           "--clips-per-shard N",
           path, DATASET_MAX_SHARDS);
    shard_file_name(i, name);
    MEM_PUSH_SLOT(join->files, at, join->file_capacity);
    join->files[at] = path_join(path, name);
    manifest_add(&join->joined, shard->layout, shard->uuid, shard->number);
    shard->layout = (ShardLayout){0};
  }
done:
  dataset_close(dataset);
  return status;
}

static Status inspect_part(Join *join, const char *path, Text *uuids, Error *error) {
  Status status = OK;
  Manifest part = {0};
  DatasetInfo *info = &join->joined.info;
  TRY(manifest_read(path, &part, error));
  if (!join->first) {
    join->first = mem_string(path);
    *info = part.info;
    info->clips = info->shards = 0;
  }
  TRY(check_compatible(join, path, &part.info, error));
  text_append(uuids, "%s\n", part.info.uuid);
  if (join->rewrite)
    info->clips += part.info.clips;
  else
    TRY(append_shards(join, path, &part, error));
done:
  manifest_free(&part);
  return status;
}

/* Inspects every part before anything is written. The UUID is derived from the parts' UUIDs, so it
 * does not depend on their paths. */
static Status inspect_parts(Join *join, Error *error) {
  Status status = OK;
  Text uuids = {0};
  for (size_t i = 0; i < join->count && status == OK; i++) {
    char *path = path_join(join->options->parts, join->names[i]);
    status = inspect_part(join, path, &uuids, error);
    free(path);
  }
  if (status != OK) goto done;
  dataset_uuid_derive(uuids.data, join->joined.info.uuid);
  join->joined.maker = mem_format("join of %zu datasets, %s", join->count, join->joined.info.uuid);
done:
  text_free(&uuids);
  return status;
}

static Status report(const Join *join, int64_t clips, Error *error) {
  const JoinOptions *o = join->options;
  return build_report(o->progress, o->progress_context, clips, join->joined.info.clips, "clips",
                      error);
}

/* --- Linking or copying shard files ----------------------------------------------------------- */

/* Compares a file with its CRC-32C, copying it to `path` if not NULL. */
static Status check_file(const char *from, const ShardLayout *layout, const char *path,
                         Error *error) {
  Status status = OK;
  AtomicFile copy = {.descriptor = -1};
  uint32_t found;
  uint64_t size;
  int descriptor = -1;
  TRY(file_open_regular(from, &descriptor, &size, error));
  if (path) TRY(atomic_file_open(path, &copy, error));
  TRY(shard_file_crc32c(descriptor, from, layout->bytes, path ? &copy : NULL, &found, error));
  if (found != layout->crc32c)
    FAIL(error, ERROR_DATA, "%s: CRC-32C of the file is %08x, expected %08x", from, found,
         layout->crc32c);
  if (path) TRY(atomic_file_commit(&copy, error));
done:
  atomic_file_abort(&copy);
  file_close(&descriptor);
  return status;
}

/* Keeps a shard of an interrupted join if it is a link to the part's file or an intact copy.
 * Removes it otherwise. */
static Status keep_or_remove_shard(const Join *join, const DatasetFolder *folder, int64_t index,
                                   bool *kept, Error *error) {
  Status status = OK;
  Error fault;
  Shard shard = {0};
  char *path = dataset_folder_shard_path(folder, index);
  if (index >= join->joined.info.shards)
    FAIL(error, ERROR_USAGE,
         "%s: shard of another run: the parts have only %d shards; remove the folder or choose "
         "another one",
         path, join->joined.info.shards);
  const ManifestShard *wanted = &join->joined.shards[index];
  TRY(path_is_same(path, join->files[index], kept, error));
  if (*kept) goto done;
  TRY(dataset_folder_inspect_shard(folder, index, wanted->uuid, &shard, error));
  if (shard.layout.bytes == wanted->layout.bytes) {
    Status checked = check_file(path, &wanted->layout, NULL, &fault);
    if (checked == ERROR_IO) FAIL(error, ERROR_IO, "%s", fault.message); /* it may be intact */
    *kept = checked == OK;
    if (!*kept) log_warning("%s; copying the shard again", fault.message);
  }
  if (!*kept) TRY(dataset_folder_remove_shard(folder, index, error));
done:
  shard_free(&shard);
  free(path);
  return status;
}

/* True if copying can help: another file system, too many links, another owner, or no support. */
static bool is_link_unsupported(int errnum) {
  return errnum == EXDEV || errnum == EMLINK || errnum == EPERM || errnum == EOPNOTSUPP ||
         errnum == ENOSYS;
}

/* Retries after EINTR; the link may then exist already. */
static int link_file(const char *from, const char *to) {
  for (bool interrupted = false;; interrupted = true) {
    if (linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) == 0) return 0;
    if (interrupted && errno == EEXIST) return 0;
    if (errno != EINTR) return -1;
  }
}

/* Links the part's file into the folder; copies it if links are not supported. */
static Status link_or_copy_shard(Join *join, const DatasetFolder *folder, int index, Error *error) {
  Status status = OK;
  const char *from = join->files[index];
  char *path = dataset_folder_shard_path(folder, index);
  if (link_file(from, path) == 0) goto done;
  if (!is_link_unsupported(errno)) {
    status = error_errno(error, errno, "%s: cannot link as %s", from, path);
    goto done;
  }
  if (!join->copying)
    log_info("%s: cannot link as %s: %s; copying the shard files", from, path, strerror(errno));
  join->copying = true;
  TRY(check_file(from, &join->joined.shards[index].layout, path, error));
done:
  free(path);
  return status;
}

static Status link_or_copy_shards(Join *join, Error *error) {
  Status status = OK;
  DatasetFolder folder = {0};
  int64_t *shards = NULL, clips = 0;
  size_t count = 0;
  bool *complete = mem_new((size_t)join->joined.info.shards, sizeof *complete);
  TRY(dataset_folder_open(join->options->out, &folder, &shards, &count, error));
  for (size_t i = 0; i < count; i++) {
    bool kept = false;
    TRY(keep_or_remove_shard(join, &folder, shards[i], &kept, error));
    complete[shards[i]] = kept;
  }
  for (int i = 0; i < join->joined.info.shards; i++) {
    if (!complete[i]) TRY(link_or_copy_shard(join, &folder, i, error));
    clips += join->joined.shards[i].layout.clips;
    TRY(report(join, clips, error));
  }
  TRY(file_sync(folder.path, error)); /* the links, before the manifest lists them */
  TRY(manifest_write(folder.path, &join->joined, error));
done:
  dataset_folder_close(&folder);
  free(shards);
  free(complete);
  return status;
}

/* --- Rewriting all clips ---------------------------------------------------------------------- */

typedef struct Rewrite {
  DatasetWriter *writer;
  int64_t already, done; /* clips */
  uint8_t *sides[SIDES]; /* a clip */
} Rewrite;

static Status open_writer(const Join *join, Rewrite *rewrite, Error *error) {
  Status status = OK;
  const JoinOptions *o = join->options;
  const DatasetInfo *info = &join->joined.info;
  DatasetSpec spec = {.shape = info->shape,
                      .fps_numerator = info->fps_numerator,
                      .fps_denominator = info->fps_denominator,
                      .clips_per_shard = o->clips_per_shard,
                      .deflate = o->deflate,
                      .maker = join->joined.maker};
  for (int side = 0; side < SIDES; side++) {
    if (!clip_has_side(&spec.shape, side)) continue;
    void *clip;
    TRY(mem_bulk(clip_side_bytes(&spec.shape, side), "a clip", &clip, error));
    rewrite->sides[side] = clip;
  }
  TRY(dataset_writer_open(o->out, &spec, &rewrite->writer, &rewrite->already, error));
done:
  return status;
}

/* Copies clip by clip, checking checksums. Skips the clips in complete shards of an interrupted
 * run. */
static Status rewrite_part(const Join *join, Rewrite *rewrite, const char *path, Error *error) {
  Status status = OK;
  Dataset *part = NULL;
  uint8_t *source = rewrite->sides[SIDE_SOURCE], *target = rewrite->sides[SIDE_TARGET];
  ClipName name;
  TRY(dataset_open(path, &part, error));
  int64_t clips = dataset_info(part)->clips;
  for (int64_t i = 0; i < clips; i++, rewrite->done++) {
    if (rewrite->done < rewrite->already) continue;
    TRY(dataset_read(part, i, source, target, error));
    TRY(dataset_clip_name(part, i, &name, error));
    TRY(dataset_writer_add(rewrite->writer, source, target, &name, error));
    TRY(report(join, rewrite->done + 1, error));
  }
done:
  dataset_close(part);
  return status;
}

static Status rewrite_parts(const Join *join, Error *error) {
  Status status = OK;
  Rewrite rewrite = {0};
  TRY(open_writer(join, &rewrite, error));
  for (size_t i = 0; i < join->count && status == OK; i++) {
    char *path = path_join(join->options->parts, join->names[i]);
    status = rewrite_part(join, &rewrite, path, error);
    free(path);
  }
  if (status != OK) goto done;
  DatasetWriter *writer = rewrite.writer;
  rewrite.writer = NULL;
  TRY(dataset_writer_finish(writer, error));
done:
  dataset_writer_abandon(rewrite.writer);
  for (int side = 0; side < SIDES; side++) free(rewrite.sides[side]);
  return status;
}

Status join_run(const JoinOptions *options, Error *error) {
  Status status = OK;
  Join join = {.options = options, .rewrite = options->deflate || options->clips_per_shard > 0};
  TRY(find_parts(&join, error));
  TRY(inspect_parts(&join, error));
  TRY(join.rewrite ? rewrite_parts(&join, error) : link_or_copy_shards(&join, error));
done:
  for (int i = 0; i < join.joined.info.shards && join.files; i++) free(join.files[i]);
  free(join.files);
  manifest_free(&join.joined);
  folder_list_free(join.names, join.count);
  free(join.first);
  return status;
}
