/* Joins datasets with clips of one shape: what was packed apart becomes one. Shard files are taken
 * as they are, or on request all clips are written anew into shards of one size. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
  char *first;    /* path of the first part */
  Manifest whole; /* as the first part, but .clips of all of them; when not rewriting, what will be
                     written, .clips and .shards growing part by part */
  char **files;   /* [whole.info.shards], the parts' shards; NULL when rewriting */
  int file_capacity;
  bool copying; /* links have turned out not to work */
} Join;

/* --- What there is to join -------------------------------------------------------------------- */

/* What is written may lie among the parts, and be there from an interrupted join. */
static void leave_out_own(Join *join) {
  size_t kept = 0;
  for (size_t i = 0; i < join->count; i++) {
    char *path = path_join(join->options->parts, join->names[i]);
    if (path_is_same(path, join->options->out))
      free(join->names[i]);
    else
      join->names[kept++] = join->names[i];
    free(path);
  }
  join->count = kept;
}

static Status find_parts(Join *join, Error *error) {
  const JoinOptions *o = join->options;
  if (!path_is_folder(o->parts))
    return error_set(error, ERROR_DATA, "%s: no such folder", o->parts);
  Status status = folder_list(o->parts, &join->names, &join->count, error);
  if (status != OK) return status;
  leave_out_own(join);
  if (join->count == 0) return error_set(error, ERROR_DATA, "%s: holds no dataset", o->parts);
  if (o->count > 0 && (uint64_t)o->count != join->count)
    return error_set(error, ERROR_DATA, "%s: holds %zu parts; there must be %lld", o->parts,
                     join->count, (long long)o->count);
  return OK;
}

static const char *storage(bool deflated) {
  return deflated ? "deflated" : "plain";
}

static Status check_alike(const Join *join, const char *path, const DatasetInfo *info,
                          Error *error) {
  const DatasetInfo *first = &join->whole.info;
  const ClipShape *a = &first->shape, *b = &info->shape;
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
  if ((int64_t)info->fps_numerator * first->fps_denominator !=
      (int64_t)first->fps_numerator * info->fps_denominator)
    return error_set(error, ERROR_DATA,
                     "%s: %d/%d frames a second; in %s: %d/%d; parts must have one rate", path,
                     info->fps_numerator, info->fps_denominator, join->first, first->fps_numerator,
                     first->fps_denominator);
  if (!join->rewrite && info->deflated != first->deflated)
    return error_set(error, ERROR_DATA,
                     "%s: clips are %s; in %s: %s; parts must be stored alike, or all clips be "
                     "written anew (--deflate, --clips-per-shard N)",
                     path, storage(info->deflated), join->first, storage(first->deflated));
  return OK;
}

/* Lists the part's shards in the whole, whatever they were written for before. */
static Status list_shards(Join *join, const char *path, Manifest *part, Error *error) {
  Status status = OK;
  Dataset *dataset = NULL;
  TRY(dataset_open(path, &dataset, error)); /* every shard is there and fits */
  for (int i = 0; i < part->info.shards; i++) {
    ManifestShard *shard = &part->shards[i];
    int at = join->whole.info.shards;
    char name[SHARD_NAME_SIZE];
    if (at == SHARD_MAX_COUNT)
      FAIL(error, ERROR_DATA,
           "%s: more than %d shards in all, the most there may be; --clips-per-shard N writes all "
           "clips anew into fewer",
           path, SHARD_MAX_COUNT);
    shard_file_name(i, name);
    MEM_PUSH_SLOT(join->files, at, join->file_capacity);
    join->files[at] = path_join(path, name);
    manifest_add(&join->whole, shard->layout, shard->uuid, shard->number);
    shard->layout = (ShardLayout){0};
  }
done:
  dataset_close(dataset);
  return status;
}

static Status look_at_part(Join *join, const char *path, Text *uuids, Error *error) {
  Status status = OK;
  Manifest part = {0};
  DatasetInfo *info = &join->whole.info;
  TRY(manifest_read(path, &part, error));
  if (!join->first) {
    join->first = mem_string(path);
    *info = part.info;
    info->clips = info->shards = 0;
  }
  TRY(check_alike(join, path, &part.info, error));
  text_append(uuids, "%s\n", part.info.uuid);
  if (join->rewrite)
    info->clips += part.info.clips;
  else
    TRY(list_shards(join, path, &part, error));
done:
  manifest_free(&part);
  return status;
}

/* Looks at every part before a byte is written. The joined dataset is named after what its parts
 * are called, so that it does not depend on where they lay. */
static Status look_at_parts(Join *join, Error *error) {
  Status status = OK;
  Text uuids = {0};
  for (size_t i = 0; i < join->count && status == OK; i++) {
    char *path = path_join(join->options->parts, join->names[i]);
    status = look_at_part(join, path, &uuids, error);
    free(path);
  }
  if (status != OK) goto done;
  dataset_uuid(uuids.data, join->whole.info.uuid);
  join->whole.maker = mem_format("join of %zu datasets, %s", join->count, join->whole.info.uuid);
done:
  text_free(&uuids);
  return status;
}

static void report(const Join *join, int64_t clips) {
  const JoinOptions *o = join->options;
  if (o->progress) o->progress(o->progress_context, clips, join->whole.info.clips, "clips");
}

/* --- Shard files as they are ------------------------------------------------------------------ */

