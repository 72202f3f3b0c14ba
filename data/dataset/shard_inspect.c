/* Inspects a shard with the reader of hdf5_reader.h. The file is not trusted: every number in it is
 * compared with the file's size before memory is allocated for it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/dataset/hdf5_reader.h"
#include "data/dataset/shard.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are read as they are stored");

/* An open shard, its root group and the group "clips". */
typedef struct Inspection {
  Hdf5Reader reader;
  Hdf5Object root, group;
} Inspection;

/* Reads object `name` of the group. */
static Status read_member(const Hdf5Reader *reader, const Hdf5Object *group, const char *name,
                          Hdf5Object *out, Error *error) {
  const Hdf5Link *link = hdf5_find_link(group, name);
  if (!link) return error_set(error, ERROR_DATA, "%s: no \"%s\"", reader->path, name);
  return hdf5_read_object(reader, link->address, name, out, error);
}

static Status open_shard(const char *path, Inspection *out, Error *error) {
  Status status = OK;
  out->reader = (Hdf5Reader){.descriptor = -1};
  TRY(hdf5_reader_open(path, &out->reader, error));
  TRY(hdf5_read_object(&out->reader, out->reader.root, "/", &out->root, error));
  TRY(read_member(&out->reader, &out->root, "clips", &out->group, error));
  if (!out->group.is_group) FAIL(error, ERROR_DATA, "%s: \"clips\" is not a group", path);
done:
  return status;
}

/* --- Header ----------------------------------------------------------------------------------- */

static Status find_attribute(const Inspection *shard, const char *name, bool text,
                             const Hdf5Attribute **out, Error *error) {
  const char *path = shard->reader.path;
  const Hdf5Attribute *found = *out = hdf5_find_attribute(&shard->root, name);
  if (!found) return error_set(error, ERROR_DATA, "%s: not a shard: no attribute %s", path, name);
  if ((found->type.class == HDF5_TEXT) != text ||
      found->type.size > (text ? HDF5_VALUE_SIZE : sizeof(int64_t)))
    return error_set(error, ERROR_DATA, "%s: attribute %s: expected %s", path, name,
                     text ? "a short text" : "a number");
  return OK;
}

static Status read_text(const Inspection *shard, const char *name, const char **out, Error *error) {
  const Hdf5Attribute *attribute;
  Status status = find_attribute(shard, name, true, &attribute, error);
  if (status == OK) *out = (const char *)attribute->value;
  return status;
}

static Status require_text(const Inspection *shard, const char *name, const char *expected,
                           Error *error) {
  const char *found;
  Status status = read_text(shard, name, &found, error);
  if (status == OK && strcmp(found, expected) != 0)
    return error_set(error, ERROR_DATA, "%s: attribute %s is \"%s\", expected \"%s\"",
                     shard->reader.path, name, found, expected);
  return status;
}

/* Reads a number from `minimum` (at least 0) to `maximum`. */
static Status read_number(const Inspection *shard, const char *name, int64_t minimum,
                          int64_t maximum, int64_t *out, Error *error) {
  const Hdf5Attribute *attribute;
  Status status = find_attribute(shard, name, false, &attribute, error);
  if (status != OK) return status;
  memcpy(out, attribute->value, sizeof *out); /* a shorter number is followed by zeros */
  if (*out < minimum || *out > maximum)
    return error_set(error, ERROR_DATA, "%s: attribute %s is %lld, expected %lld to %lld",
                     shard->reader.path, name, (long long)*out, (long long)minimum,
                     (long long)maximum);
  return OK;
}

