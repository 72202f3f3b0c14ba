/* Files and folders that are whole or absent.
 *
 * A file is written under a temporary name in its own folder, fsynced, renamed over the final name,
 * and its folder fsynced. A folder of files likewise: written as NAME.tmp, every file fsynced, then
 * renamed. A file's temporary name is "NAME.PID.tmp", so one process may write a name once at a
 * time. What a killed process leaves behind ends in ".tmp" and is never taken for the real thing.
 * Errors name the path and say what the operating system said (ERROR_IO). */
#ifndef CELFORGE_BASE_FILES_H
#define CELFORGE_BASE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct AtomicFile {
  int descriptor; /* write through atomic_file_write, or pass to a library by descriptor or
                     `temporary` */
  char *temporary, *final;
} AtomicFile;

/* What lies at `path` must be a regular file, or nothing: folders, devices and pipes stay. */
Status atomic_file_open(const char *path, AtomicFile *file, Error *error);
Status atomic_file_write(AtomicFile *file, const void *data, size_t size, Error *error);
/* fsync, rename, fsync of the folder. Frees; on failure the temporary file is removed. A link at
 * the final name is replaced, not followed. */
Status atomic_file_commit(AtomicFile *file, Error *error);
/* Removes the temporary file and frees. Does nothing on a zeroed or committed file. */
void atomic_file_abort(AtomicFile *file);
/* The whole of it for content at hand. */
Status atomic_file_replace(const char *path, const void *data, size_t size, Error *error);

/* Renames folder `temporary` to `final` (which must not exist) and fsyncs it and the parents. The
 * files inside, and folders inside, must have been fsynced (file_sync). */
Status folder_commit(const char *temporary, const char *final, Error *error);
/* Removes a folder and all in it; a missing one is no error. Never follows links: one in place of
 * the folder is an error. */
Status folder_remove(const char *path, Error *error);
/* mkdir -p, each new folder's entry fsynced. */
Status folder_create(const char *path, Error *error);
/* Sorted names of what `path` holds, without "." and ".."; free each and the list. */
Status folder_list(const char *path, char ***names, size_t *count, Error *error);
void folder_list_free(char **names, size_t count);

/* Reads all of a regular file of at most `max_bytes` (more is ERROR_DATA), NUL behind it. Caller
 * frees. */
Status file_read(const char *path, size_t max_bytes, char **data, size_t *size, Error *error);
/* fsync of a file, or of a folder's entries where its file system can do that. */
Status file_sync(const char *path, Error *error);
bool path_exists(const char *path);
bool path_is_folder(const char *path);
/* Both are there, and are one file or folder. */
bool path_is_same(const char *a, const char *b);
/* pread/pwrite that go on after short transfers and EINTR; a read past the end is ERROR_DATA that
 * says how many bytes were wanted and found. */
Status file_pread(int descriptor, const char *path, void *data, size_t size, uint64_t offset,
                  Error *error);
Status file_write(int descriptor, const char *path, const void *data, size_t size, Error *error);
/* "folder/name"; caller frees. */
char *path_join(const char *folder, const char *name);

#endif
