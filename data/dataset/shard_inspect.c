/* Inspects a shard through HDF5. The file is not trusted: every number in it is compared with the
 * file's size before memory is allocated for it. */
#include "data/dataset/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/dataset/inspection.h"

/* --- Header ----------------------------------------------------------------------------------- */

static Status read_header(const Inspection *shard_file, ShardHeader *header, bool *one_sided,
                          Error *error) {
  Status status = OK;
  int64_t version, frames;
  char text[INSPECTION_TEXT_SIZE];
  TRY(inspection_require_text(shard_file, "format", SHARD_FORMAT, error));
  TRY(inspection_read_number(shard_file, "schema_version", SHARD_SCHEMA_PAIRED,
                             SHARD_SCHEMA_ONE_SIDED, &version, error));
  *one_sided = version == SHARD_SCHEMA_ONE_SIDED;
  TRY(inspection_require_text(shard_file, "color", SHARD_COLOR, error));
  TRY(inspection_require_text(shard_file, "layout", SHARD_LAYOUT, error));
  TRY(inspection_read_text(shard_file, "dataset_uuid", text, error));
  snprintf(header->uuid, sizeof header->uuid, "%.36s", text);
  TRY(inspection_read_text(shard_file, "fps", text, error));
  TRY(fps_parse(shard_file->path, text, &header->fps_numerator, &header->fps_denominator, error));
  TRY(inspection_read_number(shard_file, "shard", 0, DATASET_MAX_SHARDS - 1, &header->shard,
                             error));
  TRY(inspection_read_number(shard_file, "clips", 1, INT32_MAX, &header->clips, error));
  TRY(inspection_read_number(shard_file, "frames", 1, CLIP_MAX_FRAMES, &frames, error));
  header->shape.frames = (int)frames;
done:
  return status;
}

/* --- Arrays ----------------------------------------------------------------------------------- */

static Status open_array(const Inspection *shard_file, const char *name, int rank, hsize_t *dims,
                         hid_t *out, Error *error) {
  Status status = OK;
  hid_t space = H5I_INVALID_HID;
  *out = H5I_INVALID_HID;
  TRY(inspection_require_hard_link(shard_file, shard_file->group, name, error));
  *out = H5Dopen2(shard_file->group, name, H5P_DEFAULT);
  space = *out >= 0 ? H5Dget_space(*out) : H5I_INVALID_HID;
  if (space < 0 || H5Sget_simple_extent_ndims(space) != rank ||
      H5Sget_simple_extent_dims(space, dims, NULL) != rank)
    status = hdf5_error(error, ERROR_DATA, shard_file->path, "\"%s\": expected an array of rank %d",
                        name, rank);
done:
  if (space >= 0) H5Sclose(space);
  return status;
}

static Status require_type(const Inspection *shard_file, const char *name, hid_t array,
                           hid_t expected, Error *error) {
  hid_t type = H5Dget_type(array);
  bool same = type >= 0 && H5Tequal(type, expected) > 0;
  if (type >= 0) H5Tclose(type);
  return same ? OK
              : hdf5_error(error, ERROR_DATA, shard_file->path, "\"%s\" has the wrong element type",
                           name);
}

/* Requires contiguous storage of exactly `size` bytes inside the file; *offset receives where. */
static Status require_contiguous(const Inspection *shard_file, const char *name, hid_t array,
                                 uint64_t size, uint64_t *offset, Error *error) {
  hid_t how = H5Dget_create_plist(array);
  bool plain = how >= 0 && H5Pget_layout(how) == H5D_CONTIGUOUS && H5Pget_external_count(how) == 0;
  if (how >= 0) H5Pclose(how);
  haddr_t address = plain ? H5Dget_offset(array) : HADDR_UNDEF;
  if (!plain || address == HADDR_UNDEF)
    return hdf5_error(error, ERROR_DATA, shard_file->path, "\"%s\" is not contiguous", name);
  if (H5Dget_storage_size(array) != size || address > shard_file->bytes ||
      size > shard_file->bytes - address)
    return error_set(error, ERROR_DATA,
                     "%s: \"%s\" has %llu bytes at offset %llu, expected %llu within the file's "
                     "%llu",
                     shard_file->path, name, (unsigned long long)H5Dget_storage_size(array),
                     (unsigned long long)address, (unsigned long long)size,
                     (unsigned long long)shard_file->bytes);
  *offset = address;
  return OK;
}

static Status require_clip_chunks(const Inspection *shard_file, const char *name, hid_t array,
                                  const hsize_t dims[5], Error *error) {
  hsize_t chunk[5] = {0};
  unsigned flags, config;
  size_t values = 0;
  hid_t how = H5Dget_create_plist(array);
  bool good =
      how >= 0 && H5Pget_layout(how) == H5D_CHUNKED && H5Pget_chunk(how, 5, chunk) == 5 &&
      H5Pget_nfilters(how) == 1 &&
      H5Pget_filter2(how, 0, &flags, &values, NULL, 0, NULL, &config) == H5Z_FILTER_DEFLATE &&
      chunk[0] == 1 && memcmp(chunk + 1, dims + 1, 4 * sizeof *chunk) == 0;
  if (how >= 0) H5Pclose(how);
  return good ? OK
              : hdf5_error(error, ERROR_DATA, shard_file->path,
                           "\"%s\": expected deflate with one clip per chunk", name);
}

