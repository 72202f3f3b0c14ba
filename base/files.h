/* Atomic writes of files and folders, and reads with limits.
 *
 * A file is written to a temporary file in the same folder, fsynced and renamed to its final name;
 * then the folder is fsynced. A folder is written as NAME.tmp, its files are fsynced, and it is
 * renamed. Readers therefore find either the complete content or none. They ignore names that end
 * in ".tmp", which a killed process can leave behind: base/temporary.h names and removes them.
 * Errors are ERROR_IO, with the path and the text of errno, unless stated otherwise. */
#ifndef CELFORGE_BASE_FILES_H
#define CELFORGE_BASE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct AtomicFile {
  int descriptor;          /* for atomic_file_write, or for a library that writes the file */
  char *temporary, *final; /* paths */
} AtomicFile;

/* Creates the temporary file. Fails if `path` exists and is not a regular file. */
Status atomic_file_open(const char *path, AtomicFile *file, Error *error);
Status atomic_file_write(AtomicFile *file, const void *data, size_t size, Error *error);
/* Fsyncs the file, renames it, and fsyncs the folder; removes the temporary file on failure. Frees
 * `file` in both cases. A symbolic link at the final name is replaced, not followed. */
Status atomic_file_commit(AtomicFile *file, Error *error);
/* Removes the temporary file and frees `file`. Does nothing to a zeroed or committed one. */
void atomic_file_abort(AtomicFile *file);
/* Opens, writes and commits in one call. */
Status atomic_file_replace(const char *path, const void *data, size_t size, Error *error);

/* Renames folder `temporary` to `final`, which must not exist, and fsyncs it and both parents.
 * Files and folders inside must have been fsynced before (file_sync). */
Status folder_commit(const char *temporary, const char *final, Error *error);
/* Removes a folder with its content; succeeds if there is none. Does not follow symbolic links, and
 * fails if `path` is one. */
Status folder_remove(const char *path, Error *error);
/* Creates a folder and its missing parents, and fsyncs their entries. */
Status folder_create(const char *path, Error *error);
/* Fsyncs the entry of `path` in its parent. */
Status folder_sync_parent(const char *path, Error *error);
/* Lists the names in a folder, sorted by bytes, without "." and ".."; free with folder_list_free.
 */
Status folder_list(const char *path, char ***names, size_t *count, Error *error);
void folder_list_free(char **names, size_t count);

/* Reads a whole regular file and appends a NUL, which *size does not count. More than `max_bytes`
 * is ERROR_DATA. The caller frees *data. */
Status file_read(const char *path, size_t max_bytes, char **data, size_t *size, Error *error);
/* Opens a regular file for reading; anything else is refused, without blocking on a pipe. Close it
 * with file_close. */
Status file_open_regular(const char *path, int *descriptor, uint64_t *size, Error *error);
/* Fsyncs a file, or the entries of a folder if the file system supports that. */
Status file_sync(const char *path, Error *error);
/* Look a path up, following links. Only ENOENT and ENOTDIR mean that nothing is there; any other
 * failure (EACCES, EIO, ESTALE, ...) says nothing about the path, and is ERROR_IO. *out is false
 * then. */
Status path_exists(const char *path, bool *out, Error *error);
Status path_is_folder(const char *path, bool *out, Error *error);
/* Sets *out to whether both paths exist and are the same file or folder. */
Status path_is_same(const char *a, const char *b, bool *out, Error *error);
/* Refuses a path whose last part is a symbolic link (ERROR_USAGE): for files and folders inside a
 * folder that is not to be left, where a planted link would lead elsewhere. */
Status path_refuse_link(const char *path, Error *error);
/* Transfer all `size` bytes, with retries after short transfers and EINTR. A read past the end of
 * the file is ERROR_DATA. `path` names the file in errors. */
Status file_pread(int descriptor, const char *path, void *data, size_t size, uint64_t offset,
                  Error *error);
Status file_write(int descriptor, const char *path, const void *data, size_t size, Error *error);

/* System calls, retried after EINTR; they return -1 and set errno. A file is created with mode 0666
 * less the umask. A rename or removal that was interrupted, and then finds nothing, succeeded at
 * the first try. */
int file_open(const char *path, int flags); /* and O_CLOEXEC */
int file_open_at(int folder, const char *path, int flags);
int file_flush(int descriptor);  /* fsync */
int file_close(int *descriptor); /* sets it to -1; does nothing to a negative one */
int file_unlink(const char *path);
int file_rename(const char *from, const char *to, unsigned flags); /* flags of renameat2 */

/* Returns "folder/name"; the caller frees it. */
char *path_join(const char *folder, const char *name);

#endif
