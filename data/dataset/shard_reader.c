#include "data/dataset/shard_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/bulk_memory.h"
#include "base/crc32c.h"

/* The largest ratio of deflate (zlib's "Technical Details"). It keeps a small file from asking for
 * much memory. */
enum { DEFLATE_MAX_RATIO = 1032 };

void shard_layout_free(ShardLayout *layout) {
  for (int side = 0; side < SIDES; side++) {
    free(layout->chunks[side]);
    layout->chunks[side] = NULL;
  }
}

void shard_file_name(int64_t shard, char name[SHARD_NAME_SIZE]) {
  snprintf(name, SHARD_NAME_SIZE, "shard-%05lld.h5", (long long)shard);
}

const char *side_name(int side) {
  return side == SIDE_SOURCE ? "source" : "target";
}

bool clip_has_source(const ClipShape *shape) {
  return shape->source_height > 0 && shape->source_width > 0;
}

bool clip_has_target(const ClipShape *shape) {
  return shape->target_height > 0 && shape->target_width > 0;
}

bool clip_is_paired(const ClipShape *shape) {
  return clip_has_source(shape) && clip_has_target(shape);
}

bool clip_has_side(const ClipShape *shape, int side) {
  return side == SIDE_SOURCE ? clip_has_source(shape) : clip_has_target(shape);
}

size_t clip_source_bytes(const ClipShape *shape) {
  return (size_t)shape->frames * (size_t)shape->source_height * (size_t)shape->source_width *
         (size_t)shape->source_channels;
}

size_t clip_target_bytes(const ClipShape *shape) {
  return (size_t)shape->frames * (size_t)shape->target_height * (size_t)shape->target_width * 3;
}

size_t clip_side_bytes(const ClipShape *shape, int side) {
  return side == SIDE_SOURCE ? clip_source_bytes(shape) : clip_target_bytes(shape);
}

/* All numbers of an absent side must be 0; of a side with any number, all must be 1 or more. */
Status clip_shape_check(const char *where, const ClipShape *shape, Status code, Error *error) {
  int source = shape->source_height || shape->source_width || shape->source_channels;
  int target = shape->target_height || shape->target_width;
  const struct {
    const char *name;
    int value, minimum, maximum;
  } bounds[] = {
      {"frames", shape->frames, 1, CLIP_MAX_FRAMES},
      {"source height", shape->source_height, source, CLIP_MAX_EDGE},
      {"source width", shape->source_width, source, CLIP_MAX_EDGE},
      {"source channels", shape->source_channels, source, CLIP_MAX_CHANNELS},
      {"target height", shape->target_height, target, CLIP_MAX_EDGE},
      {"target width", shape->target_width, target, CLIP_MAX_EDGE},
  };
  if (!source && !target)
    return error_set(error, code, "%s: no source and no target; expected at least one", where);
  for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
    if (bounds[i].value < bounds[i].minimum || bounds[i].value > bounds[i].maximum)
      return error_set(error, code, "%s: %s is %d, expected 1 to %d", where, bounds[i].name,
                       bounds[i].value, bounds[i].maximum);
  if (shape->source_channels % 3 != 0)
    return error_set(error, code, "%s: source channels is %d, expected 3 for each stacked input",
                     where, shape->source_channels);
  for (int side = 0; side < SIDES; side++)
    if (clip_side_bytes(shape, side) > UINT32_MAX)
      return error_set(error, code, "%s: the %s of one clip has %zu bytes, expected at most %u",
                       where, side_name(side), clip_side_bytes(shape, side), UINT32_MAX);
  return OK;
}

Status fps_parse(const char *where, const char *text, int *numerator, int *denominator,
                 Error *error) {
  char *end = NULL;
  long top = strtol(text, &end, 10), bottom = 0;
  if (end != text && *end == '/') bottom = strtol(end + 1, &end, 10);
  if (*end != '\0' || top < 0 || top > FPS_MAX || bottom < 1 || bottom > FPS_MAX)
    return error_set(error, ERROR_DATA, "%s: fps is \"%.40s\", expected a form such as \"25/1\"",
                     where, text);
  *numerator = (int)top;
  *denominator = (int)bottom;
  return OK;
}

static ClipExtent clip_extent(const ShardLayout *layout, const ClipShape *shape, int side,
                              int64_t clip) {
  if (layout->chunks[side]) return layout->chunks[side][clip];
  size_t size = clip_side_bytes(shape, side);
  return (ClipExtent){layout->offset[side] + (uint64_t)clip * size, size};
}