static Status read_header(const Inspection *shard, ShardHeader *header, bool *one_sided,
                          Error *error) {
  Status status = OK;
  int64_t version, frames;
  const char *text;
  TRY(require_text(shard, "format", SHARD_FORMAT, error));
  TRY(read_number(shard, "schema_version", SHARD_SCHEMA_PAIRED, SHARD_SCHEMA_ONE_SIDED, &version,
                  error));
  *one_sided = version == SHARD_SCHEMA_ONE_SIDED;
  TRY(require_text(shard, "color", SHARD_COLOR, error));
  TRY(require_text(shard, "layout", SHARD_LAYOUT, error));
  TRY(read_text(shard, "dataset_uuid", &text, error));
  snprintf(header->uuid, sizeof header->uuid, "%.36s", text);
  TRY(read_text(shard, "fps", &text, error));
  TRY(fps_parse(shard->reader.path, text, &header->fps_numerator, &header->fps_denominator, error));
  TRY(read_number(shard, "shard", 0, DATASET_MAX_SHARDS - 1, &header->shard, error));
  TRY(read_number(shard, "clips", 1, INT32_MAX, &header->clips, error));
  TRY(read_number(shard, "frames", 1, CLIP_MAX_FRAMES, &frames, error));
  header->shape.frames = (int)frames;
done:
  return status;
}

/* --- Arrays ----------------------------------------------------------------------------------- */

/* Reads array `name` of the group, and requires its rank and element type. */
static Status read_array(const Inspection *shard, const char *name, int rank, Hdf5Type type,
                         Hdf5Object *out, Error *error) {
  const char *path = shard->reader.path;
  Status status = read_member(&shard->reader, &shard->group, name, out, error);
  if (status != OK) return status;
  if (!out->has_space || !out->has_type || !out->has_layout || out->space.rank != rank)
    return error_set(error, ERROR_DATA, "%s: \"%s\": expected an array of rank %d", path, name,
                     rank);
  if (out->type.class != type.class || out->type.size != type.size)
    return error_set(error, ERROR_DATA, "%s: \"%s\" has the wrong element type", path, name);
  return OK;
}

/* Requires contiguous storage of exactly `size` bytes inside the file. */
static Status require_contiguous(const Inspection *shard, const Hdf5Object *array, uint64_t size,
                                 Error *error) {
  const Hdf5Layout *layout = &array->layout;
  const Hdf5Reader *reader = &shard->reader;
  if (layout->storage != HDF5_CONTIGUOUS || array->has_deflate ||
      layout->address == HDF5_NO_ADDRESS)
    return error_set(error, ERROR_DATA, "%s: \"%s\" is not contiguous", reader->path, array->name);
  if (layout->size != size || layout->address > reader->bytes ||
      size > reader->bytes - layout->address)
    return error_set(error, ERROR_DATA,
                     "%s: \"%s\" has %llu bytes at offset %llu, expected %llu within the file's "
                     "%llu",
                     reader->path, array->name, (unsigned long long)layout->size,
                     (unsigned long long)layout->address, (unsigned long long)size,
                     (unsigned long long)reader->bytes);
  return OK;
}

static Status require_clip_chunks(const Inspection *shard, const Hdf5Object *array, Error *error) {
  const Hdf5Layout *layout = &array->layout;
  const size_t rest = (HDF5_MAX_RANK - 1) * sizeof *layout->chunk;
  if (layout->storage == HDF5_CONTIGUOUS || !array->has_deflate || layout->chunk[0] != 1 ||
      memcmp(layout->chunk + 1, array->space.dims + 1, rest) != 0)
    return error_set(error, ERROR_DATA, "%s: \"%s\": expected deflate with one clip per chunk",
                     shard->reader.path, array->name);
  return OK;
}

static Status read_chunk_table(const Inspection *shard, const Hdf5Object *array, int64_t clips,
                               ClipExtent **out, Error *error) {
  uint64_t *addresses = mem_new((size_t)clips, sizeof *addresses);
  uint64_t *sizes = mem_new((size_t)clips, sizeof *sizes);
  Status status = hdf5_read_chunks(&shard->reader, array, addresses, sizes, error);
  if (status == OK) {
    *out = mem_new((size_t)clips, sizeof **out);
    for (int64_t i = 0; i < clips; i++) (*out)[i] = (ClipExtent){addresses[i], sizes[i]};
  }
  free(sizes);
  free(addresses);
  return status;
}

