/* Files that are whole or absent. Declared in base/files.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/temporary.h"

/* The rename would fail for a folder only after all is written, and would replace a device. */
static Status check_replaceable(const char *path, Error *error) {
  struct stat existing;
  int result;
  do result = stat(path, &existing);
  while (result != 0 && errno == EINTR);
  if (result != 0) return OK; /* if it cannot be created either, that is reported */
  if (S_ISREG(existing.st_mode)) return OK;
  return error_set(error, ERROR_IO, "%s: is %s", path,
                   S_ISDIR(existing.st_mode) ? "a folder, not a file" : "not a regular file");
}

Status atomic_file_open(const char *path, AtomicFile *file, Error *error) {
  *file = (AtomicFile){.descriptor = -1};
  Status status = check_replaceable(path, error);
  if (status != OK) return status;
  char *temporary;
  int descriptor;
  status = temporary_create(path, &descriptor, &temporary, error);
  if (status == OK) *file = (AtomicFile){descriptor, temporary, mem_string(path)};
  return status;
}

Status atomic_file_write(AtomicFile *file, const void *data, size_t size, Error *error) {
  return file_write(file->descriptor, file->temporary, data, size, error);
}

/* A second descriptor keeps the lock until the rename: without it, another process would take the
 * closed file for a leftover. */
Status atomic_file_commit(AtomicFile *file, Error *error) {
  Status status = OK;
  int lock = fcntl(file->descriptor, F_DUPFD_CLOEXEC, 0);
  if (file_flush(file->descriptor) != 0 || file_close(&file->descriptor) != 0)
    status = error_errno(error, errno, "%s: cannot flush", file->temporary);
  else if (file_rename(file->temporary, file->final, 0) != 0)
    status = error_errno(error, errno, "%s: cannot rename to %s", file->temporary, file->final);
  else {
    status = folder_sync_parent(file->final, error);
    free(file->temporary);
    file->temporary = NULL;
  }
  atomic_file_abort(file);
  file_close(&lock);
  return status;
}

static void remove_temporary(const char *path) {
  Error found = {0};
  if (file_unlink(path) == 0 || errno == ENOENT) return;
  error_errno(&found, errno, "%s: cannot remove the temporary file", path);
  log_warning("%s; it stays until the next command writes there", found.message);
}

void atomic_file_abort(AtomicFile *file) {
  if (file->final) {
    file_close(&file->descriptor);
    if (file->temporary) remove_temporary(file->temporary);
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
