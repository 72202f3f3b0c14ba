/* Reads and writes datasets: folders of immutable HDF5 shards and a manifest.json. The manifest is
 * written last; a folder without one is not a dataset.
 *
 *   shard-00000.h5
 *     attributes            format "celforge-shard", schema_version (1; 2 if one side is absent),
 *                           dataset_uuid, shard, clips, frames, fps (text "25/1"), color "rgb24",
 *                           layout "NTHWC"
 *     /clips/source         u8 [N,T,H,W,C], contiguous and aligned; or deflated, one clip per chunk
 *     /clips/target         u8 [N,T,H',W',3]; H', W' differ from H, W for super-resolution
 *     /clips/crc32c         u32 [N,2], CRC-32C of the decoded bytes of source and target; 0 for an
 *                           absent side
 *     /clips/id, origin, start_frame   [N], the clip's name, its video and its first frame there
 *   manifest.json           the same facts, and for each shard its size, clip count, data offsets
 *                           (chunk tables if deflated) and CRC-32C. Shards that join took over from
 *                           another dataset also have its dataset_uuid and their number there.
 *
 * A dataset has pairs, or one side alone: sources without targets, or targets without sources. The
 * array and the manifest's entries of an absent side do not exist.
 *
 * libhdf5 only writes shards. They are read without it (data/dataset/hdf5_reader.h): dataset_open
 * checks the structure of every shard, and clips are read with pread, by any number of threads. So
 * a shard may come from anywhere: damaged or hostile, it leads to an error. */
#ifndef CELFORGE_DATA_DATASET_DATASET_H
#define CELFORGE_DATA_DATASET_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

/* An absent side has height and width 0, and an absent source 0 channels. */
typedef struct ClipShape {
  int frames;
  int source_height, source_width, source_channels; /* channels: 3 for each stacked input */
  int target_height, target_width;                  /* always 3 channels */
} ClipShape;

bool clip_has_source(const ClipShape *shape);
bool clip_has_target(const ClipShape *shape);
bool clip_is_paired(const ClipShape *shape);

typedef struct DatasetInfo {
  ClipShape shape;
  int64_t clips;
  int shards;
  int fps_numerator, fps_denominator; /* 0/1 if the clips have no frame rate (frame folders) */
  bool deflated;
  char uuid[37];
} DatasetInfo;

typedef struct Dataset Dataset;

/* Opens a dataset and checks its structure, but no checksums (see dataset_verify). ERROR_DATA if
 * the manifest or a shard is missing, truncated, inconsistent or of another dataset; the message
 * names the file, the value found and the value expected. ERROR_IO if the shards exceed the limit
 * of open files. */
Status dataset_open(const char *folder, Dataset **out, Error *error);
void dataset_close(Dataset *dataset);
const DatasetInfo *dataset_info(const Dataset *dataset);
/* Returns the folder as given to dataset_open, for messages. */
const char *dataset_path(const Dataset *dataset);
/* Fails with ERROR_USAGE if the dataset does not have both sides; the message names the folder and
 * the absent side, and ends with `use`, the part of the program that needs pairs: "eval". */
Status dataset_require_pairs(const Dataset *dataset, const char *use, Error *error);
/* Decoded bytes of one clip's source or target; 0 if that side is absent. */
size_t clip_source_bytes(const ClipShape *shape);
size_t clip_target_bytes(const ClipShape *shape);

typedef struct ClipName {
  char id[64];
  char origin[192]; /* the video or generator that the clip comes from */
  int64_t start_frame;
} ClipName;

/* Reads clip `index` (0 .. clips-1), decoded, into `source` and `target` (both THWC), and compares
 * checksums. A side whose pointer is NULL is not read; nothing is stored for an absent side. On a
 * mismatch it reads once more, then fails with ERROR_DATA; the message names shard, clip and both
 * checksums. ERROR_IO if the operating system cannot read. Any number of threads may call it at
 * once. */
Status dataset_read(const Dataset *dataset, int64_t index, uint8_t *source, uint8_t *target,
                    Error *error);
/* Reads a clip's name and origin. Opens the shard each time. */
Status dataset_clip_name(const Dataset *dataset, int64_t index, ClipName *out, Error *error);

/* Compares every checksum of every shard. Without `report` it fails on the first mismatch. With one
 * it checks everything, appends a line per mismatch and then fails. */
Status dataset_verify(const char *folder, Text *report, Error *error);
/* Appends a readable summary of a shard file or a dataset folder. */
Status dataset_describe(const char *path, Text *out, Error *error);

/* --- Writing ---------------------------------------------------------------------------------- */
typedef struct DatasetSpec {
  ClipShape shape;
  int fps_numerator, fps_denominator;
  int64_t clips_per_shard; /* 0: about 256 MiB per shard; at most 16384 if deflated */
  bool deflate;            /* zlib level 1, no byte shuffle */
  const char *maker;       /* for the manifest: the command and its seed. Control characters and
                              bytes that are not UTF-8 are escaped. Shards of an interrupted run
                              with another maker are not continued. */
} DatasetSpec;

typedef struct DatasetWriter DatasetWriter;

/* Creates the folder, or continues an interrupted run in it. *already is the number of clips in its
 * complete shards; the caller skips that many. ERROR_USAGE if the folder has a manifest, other
 * files or another writer. Shards are written under a temporary name and renamed when full. */
Status dataset_writer_open(const char *folder, const DatasetSpec *spec, DatasetWriter **out,
                           int64_t *already, Error *error);
/* Appends a clip: source and target THWC; the pointer of an absent side is ignored. */
Status dataset_writer_add(DatasetWriter *writer, const uint8_t *source, const uint8_t *target,
                          const ClipName *name, Error *error);
/* Writes the last shard and the manifest. Frees the writer, also on failure. */
Status dataset_writer_finish(DatasetWriter *writer, Error *error);
/* Frees the writer; complete shards stay and are continued by the next run. */
void dataset_writer_abandon(DatasetWriter *writer);
/* Frees the writer and removes all shards, including those of the interrupted run before: for
 * failures that another run would repeat. */
void dataset_writer_discard(DatasetWriter *writer);

#endif
