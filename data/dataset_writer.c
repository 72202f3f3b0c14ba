#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "data/manifest.h"
#include "data/shard.h"

/* HDF5 1.10 finds a chunk's place by going through all of them, so listing n takes n * n steps: 0.7
 * s for so many. */
enum { MAX_CLIPS_A_SHARD = 2048 };
static const int64_t shard_bytes_aim = (int64_t)256 << 20;

struct DatasetWriter {
  char *folder;
  bool made_folder;
  int lock;          /* a descriptor of the folder, locked against a second writer */
  ShardHead head;    /* of the next shard; .clips is how many it has room for */
  Manifest manifest; /* of the whole shards so far */
  int layouts_capacity;
  ShardWriter *shard; /* the one being written, or NULL */
};

static char *shard_path(const DatasetWriter *writer, int64_t index) {
  char name[SHARD_NAME_SIZE];
  shard_file_name(index, name);
  return path_join(writer->folder, name);
}

static void keep_layout(DatasetWriter *writer, ShardLayout layout) {
  Manifest *manifest = &writer->manifest;
  MEM_PUSH_SLOT(manifest->layouts, manifest->info.shards, writer->layouts_capacity);
  manifest->layouts[manifest->info.shards++] = layout;
  manifest->info.clips += layout.clips;
}

/* --- What is in the folder already ------------------------------------------------------------ */

typedef enum Leftover { LEFT_SHARD, LEFT_TEMPORARY, LEFT_MANIFEST, LEFT_FOREIGN } Leftover;

/* "shard-00007.h5", or what is written on the way to it or to the manifest. */
static Leftover classify(const char *name, int64_t *shard) {
  static const char temporary[] = ".tmp";
  size_t length = strlen(name), end = sizeof temporary - 1;
  bool ends = length > end && strcmp(name + length - end, temporary) == 0;
  long long number = -1;
  int used = 0;
  if (strcmp(name, MANIFEST_NAME) == 0) return LEFT_MANIFEST;
  if (ends && strncmp(name, MANIFEST_NAME ".", sizeof MANIFEST_NAME) == 0) return LEFT_TEMPORARY;
  if (sscanf(name, "shard-%6lld.h5%n", &number, &used) != 1 || used == 0 || number < 0)
    return LEFT_FOREIGN;
  char exact[SHARD_NAME_SIZE];
  shard_file_name(number, exact);
  if (strncmp(name, exact, strlen(exact)) != 0) return LEFT_FOREIGN;
  *shard = number;
  if (name[used] == '\0') return LEFT_SHARD;
  return ends && name[used] == '.' ? LEFT_TEMPORARY : LEFT_FOREIGN;
}

/* Refuses folders that are not ours before anything in them is touched. */
static Status refuse_foreign(const DatasetWriter *writer, char **names, size_t count,
                             Error *error) {
  for (size_t i = 0; i < count; i++) {
    int64_t shard;
    Leftover kind = classify(names[i], &shard);
    if (kind == LEFT_MANIFEST)
      return error_set(error, ERROR_USAGE,
                       "%s: already holds a dataset; choose another folder or remove it",
                       writer->folder);
    if (kind == LEFT_FOREIGN)
      return error_set(error, ERROR_USAGE,
                       "%s: holds \"%s\", which is no part of a dataset; choose a new or empty "
                       "folder",
                       writer->folder, names[i]);
  }
  return OK;
}

static Status remove_file(const char *path, Error *error) {
  if (unlink(path) != 0 && errno != ENOENT)
    return error_errno(error, errno, "%s: cannot remove", path);
  return OK;
}

