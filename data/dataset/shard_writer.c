/* Writes a shard through HDF5. */
#include "data/dataset/shard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/bulk_memory.h"
#include "base/crc32c.h"
#include "base/files.h"
#include "base/memory.h"
#include "data/dataset/hdf5.h"

enum {
  DATA_ALIGNMENT = 4096, /* a page, as mappings and direct reads need */
  ALIGNED_FROM = 65536,  /* bytes; smaller arrays need no alignment */
  MAX_COMPACT_ATTRIBUTES = 16,
};

struct ShardWriter {
  AtomicFile file;
  char *path; /* the final name */
  ShardHeader header;
  int64_t clips; /* so far */
  int errnum;    /* of the first write that failed; see data/dataset/hdf5_driver.h */
  hid_t h5, group, arrays[SIDES];
  uint32_t (*checksums)[SIDES]; /* [header.clips][SIDES] */
  ClipName *names;              /* [header.clips] */
  uint8_t *packed;              /* buffer for a deflated clip */
  size_t packed_bytes;
};

static Status write_error(const ShardWriter *writer, Error *error, const char *what) {
  if (writer->errnum != 0)
    return error_errno(error, writer->errnum, "%s: cannot write %s", writer->path, what);
  return hdf5_error(error, ERROR_INTERNAL, writer->path, "cannot write %s", what);
}

/* libhdf5 does not report failed writes: data/dataset/hdf5_driver.h. */
static Status check_written(const ShardWriter *writer, Error *error, const char *what) {
  return writer->errnum != 0 ? write_error(writer, error, what) : OK;
}

static Status write_attribute(const ShardWriter *writer, const char *name, hid_t type,
                              hid_t memory_type, const void *value, Error *error) {
  Status status = OK;
  hid_t space = H5Screate(H5S_SCALAR);
  hid_t attribute = H5Acreate2(writer->h5, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  if (attribute < 0 || H5Awrite(attribute, memory_type, value) < 0)
    status = write_error(writer, error, name);
  if (attribute >= 0) H5Aclose(attribute);
  H5Sclose(space);
  return status;
}

static hid_t text_type(size_t size) {
  hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, size);
  return type;
}

static Status write_text(const ShardWriter *writer, const char *name, const char *text,
                         Error *error) {
  hid_t type = text_type(strlen(text) + 1);
  Status status = write_attribute(writer, name, type, type, text, error);
  H5Tclose(type);
  return status;
}

static Status write_number(const ShardWriter *writer, const char *name, int64_t value,
                           Error *error) {
  return write_attribute(writer, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value, error);
}

static Status write_header(const ShardWriter *writer, Error *error) {
  Status status = OK;
  const ShardHeader *header = &writer->header;
  char *fps = mem_format("%d/%d", header->fps_numerator, header->fps_denominator);
  TRY(write_text(writer, "format", SHARD_FORMAT, error));
  TRY(write_number(writer, "schema_version",
                   clip_is_paired(&header->shape) ? SHARD_SCHEMA_PAIRED : SHARD_SCHEMA_ONE_SIDED,
                   error));
  TRY(write_text(writer, "dataset_uuid", header->uuid, error));
  TRY(write_number(writer, "shard", header->shard, error));
  TRY(write_number(writer, "clips", header->clips, error));
  TRY(write_number(writer, "frames", header->shape.frames, error));
  TRY(write_text(writer, "fps", fps, error));
  TRY(write_text(writer, "color", SHARD_COLOR, error));
  TRY(write_text(writer, "layout", SHARD_LAYOUT, error));
done:
  free(fps);
  return status;
}

/* Creates the array of one side: contiguous and allocated now, or deflated with one clip per chunk.
 */
