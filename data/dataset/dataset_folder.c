#include "data/dataset/dataset_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/dataset/manifest.h"

typedef enum EntryKind { ENTRY_SHARD, ENTRY_TEMPORARY, ENTRY_MANIFEST, ENTRY_FOREIGN } EntryKind;

/* Recognises shards ("shard-00007.h5"), the manifest, and the temporary files of both. */
static EntryKind classify(const char *name, int64_t *shard) {
  static const char temporary[] = ".tmp";
  size_t length = strlen(name), end = sizeof temporary - 1;
  bool ends = length > end && strcmp(name + length - end, temporary) == 0;
  long long number = -1;
  int used = 0;
  if (strcmp(name, MANIFEST_NAME) == 0) return ENTRY_MANIFEST;
  if (ends && strncmp(name, MANIFEST_NAME ".", sizeof MANIFEST_NAME) == 0) return ENTRY_TEMPORARY;
  if (sscanf(name, "shard-%6lld.h5%n", &number, &used) != 1 || used == 0 || number < 0)
    return ENTRY_FOREIGN;
  char exact[SHARD_NAME_SIZE];
  shard_file_name(number, exact);
  if (strncmp(name, exact, strlen(exact)) != 0) return ENTRY_FOREIGN;
  *shard = number;
  if (name[used] == '\0') return ENTRY_SHARD;
  return ends && name[used] == '.' ? ENTRY_TEMPORARY : ENTRY_FOREIGN;
}

/* Fails if the folder holds a dataset or files of something else. */
static Status check_entries(const char *folder, char **names, size_t count, Error *error) {
  for (size_t i = 0; i < count; i++) {
    int64_t shard;
    EntryKind kind = classify(names[i], &shard);
    if (kind == ENTRY_MANIFEST)
      return error_set(error, ERROR_USAGE,
                       "%s: already holds a dataset; choose another folder or remove this one",
                       folder);
    if (kind == ENTRY_FOREIGN)
      return error_set(error, ERROR_USAGE,
                       "%s: holds \"%s\", which is not part of a dataset; choose a new or empty "
                       "folder",
                       folder, names[i]);
  }
  return OK;
}

/* Removes the file and frees its path. */
static Status remove_file(char *path, Error *error) {
  Status status = OK;
  if (file_unlink(path) != 0 && errno != ENOENT)
    status = error_errno(error, errno, "%s: cannot remove", path);
  free(path);
  return status;
}

static Status list_shards(const char *folder, int64_t **shards, size_t *count, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t listed = 0;
  TRY(folder_list(folder, &names, &listed, error));
  TRY(check_entries(folder, names, listed, error));
  *shards = mem_new(listed, sizeof **shards);
  for (size_t i = 0; i < listed; i++) { /* sorted by number: names have leading zeros */
    int64_t shard = 0;
    if (classify(names[i], &shard) == ENTRY_SHARD)
      (*shards)[(*count)++] = shard;
    else
      TRY(remove_file(path_join(folder, names[i]), error));
  }
done:
  folder_list_free(names, listed);
  return status;
}

static void unlock_folder(DatasetFolder *folder) {
  file_close(&folder->lock);
  folder->locked = false;
}

/* Locks the folder. *removed is true if another process removed it before it was locked: then there
 * is none, or another one, at its path. File systems that cannot lock folders are used without a
 * lock. */
static Status lock_folder(DatasetFolder *folder, bool *removed, Error *error) {
  struct stat locked, found;
  int result;
  *removed = false;
  folder->lock = file_open(folder->path, O_RDONLY | O_DIRECTORY);
  if (folder->lock < 0 && errno == ENOENT) *removed = true;
  if (*removed) return OK;
  if (folder->lock < 0) return error_errno(error, errno, "%s: cannot open", folder->path);
  do result = flock(folder->lock, LOCK_EX | LOCK_NB);
  while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EWOULDBLOCK)
    return error_set(error, ERROR_USAGE, "%s: another process is writing to this folder",
                     folder->path);
  folder->locked = result == 0;
  bool there = stat(folder->path, &found) == 0;
  if ((!there && errno != ENOENT) || fstat(folder->lock, &locked) != 0)
    return error_errno(error, errno, "%s: cannot look up", folder->path);
  *removed = !there || found.st_dev != locked.st_dev || found.st_ino != locked.st_ino;
  return OK;
}

/* Creates the folder if necessary and locks it. Another process may create or remove it meanwhile:
 * one whose run fails removes the folder that it created. */
static Status create_and_lock(DatasetFolder *folder, Error *error) {
  enum { TRIES = 50 };
  Status status = OK;
  for (int i = 0; i < TRIES; i++) {
    bool existed, exists, removed;
    TRY(path_exists(folder->path, &existed, error));
    status = folder_create(folder->path, error);
    if (status != OK) {
      Error other;
      if (i + 1 == TRIES || path_exists(folder->path, &exists, &other) != OK || exists) goto done;
      continue;
    }
    TRY(lock_folder(folder, &removed, error));
    folder->created = !existed;
    if (!removed) goto done;
    unlock_folder(folder);
  }
  FAIL(error, ERROR_USAGE, "%s: other processes create and remove this folder all the time",
       folder->path);
done:
  return status;
}

Status dataset_folder_open(const char *path, DatasetFolder *out, int64_t **shards, size_t *count,
                           Error *error) {
  Status status = OK;
  *out = (DatasetFolder){.path = mem_string(path), .lock = -1};
  *shards = NULL;
  *count = 0;
  TRY(create_and_lock(out, error));
  TRY(list_shards(path, shards, count, error));
done:
  if (status != OK) {
    free(*shards);
    *shards = NULL;
  }
  return status;
}

void dataset_folder_close(DatasetFolder *folder) {
  if (!folder->path) return;
  if (folder->created && folder->locked) rmdir(folder->path); /* unless it is not empty */
  unlock_folder(folder);
  free(folder->path);
  *folder = (DatasetFolder){.lock = -1};
}

char *dataset_folder_shard_path(const DatasetFolder *folder, int64_t shard) {
  char name[SHARD_NAME_SIZE];
  shard_file_name(shard, name);
  return path_join(folder->path, name);
}

Status dataset_folder_remove_shard(const DatasetFolder *folder, int64_t shard, Error *error) {
  return remove_file(dataset_folder_shard_path(folder, shard), error);
}

Status dataset_folder_inspect_shard(const DatasetFolder *folder, int64_t shard, const char *uuid,
                                    Shard *out, Error *error) {
  Status status = OK;
  Error fault;
  char *path = dataset_folder_shard_path(folder, shard);
  Status inspected = shard_inspect(path, true, out, &fault);
  if (inspected == ERROR_IO) FAIL(error, ERROR_IO, "%s", fault.message);
  if (inspected != OK)
    FAIL(error, ERROR_USAGE, "%s; remove the file or choose another folder", fault.message);
  if (strcmp(out->header.uuid, uuid) != 0)
    FAIL(error, ERROR_USAGE,
         "%s: shard of an interrupted run with other options (dataset %s, expected %s); remove "
         "the folder or choose another one",
         path, out->header.uuid, uuid);
done:
  free(path);
  return status;
}