/* `path` is NULL, or a copy is made there. */
static Status check_file(const char *from, const ShardLayout *layout, const char *path,
                         Error *error) {
  Status status = OK;
  AtomicFile copy = {.descriptor = -1};
  uint32_t found;
  int descriptor = open(from, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return error_errno(error, errno, "%s: cannot open", from);
  if (path) TRY(atomic_file_open(path, &copy, error));
  TRY(shard_file_crc32c(descriptor, from, layout->bytes, path ? &copy : NULL, &found, error));
  if (found != layout->crc32c)
    FAIL(error, ERROR_DATA, "%s: the file's CRC-32C found %08x, expected %08x", from, found,
         layout->crc32c);
  if (path) TRY(atomic_file_commit(&copy, error));
done:
  atomic_file_abort(&copy);
  close(descriptor);
  return status;
}

/* Keeps what an interrupted join left where it is whole: the part's own file, or a sound copy. */
static Status keep_or_remove(const Join *join, const DatasetFolder *folder, int64_t index,
                             bool *kept, Error *error) {
  Status status = OK;
  Error fault;
  Shard shard = {0};
  char *path = dataset_folder_shard(folder, index);
  if (index >= join->whole.info.shards)
    FAIL(error, ERROR_USAGE,
         "%s: was left by another run: the parts have %d shards in all; remove it or choose "
         "another folder",
         path, join->whole.info.shards);
  const ManifestShard *wanted = &join->whole.shards[index];
  *kept = path_is_same(path, join->files[index]);
  if (*kept) goto done;
  TRY(dataset_folder_inspect(folder, index, wanted->uuid, &shard, error));
  if (shard.layout.bytes == wanted->layout.bytes) {
    *kept = check_file(path, &wanted->layout, NULL, &fault) == OK;
    if (!*kept) log_warning("%s; the shard is copied again", fault.message);
  }
  if (!*kept) TRY(dataset_folder_remove(folder, index, error));
done:
  shard_free(&shard);
  free(path);
  return status;
}

/* Another file system, a file with too many names or someone else's, no links at all. */
static bool is_no_link_possible(int errnum) {
  return errnum == EXDEV || errnum == EMLINK || errnum == EPERM || errnum == EOPNOTSUPP ||
         errnum == ENOSYS;
}

/* A second name for the part's file, or where there can be none, a copy. */
static Status take_file(Join *join, const DatasetFolder *folder, int index, Error *error) {
  Status status = OK;
  const char *from = join->files[index];
  char *path = dataset_folder_shard(folder, index);
  if (linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0) goto done;
  if (!is_no_link_possible(errno)) {
    status = error_errno(error, errno, "%s: cannot be linked as %s", from, path);
    goto done;
  }
  if (!join->copying)
    log_info("%s: cannot be linked as %s: %s; copied", from, path, strerror(errno));
  join->copying = true;
  TRY(check_file(from, &join->whole.shards[index].layout, path, error));
done:
  free(path);
  return status;
}

static Status take_files(Join *join, Error *error) {
  Status status = OK;
  DatasetFolder folder = {0};
  int64_t *left = NULL, clips = 0;
  size_t count = 0;
  bool *there = mem_new((size_t)join->whole.info.shards, sizeof *there);
  TRY(dataset_folder_open(join->options->out, &folder, &left, &count, error));
  for (size_t i = 0; i < count; i++) {
    bool kept = false;
    TRY(keep_or_remove(join, &folder, left[i], &kept, error));
    there[left[i]] = kept;
  }
  for (int i = 0; i < join->whole.info.shards; i++) {
    if (!there[i]) TRY(take_file(join, &folder, i, error));
    clips += join->whole.shards[i].layout.clips;
    report(join, clips);
  }
  TRY(file_sync(folder.path, error)); /* the names, before the manifest says that they are there */
  TRY(manifest_write(folder.path, &join->whole, error));
done:
  dataset_folder_close(&folder);
  free(left);
  free(there);
  return status;
}

/* --- All clips anew --------------------------------------------------------------------------- */

typedef struct Rewrite {
  DatasetWriter *writer;
  int64_t already, done; /* clips */
  uint8_t *sides[SIDES]; /* a clip */
} Rewrite;

static Status open_writer(const Join *join, Rewrite *rewrite, Error *error) {
  Status status = OK;
  const JoinOptions *o = join->options;
  const DatasetInfo *info = &join->whole.info;
  DatasetSpec spec = {.shape = info->shape,
                      .fps_numerator = info->fps_numerator,
                      .fps_denominator = info->fps_denominator,
                      .clips_per_shard = o->clips_per_shard,
                      .deflate = o->deflate,
                      .maker = join->whole.maker};
  for (int side = 0; side < SIDES; side++) {
    void *clip;
    TRY(mem_bulk(clip_side_bytes(&spec.shape, side), "a clip", &clip, error));
    rewrite->sides[side] = clip;
  }
  TRY(dataset_writer_open(o->out, &spec, &rewrite->writer, &rewrite->already, error));
done:
  return status;
}

/* Clip by clip through their checksums. Those that whole shards of an interrupted run hold are
 * passed over. */
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
  }
  report(join, rewrite->done);
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
  TRY(look_at_parts(&join, error));
  TRY(join.rewrite ? rewrite_parts(&join, error) : take_files(&join, error));
done:
  for (int i = 0; i < join.whole.info.shards && join.files; i++) free(join.files[i]);
  free(join.files);
  manifest_free(&join.whole);
  folder_list_free(join.names, join.count);
  free(join.first);
  return status;
}
