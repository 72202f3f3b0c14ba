/* Writes one shard through libhdf5, and inspects one without it (format: data/dataset/dataset.h).
 * No HDF5 type appears here. Any thread may call these functions; only one at a time
 * writes. */
#ifndef CELFORGE_DATA_DATASET_SHARD_H
#define CELFORGE_DATA_DATASET_SHARD_H

#include "data/dataset/shard_reader.h"

typedef struct ShardWriter ShardWriter;

/* Starts a shard with room for header->clips clips, under a temporary name. Equal clips give equal
 * files. */
Status shard_writer_open(const char *path, const ShardHeader *header, ShardWriter **out,
                         Error *error);
/* Appends a clip: source and target THWC; the pointer of an absent side is ignored. ERROR_INTERNAL
 * if the shard is full, or the pointer of a side NULL. */
Status shard_writer_add(ShardWriter *writer, const uint8_t *source, const uint8_t *target,
                        const ClipName *name, Error *error);
/* Returns the number of clips added. */
int64_t shard_writer_clips(const ShardWriter *writer);
/* Completes the file, full or not, and renames it. The caller frees *layout. Frees the writer, also
 * on failure, which leaves no file. */
Status shard_writer_finish(ShardWriter *writer, ShardLayout *layout, Error *error);
void shard_writer_abandon(ShardWriter *writer);

/* The contents of a shard, clips excepted. */
typedef struct Shard {
  ShardHeader header;
  ShardLayout layout;
  uint32_t (*checksums)[SIDES]; /* [clips][SIDES] CRC-32C of the decoded bytes; owned */
} Shard;

/* Opens a shard, checks all attributes and arrays against each other and against the file's size,
 * and closes it. Any bytes may be in the file: data/dataset/hdf5_reader.h. `with_chunks` also reads
 * the chunk table of a deflated shard; otherwise layout.chunks is NULL. ERROR_DATA if anything
 * differs from the format; ERROR_IO if the operating system cannot read. Call shard_free also after
 * a failure. */
Status shard_inspect(const char *path, bool with_chunks, Shard *out, Error *error);
void shard_free(Shard *shard);
/* Reads the name of clip `clip` of the shard. */
Status shard_clip_name(const char *path, int64_t clip, ClipName *out, Error *error);

#endif
