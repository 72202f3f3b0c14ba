#include "data/dataset/hdf5.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "data/dataset/hdf5_driver.h"

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

/* Celforge closes all files itself; libhdf5's clean-up at exit would only try again to write a file
 * that could not be written. */
static pthread_once_t first_use = PTHREAD_ONCE_INIT;
static void disable_exit_handler(void) {
  H5dont_atexit();
}

void hdf5_lock(void) {
  pthread_once(&first_use, disable_exit_handler);
  pthread_mutex_lock(&mutex);
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* a setting per thread */
}

void hdf5_unlock(void) {
  pthread_mutex_unlock(&mutex);
}

typedef struct Reason {
  char text[256];
} Reason;

static herr_t keep_innermost(unsigned n, const H5E_error2_t *entry, void *context) {
  Reason *reason = context;
  if (n == 0 && entry->desc) snprintf(reason->text, sizeof reason->text, "%s", entry->desc);
  return 0;
}

Status hdf5_error(Error *error, Status code, const char *path, const char *format, ...) {
  char what[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  Reason reason = {""};
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &reason);
  H5Eclear2(H5E_DEFAULT);
  return error_set(error, code, "%s: %s%s%s", path, what, reason.text[0] ? ": " : "", reason.text);
}

/* The 1.10 format has checksums of its own over all metadata. */
hid_t hdf5_file_access(int descriptor, int *errnum) {
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  if (H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
      H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 ||
      hdf5_driver_select(access, descriptor, errnum) < 0) {
    H5Pclose(access);
    return H5I_INVALID_HID;
  }
  return access;
}