static bool is_chunked(hid_t array) {
  hid_t how = H5Dget_create_plist(array);
  bool chunked = how >= 0 && H5Pget_layout(how) == H5D_CHUNKED;
  if (how >= 0) H5Pclose(how);
  return chunked;
}

static Status read_chunk_table(const Inspection *shard_file, const char *name, hid_t array,
                               int64_t clips, ClipExtent **out, Error *error) {
  hid_t space = H5Dget_space(array);
  ClipExtent *table = *out = mem_new((size_t)clips, sizeof *table);
  Status status = OK;
  for (int64_t i = 0; i < clips && status == OK; i++) {
    hsize_t place[5] = {0}, size = 0;
    haddr_t address = HADDR_UNDEF;
    unsigned mask = 0;
    if (H5Dget_chunk_info(array, space, (hsize_t)i, place, &mask, &address, &size) < 0 ||
        place[0] != (hsize_t)i || mask != 0 || address == HADDR_UNDEF)
      status = hdf5_error(error, ERROR_DATA, shard_file->path, "\"%s\": clip %lld has no chunk",
                          name, (long long)i);
    table[i] = (ClipExtent){address, size};
  }
  H5Sclose(space);
  return status;
}

static Status read_dims(const Inspection *shard_file, int side, hid_t array, const hsize_t dims[5],
                        Shard *shard, Error *error) {
  Status status = OK;
  ShardHeader *header = &shard->header;
  ClipShape *shape = &header->shape;
  const char *name = side_name(side);
  if (dims[0] != (hsize_t)header->clips || dims[1] != (hsize_t)shape->frames)
    FAIL(error, ERROR_DATA,
         "%s: \"%s\" has %llu clips of %llu frames, expected %lld of %d (attributes)",
         shard_file->path, name, (unsigned long long)dims[0], (unsigned long long)dims[1],
         (long long)header->clips, shape->frames);
  if (dims[2] > CLIP_MAX_EDGE || dims[3] > CLIP_MAX_EDGE || dims[4] > CLIP_MAX_CHANNELS)
    FAIL(error, ERROR_DATA, "%s: \"%s\" has frames of %llux%llux%llu, expected at most %dx%dx%d",
         shard_file->path, name, (unsigned long long)dims[2], (unsigned long long)dims[3],
         (unsigned long long)dims[4], CLIP_MAX_EDGE, CLIP_MAX_EDGE, CLIP_MAX_CHANNELS);
  *(side == SIDE_SOURCE ? &shape->source_height : &shape->target_height) = (int)dims[2];
  *(side == SIDE_SOURCE ? &shape->source_width : &shape->target_width) = (int)dims[3];
  if (side == SIDE_SOURCE)
    shape->source_channels = (int)dims[4];
  else if (dims[4] != 3)
    FAIL(error, ERROR_DATA, "%s: \"target\" has %llu channels, expected 3", shard_file->path,
         (unsigned long long)dims[4]);
  TRY(require_type(shard_file, name, array, H5T_STD_U8LE, error));
done:
  return status;
}

/* Reads the shape, except of the side that a one-sided shard does not have. */
static Status read_shape(const Inspection *shard_file, bool one_sided, hid_t arrays[SIDES],
                         hsize_t dims[SIDES][5], Shard *shard, Error *error) {
  Status status = OK;
  for (int side = 0; side < SIDES; side++) {
    arrays[side] = H5I_INVALID_HID;
    if (one_sided && H5Lexists(shard_file->group, side_name(side), H5P_DEFAULT) <= 0) continue;
    TRY(open_array(shard_file, side_name(side), 5, dims[side], &arrays[side], error));
    TRY(read_dims(shard_file, side, arrays[side], dims[side], shard, error));
  }
  TRY(clip_shape_check(shard_file->path, &shard->header.shape, ERROR_DATA, error));
  if (one_sided == clip_is_paired(&shard->header.shape))
    FAIL(error, ERROR_DATA, "%s: expected %s (schema_version %d)", shard_file->path,
         one_sided ? "either a source or a target, found both" : "both a source and a target",
         one_sided ? SHARD_SCHEMA_ONE_SIDED : SHARD_SCHEMA_PAIRED);
done:
  return status;
}

static Status read_sides(const Inspection *shard_file, bool one_sided, bool with_chunks,
                         Shard *shard, Error *error) {
  Status status = OK;
  hid_t arrays[SIDES];
  hsize_t dims[SIDES][5];
  TRY(read_shape(shard_file, one_sided, arrays, dims, shard, error));
  shard->header.deflated =
      is_chunked(arrays[clip_has_source(&shard->header.shape) ? SIDE_SOURCE : SIDE_TARGET]);
  for (int side = 0; side < SIDES; side++) {
    if (!clip_has_side(&shard->header.shape, side)) continue;
    const char *name = side_name(side);
    uint64_t size = clip_side_bytes(&shard->header.shape, side) * (uint64_t)shard->header.clips;
    if (!shard->header.deflated) {
      TRY(require_contiguous(shard_file, name, arrays[side], size, &shard->layout.offset[side],
                             error));
      continue;
    }
    TRY(require_clip_chunks(shard_file, name, arrays[side], dims[side], error));
    if (with_chunks)
      TRY(read_chunk_table(shard_file, name, arrays[side], shard->header.clips,
                           &shard->layout.chunks[side], error));
  }
done:
  return status;
}