static Status read_dims(const Inspection *shard, int side, const Hdf5Object *array,
                        ShardHeader *header, Error *error) {
  ClipShape *shape = &header->shape;
  const uint64_t *dims = array->space.dims;
  const char *path = shard->reader.path, *name = array->name;
  if (dims[0] != (uint64_t)header->clips || dims[1] != (uint64_t)shape->frames)
    return error_set(error, ERROR_DATA,
                     "%s: \"%s\" has %llu clips of %llu frames, expected %lld of %d (attributes)",
                     path, name, (unsigned long long)dims[0], (unsigned long long)dims[1],
                     (long long)header->clips, shape->frames);
  if (dims[2] > CLIP_MAX_EDGE || dims[3] > CLIP_MAX_EDGE || dims[4] > CLIP_MAX_CHANNELS)
    return error_set(error, ERROR_DATA,
                     "%s: \"%s\" has frames of %llux%llux%llu, expected at most %dx%dx%d", path,
                     name, (unsigned long long)dims[2], (unsigned long long)dims[3],
                     (unsigned long long)dims[4], CLIP_MAX_EDGE, CLIP_MAX_EDGE, CLIP_MAX_CHANNELS);
  *(side == SIDE_SOURCE ? &shape->source_height : &shape->target_height) = (int)dims[2];
  *(side == SIDE_SOURCE ? &shape->source_width : &shape->target_width) = (int)dims[3];
  if (side == SIDE_SOURCE)
    shape->source_channels = (int)dims[4];
  else if (dims[4] != 3)
    return error_set(error, ERROR_DATA, "%s: \"target\" has %llu channels, expected 3", path,
                     (unsigned long long)dims[4]);
  return OK;
}

/* Reads the arrays of both sides and their shape, except of the side that a one-sided shard does
 * not have. */
static Status read_sides(const Inspection *shard, bool one_sided, Hdf5Object arrays[SIDES],
                         ShardHeader *header, Error *error) {
  Status status = OK;
  const char *path = shard->reader.path;
  for (int side = 0; side < SIDES; side++) {
    if (one_sided && !hdf5_find_link(&shard->group, side_name(side))) continue;
    TRY(read_array(shard, side_name(side), 5, (Hdf5Type){HDF5_UNSIGNED, 1}, &arrays[side], error));
    TRY(read_dims(shard, side, &arrays[side], header, error));
  }
  TRY(clip_shape_check(path, &header->shape, ERROR_DATA, error));
  if (one_sided == clip_is_paired(&header->shape))
    FAIL(error, ERROR_DATA, "%s: expected %s (schema_version %d)", path,
         one_sided ? "either a source or a target, found both" : "both a source and a target",
         one_sided ? SHARD_SCHEMA_ONE_SIDED : SHARD_SCHEMA_PAIRED);
done:
  return status;
}

static Status read_layout(const Inspection *shard, const Hdf5Object arrays[SIDES], bool with_chunks,
                          Shard *out, Error *error) {
  Status status = OK;
  ShardHeader *header = &out->header;
  const Hdf5Object *first = &arrays[clip_has_source(&header->shape) ? SIDE_SOURCE : SIDE_TARGET];
  header->deflated = first->layout.storage != HDF5_CONTIGUOUS;
  for (int side = 0; side < SIDES; side++) {
    const Hdf5Object *array = &arrays[side];
    if (!clip_has_side(&header->shape, side)) continue;
    uint64_t size = clip_side_bytes(&header->shape, side) * (uint64_t)header->clips;
    if (header->deflated) {
      TRY(require_clip_chunks(shard, array, error));
      if (with_chunks)
        TRY(read_chunk_table(shard, array, header->clips, &out->layout.chunks[side], error));
    } else {
      TRY(require_contiguous(shard, array, size, error));
      out->layout.offset[side] = array->layout.address;
    }
  }
done:
  return status;
}

