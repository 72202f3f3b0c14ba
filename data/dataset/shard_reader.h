/* Reads the clips of a shard with pread alone, without HDF5. */
#ifndef CELFORGE_DATA_DATASET_SHARD_READER_H
#define CELFORGE_DATA_DATASET_SHARD_READER_H

#include "base/files.h"
#include "data/dataset/dataset.h"

/* The two sides of a clip. */
enum { SIDE_SOURCE, SIDE_TARGET, SIDES };

/* Limits for reading and writing. No product of them overflows, and one side of a clip stays below
 * 4 GiB, the largest chunk of HDF5. */
enum {
  CLIP_MAX_FRAMES = 65536,
  CLIP_MAX_EDGE = 65536,
  CLIP_MAX_CHANNELS = 12,
  DATASET_MAX_SHARDS = 100000,
  FPS_MAX = 1000000000,
};

#define SHARD_FORMAT "celforge-shard"
#define SHARD_COLOR  "rgb24"
#define SHARD_LAYOUT "NTHWC"
/* Version 1 has both sides, version 2 one side alone. */
enum { SHARD_SCHEMA_PAIRED = 1, SHARD_SCHEMA_ONE_SIDED = 2 };

/* The attributes of a shard. */
typedef struct ShardHeader {
  ClipShape shape;
  int fps_numerator, fps_denominator;
  bool deflated;
  char uuid[37]; /* of the dataset it was written for */
  int64_t shard, clips;
} ShardHeader;

/* The bytes of one side of a clip in the file; compressed if the shard is deflated. */
typedef struct ClipExtent {
  uint64_t offset, size;
} ClipExtent;

typedef struct ShardLayout {
  int64_t clips;
  uint64_t bytes;            /* of the file */
  uint32_t crc32c;           /* of the file; 0 if not computed */
  uint64_t offset[SIDES];    /* of clip 0 if the arrays are contiguous */
  ClipExtent *chunks[SIDES]; /* [clips] if they are deflated, else NULL; owned */
} ShardLayout;

void shard_layout_free(ShardLayout *layout);

enum { SHARD_NAME_SIZE = 32 };
/* Writes the file name of a shard, such as "shard-00007.h5". */
void shard_file_name(int64_t shard, char name[SHARD_NAME_SIZE]);
/* Returns "source" or "target". */
const char *side_name(int side);

/* Returns true if clips of this shape have the side. */
bool clip_has_side(const ClipShape *shape, int side);
/* Decoded bytes of one side of a clip; 0 if it is absent. */
size_t clip_side_bytes(const ClipShape *shape, int side);
/* Fails with `code` if a dimension exceeds the limits above, or if there is no side; the message
 * begins with `where`. */
Status clip_shape_check(const char *where, const ClipShape *shape, Status code, Error *error);
/* Parses a frame rate such as "25/1"; "0/1" is no rate. ERROR_DATA. */
Status fps_parse(const char *where, const char *text, int *numerator, int *denominator,
                 Error *error);

/* Fails with ERROR_DATA if a clip lies outside the file or its chunk has an impossible size. */
Status shard_layout_check(const char *path, const ShardLayout *layout, const ClipShape *shape,
                          Error *error);

/* An open shard. Any number of threads may read from it. */
typedef struct ShardFile {
  const char *path;
  int descriptor;
  const ClipShape *shape;
  const ShardLayout *layout;
  const uint32_t (*checksums)[SIDES]; /* [clips][SIDES] CRC-32C of the decoded bytes */
} ShardFile;

/* Reads and decodes both sides of a clip (THWC) and compares checksums; skips sides that are absent
 * or NULL. On a mismatch it reads once more, then fails with ERROR_DATA. ERROR_IO if the operating
 * system cannot read. */
Status shard_read_clip(const ShardFile *file, int64_t clip, uint8_t *const sides[SIDES],
                       Error *error);
/* Computes the CRC-32C of the file's first `bytes` bytes and writes them to `copy`, if not NULL. */
Status shard_file_crc32c(int descriptor, const char *path, uint64_t bytes, AtomicFile *copy,
                         uint32_t *out, Error *error);

#endif