static Status create_array(ShardWriter *writer, int side, Error *error) {
  Status status = OK;
  const ClipShape *s = &writer->header.shape;
  bool source = side == SIDE_SOURCE;
  hsize_t dims[5] = {(hsize_t)writer->header.clips, (hsize_t)s->frames,
                     (hsize_t)(source ? s->source_height : s->target_height),
                     (hsize_t)(source ? s->source_width : s->target_width),
                     (hsize_t)(source ? s->source_channels : 3)};
  const hsize_t chunk[5] = {1, dims[1], dims[2], dims[3], dims[4]};
  hid_t space = H5Screate_simple(5, dims, NULL), how = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_obj_track_times(how, false);
  H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
  if (writer->header.deflated) {
    H5Pset_chunk(how, 5, chunk);
    H5Pset_deflate(how, DEFLATE_LEVEL);
  } else {
    H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY);
  }
  hid_t array = H5Dcreate2(writer->group, side_name(side), H5T_STD_U8LE, space, H5P_DEFAULT, how,
                           H5P_DEFAULT);
  writer->arrays[side] = array;
  if (array < 0) status = write_error(writer, error, side_name(side));
  H5Pclose(how);
  H5Sclose(space);
  return status;
}

static Status create_file(ShardWriter *writer, Error *error) {
  Status status = OK;
  hid_t how = H5Pcreate(H5P_FILE_CREATE),
        access = hdf5_file_access(writer->file.descriptor, &writer->errnum);
  hid_t group_how = H5Pcreate(H5P_GROUP_CREATE);
  H5Pset_obj_track_times(how, false);
  H5Pset_obj_track_times(group_how, false);
  H5Pset_attr_phase_change(how, MAX_COMPACT_ATTRIBUTES, 0); /* in the header, not a heap */
  H5Pset_alignment(access, ALIGNED_FROM, DATA_ALIGNMENT);
  writer->h5 = H5Fcreate(writer->file.temporary, H5F_ACC_TRUNC, how, access);
  if (writer->h5 < 0) {
    status = write_error(writer, error, "the file");
    goto done;
  }
  writer->group = H5Gcreate2(writer->h5, "clips", H5P_DEFAULT, group_how, H5P_DEFAULT);
  if (writer->group < 0) {
    status = write_error(writer, error, "the group \"clips\"");
    goto done;
  }
  TRY(write_header(writer, error));
  for (int side = 0; side < SIDES; side++)
    if (clip_has_side(&writer->header.shape, side)) TRY(create_array(writer, side, error));
  TRY(check_written(writer, error, "the file"));
done:
  H5Pclose(group_how);
  H5Pclose(access);
  H5Pclose(how);
  return status;
}

Status shard_writer_open(const char *path, const ShardHeader *header, ShardWriter **out,
                         Error *error) {
  Status status = OK;
  hdf5_lock();
  ShardWriter *writer = mem_new(1, sizeof *writer);
  *writer = (ShardWriter){.header = *header, .h5 = H5I_INVALID_HID, .path = mem_string(path)};
  writer->checksums = mem_new((size_t)header->clips, sizeof *writer->checksums);
  writer->names = mem_new((size_t)header->clips, sizeof *writer->names);
  TRY(atomic_file_open(path, &writer->file, error));
  if (header->deflated) {
    for (int side = 0; side < SIDES; side++) {
      size_t bound = compressBound(clip_side_bytes(&header->shape, side));
      if (bound > writer->packed_bytes) writer->packed_bytes = bound;
    }
    void *packed;
    TRY(mem_bulk(writer->packed_bytes, "a compressed clip", &packed, error));
    writer->packed = packed;
  }
  TRY(create_file(writer, error));
  *out = writer;
  writer = NULL;
done:
  if (writer) shard_writer_abandon(writer);
  hdf5_unlock();
  return status;
}

/* Compresses the clip here, since HDF5's cache would copy it twice more. */
static Status write_chunk(ShardWriter *writer, int side, const uint8_t *data, Error *error) {
  size_t size = clip_side_bytes(&writer->header.shape, side);
  const hsize_t place[5] = {(hsize_t)writer->clips, 0, 0, 0, 0};
  uLongf packed = writer->packed_bytes;
  int result = compress2(writer->packed, &packed, data, size, DEFLATE_LEVEL);
  if (result != Z_OK)
    return error_set(error, ERROR_INTERNAL, "%s: cannot compress clip %lld: %s", writer->path,
                     (long long)writer->clips, zError(result));
  if (H5Dwrite_chunk(writer->arrays[side], H5P_DEFAULT, 0, place, packed, writer->packed) < 0)
    return write_error(writer, error, side_name(side));
  return OK;
}

