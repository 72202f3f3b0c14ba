#include "base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bulk_memory.h"
#include "base/memory.h"

/* --- System calls, retried after EINTR ---------------------------------------------------------
 */

int file_open_at(int folder, const char *path, int flags) {
  int descriptor;
  do descriptor = openat(folder, path, flags | O_CLOEXEC, 0666);
  while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

int file_open(const char *path, int flags) {
  return file_open_at(AT_FDCWD, path, flags);
}

int file_flush(int descriptor) {
  int result;
  do result = fsync(descriptor);
  while (result != 0 && errno == EINTR);
  return result;
}

int file_close(int *descriptor) {
  int result = *descriptor >= 0 ? close(*descriptor) : 0;
  *descriptor = -1;
  return result != 0 && errno != EINTR ? -1 : 0; /* Linux has closed it after EINTR, too */
}

int file_unlink(const char *path) {
  int result;
  bool is_repeated = false;
  while ((result = unlink(path)) != 0 && errno == EINTR) is_repeated = true;
  return is_repeated && result != 0 && errno == ENOENT ? 0 : result;
}

int file_rename(const char *from, const char *to, unsigned flags) {
  int result;
  bool is_repeated = false;
  for (;;) {
    result = flags ? renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) : rename(from, to);
    if (result == 0 || errno != EINTR) break;
    is_repeated = true;
  }
  return is_repeated && result != 0 && errno == ENOENT ? 0 : result;
}

/* --- Reading and writing ---------------------------------------------------------------------- */

Status file_pread(int descriptor, const char *path, void *data, size_t size, uint64_t offset,
                  Error *error) {
  size_t done = 0;
  if (size > INT64_MAX || offset > INT64_MAX - size)
    return error_set(error, ERROR_DATA, "%s: offset %llu is past any file's end", path,
                     (unsigned long long)offset);
  while (done < size) {
    ssize_t n = pread(descriptor, (char *)data + done, size - done, (off_t)(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return error_errno(error, errno, "%s: cannot read", path);
    if (n == 0)
      return error_set(error, ERROR_DATA,
                       "%s: ends too early: expected %zu bytes at offset %llu, found %zu", path,
                       size, (unsigned long long)offset, done);
    done += (size_t)n;
  }
  return OK;
}

Status file_write(int descriptor, const char *path, const void *data, size_t size, Error *error) {
  const char *bytes = data;
  while (size > 0) {
    ssize_t n = write(descriptor, bytes, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return error_errno(error, n < 0 ? errno : EIO, "%s: cannot write", path);
    bytes += n;
    size -= (size_t)n;
  }
  return OK;
}

/* Reads to the end of a file that may grow meanwhile. Reads up to one byte more than allowed, to
 * notice a file that is too long. */
static Status read_to_end(int descriptor, const char *path, size_t expected, size_t max_bytes,
                          char **data, size_t *size, Error *error) {
  Status status = OK;
  void *bytes = NULL;
  size_t used = 0, room = expected < max_bytes ? expected + 1 : max_bytes + 1;
  TRY(mem_bulk(room + 1, path, &bytes, error));
  for (;;) {
    if (used == room) {
      void *larger;
      if (used > max_bytes)
        FAIL(error, ERROR_DATA, "%s: too long: at most %zu bytes are allowed", path, max_bytes);
      room = room < max_bytes / 2 ? room * 2 : max_bytes + 1;
      TRY(mem_bulk(room + 1, path, &larger, error));
      memcpy(larger, bytes, used);
      free(bytes);
      bytes = larger;
    }
    ssize_t n = read(descriptor, (char *)bytes + used, room - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      status = error_errno(error, errno, "%s: cannot read", path);
      goto done;
    }
    if (n == 0) break;
    used += (size_t)n;
  }
  ((char *)bytes)[used] = '\0';
  *data = bytes;
  *size = used;
  bytes = NULL;
done:
  free(bytes);
  return status;
}

Status file_open_regular(const char *path, int *descriptor, uint64_t *size, Error *error) {
  Status status = OK;
  struct stat info;
  *size = 0;
  *descriptor = file_open(path, O_RDONLY | O_NONBLOCK); /* a pipe without a writer would block */
  if (*descriptor < 0) return error_errno(error, errno, "%s: cannot open", path);
  if (fstat(*descriptor, &info) != 0)
    status = error_errno(error, errno, "%s: cannot read", path);
  else if (S_ISDIR(info.st_mode))
    status = error_set(error, ERROR_IO, "%s: is a folder, not a file", path);
  else if (!S_ISREG(info.st_mode))
    status = error_set(error, ERROR_IO, "%s: is not a regular file", path);
  else
    *size = (uint64_t)info.st_size;
  if (status != OK) file_close(descriptor);
  return status;
}

Status file_read(const char *path, size_t max_bytes, char **data, size_t *size, Error *error) {
  Status status = OK;
  int descriptor = -1;
  uint64_t expected;
  *data = NULL;
  *size = 0;
  TRY(file_open_regular(path, &descriptor, &expected, error));
  if (expected > max_bytes)
    FAIL(error, ERROR_DATA, "%s: has %llu bytes; at most %zu are allowed", path,
         (unsigned long long)expected, max_bytes);
  TRY(read_to_end(descriptor, path, (size_t)expected, max_bytes, data, size, error));
done:
  file_close(&descriptor);
  return status;
}

/* Some file systems cannot fsync folders and return EINVAL, which is ignored. */
Status file_sync(const char *path, Error *error) {
  Status status = OK;
  struct stat info;
  int descriptor = file_open(path, O_RDONLY);
  if (descriptor < 0) return error_errno(error, errno, "%s: cannot open to flush", path);
  if (file_flush(descriptor) != 0) {
    int errnum = errno;
    bool folder = fstat(descriptor, &info) == 0 && S_ISDIR(info.st_mode);
    if (!folder || errnum != EINVAL) status = error_errno(error, errnum, "%s: cannot flush", path);
  }
  file_close(&descriptor);
  return status;
}
