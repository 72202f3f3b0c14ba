#include "data/dataset/dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/memory.h"
#include "data/dataset/manifest.h"
#include "data/dataset/shard.h"

enum { OTHER_FILES = 256 }; /* an upper bound of open files besides shards */

typedef struct OpenShard {
  char *path;
  int descriptor;
  int64_t first; /* index of its first clip in the dataset */
  uint32_t (*checksums)[SIDES];
} OpenShard;

struct Dataset {
  char *folder;
  Manifest manifest;
  OpenShard *shards; /* [manifest.info.shards] */
};

const DatasetInfo *dataset_info(const Dataset *dataset) {
  return &dataset->manifest.info;
}

const char *dataset_path(const Dataset *dataset) {
  return dataset->folder;
}

Status dataset_require_pairs(const Dataset *dataset, const char *use, Error *error) {
  const ClipShape *shape = &dataset->manifest.info.shape;
  if (clip_is_paired(shape)) return OK;
  bool has_source = clip_has_source(shape);
  return error_set(error, ERROR_USAGE,
                   "%s has %s only, no %s; %s needs pairs: pack both sides (celforge pack --source "
                   "... --target ...)",
                   dataset->folder, has_source ? "sources" : "targets",
                   has_source ? "targets" : "sources", use);
}

void dataset_close(Dataset *dataset) {
  if (!dataset) return;
  for (int i = 0; i < dataset->manifest.info.shards; i++) {
    OpenShard *shard = &dataset->shards[i];
    file_close(&shard->descriptor);
    free(shard->checksums);
    free(shard->path);
  }
  free(dataset->shards);
  manifest_free(&dataset->manifest);
  free(dataset->folder);
  free(dataset);
}

/* --- Opening ---------------------------------------------------------------------------------- */

/* Raises the soft limit of open files (usually 1024): each shard keeps a descriptor open. */
static Status raise_file_limit(const char *folder, int shards, Error *error) {
  struct rlimit limit;
  rlim_t wanted = (rlim_t)shards + OTHER_FILES;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return OK;
  if (limit.rlim_max < (rlim_t)shards)
    return error_set(
        error, ERROR_IO,
        "%s: %d shards need as many open files; the limit is %llu (ulimit -Hn): raise it, or "
        "make fewer shards with celforge join --clips-per-shard N",
        folder, shards, (unsigned long long)limit.rlim_max);
  limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
  return OK;
}

/* Opens the file and compares its size: HDF5's message about a truncated file is unclear. */
static Status open_file(OpenShard *shard, const ShardLayout *layout, Error *error) {
  struct stat info;
  shard->descriptor = file_open(shard->path, O_RDONLY | O_NONBLOCK);
  if (shard->descriptor < 0 && errno == ENOENT)
    return error_set(error, ERROR_DATA, "%s: missing, but listed in the manifest", shard->path);
  if (shard->descriptor < 0 || fstat(shard->descriptor, &info) != 0)
    return error_errno(error, errno, "%s: cannot open", shard->path);
  if (!S_ISREG(info.st_mode))
    return error_set(error, ERROR_DATA, "%s: not a regular file", shard->path);
  if ((uint64_t)info.st_size != layout->bytes)
    return error_set(error, ERROR_DATA, "%s: %lld bytes, expected %llu (manifest)%s", shard->path,
                     (long long)info.st_size, (unsigned long long)layout->bytes,
                     (uint64_t)info.st_size < layout->bytes ? ": the file is truncated" : "");
  return OK;
}

static Status differs(const OpenShard *shard, const char *what, long long found, long long expected,
                      Error *error) {
  return error_set(error, ERROR_DATA, "%s: %s is %lld, expected %lld (manifest)", shard->path, what,
                   found, expected);
}