static Status read_checksums(const Inspection *shard, Shard *out, Error *error) {
  Status status = OK;
  Hdf5Object table;
  const uint64_t clips = (uint64_t)out->header.clips;
  const uint64_t size = clips * sizeof *out->checksums;
  TRY(read_array(shard, "crc32c", 2, (Hdf5Type){HDF5_UNSIGNED, 4}, &table, error));
  if (table.space.dims[0] != clips || table.space.dims[1] != SIDES)
    FAIL(error, ERROR_DATA, "%s: \"crc32c\" is [%llu,%llu], expected [%llu,2]", shard->reader.path,
         (unsigned long long)table.space.dims[0], (unsigned long long)table.space.dims[1],
         (unsigned long long)clips);
  TRY(require_contiguous(shard, &table, size, error));
  out->checksums = mem_new((size_t)clips, sizeof *out->checksums);
  TRY(file_pread(shard->reader.descriptor, shard->reader.path, out->checksums, size,
                 table.layout.address, error));
done:
  return status;
}

Status shard_inspect(const char *path, bool with_chunks, Shard *out, Error *error) {
  Status status = OK;
  bool one_sided = false;
  Inspection *shard = mem_new(1, sizeof *shard);
  Hdf5Object *arrays = mem_new(SIDES, sizeof *arrays);
  *out = (Shard){0};
  TRY(open_shard(path, shard, error));
  TRY(read_header(shard, &out->header, &one_sided, error));
  TRY(read_checksums(shard, out, error)); /* limits the number of clips by the file's size */
  TRY(read_sides(shard, one_sided, arrays, &out->header, error));
  TRY(read_layout(shard, arrays, with_chunks, out, error));
  out->layout.clips = out->header.clips;
  out->layout.bytes = shard->reader.bytes;
  if (with_chunks || !out->header.deflated)
    TRY(shard_layout_check(path, &out->layout, &out->header.shape, error));
done:
  hdf5_reader_close(&shard->reader);
  free(arrays);
  free(shard);
  return status;
}

void shard_free(Shard *shard) {
  shard_layout_free(&shard->layout);
  free(shard->checksums);
  *shard = (Shard){0};
}

/* --- Names ------------------------------------------------------------------------------------ */

/* Reads entry `clip` of a one-dimensional array. */
static Status read_entry(const Inspection *shard, const char *name, int64_t clip, Hdf5Type type,
                         void *out, Error *error) {
  Status status = OK;
  Hdf5Object table;
  TRY(read_array(shard, name, 1, type, &table, error));
  uint64_t clips = table.space.dims[0];
  if ((uint64_t)clip >= clips || clips > INT32_MAX)
    FAIL(error, ERROR_DATA, "%s: \"%s\" has %llu entries; clip %lld does not exist",
         shard->reader.path, name, (unsigned long long)clips, (long long)clip);
  TRY(require_contiguous(shard, &table, clips * type.size, error));
  TRY(file_pread(shard->reader.descriptor, shard->reader.path, out, type.size,
                 table.layout.address + (uint64_t)clip * type.size, error));
  if (type.class == HDF5_TEXT) ((char *)out)[type.size - 1] = '\0';
done:
  return status;
}

Status shard_clip_name(const char *path, int64_t clip, ClipName *out, Error *error) {
  Status status = OK;
  Inspection *shard = mem_new(1, sizeof *shard);
  *out = (ClipName){0};
  TRY(open_shard(path, shard, error));
  TRY(read_entry(shard, "id", clip, (Hdf5Type){HDF5_TEXT, sizeof out->id}, out->id, error));
  TRY(read_entry(shard, "origin", clip, (Hdf5Type){HDF5_TEXT, sizeof out->origin}, out->origin,
                 error));
  TRY(read_entry(shard, "start_frame", clip, (Hdf5Type){HDF5_SIGNED, sizeof out->start_frame},
                 &out->start_frame, error));
done:
  hdf5_reader_close(&shard->reader);
  free(shard);
  return status;
}
