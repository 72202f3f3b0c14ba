/* Reading what a shard says of itself. The file is not trusted: nothing is allocated or computed
 * from a number in it before the number was held against the file's size. */
#include "data/dataset/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/dataset/hdf5.h"

typedef struct Reader {
  const char *path;
  hid_t file, group;
  uint64_t bytes; /* of the file */
} Reader;

/* The signature and the version of the superblock: what an older format describes is not
 * protected by checksums, so HDF5 is not let at it. */
static Status check_signature(Reader *reader, Error *error) {
  static const unsigned char expected[9] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n', 3};
  Status status = OK;
  unsigned char found[sizeof expected] = {0};
  struct stat info;
  int descriptor = open(reader->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return error_errno(error, errno, "%s: cannot open", reader->path);
  if (fstat(descriptor, &info) != 0) {
    status = error_errno(error, errno, "%s: cannot read", reader->path);
    goto done;
  }
  if (!S_ISREG(info.st_mode)) FAIL(error, ERROR_DATA, "%s: is not a regular file", reader->path);
  reader->bytes = (uint64_t)info.st_size;
  if (reader->bytes >= sizeof found)
    TRY(file_pread(descriptor, reader->path, found, sizeof found, 0, error));
  if (memcmp(found, expected, 8) != 0)
    FAIL(error, ERROR_DATA, "%s: is not an HDF5 file", reader->path);
  if (found[8] != expected[8])
    FAIL(error, ERROR_DATA, "%s: has HDF5 superblock version %d; a shard has %d", reader->path,
         found[8], expected[8]);
done:
  close(descriptor);
  return status;
}

/* Only what lies in the file itself: a link elsewhere would let a shard show another file. */
static Status require_hard_link(const Reader *reader, hid_t place, const char *name, Error *error) {
  H5L_info_t link;
  if (H5Lexists(place, name, H5P_DEFAULT) <= 0 ||
      H5Lget_info(place, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
    return hdf5_error(error, ERROR_DATA, reader->path, "has no \"%s\"", name);
  return OK;
}

static Status open_shard(Reader *reader, Error *error) {
  Status status = OK;
  hid_t access = H5I_INVALID_HID;
  TRY(check_signature(reader, error));
  access = hdf5_file_access();
  reader->file = H5Fopen(reader->path, H5F_ACC_RDONLY, access);
  if (reader->file < 0) {
    status = hdf5_error(error, ERROR_DATA, reader->path, "HDF5 cannot open it");
    goto done;
  }
  TRY(require_hard_link(reader, reader->file, "clips", error));
  reader->group = H5Gopen2(reader->file, "clips", H5P_DEFAULT);
  if (reader->group < 0)
    status = hdf5_error(error, ERROR_DATA, reader->path, "\"clips\" is not a group");
done:
  if (access >= 0) H5Pclose(access);
  return status;
}

static void close_shard(Reader *reader) {
  if (reader->file >= 0) H5Fclose(reader->file);
}

/* --- Attributes ------------------------------------------------------------------------------- */

enum { TEXT_SIZE = 64 };

/* A scalar attribute of `type_class` whose value fits into `room` bytes. */
static Status read_attribute(const Reader *reader, const char *name, H5T_class_t type_class,
                             size_t room, void *out, Error *error) {
  Status status = OK;
  hid_t type = H5I_INVALID_HID, space = H5I_INVALID_HID;
  hid_t attribute = H5Aexists(reader->file, name) > 0 ? H5Aopen(reader->file, name, H5P_DEFAULT)
                                                      : H5I_INVALID_HID;
  if (attribute < 0) {
    status = hdf5_error(error, ERROR_DATA, reader->path, "has no attribute %s; not a shard", name);
    goto done;
  }
  type = H5Aget_type(attribute);
  space = H5Aget_space(attribute);
  bool text = type_class == H5T_STRING;
  if (type < 0 || space < 0 || H5Tget_class(type) != type_class ||
      (text && H5Tis_variable_str(type) != 0) || H5Tget_size(type) > room ||
      H5Sget_simple_extent_npoints(space) != 1 ||
      H5Aread(attribute, text ? type : H5T_NATIVE_INT64, out) < 0)
    status = hdf5_error(error, ERROR_DATA, reader->path, "attribute %s is not %s", name,
                        text ? "a short text" : "a number");
done:
  if (space >= 0) H5Sclose(space);
  if (type >= 0) H5Tclose(type);
  if (attribute >= 0) H5Aclose(attribute);
  return status;
}

static Status read_text(const Reader *reader, const char *name, char out[TEXT_SIZE], Error *error) {
  memset(out, 0, TEXT_SIZE);
  return read_attribute(reader, name, H5T_STRING, TEXT_SIZE - 1, out, error);
}

static Status require_text(const Reader *reader, const char *name, const char *expected,
                           Error *error) {
  char found[TEXT_SIZE];
  Status status = read_text(reader, name, found, error);
  if (status == OK && strcmp(found, expected) != 0)
    return error_set(error, ERROR_DATA, "%s: attribute %s is \"%s\"; must be \"%s\"", reader->path,
                     name, found, expected);
  return status;
}

static Status read_number(const Reader *reader, const char *name, int64_t minimum, int64_t maximum,
                          int64_t *out, Error *error) {
  *out = 0;
  Status status = read_attribute(reader, name, H5T_INTEGER, sizeof *out, out, error);
  if (status == OK && (*out < minimum || *out > maximum))
    return error_set(error, ERROR_DATA, "%s: attribute %s is %lld; must be %lld to %lld",
                     reader->path, name, (long long)*out, (long long)minimum, (long long)maximum);
  return status;
}

static Status read_head(const Reader *reader, ShardHead *head, Error *error) {
  Status status = OK;
  int64_t version, frames;
  char text[TEXT_SIZE];
  TRY(require_text(reader, "format", SHARD_FORMAT, error));
  TRY(read_number(reader, "schema_version", SHARD_SCHEMA_VERSION, SHARD_SCHEMA_VERSION, &version,
                  error));
  TRY(require_text(reader, "color", SHARD_COLOR, error));
  TRY(require_text(reader, "layout", SHARD_LAYOUT, error));
  TRY(read_text(reader, "dataset_uuid", text, error));
  snprintf(head->uuid, sizeof head->uuid, "%.36s", text);
  TRY(read_text(reader, "fps", text, error));
  TRY(fps_parse(reader->path, text, &head->fps_numerator, &head->fps_denominator, error));
  TRY(read_number(reader, "shard", 0, SHARD_MAX_COUNT - 1, &head->shard, error));
  TRY(read_number(reader, "clips", 1, INT32_MAX, &head->clips, error));
  TRY(read_number(reader, "frames", 1, CLIP_MAX_FRAMES, &frames, error));
  head->shape.frames = (int)frames;
done:
  return status;
}

/* --- Arrays ----------------------------------------------------------------------------------- */

static Status open_array(const Reader *reader, const char *name, int rank, hsize_t *dims,
                         hid_t *out, Error *error) {
  Status status = OK;
  hid_t space = H5I_INVALID_HID;
  *out = H5I_INVALID_HID;
  TRY(require_hard_link(reader, reader->group, name, error));
  *out = H5Dopen2(reader->group, name, H5P_DEFAULT);
  space = *out >= 0 ? H5Dget_space(*out) : H5I_INVALID_HID;
  if (space < 0 || H5Sget_simple_extent_ndims(space) != rank ||
      H5Sget_simple_extent_dims(space, dims, NULL) != rank)
    status = hdf5_error(error, ERROR_DATA, reader->path, "\"%s\" is not an array of rank %d", name,
                        rank);
done:
  if (space >= 0) H5Sclose(space);
  return status;
}

static Status require_type(const Reader *reader, const char *name, hid_t array, hid_t expected,
                           Error *error) {
  hid_t type = H5Dget_type(array);
  bool same = type >= 0 && H5Tequal(type, expected) > 0;
  if (type >= 0) H5Tclose(type);
  return same ? OK
              : hdf5_error(error, ERROR_DATA, reader->path, "\"%s\" has another type of numbers",
                           name);
}

/* Exactly `size` bytes in one piece inside the file; *offset is where. */
static Status require_contiguous(const Reader *reader, const char *name, hid_t array, uint64_t size,
                                 uint64_t *offset, Error *error) {
  hid_t how = H5Dget_create_plist(array);
  bool plain = how >= 0 && H5Pget_layout(how) == H5D_CONTIGUOUS && H5Pget_external_count(how) == 0;
  if (how >= 0) H5Pclose(how);
  haddr_t address = plain ? H5Dget_offset(array) : HADDR_UNDEF;
  if (!plain || address == HADDR_UNDEF)
    return hdf5_error(error, ERROR_DATA, reader->path, "\"%s\" is not contiguous", name);
  if (H5Dget_storage_size(array) != size || address > reader->bytes ||
      size > reader->bytes - address)
    return error_set(error, ERROR_DATA,
                     "%s: \"%s\" has %llu bytes at offset %llu; expected %llu within the file's "
                     "%llu",
                     reader->path, name, (unsigned long long)H5Dget_storage_size(array),
                     (unsigned long long)address, (unsigned long long)size,
                     (unsigned long long)reader->bytes);
  *offset = address;
  return OK;
}

static Status require_clip_chunks(const Reader *reader, const char *name, hid_t array,
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
              : hdf5_error(error, ERROR_DATA, reader->path,
                           "\"%s\" is not deflated with one clip a chunk", name);
}

static bool is_chunked(hid_t array) {
  hid_t how = H5Dget_create_plist(array);
  bool chunked = how >= 0 && H5Pget_layout(how) == H5D_CHUNKED;
  if (how >= 0) H5Pclose(how);
  return chunked;
}

static Status read_chunk_table(const Reader *reader, const char *name, hid_t array, int64_t clips,
                               ClipPlace **out, Error *error) {
  hid_t space = H5Dget_space(array);
  ClipPlace *table = *out = mem_new((size_t)clips, sizeof *table);
  Status status = OK;
  for (int64_t i = 0; i < clips && status == OK; i++) {
    hsize_t place[5] = {0}, size = 0;
    haddr_t address = HADDR_UNDEF;
    unsigned mask = 0;
    if (H5Dget_chunk_info(array, space, (hsize_t)i, place, &mask, &address, &size) < 0 ||
        place[0] != (hsize_t)i || mask != 0 || address == HADDR_UNDEF)
      status = hdf5_error(error, ERROR_DATA, reader->path, "\"%s\": clip %lld has no chunk", name,
                          (long long)i);
    table[i] = (ClipPlace){address, size};
  }
  H5Sclose(space);
  return status;
}

static Status read_dims(const Reader *reader, int side, hid_t array, const hsize_t dims[5],
                        Shard *shard, Error *error) {
  Status status = OK;
  ShardHead *head = &shard->head;
  ClipShape *shape = &head->shape;
  const char *name = side_name(side);
  if (dims[0] != (hsize_t)head->clips || dims[1] != (hsize_t)shape->frames)
    FAIL(error, ERROR_DATA,
         "%s: \"%s\" holds %llu clips of %llu frames; the attributes say %lld of %d", reader->path,
         name, (unsigned long long)dims[0], (unsigned long long)dims[1], (long long)head->clips,
         shape->frames);
  if (dims[2] > CLIP_MAX_EDGE || dims[3] > CLIP_MAX_EDGE || dims[4] > CLIP_MAX_CHANNELS)
    FAIL(error, ERROR_DATA, "%s: \"%s\" has frames of %llux%llux%llu; at most %dx%dx%d are allowed",
         reader->path, name, (unsigned long long)dims[2], (unsigned long long)dims[3],
         (unsigned long long)dims[4], CLIP_MAX_EDGE, CLIP_MAX_EDGE, CLIP_MAX_CHANNELS);
  *(side == SIDE_SOURCE ? &shape->source_height : &shape->target_height) = (int)dims[2];
  *(side == SIDE_SOURCE ? &shape->source_width : &shape->target_width) = (int)dims[3];
  if (side == SIDE_SOURCE)
    shape->source_channels = (int)dims[4];
  else if (dims[4] != 3)
    FAIL(error, ERROR_DATA, "%s: \"target\" has %llu channels; must have 3", reader->path,
         (unsigned long long)dims[4]);
  TRY(require_type(reader, name, array, H5T_STD_U8LE, error));
done:
  return status;
}

static Status read_sides(const Reader *reader, bool with_chunks, Shard *shard, Error *error) {
  Status status = OK;
  hid_t arrays[SIDES];
  hsize_t dims[SIDES][5];
  for (int side = 0; side < SIDES; side++) {
    TRY(open_array(reader, side_name(side), 5, dims[side], &arrays[side], error));
    TRY(read_dims(reader, side, arrays[side], dims[side], shard, error));
  }
  TRY(clip_shape_check(reader->path, &shard->head.shape, ERROR_DATA, error));
  shard->head.deflated = is_chunked(arrays[SIDE_SOURCE]);
  for (int side = 0; side < SIDES; side++) {
    const char *name = side_name(side);
    uint64_t size = clip_side_bytes(&shard->head.shape, side) * (uint64_t)shard->head.clips;
    if (!shard->head.deflated) {
      TRY(require_contiguous(reader, name, arrays[side], size, &shard->layout.offset[side], error));
      continue;
    }
    TRY(require_clip_chunks(reader, name, arrays[side], dims[side], error));
    if (with_chunks)
      TRY(read_chunk_table(reader, name, arrays[side], shard->head.clips,
                           &shard->layout.chunks[side], error));
  }
done:
  return status;
}

static Status read_sums(const Reader *reader, Shard *shard, Error *error) {
  Status status = OK;
  hid_t table;
  hsize_t dims[2];
  uint64_t offset, clips = (uint64_t)shard->head.clips;
  TRY(open_array(reader, "crc32c", 2, dims, &table, error));
  if (dims[0] != clips || dims[1] != SIDES)
    FAIL(error, ERROR_DATA, "%s: \"crc32c\" is [%llu,%llu]; must be [%llu,2]", reader->path,
         (unsigned long long)dims[0], (unsigned long long)dims[1], (unsigned long long)clips);
  TRY(require_type(reader, "crc32c", table, H5T_STD_U32LE, error));
  TRY(require_contiguous(reader, "crc32c", table, clips * sizeof *shard->sums, &offset, error));
  shard->sums = mem_new((size_t)clips, sizeof *shard->sums);
  if (H5Dread(table, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, shard->sums) < 0)
    status = hdf5_error(error, ERROR_DATA, reader->path, "cannot read \"crc32c\"");
done:
  return status;
}

Status shard_inspect(const char *path, bool with_chunks, Shard *out, Error *error) {
  Status status = OK;
  Reader reader = {path, H5I_INVALID_HID, H5I_INVALID_HID, 0};
  *out = (Shard){0};
  hdf5_enter();
  TRY(open_shard(&reader, error));
  TRY(read_head(&reader, &out->head, error));
  TRY(read_sums(&reader, out, error)); /* bounds the number of clips by the file's size */
  TRY(read_sides(&reader, with_chunks, out, error));
  out->layout.clips = out->head.clips;
  out->layout.bytes = reader.bytes;
  if (with_chunks || !out->head.deflated)
    TRY(shard_layout_check(path, &out->layout, &out->head.shape, error));
done:
  close_shard(&reader);
  hdf5_leave();
  return status;
}

void shard_free(Shard *shard) {
  shard_layout_free(&shard->layout);
  free(shard->sums);
  *shard = (Shard){0};
}

/* --- Names ------------------------------------------------------------------------------------ */

/* Entry `clip` of a one-dimensional table of `size` bytes an entry. */
static Status read_entry(const Reader *reader, const char *name, int64_t clip, bool text,
                         size_t size, void *out, Error *error) {
  Status status = OK;
  hid_t table, type = H5I_INVALID_HID, space = H5I_INVALID_HID, one = H5I_INVALID_HID;
  hsize_t clips = 0;
  const hsize_t start = (hsize_t)clip, count = 1;
  uint64_t offset;
  TRY(open_array(reader, name, 1, &clips, &table, error));
  if (start >= clips)
    FAIL(error, ERROR_DATA, "%s: \"%s\" has %llu entries; clip %lld is not among them",
         reader->path, name, (unsigned long long)clips, (long long)clip);
  TRY(require_contiguous(reader, name, table, clips * size, &offset, error));
  type = H5Dget_type(table);
  space = H5Dget_space(table);
  one = H5Screate_simple(1, &count, NULL);
  if (H5Tget_class(type) != (text ? H5T_STRING : H5T_INTEGER) || H5Tget_size(type) != size ||
      H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &count, NULL) < 0 ||
      H5Dread(table, text ? type : H5T_NATIVE_INT64, one, space, H5P_DEFAULT, out) < 0)
    status = hdf5_error(error, ERROR_DATA, reader->path, "cannot read \"%s\"", name);
  if (text) ((char *)out)[size - 1] = '\0';
done:
  if (one >= 0) H5Sclose(one);
  if (space >= 0) H5Sclose(space);
  if (type >= 0) H5Tclose(type);
  return status;
}

Status shard_clip_name(const char *path, int64_t clip, ClipName *out, Error *error) {
  Status status = OK;
  Reader reader = {path, H5I_INVALID_HID, H5I_INVALID_HID, 0};
  *out = (ClipName){0};
  hdf5_enter();
  TRY(open_shard(&reader, error));
  TRY(read_entry(&reader, "id", clip, true, sizeof out->id, out->id, error));
  TRY(read_entry(&reader, "origin", clip, true, sizeof out->origin, out->origin, error));
  TRY(read_entry(&reader, "start_frame", clip, false, sizeof out->start_frame, &out->start_frame,
                 error));
done:
  close_shard(&reader);
  hdf5_leave();
  return status;
}