static Status read_checksums(const Inspection *shard_file, Shard *shard, Error *error) {
  Status status = OK;
  hid_t table;
  hsize_t dims[2];
  uint64_t offset, clips = (uint64_t)shard->header.clips;
  TRY(open_array(shard_file, "crc32c", 2, dims, &table, error));
  if (dims[0] != clips || dims[1] != SIDES)
    FAIL(error, ERROR_DATA, "%s: \"crc32c\" is [%llu,%llu], expected [%llu,2]", shard_file->path,
         (unsigned long long)dims[0], (unsigned long long)dims[1], (unsigned long long)clips);
  TRY(require_type(shard_file, "crc32c", table, H5T_STD_U32LE, error));
  TRY(require_contiguous(shard_file, "crc32c", table, clips * sizeof *shard->checksums, &offset,
                         error));
  shard->checksums = mem_new((size_t)clips, sizeof *shard->checksums);
  if (H5Dread(table, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, shard->checksums) < 0)
    status = hdf5_error(error, ERROR_DATA, shard_file->path, "cannot read \"crc32c\"");
done:
  return status;
}

Status shard_inspect(const char *path, bool with_chunks, Shard *out, Error *error) {
  Status status = OK;
  bool one_sided = false;
  Inspection shard_file = {path, H5I_INVALID_HID, H5I_INVALID_HID, 0};
  *out = (Shard){0};
  hdf5_lock();
  TRY(inspection_open(&shard_file, error));
  TRY(read_header(&shard_file, &out->header, &one_sided, error));
  TRY(read_checksums(&shard_file, out, error)); /* limits the number of clips by the file's size */
  TRY(read_sides(&shard_file, one_sided, with_chunks, out, error));
  out->layout.clips = out->header.clips;
  out->layout.bytes = shard_file.bytes;
  if (with_chunks || !out->header.deflated)
    TRY(shard_layout_check(path, &out->layout, &out->header.shape, error));
done:
  inspection_close(&shard_file);
  hdf5_unlock();
  return status;
}

void shard_free(Shard *shard) {
  shard_layout_free(&shard->layout);
  free(shard->checksums);
  *shard = (Shard){0};
}

/* --- Names ------------------------------------------------------------------------------------ */

/* Reads entry `clip` of a one-dimensional array with `size` bytes per entry. */
static Status read_entry(const Inspection *shard_file, const char *name, int64_t clip, bool text,
                         size_t size, void *out, Error *error) {
  Status status = OK;
  hid_t table, type = H5I_INVALID_HID, space = H5I_INVALID_HID, one = H5I_INVALID_HID;
  hsize_t clips = 0;
  const hsize_t start = (hsize_t)clip, count = 1;
  uint64_t offset;
  TRY(open_array(shard_file, name, 1, &clips, &table, error));
  if (start >= clips)
    FAIL(error, ERROR_DATA, "%s: \"%s\" has %llu entries; clip %lld does not exist",
         shard_file->path, name, (unsigned long long)clips, (long long)clip);
  TRY(require_contiguous(shard_file, name, table, clips * size, &offset, error));
  type = H5Dget_type(table);
  space = H5Dget_space(table);
  one = H5Screate_simple(1, &count, NULL);
  if (H5Tget_class(type) != (text ? H5T_STRING : H5T_INTEGER) || H5Tget_size(type) != size ||
      H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &count, NULL) < 0 ||
      H5Dread(table, text ? type : H5T_NATIVE_INT64, one, space, H5P_DEFAULT, out) < 0)
    status = hdf5_error(error, ERROR_DATA, shard_file->path, "cannot read \"%s\"", name);
  if (text) ((char *)out)[size - 1] = '\0';
done:
  if (one >= 0) H5Sclose(one);
  if (space >= 0) H5Sclose(space);
  if (type >= 0) H5Tclose(type);
  return status;
}

Status shard_clip_name(const char *path, int64_t clip, ClipName *out, Error *error) {
  Status status = OK;
  Inspection shard_file = {path, H5I_INVALID_HID, H5I_INVALID_HID, 0};
  *out = (ClipName){0};
  hdf5_lock();
  TRY(inspection_open(&shard_file, error));
  TRY(read_entry(&shard_file, "id", clip, true, sizeof out->id, out->id, error));
  TRY(read_entry(&shard_file, "origin", clip, true, sizeof out->origin, out->origin, error));
  TRY(read_entry(&shard_file, "start_frame", clip, false, sizeof out->start_frame,
                 &out->start_frame, error));
done:
  inspection_close(&shard_file);
  hdf5_unlock();
  return status;
}