/* Compares a shard's attributes and layout with the manifest. */
static Status compare_shard(const OpenShard *opened, const Shard *shard, const DatasetInfo *info,
                            const ManifestShard *listed, Error *error) {
  const ShardHeader *header = &shard->header;
  const ShardLayout *layout = &listed->layout;
  const ClipShape *found = &header->shape, *expected = &info->shape;
  if (strcmp(header->uuid, listed->uuid) != 0)
    return error_set(error, ERROR_DATA,
                     "%s: shard of another dataset: dataset_uuid is %s, expected %s (manifest)",
                     opened->path, header->uuid, listed->uuid);
  const struct {
    const char *name;
    long long found, expected;
  } pairs[] = {
      {"shard", header->shard, listed->number},
      {"clips", header->clips, layout->clips},
      {"frames", found->frames, expected->frames},
      {"source height", found->source_height, expected->source_height},
      {"source width", found->source_width, expected->source_width},
      {"source channels", found->source_channels, expected->source_channels},
      {"target height", found->target_height, expected->target_height},
      {"target width", found->target_width, expected->target_width},
      {"fps numerator", header->fps_numerator, info->fps_numerator},
      {"fps denominator", header->fps_denominator, info->fps_denominator},
      {"deflated", header->deflated, info->deflated},
      {"source offset", (long long)shard->layout.offset[SIDE_SOURCE],
       (long long)layout->offset[SIDE_SOURCE]},
      {"target offset", (long long)shard->layout.offset[SIDE_TARGET],
       (long long)layout->offset[SIDE_TARGET]},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
    if (pairs[i].found != pairs[i].expected)
      return differs(opened, pairs[i].name, pairs[i].found, pairs[i].expected, error);
  return OK;
}

static Status open_shard(Dataset *dataset, int index, Error *error) {
  Status status = OK;
  Shard shard = {0};
  OpenShard *opened = &dataset->shards[index];
  const ManifestShard *listed = &dataset->manifest.shards[index];
  TRY(open_file(opened, &listed->layout, error));
  TRY(shard_inspect(opened->path, false, &shard, error));
  TRY(compare_shard(opened, &shard, &dataset->manifest.info, listed, error));
  opened->checksums = shard.checksums;
  shard.checksums = NULL;
done:
  shard_free(&shard);
  return status;
}

Status dataset_open(const char *folder, Dataset **out, Error *error) {
  Status status = OK;
  int64_t first = 0;
  *out = NULL;
  Dataset *dataset = mem_new(1, sizeof *dataset);
  dataset->folder = mem_string(folder);
  TRY(manifest_read(folder, &dataset->manifest, error));
  int shards = dataset->manifest.info.shards;
  dataset->shards = mem_new((size_t)shards, sizeof *dataset->shards);
  for (int i = 0; i < shards; i++) {
    char name[SHARD_NAME_SIZE];
    shard_file_name(i, name);
    dataset->shards[i] =
        (OpenShard){.path = path_join(folder, name), .descriptor = -1, .first = first};
    first += dataset->manifest.shards[i].layout.clips;
  }
  TRY(raise_file_limit(folder, shards, error));
  for (int i = 0; i < shards; i++) TRY(open_shard(dataset, i, error));
  *out = dataset;
  dataset = NULL;
done:
  dataset_close(dataset);
  return status;
}

/* --- Reading ---------------------------------------------------------------------------------- */

/* Finds the shard of clip `index`. */
static Status find_shard(const Dataset *dataset, int64_t index, int *out, Error *error) {
  int low = 0, high = dataset->manifest.info.shards - 1;
  if (index < 0 || index >= dataset->manifest.info.clips)
    return error_set(error, ERROR_INTERNAL, "clip %lld; expected 0 to %lld", (long long)index,
                     (long long)dataset->manifest.info.clips - 1);
  while (low < high) {
    int middle = low + (high - low + 1) / 2;
    if (dataset->shards[middle].first <= index)
      low = middle;
    else
      high = middle - 1;
  }
  *out = low;
  return OK;
}

static ShardFile shard_file(const Dataset *dataset, int index) {
  const OpenShard *shard = &dataset->shards[index];
  return (ShardFile){shard->path, shard->descriptor, &dataset->manifest.info.shape,
                     &dataset->manifest.shards[index].layout,
                     (const uint32_t(*)[SIDES])shard->checksums};
}

Status dataset_read(const Dataset *dataset, int64_t index, uint8_t *source, uint8_t *target,
                    Error *error) {
  int shard = 0;
  uint8_t *const sides[SIDES] = {source, target};
  Status status = find_shard(dataset, index, &shard, error);
  if (status != OK) return status;
  ShardFile file = shard_file(dataset, shard);
  status = shard_read_clip(&file, index - dataset->shards[shard].first, sides, error);
  if (status != OK) error_context(error, "clip %lld of the dataset", (long long)index);
  return status;
}

Status dataset_clip_name(const Dataset *dataset, int64_t index, ClipName *out, Error *error) {
  int shard = 0;
  *out = (ClipName){0};
  Status status = find_shard(dataset, index, &shard, error);
  if (status != OK) return status;
  return shard_clip_name(dataset->shards[shard].path, index - dataset->shards[shard].first, out,
                         error);
}

/* --- Verifying -------------------------------------------------------------------------------- */

typedef struct Verification {
  const Dataset *dataset;
  Text *report; /* NULL: fail on the first mismatch */
  int64_t mismatches;
  uint8_t *sides[SIDES];
} Verification;

/* Appends bad data to the report and returns OK, if there is a report. */
static Status report_mismatch(Verification *verification, Status status, Error *error) {
  if (status != ERROR_DATA || !verification->report) return status;
  text_append_printable(verification->report, error->message); /* a path may have a newline */
  text_append(verification->report, "\n");
  verification->mismatches++;
  return OK;
}

static Status verify_file(const ShardFile *file, Error *error) {
  uint32_t found;
  Status status =
      shard_file_crc32c(file->descriptor, file->path, file->layout->bytes, NULL, &found, error);
  if (status == OK && found != file->layout->crc32c)
    return error_set(error, ERROR_DATA, "%s: CRC-32C of the file is %08x, expected %08x",
                     file->path, found, file->layout->crc32c);
  return status;
}

/* Checks the clips before the file as a whole, so that the first message is the most specific. */
static Status verify_shard(Verification *verification, int index, Error *error) {
  Status status = OK;
  Error own;
  const Dataset *dataset = verification->dataset;
  ShardFile file = shard_file(dataset, index);
  for (int64_t clip = 0; clip < file.layout->clips && status == OK; clip++) {
    status = dataset_read(dataset, dataset->shards[index].first + clip,
                          verification->sides[SIDE_SOURCE], verification->sides[SIDE_TARGET], &own);
    status = report_mismatch(verification, status, &own);
  }
  if (status == OK) status = report_mismatch(verification, verify_file(&file, &own), &own);
  if (status != OK) error_set(error, status, "%s", own.message);
  return status;
}

Status dataset_verify(const char *folder, Text *report, Error *error) {
  Status status = OK;
  Dataset *dataset = NULL;
  Verification verification = {.report = report};
  TRY(dataset_open(folder, &dataset, error));
  verification.dataset = dataset;
  for (int side = 0; side < SIDES; side++) {
    if (!clip_has_side(&dataset->manifest.info.shape, side)) continue;
    void *clip;
    TRY(mem_bulk(clip_side_bytes(&dataset->manifest.info.shape, side), "a clip", &clip, error));
    verification.sides[side] = clip;
  }
  for (int i = 0; i < dataset->manifest.info.shards; i++)
    TRY(verify_shard(&verification, i, error));
  if (verification.mismatches > 0)
    FAIL(error, ERROR_DATA, "%s: %lld checksum%s wrong; build the dataset again", folder,
         (long long)verification.mismatches, verification.mismatches == 1 ? " is" : "s are");
done:
  for (int side = 0; side < SIDES; side++) free(verification.sides[side]);
  dataset_close(dataset);
  return status;
}
