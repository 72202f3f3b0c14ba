#include "data/dataset/hdf5_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if __has_include(<H5FDdevelop.h>)
#include <H5FDdevelop.h> /* HDF5 1.14 */
#endif

/* Passed to driver_open through the access properties. */
typedef struct DriverInfo {
  int descriptor;
  int *errnum;
} DriverInfo;

typedef struct DriverFile {
  H5FD_t common; /* must be first; libhdf5 fills it */
  int descriptor, *errnum;
  haddr_t allocated, end; /* as far as libhdf5 uses the file, and has written it */
} DriverFile;

static void record(DriverFile *file, int errnum) {
  if (*file->errnum == 0) *file->errnum = errnum;
}

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t largest) {
  (void)name;
  (void)flags; /* the file is new */
  (void)largest;
  const DriverInfo *info = H5Pget_driver_info(access);
  DriverFile *file = info ? calloc(1, sizeof *file) : NULL;
  if (!file) return NULL;
  file->errnum = info->errnum;
  file->descriptor = fcntl(info->descriptor, F_DUPFD_CLOEXEC, 0);
  if (file->descriptor >= 0) return &file->common;
  record(file, errno);
  free(file);
  return NULL;
}

static herr_t driver_close(H5FD_t *opened) {
  DriverFile *file = (DriverFile *)opened;
  if (close(file->descriptor) != 0 && errno != EINTR) record(file, errno);
  free(file);
  return 0;
}

/* The features of libhdf5's own POSIX driver, so that files have the same layout. */
static herr_t driver_query(const H5FD_t *opened, unsigned long *flags) {
  (void)opened;
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

static haddr_t driver_get_allocated(const H5FD_t *opened, H5FD_mem_t type) {
  (void)type;
  return ((const DriverFile *)opened)->allocated;
}

static herr_t driver_set_allocated(H5FD_t *opened, H5FD_mem_t type, haddr_t address) {
  (void)type;
  ((DriverFile *)opened)->allocated = address;
  return 0;
}

static haddr_t driver_get_end(const H5FD_t *opened, H5FD_mem_t type) {
  (void)type;
  return ((const DriverFile *)opened)->end;
}

/* Bytes behind the file's end are zeros. */
static herr_t driver_read(H5FD_t *opened, H5FD_mem_t type, hid_t transfer, haddr_t address,
                          size_t size, void *data) {
  (void)type;
  (void)transfer;
  DriverFile *file = (DriverFile *)opened;
  uint8_t *out = data;
  while (size > 0) {
    ssize_t n = pread(file->descriptor, out, size, (off_t)address);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      record(file, errno);
      return -1;
    }
    if (n == 0) break;
    out += n;
    address += (haddr_t)n;
    size -= (size_t)n;
  }
  memset(out, 0, size);
  return 0;
}

static herr_t driver_write(H5FD_t *opened, H5FD_mem_t type, hid_t transfer, haddr_t address,
                           size_t size, const void *data) {
  (void)type;
  (void)transfer;
  DriverFile *file = (DriverFile *)opened;
  const uint8_t *from = data;
  if (address + size > file->end) file->end = address + size;
  while (size > 0 && *file->errnum == 0) {
    ssize_t n = pwrite(file->descriptor, from, size, (off_t)address);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      record(file, n < 0 ? errno : EIO);
      break;
    }
    from += n;
    address += (haddr_t)n;
    size -= (size_t)n;
  }
  return 0;
}

static herr_t driver_truncate(H5FD_t *opened, hid_t transfer, hbool_t closing) {
  (void)transfer;
  (void)closing;
  DriverFile *file = (DriverFile *)opened;
  int result = 0;
  do {
    if (*file->errnum == 0) result = ftruncate(file->descriptor, (off_t)file->allocated);
  } while (result != 0 && errno == EINTR);
  if (result != 0) record(file, errno);
  file->end = file->allocated;
  return 0;
}

static const H5FD_class_t driver = {
#ifdef H5FD_CLASS_VERSION
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)(H5_VFD_RESERVED + 199),
#endif
    .name = "celforge",
    .maxaddr = INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(DriverInfo),
    .open = driver_open,
    .close = driver_close,
    .query = driver_query,
    .get_eoa = driver_get_allocated,
    .set_eoa = driver_set_allocated,
    .get_eof = driver_get_end,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

herr_t hdf5_driver_select(hid_t access, int descriptor, int *errnum) {
  static hid_t registered = H5I_INVALID_HID; /* callers hold hdf5_lock */
  const DriverInfo info = {descriptor, errnum};
  if (registered < 0) registered = H5FDregister(&driver);
  return registered < 0 ? -1 : H5Pset_driver(access, registered, &info);
}