Status shard_layout_check(const char *path, const ShardLayout *layout, const ClipShape *shape,
                          Error *error) {
  for (int side = 0; side < SIDES; side++) {
    uint64_t size = clip_side_bytes(shape, side);
    if (size == 0) continue;
    if (!layout->chunks[side]) {
      uint64_t offset = layout->offset[side];
      if (offset > layout->bytes || (uint64_t)layout->clips > (layout->bytes - offset) / size)
        return error_set(error, ERROR_DATA,
                         "%s: %lld clips of %llu bytes from offset %llu (%s) do not fit into the "
                         "%llu bytes of the file",
                         path, (long long)layout->clips, (unsigned long long)size,
                         (unsigned long long)offset, side_name(side),
                         (unsigned long long)layout->bytes);
      continue;
    }
    uint64_t largest = compressBound(size), smallest = size / DEFLATE_MAX_RATIO + 1;
    for (int64_t i = 0; i < layout->clips; i++) {
      ClipExtent extent = layout->chunks[side][i];
      if (extent.size < smallest || extent.size > largest || extent.offset > layout->bytes ||
          extent.size > layout->bytes - extent.offset)
        return error_set(error, ERROR_DATA,
                         "%s: clip %lld (%s): a chunk of %llu bytes at offset %llu, expected %llu "
                         "to %llu bytes within the file's %llu",
                         path, (long long)i, side_name(side), (unsigned long long)extent.size,
                         (unsigned long long)extent.offset, (unsigned long long)smallest,
                         (unsigned long long)largest, (unsigned long long)layout->bytes);
    }
  }
  return OK;
}

/* Reads a zlib stream that inflates to exactly `size` bytes, into `out`. */
static Status read_deflated(const ShardFile *file, ClipExtent extent, uint8_t *out, size_t size,
                            Error *error) {
  Status status = OK;
  void *packed = NULL;
  uLongf room = size;
  uLong used = extent.size;
  TRY(mem_bulk(extent.size, "a compressed clip", &packed, error));
  TRY(file_pread(file->descriptor, file->path, packed, extent.size, extent.offset, error));
  int result = uncompress2(out, &room, packed, &used);
  if (result != Z_OK)
    FAIL(error, ERROR_DATA, "cannot inflate %llu bytes at offset %llu: %s",
         (unsigned long long)extent.size, (unsigned long long)extent.offset, zError(result));
  if (room != size || used != extent.size)
    FAIL(error, ERROR_DATA,
         "%lu of %llu bytes at offset %llu inflate to %lu, expected all of them to %zu", used,
         (unsigned long long)extent.size, (unsigned long long)extent.offset, room, size);
done:
  free(packed);
  return status;
}

static Status read_side(const ShardFile *file, int64_t clip, int side, uint8_t *out, Error *error) {
  Status status = OK;
  size_t size = clip_side_bytes(file->shape, side);
  ClipExtent extent = clip_extent(file->layout, file->shape, side, clip);
  if (file->layout->chunks[side])
    TRY(read_deflated(file, extent, out, size, error));
  else
    TRY(file_pread(file->descriptor, file->path, out, size, extent.offset, error));
  uint32_t found = crc32c(0, out, size), expected = file->checksums[clip][side];
  if (found != expected) FAIL(error, ERROR_DATA, "CRC-32C is %08x, expected %08x", found, expected);
done:
  if (status != OK)
    error_context(error, "%s: clip %lld (%s)", file->path, (long long)clip, side_name(side));
  return status;
}

Status shard_read_clip(const ShardFile *file, int64_t clip, uint8_t *const sides[SIDES],
                       Error *error) {
  for (int side = 0; side < SIDES; side++) {
    if (!sides[side] || !clip_has_side(file->shape, side)) continue;
    Status status = read_side(file, clip, side, sides[side], error);
    /* An error on a bus or network may not happen again. */
    if (status == ERROR_DATA) status = read_side(file, clip, side, sides[side], error);
    if (status != OK) return status;
  }
  return OK;
}

Status shard_file_crc32c(int descriptor, const char *path, uint64_t bytes, AtomicFile *copy,
                         uint32_t *out, Error *error) {
  Status status = OK;
  const uint64_t block = 1 << 20;
  void *buffer = NULL;
  uint32_t crc = 0;
  TRY(mem_bulk(block, "a read buffer", &buffer, error));
  for (uint64_t offset = 0; offset < bytes; offset += block) {
    size_t size = (size_t)(bytes - offset < block ? bytes - offset : block);
    TRY(file_pread(descriptor, path, buffer, size, offset, error));
    crc = crc32c(crc, buffer, size);
    if (copy) TRY(atomic_file_write(copy, buffer, size, error));
  }
  *out = crc;
done:
  free(buffer);
  return status;
}
