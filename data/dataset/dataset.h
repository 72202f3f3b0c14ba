/* A dataset: a folder of immutable HDF5 shards and a manifest.json, written last, that makes it
 * valid.
 *
 *   shard-00000.h5
 *     attributes            format "celforge-shard", schema_version, dataset_uuid, shard, clips,
 *                           frames, fps (text "25/1"), color "rgb24", layout "NTHWC"
 *     /clips/source         u8 [N,T,H,W,C], contiguous and aligned; deflated: one clip a chunk
 *     /clips/target         u8 [N,T,H',W',3]; H', W' differ from H, W for super-resolution
 *     /clips/crc32c         u32 [N,2] of the decoded bytes of source and target
 *     /clips/id, origin, start_frame   [N], what the clip is and where it came from
 *   manifest.json           the same facts; of each shard its size, clip count, data offsets (chunk
 *                           tables when deflated) and CRC-32C, and where it was written for another
 *                           dataset (join) its dataset_uuid and number there
 *
 * HDF5 describes, pread reads: opening checks every shard through the library on one thread;
 * reading never calls it. Nothing of HDF5 shows here. */
#ifndef CELFORGE_DATA_DATASET_DATASET_H
#define CELFORGE_DATA_DATASET_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

typedef struct ClipShape {
  int frames;
  int source_height, source_width, source_channels; /* channels: 3 for each stacked input */
  int target_height, target_width;                  /* always 3 channels */
} ClipShape;

typedef struct DatasetInfo {
  ClipShape shape;
  int64_t clips;
  int shards;
  int fps_numerator, fps_denominator; /* 0/1 where a clip has no rate (frame folders) */
  bool deflated;
  char uuid[37];
} DatasetInfo;

typedef struct Dataset Dataset;

/* Opens and checks structure (not every checksum: dataset_verify). ERROR_DATA for a missing,
 * foreign, truncated or inconsistent manifest or shard, naming file, expected and found. */
Status dataset_open(const char *folder, Dataset **out, Error *error);
void dataset_close(Dataset *dataset);
const DatasetInfo *dataset_info(const Dataset *dataset);
size_t clip_source_bytes(const ClipShape *shape);
size_t clip_target_bytes(const ClipShape *shape);

typedef struct ClipName {
  char id[64];
  char origin[192];
  int64_t start_frame;
} ClipName;

/* Reads clip `index` (0 .. clips-1) decoded, source THWC then target THWC, and compares checksums;
 * on a mismatch reads once more, then fails with ERROR_DATA naming shard, clip and both sums. Any
 * number of threads at once. */
Status dataset_read(const Dataset *dataset, int64_t index, uint8_t *source, uint8_t *target,
                    Error *error);
/* Name and origin of a clip; opens the shard through HDF5, so not for hot paths. */
Status dataset_clip_name(const Dataset *dataset, int64_t index, ClipName *out, Error *error);

/* Checks every checksum of every shard; fails on the first bad one unless `report` is given, which
 * then lists every bad clip (a line each) before the function fails. */
Status dataset_verify(const char *folder, Text *report, Error *error);
/* What a person wants to know of a shard file or a dataset folder. */
Status dataset_describe(const char *path, Text *out, Error *error);

/* --- Writing ---------------------------------------------------------------------------------- */
typedef struct DatasetSpec {
  ClipShape shape;
  int fps_numerator, fps_denominator;
  int64_t clips_per_shard; /* 0: as many as make about 256 MiB; deflated at most 16384 */
  bool deflate;            /* zlib level 1 with byte shuffle off */
  const char *maker;       /* one line kept in the manifest: the command and its seed. A different
                              maker's leftovers are not continued. */
} DatasetSpec;

typedef struct DatasetWriter DatasetWriter;

/* Makes the folder, or continues in it after an interruption: `*already` is how many clips whole
 * shards hold; the caller skips that many. A folder with a manifest, or with foreign files, is
 * refused with ERROR_USAGE. A shard is written under a temporary name and renamed when full. */
Status dataset_writer_open(const char *folder, const DatasetSpec *spec, DatasetWriter **out,
                           int64_t *already, Error *error);
Status dataset_writer_add(DatasetWriter *writer, const uint8_t *source, const uint8_t *target,
                          const ClipName *name, Error *error);
/* Writes the last shard and the manifest. Frees the writer, also on failure. */
Status dataset_writer_finish(DatasetWriter *writer, Error *error);
/* Frees without finishing; whole shards stay for the next try. */
void dataset_writer_abandon(DatasetWriter *writer);
/* Frees and removes the whole shards too, also those of the run before: where another try would
 * fail alike. */
void dataset_writer_discard(DatasetWriter *writer);

#endif
