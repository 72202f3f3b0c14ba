#include "data/dataset/inspection.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"

/* Checks the signature and the superblock version: older formats have no metadata checksums, so
 * HDF5 must not parse them. */
static Status check_signature(Inspection *shard_file, Error *error) {
  static const unsigned char expected[9] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n', 3};
  Status status = OK;
  unsigned char found[sizeof expected] = {0};
  struct stat info;
  int descriptor = open(shard_file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return error_errno(error, errno, "%s: cannot open", shard_file->path);
  if (fstat(descriptor, &info) != 0) {
    status = error_errno(error, errno, "%s: cannot read", shard_file->path);
    goto done;
  }
  if (!S_ISREG(info.st_mode)) FAIL(error, ERROR_DATA, "%s: not a regular file", shard_file->path);
  shard_file->bytes = (uint64_t)info.st_size;
  if (shard_file->bytes >= sizeof found)
    TRY(file_pread(descriptor, shard_file->path, found, sizeof found, 0, error));
  if (memcmp(found, expected, 8) != 0)
    FAIL(error, ERROR_DATA, "%s: not an HDF5 file", shard_file->path);
  if (found[8] != expected[8])
    FAIL(error, ERROR_DATA, "%s: HDF5 superblock version %d, expected %d", shard_file->path,
         found[8], expected[8]);
done:
  close(descriptor);
  return status;
}

Status inspection_require_hard_link(const Inspection *shard_file, hid_t place, const char *name,
                                    Error *error) {
  H5L_info_t link;
  if (H5Lexists(place, name, H5P_DEFAULT) <= 0 ||
      H5Lget_info(place, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
    return hdf5_error(error, ERROR_DATA, shard_file->path, "no \"%s\"", name);
  return OK;
}

Status inspection_open(Inspection *shard_file, Error *error) {
  Status status = OK;
  hid_t access = H5I_INVALID_HID;
  TRY(check_signature(shard_file, error));
  access = hdf5_file_access();
  shard_file->file = H5Fopen(shard_file->path, H5F_ACC_RDONLY, access);
  if (shard_file->file < 0) {
    status = hdf5_error(error, ERROR_DATA, shard_file->path, "HDF5 cannot open the file");
    goto done;
  }
  TRY(inspection_require_hard_link(shard_file, shard_file->file, "clips", error));
  shard_file->group = H5Gopen2(shard_file->file, "clips", H5P_DEFAULT);
  if (shard_file->group < 0)
    status = hdf5_error(error, ERROR_DATA, shard_file->path, "\"clips\" is not a group");
done:
  if (access >= 0) H5Pclose(access);
  return status;
}

void inspection_close(Inspection *shard_file) {
  if (shard_file->file >= 0) H5Fclose(shard_file->file);
}

/* --- Attributes ------------------------------------------------------------------------------- */

/* Reads a scalar attribute of `type_class` of at most `room` bytes. */
static Status read_attribute(const Inspection *shard_file, const char *name, H5T_class_t type_class,
                             size_t room, void *out, Error *error) {
  Status status = OK;
  hid_t type = H5I_INVALID_HID, space = H5I_INVALID_HID;
  hid_t attribute = H5Aexists(shard_file->file, name) > 0
                        ? H5Aopen(shard_file->file, name, H5P_DEFAULT)
                        : H5I_INVALID_HID;
  if (attribute < 0) {
    status = hdf5_error(error, ERROR_DATA, shard_file->path, "not a shard: no attribute %s", name);
    goto done;
  }
  type = H5Aget_type(attribute);
  space = H5Aget_space(attribute);
  bool text = type_class == H5T_STRING;
  if (type < 0 || space < 0 || H5Tget_class(type) != type_class ||
      (text && H5Tis_variable_str(type) != 0) || H5Tget_size(type) > room ||
      H5Sget_simple_extent_npoints(space) != 1 ||
      H5Aread(attribute, text ? type : H5T_NATIVE_INT64, out) < 0)
    status = hdf5_error(error, ERROR_DATA, shard_file->path, "attribute %s: expected %s", name,
                        text ? "a short text" : "a number");
done:
  if (space >= 0) H5Sclose(space);
  if (type >= 0) H5Tclose(type);
  if (attribute >= 0) H5Aclose(attribute);
  return status;
}

Status inspection_read_text(const Inspection *shard_file, const char *name,
                            char out[INSPECTION_TEXT_SIZE], Error *error) {
  memset(out, 0, INSPECTION_TEXT_SIZE);
  return read_attribute(shard_file, name, H5T_STRING, INSPECTION_TEXT_SIZE - 1, out, error);
}

Status inspection_require_text(const Inspection *shard_file, const char *name, const char *expected,
                               Error *error) {
  char found[INSPECTION_TEXT_SIZE];
  Status status = inspection_read_text(shard_file, name, found, error);
  if (status == OK && strcmp(found, expected) != 0)
    return error_set(error, ERROR_DATA, "%s: attribute %s is \"%s\", expected \"%s\"",
                     shard_file->path, name, found, expected);
  return status;
}

Status inspection_read_number(const Inspection *shard_file, const char *name, int64_t minimum,
                              int64_t maximum, int64_t *out, Error *error) {
  *out = 0;
  Status status = read_attribute(shard_file, name, H5T_INTEGER, sizeof *out, out, error);
  if (status == OK && (*out < minimum || *out > maximum))
    return error_set(error, ERROR_DATA, "%s: attribute %s is %lld, expected %lld to %lld",
                     shard_file->path, name, (long long)*out, (long long)minimum,
                     (long long)maximum);
  return status;
}
