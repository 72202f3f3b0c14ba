/* One shard as an HDF5 file: written, and described for those who then read it with pread (see
 * data/dataset/dataset.h for what it holds). Nothing of HDF5 shows here. Any thread may call these;
 * they run one at a time. */
#ifndef CELFORGE_DATA_DATASET_SHARD_H
#define CELFORGE_DATA_DATASET_SHARD_H

#include "data/dataset/shard_reader.h"

typedef struct ShardWriter ShardWriter;

/* Writes under a temporary name. head->clips is how many there is room for; equal clips give equal
 * files. */
Status shard_writer_open(const char *path, const ShardHead *head, ShardWriter **out, Error *error);
/* Sides are THWC. ERROR_INTERNAL where the shard is full. */
Status shard_writer_add(ShardWriter *writer, const uint8_t *source, const uint8_t *target,
                        const ClipName *name, Error *error);
int64_t shard_writer_clips(const ShardWriter *writer);
/* Completes the file, also one that is not full, and gives it its name. *layout is the caller's to
 * free. Frees the writer, also on failure; then there is no file. */
Status shard_writer_finish(ShardWriter *writer, ShardLayout *layout, Error *error);
void shard_writer_abandon(ShardWriter *writer);

typedef struct Shard {
  ShardHead head;
  ShardLayout layout;
  uint32_t (*sums)[SIDES]; /* [clips][SIDES] */
} Shard;

/* Opens through HDF5, checks every attribute and array against each other and against the file's
 * size, and closes again. `with_chunks` collects the chunk table of a deflated shard, which takes
 * time; without it layout.chunks is NULL. ERROR_DATA on anything that is not as Celforge writes it.
 * shard_free also after failure. */
Status shard_inspect(const char *path, bool with_chunks, Shard *out, Error *error);
void shard_free(Shard *shard);
/* The name of clip `clip` of the shard. */
Status shard_clip_name(const char *path, int64_t clip, ClipName *out, Error *error);

#endif
