/* What a shard holds and where its clips lie in the file, without HDF5: enough to read clips with
 * pread alone. */
#ifndef CELFORGE_DATA_DATASET_SHARD_READER_H
#define CELFORGE_DATA_DATASET_SHARD_READER_H

#include "base/files.h"
#include "data/dataset/dataset.h"

enum { SIDE_SOURCE, SIDE_TARGET, SIDES };

/* Bounds of what is read and written: no product of them overflows, and a side of a clip stays
 * below 4 GiB, the largest chunk of HDF5. */
enum {
  CLIP_MAX_FRAMES = 65536,
  CLIP_MAX_EDGE = 65536,
  CLIP_MAX_CHANNELS = 12,
  SHARD_MAX_COUNT = 100000,
  FPS_MAX = 1000000000,
};

/* The attributes of a shard. */
typedef struct ShardHead {
  ClipShape shape;
  int fps_numerator, fps_denominator;
  bool deflated;
  char uuid[37];
  int64_t shard, clips;
} ShardHead;

typedef struct ClipPlace {
  uint64_t offset, size; /* bytes in the file; deflated: of the compressed stream */
} ClipPlace;

typedef struct ShardLayout {
  int64_t clips;
  uint64_t bytes;           /* of the file */
  uint32_t crc32c;          /* of the file; 0 where it was not asked for */
  uint64_t offset[SIDES];   /* of clip 0 where the arrays are contiguous */
  ClipPlace *chunks[SIDES]; /* [clips] where they are deflated, else NULL; owned */
} ShardLayout;

void shard_layout_free(ShardLayout *layout);

enum { SHARD_NAME_SIZE = 32 };
/* "shard-00007.h5". */
void shard_file_name(int64_t shard, char name[SHARD_NAME_SIZE]);
const char *side_name(int side);

/* Bytes of one side of a clip, decoded. */
size_t clip_side_bytes(const ClipShape *shape, int side);
/* Fails with `code` on what is out of bounds; `where` begins the message. */
Status clip_shape_check(const char *where, const ClipShape *shape, Status code, Error *error);
/* "25/1" to two numbers, 0/1 for no rate. ERROR_DATA. */
Status fps_parse(const char *where, const char *text, int *numerator, int *denominator,
                 Error *error);

/* Fails with ERROR_DATA where a clip lies outside the file or is longer than it can be. */
Status shard_layout_check(const char *path, const ShardLayout *layout, const ClipShape *shape,
                          Error *error);

/* An open shard, for reading by any number of threads. */
typedef struct ShardFile {
  const char *path;
  int descriptor;
  const ClipShape *shape;
  const ShardLayout *layout;
  const uint32_t (*sums)[SIDES]; /* [clips][SIDES] CRC-32C of the decoded bytes */
} ShardFile;

/* Decodes both sides of a clip (THWC) and compares checksums. Tried twice before it fails with
 * ERROR_DATA; what the operating system refuses is ERROR_IO at once. */
Status shard_read_clip(const ShardFile *file, int64_t clip, uint8_t *const sides[SIDES],
                       Error *error);
/* CRC-32C of all `bytes` of the file, which are also written to `copy` (may be NULL). */
Status shard_file_crc32c(int descriptor, const char *path, uint64_t bytes, AtomicFile *copy,
                         uint32_t *out, Error *error);

#endif
