#include "base/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bulk_memory.h"
#include "base/memory.h"

/* Returns the folder that contains `path`; the caller frees it. */
static char *parent_of(const char *path) {
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') length--;
  while (length > 0 && path[length - 1] != '/') length--;
  while (length > 1 && path[length - 1] == '/') length--;
  return length == 0 ? mem_string(".") : mem_format("%.*s", (int)length, path);
}

static int open_retry(int folder, const char *path, int flags) {
  int descriptor;
  do descriptor = openat(folder, path, flags | O_CLOEXEC, 0666);
  while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

static int fsync_retry(int descriptor) {
  int result;
  do result = fsync(descriptor);
  while (result != 0 && errno == EINTR);
  return result;
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

Status file_read(const char *path, size_t max_bytes, char **data, size_t *size, Error *error) {
  Status status = OK;
  struct stat info;
  *data = NULL;
  *size = 0;
  /* O_NONBLOCK: opening a pipe without a writer would block. */
  int descriptor = open_retry(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
  if (descriptor < 0) return error_errno(error, errno, "%s: cannot open", path);
  if (fstat(descriptor, &info) != 0) {
    status = error_errno(error, errno, "%s: cannot read", path);
    goto done;
  }
  if (S_ISDIR(info.st_mode)) FAIL(error, ERROR_IO, "%s: is a folder, not a file", path);
  if (!S_ISREG(info.st_mode)) FAIL(error, ERROR_IO, "%s: is not a regular file", path);
  if (info.st_size > 0 && (uint64_t)info.st_size > max_bytes)
    FAIL(error, ERROR_DATA, "%s: has %lld bytes; at most %zu are allowed", path,
         (long long)info.st_size, max_bytes);
  TRY(read_to_end(descriptor, path, (size_t)info.st_size, max_bytes, data, size, error));
done:
  close(descriptor);
  return status;
}

/* Some file systems cannot fsync folders and return EINVAL, which is ignored. */
Status file_sync(const char *path, Error *error) {
  Status status = OK;
  struct stat info;
  int descriptor = open_retry(AT_FDCWD, path, O_RDONLY);
  if (descriptor < 0) return error_errno(error, errno, "%s: cannot open to flush", path);
  if (fsync_retry(descriptor) != 0) {
    int errnum = errno;
    bool folder = fstat(descriptor, &info) == 0 && S_ISDIR(info.st_mode);
    if (!folder || errnum != EINVAL) status = error_errno(error, errnum, "%s: cannot flush", path);
  }
  close(descriptor);
  return status;
}

static Status sync_parent(const char *path, Error *error) {
  char *parent = parent_of(path);
  Status status = file_sync(parent, error);
  free(parent);
  return status;
}

/* --- Atomic files ----------------------------------------------------------------------------- */

Status atomic_file_open(const char *path, AtomicFile *file, Error *error) {
  *file = (AtomicFile){.descriptor = -1};
  struct stat existing;
  /* The rename would fail for a folder only after all is written, and would replace a device. */
  if (stat(path, &existing) == 0 && !S_ISREG(existing.st_mode))
    return error_set(error, ERROR_IO, "%s: is %s", path,
                     S_ISDIR(existing.st_mode) ? "a folder, not a file" : "not a regular file");
  char *temporary = mem_format("%s.%d.tmp", path, (int)getpid());
  /* A file of this name was left by a dead process with the same PID; it could be a link, so it is
   * removed and not reused. */
  unlink(temporary);
  int descriptor = open_retry(AT_FDCWD, temporary, O_RDWR | O_CREAT | O_EXCL);
  if (descriptor < 0) {
    Status status = error_errno(error, errno, "%s: cannot create", path);
    free(temporary);
    return status;
  }
  *file = (AtomicFile){descriptor, temporary, mem_string(path)};
  return OK;
}

Status atomic_file_write(AtomicFile *file, const void *data, size_t size, Error *error) {
  return file_write(file->descriptor, file->temporary, data, size, error);
}

static int close_once(int *descriptor) {
  int result = *descriptor >= 0 ? close(*descriptor) : 0;
  *descriptor = -1;
  return result != 0 && errno != EINTR ? -1 : 0; /* after EINTR it is closed too */
}

Status atomic_file_commit(AtomicFile *file, Error *error) {
  Status status = OK;
  if (fsync_retry(file->descriptor) != 0 || close_once(&file->descriptor) != 0)
    status = error_errno(error, errno, "%s: cannot flush", file->temporary);
  else if (rename(file->temporary, file->final) != 0)
    status = error_errno(error, errno, "%s: cannot rename to %s", file->temporary, file->final);
  else {
    status = sync_parent(file->final, error);
    free(file->temporary);
    file->temporary = NULL;
  }
  atomic_file_abort(file);
  return status;
}

void atomic_file_abort(AtomicFile *file) {
  if (file->final) {
    close_once(&file->descriptor);
    if (file->temporary) unlink(file->temporary);
    free(file->temporary);
    free(file->final);
  }
  *file = (AtomicFile){.descriptor = -1};
}

Status atomic_file_replace(const char *path, const void *data, size_t size, Error *error) {
  Status status = OK;
  AtomicFile file = {0};
  TRY(atomic_file_open(path, &file, error));
  TRY(atomic_file_write(&file, data, size, error));
  TRY(atomic_file_commit(&file, error));
done:
  atomic_file_abort(&file);
  return status;
}

/* --- Folders ---------------------------------------------------------------------------------- */

/* Renames without replacing an empty folder at `to`, as rename(2) would. File systems without
 * RENAME_NOREPLACE check first. */
static int rename_to_new(const char *from, const char *to) {
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  struct stat info;
  if (lstat(to, &info) == 0) {
    errno = EEXIST;
    return -1;
  }
  return rename(from, to);
}

Status folder_commit(const char *temporary, const char *final, Error *error) {
  Status status = OK;
  TRY(file_sync(temporary, error));
  if (rename_to_new(temporary, final) != 0) {
    status = error_errno(error, errno, "%s: cannot rename to %s", temporary, final);
    goto done;
  }
  TRY(sync_parent(final, error));
  char *from = parent_of(temporary), *to = parent_of(final);
  if (strcmp(from, to) != 0) status = file_sync(from, error);
  free(from);
  free(to);
done:
  return status;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Reads the names in `folder`, sorted, and closes it; `path` is for errors. */
static Status read_names(DIR *folder, const char *path, char ***names, size_t *count,
                         Error *error) {
  char **list = NULL;
  size_t length = 0, capacity = 0;
  struct dirent *entry;
  while ((errno = 0, entry = readdir(folder))) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    MEM_PUSH_SLOT(list, length, capacity);
    list[length++] = mem_string(entry->d_name);
  }
  int errnum = errno;
  closedir(folder);
  if (errnum != 0) {
    folder_list_free(list, length);
    return error_errno(error, errnum, "%s: cannot list", path);
  }
  if (length > 0) qsort(list, length, sizeof *list, compare_names);
  *names = list;
  *count = length;
  return OK;
}

Status folder_list(const char *path, char ***names, size_t *count, Error *error) {
  *names = NULL;
  *count = 0;
  DIR *folder = opendir(path);
  if (!folder) return error_errno(error, errno, "%s: cannot list", path);
  return read_names(folder, path, names, count, error);
}

void folder_list_free(char **names, size_t count) {
  for (size_t i = 0; i < count; i++) free(names[i]);
  free(names);
}

static Status empty_folder(int folder, const char *path, Error *error);

/* Removes entry `name` of the open `folder`, with its content; `path` is its full path, for errors.
 */
static Status remove_entry(int folder, const char *name, const char *path, Error *error) {
  int inside = open_retry(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  bool is_folder = inside >= 0;
  if (!is_folder && errno != ENOTDIR && errno != ELOOP && errno != ENOENT)
    return error_errno(error, errno, "%s: cannot remove", path);
  if (is_folder) {
    Status status = empty_folder(inside, path, error);
    close(inside);
    if (status != OK) return status;
  }
  if (unlinkat(folder, name, is_folder ? AT_REMOVEDIR : 0) != 0 && errno != ENOENT)
    return error_errno(error, errno, "%s: cannot remove", path);
  return OK;
}

static Status empty_folder(int folder, const char *path, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  int own = open_retry(folder, ".", O_RDONLY | O_DIRECTORY);
  DIR *listing = own >= 0 ? fdopendir(own) : NULL;
  if (!listing) {
    status = error_errno(error, errno, "%s: cannot list", path);
    if (own >= 0) close(own);
    return status;
  }
  TRY(read_names(listing, path, &names, &count, error));
  for (size_t i = 0; i < count && status == OK; i++) {
    char *inside = path_join(path, names[i]);
    status = remove_entry(folder, names[i], inside, error);
    free(inside);
  }
done:
  folder_list_free(names, count);
  return status;
}

Status folder_remove(const char *path, Error *error) {
  struct stat info;
  if (lstat(path, &info) != 0) {
    if (errno == ENOENT) return OK;
    return error_errno(error, errno, "%s: cannot remove the folder", path);
  }
  if (!S_ISDIR(info.st_mode)) /* remove_entry would remove a link, not its target */
    return error_errno(error, ENOTDIR, "%s: cannot remove the folder", path);
  return remove_entry(AT_FDCWD, path, path, error);
}

static Status create_one(const char *path, Error *error) {
  if (mkdir(path, 0777) == 0) return sync_parent(path, error);
  int errnum = errno;
  bool is_folder;
  Status status = path_is_folder(path, &is_folder, error);
  if (status != OK) return error_context(error, "%s: cannot create the folder", path);
  if (is_folder) return OK; /* EEXIST; or EROFS or EACCES, for parents that exist */
  return error_errno(error, errnum == EEXIST ? ENOTDIR : errnum, "%s: cannot create the folder",
                     path);
}

Status folder_create(const char *path, Error *error) {
  Status status = OK;
  char *partial = mem_string(path);
  for (char *slash = partial; (slash = strchr(slash + 1, '/'));) {
    *slash = '\0';
    TRY(create_one(partial, error));
    *slash = '/';
    if (!slash[1]) goto done;
  }
  TRY(create_one(partial, error));
done:
  free(partial);
  return status;
}