/* Every clip against its checksum, and the file's own for the manifest. */
static Status check_content(const char *path, Shard *shard, Error *error) {
  Status status = OK;
  uint8_t *sides[SIDES] = {NULL, NULL};
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return error_errno(error, errno, "%s: cannot open", path);
  for (int side = 0; side < SIDES; side++) {
    void *clip;
    TRY(mem_bulk(clip_side_bytes(&shard->head.shape, side), "a clip", &clip, error));
    sides[side] = clip;
  }
  ShardFile file = {path, descriptor, &shard->head.shape, &shard->layout,
                    (const uint32_t(*)[SIDES])shard->sums};
  for (int64_t i = 0; i < shard->head.clips; i++) TRY(shard_read_clip(&file, i, sides, error));
  TRY(shard_file_crc32c(descriptor, path, shard->layout.bytes, &shard->layout.crc32c, error));
done:
  for (int side = 0; side < SIDES; side++) free(sides[side]);
  close(descriptor);
  return status;
}

/* Takes over a whole shard of an interrupted run if it is the next one, full and sound. Any other
 * is removed, to be written again: so the bytes are those of a run that was never interrupted. */
static Status adopt(DatasetWriter *writer, int64_t index, Error *error) {
  Status status = OK;
  Error fault;
  Shard shard = {0};
  char *path = shard_path(writer, index);
  if (shard_inspect(path, true, &shard, &fault) != OK)
    FAIL(error, ERROR_USAGE, "%s; remove it or choose another folder", fault.message);
  if (strcmp(shard.head.uuid, writer->head.uuid) != 0)
    FAIL(error, ERROR_USAGE,
         "%s: was left by a run with other settings (dataset %s; this one is %s); remove it or "
         "choose another folder",
         path, shard.head.uuid, writer->head.uuid);
  bool next = index == writer->manifest.info.shards && shard.head.shard == index &&
              shard.head.clips == writer->head.clips;
  if (next && check_content(path, &shard, &fault) == OK) {
    keep_layout(writer, shard.layout);
    shard.layout = (ShardLayout){0};
    goto done;
  }
  if (next) log_warning("%s; the shard is written again", fault.message);
  TRY(remove_file(path, error));
done:
  shard_free(&shard);
  free(path);
  return status;
}