/* Selects clip `clip` of an array of rank 5; the caller closes both spaces. */
static void select_clip(hid_t array, int64_t clip, hid_t *file_space, hid_t *memory_space) {
  hsize_t count[5], start[5] = {(hsize_t)clip, 0, 0, 0, 0};
  *file_space = H5Dget_space(array);
  H5Sget_simple_extent_dims(*file_space, count, NULL);
  count[0] = 1;
  H5Sselect_hyperslab(*file_space, H5S_SELECT_SET, start, NULL, count, NULL);
  *memory_space = H5Screate_simple(5, count, NULL);
}

static Status write_plain(ShardWriter *writer, int side, const uint8_t *data, Error *error) {
  Status status = OK;
  hid_t file_space, memory_space;
  select_clip(writer->arrays[side], writer->clips, &file_space, &memory_space);
  if (H5Dwrite(writer->arrays[side], H5T_NATIVE_UINT8, memory_space, file_space, H5P_DEFAULT,
               data) < 0)
    status = write_error(writer, error, side_name(side));
  H5Sclose(memory_space);
  H5Sclose(file_space);
  return status;
}

Status shard_writer_add(ShardWriter *writer, const uint8_t *source, const uint8_t *target,
                        const ClipName *name, Error *error) {
  Status status = OK;
  const ClipShape *shape = &writer->header.shape;
  const uint8_t *const sides[SIDES] = {source, target};
  hdf5_lock();
  if (writer->clips == writer->header.clips)
    FAIL(error, ERROR_INTERNAL, "%s: the shard is full with %lld clips", writer->path,
         (long long)writer->clips);
  for (int side = 0; side < SIDES; side++) {
    if (!clip_has_side(shape, side)) continue;
    if (!sides[side])
      FAIL(error, ERROR_INTERNAL, "%s: clip %lld has no %s", writer->path, (long long)writer->clips,
           side_name(side));
    if (writer->header.deflated)
      TRY(write_chunk(writer, side, sides[side], error));
    else
      TRY(write_plain(writer, side, sides[side], error));
    TRY(check_written(writer, error, side_name(side)));
    writer->checksums[writer->clips][side] = crc32c(0, sides[side], clip_side_bytes(shape, side));
  }
  writer->names[writer->clips++] = *name;
done:
  hdf5_unlock();
  return status;
}

int64_t shard_writer_clips(const ShardWriter *writer) {
  return writer->clips;
}

/* Writes an array [clips] or [clips][SIDES]. */
static Status write_table(const ShardWriter *writer, const char *name, hid_t type,
                          hid_t memory_type, int rank, const void *data, Error *error) {
  Status status = OK;
  const hsize_t dims[2] = {(hsize_t)writer->clips, SIDES};
  hid_t space = H5Screate_simple(rank, dims, NULL), how = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_obj_track_times(how, false);
  hid_t table = H5Dcreate2(writer->group, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
  if (table < 0 || H5Dwrite(table, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
    status = write_error(writer, error, name);
  if (table >= 0) H5Dclose(table);
  H5Pclose(how);
  H5Sclose(space);
  return status;
}

/* Writes an array of texts. The bytes after a text's end are zeroed, so that equal names give equal
 * files. */
static Status write_texts(const ShardWriter *writer, const char *name, size_t offset, size_t size,
                          Error *error) {
  char *texts = mem_new((size_t)writer->clips, size);
  for (int64_t i = 0; i < writer->clips; i++) {
    const char *text = (const char *)&writer->names[i] + offset;
    memcpy(texts + (size_t)i * size, text, strnlen(text, size - 1));
  }
  hid_t type = text_type(size);
  Status status = write_table(writer, name, type, type, 1, texts, error);
  H5Tclose(type);
  free(texts);
  return status;
}

static Status write_tables(const ShardWriter *writer, Error *error) {
  Status status = OK;
  const ClipName *names = writer->names;
  int64_t *starts = mem_new((size_t)writer->clips, sizeof *starts);
  for (int64_t i = 0; i < writer->clips; i++) starts[i] = names[i].start_frame;
  TRY(write_table(writer, "crc32c", H5T_STD_U32LE, H5T_NATIVE_UINT32, 2, writer->checksums, error));
  TRY(write_texts(writer, "id", offsetof(ClipName, id), sizeof names->id, error));
  TRY(write_texts(writer, "origin", offsetof(ClipName, origin), sizeof names->origin, error));
  TRY(write_table(writer, "start_frame", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, starts, error));
done:
  free(starts);
  return status;
}

static Status close_file(ShardWriter *writer, Error *error) {
  hid_t h5 = writer->h5;
  writer->h5 = H5I_INVALID_HID; /* also after a failure: a second H5Fclose may crash */
  if (H5Fclose(h5) < 0 || writer->errnum != 0)
    return write_error(writer, error, "the end of the file");
  return OK;
}

/* Copies the clips into a new shard of exactly their number, since a shard's size is fixed when it
 * is created. */
static Status copy_to_smaller(ShardWriter *writer, ShardLayout *layout, Error *error) {
  Status status = OK;
  ShardHeader header = writer->header;
  ShardWriter *exact = NULL;
  void *sides[SIDES] = {NULL, NULL};
  header.clips = writer->clips;
  for (int side = 0; side < SIDES; side++)
    TRY(mem_bulk(clip_side_bytes(&header.shape, side), "a clip", &sides[side], error));
  /* Frees the temporary name for the new shard; the driver keeps the unlinked file open. */
  atomic_file_abort(&writer->file);
  TRY(shard_writer_open(writer->path, &header, &exact, error));
  for (int64_t i = 0; i < header.clips; i++) {
    for (int side = 0; side < SIDES; side++) {
      if (!clip_has_side(&header.shape, side)) continue;
      hid_t file_space, memory_space;
      select_clip(writer->arrays[side], i, &file_space, &memory_space);
      if (H5Dread(writer->arrays[side], H5T_NATIVE_UINT8, memory_space, file_space, H5P_DEFAULT,
                  sides[side]) < 0 ||
          writer->errnum != 0)
        status = write_error(writer, error, "a smaller shard with the same clips");
      H5Sclose(memory_space);
      H5Sclose(file_space);
      if (status != OK) goto done;
    }
    TRY(shard_writer_add(exact, sides[SIDE_SOURCE], sides[SIDE_TARGET], &writer->names[i], error));
  }
  status = shard_writer_finish(exact, layout, error);
  exact = NULL;
done:
  if (exact) shard_writer_abandon(exact);
  for (int side = 0; side < SIDES; side++) free(sides[side]);
  return status;
}

static Status finish_full(ShardWriter *writer, ShardLayout *layout, Error *error) {
  Status status = OK;
  Shard shard = {0};
  TRY(write_tables(writer, error));
  TRY(close_file(writer, error));
  TRY(shard_inspect(writer->file.temporary, true, &shard, error));
  TRY(shard_file_crc32c(writer->file.descriptor, writer->path, shard.layout.bytes, NULL,
                        &shard.layout.crc32c, error));
  TRY(atomic_file_commit(&writer->file, error));
  *layout = shard.layout;
  shard.layout = (ShardLayout){0};
done:
  shard_free(&shard);
  return status;
}

Status shard_writer_finish(ShardWriter *writer, ShardLayout *layout, Error *error) {
  hdf5_lock();
  Status status = writer->clips == writer->header.clips ? finish_full(writer, layout, error)
                                                        : copy_to_smaller(writer, layout, error);
  shard_writer_abandon(writer);
  hdf5_unlock();
  return status;
}

void shard_writer_abandon(ShardWriter *writer) {
  if (!writer) return;
  hdf5_lock();
  if (writer->errnum == 0) writer->errnum = ECANCELED; /* writes no cached data */
  if (writer->h5 >= 0) H5Fclose(writer->h5);
  atomic_file_abort(&writer->file);
  free(writer->packed);
  free(writer->names);
  free(writer->checksums);
  free(writer->path);
  free(writer);
  hdf5_unlock();
}