static Status take_over(DatasetWriter *writer, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  TRY(folder_list(writer->folder, &names, &count, error));
  TRY(refuse_foreign(writer, names, count, error));
  for (size_t i = 0; i < count; i++) { /* sorted, so shards come in order */
    int64_t index = 0;
    if (classify(names[i], &index) == LEFT_SHARD) {
      TRY(adopt(writer, index, error));
    } else {
      char *path = path_join(writer->folder, names[i]);
      status = remove_file(path, error);
      free(path);
      if (status != OK) goto done;
    }
  }
done:
  folder_list_free(names, count);
  return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

static Status check_spec(const char *folder, const DatasetSpec *spec, Error *error) {
  Status status = OK;
  TRY(clip_shape_check(folder, &spec->shape, ERROR_USAGE, error));
  if (spec->fps_numerator < 0 || spec->fps_numerator > FPS_MAX || spec->fps_denominator < 1 ||
      spec->fps_denominator > FPS_MAX)
    FAIL(error, ERROR_USAGE, "%s: %d/%d is no frame rate", folder, spec->fps_numerator,
         spec->fps_denominator);
  if (spec->clips_per_shard < 0 || spec->clips_per_shard > INT32_MAX)
    FAIL(error, ERROR_USAGE, "%s: %lld clips a shard; must be 0 to %d", folder,
         (long long)spec->clips_per_shard, INT32_MAX);
  if (!spec->maker || strchr(spec->maker, '\n'))
    FAIL(error, ERROR_INTERNAL, "%s: the maker must be one line", folder);
done:
  return status;
}

static int64_t clips_per_shard(const DatasetSpec *spec) {
  if (spec->clips_per_shard > 0) return spec->clips_per_shard;
  int64_t clip = (int64_t)(clip_source_bytes(&spec->shape) + clip_target_bytes(&spec->shape));
  int64_t clips = shard_bytes_aim / clip;
  return clips < 1 ? 1 : clips > MAX_CLIPS_A_SHARD ? MAX_CLIPS_A_SHARD : clips;
}

static void describe_to_be(DatasetWriter *writer, const DatasetSpec *spec) {
  const ClipShape *s = &spec->shape;
  ShardHead *head = &writer->head;
  *head = (ShardHead){.shape = spec->shape,
                      .fps_numerator = spec->fps_numerator,
                      .fps_denominator = spec->fps_denominator,
                      .deflated = spec->deflate,
                      .clips = clips_per_shard(spec)};
  char *identity =
      mem_format("%s\n%d %d %d %d %d %d\n%d/%d\n%lld %d", spec->maker, s->frames, s->source_height,
                 s->source_width, s->source_channels, s->target_height, s->target_width,
                 spec->fps_numerator, spec->fps_denominator, (long long)head->clips, spec->deflate);
  dataset_uuid(identity, head->uuid);
  free(identity);
  writer->manifest.maker = mem_string(spec->maker);
  DatasetInfo *info = &writer->manifest.info;
  info->shape = spec->shape;
  info->fps_numerator = spec->fps_numerator;
  info->fps_denominator = spec->fps_denominator;
  info->deflated = spec->deflate;
  memcpy(info->uuid, head->uuid, sizeof info->uuid);
}

/* Some file systems cannot lock folders: there the lock is left out. */
static Status lock_folder(DatasetWriter *writer, Error *error) {
  writer->lock = open(writer->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (writer->lock < 0) return error_errno(error, errno, "%s: cannot open", writer->folder);
  if (flock(writer->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    return error_set(error, ERROR_USAGE, "%s: another process is writing it", writer->folder);
  return OK;
}

Status dataset_writer_open(const char *folder, const DatasetSpec *spec, DatasetWriter **out,
                           int64_t *already, Error *error) {
  Status status = OK;
  DatasetWriter *writer = mem_new(1, sizeof *writer);
  *out = NULL;
  *already = 0;
  writer->lock = -1;
  writer->folder = mem_string(folder);
  TRY(check_spec(folder, spec, error));
  describe_to_be(writer, spec);
  bool was_there = path_exists(folder);
  TRY(folder_create(folder, error));
  writer->made_folder = !was_there;
  TRY(lock_folder(writer, error));
  TRY(take_over(writer, error));
  *already = writer->manifest.info.clips;
  *out = writer;
  writer = NULL;
done:
  dataset_writer_abandon(writer);
  return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

static Status finish_shard(DatasetWriter *writer, Error *error) {
  ShardLayout layout = {0};
  Status status = shard_writer_finish(writer->shard, &layout, error);
  writer->shard = NULL;
  if (status == OK) keep_layout(writer, layout);
  return status;
}

Status dataset_writer_add(DatasetWriter *writer, const uint8_t *source, const uint8_t *target,
                          const ClipName *name, Error *error) {
  Status status = OK;
  char *path = NULL;
  if (!writer->shard) {
    writer->head.shard = writer->manifest.info.shards;
    if (writer->head.shard == SHARD_MAX_COUNT)
      FAIL(error, ERROR_USAGE, "%s: has %d shards, the most there may be; make them larger",
           writer->folder, SHARD_MAX_COUNT);
    path = shard_path(writer, writer->head.shard);
    TRY(shard_writer_open(path, &writer->head, &writer->shard, error));
  }
  TRY(shard_writer_add(writer->shard, source, target, name, error));
  if (shard_writer_clips(writer->shard) == writer->head.clips) TRY(finish_shard(writer, error));
done:
  free(path);
  return status;
}

Status dataset_writer_finish(DatasetWriter *writer, Error *error) {
  Status status = OK;
  if (writer->shard) TRY(finish_shard(writer, error));
  if (writer->manifest.info.clips == 0)
    FAIL(error, ERROR_DATA, "%s: no clip to write; a dataset needs at least one", writer->folder);
  TRY(manifest_write(writer->folder, &writer->manifest, error));
done:
  dataset_writer_abandon(writer);
  return status;
}

void dataset_writer_abandon(DatasetWriter *writer) {
  if (!writer) return;
  if (writer->shard) shard_writer_abandon(writer->shard);
  if (writer->made_folder) rmdir(writer->folder); /* fails, as it should, where a shard is in it */
  if (writer->lock >= 0) close(writer->lock);
  manifest_free(&writer->manifest);
  free(writer->folder);
  free(writer);
}
