/* Folders: committing, listing, creating and removing them. Declared in base/files.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"

/* Returns the folder that contains `path`; the caller frees it. */
static char *parent_of(const char *path) {
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') length--;
  while (length > 0 && path[length - 1] != '/') length--;
  while (length > 1 && path[length - 1] == '/') length--;
  return length == 0 ? mem_string(".") : mem_format("%.*s", (int)length, path);
}

Status folder_sync_parent(const char *path, Error *error) {
  char *parent = parent_of(path);
  Status status = file_sync(parent, error);
  free(parent);
  return status;
}

/* Renames without replacing an empty folder at `to`, as rename(2) would. File systems without
 * RENAME_NOREPLACE check first. */
static int rename_to_new(const char *from, const char *to) {
  if (file_rename(from, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  struct stat info;
  if (lstat(to, &info) == 0) {
    errno = EEXIST;
    return -1;
  }
  return file_rename(from, to, 0);
}

Status folder_commit(const char *temporary, const char *final, Error *error) {
  Status status = OK;
  TRY(file_sync(temporary, error));
  if (rename_to_new(temporary, final) != 0) {
    status = error_errno(error, errno, "%s: cannot rename to %s", temporary, final);
    goto done;
  }
  TRY(folder_sync_parent(final, error));
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
  while ((errno = 0, entry = readdir(folder)) || errno == EINTR) {
    if (!entry || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
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
  DIR *folder;
  do folder = opendir(path);
  while (!folder && errno == EINTR);
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
  int inside = file_open_at(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  bool is_folder = inside >= 0;
  if (!is_folder && errno != ENOTDIR && errno != ELOOP && errno != ENOENT)
    return error_errno(error, errno, "%s: cannot remove", path);
  if (is_folder) {
    Status status = empty_folder(inside, path, error);
    close(inside);
    if (status != OK) return status;
  }
  int result;
  do result = unlinkat(folder, name, is_folder ? AT_REMOVEDIR : 0);
  while (result != 0 && errno == EINTR);
  if (result != 0 && errno != ENOENT) return error_errno(error, errno, "%s: cannot remove", path);
  return OK;
}

static Status empty_folder(int folder, const char *path, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  int own = file_open_at(folder, ".", O_RDONLY | O_DIRECTORY);
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
  int result;
  do result = lstat(path, &info);
  while (result != 0 && errno == EINTR);
  if (result != 0) {
    if (errno == ENOENT) return OK;
    return error_errno(error, errno, "%s: cannot remove the folder", path);
  }
  if (!S_ISDIR(info.st_mode)) /* remove_entry would remove a link, not its target */
    return error_errno(error, ENOTDIR, "%s: cannot remove the folder", path);
  return remove_entry(AT_FDCWD, path, path, error);
}

static Status create_one(const char *path, Error *error) {
  int result;
  bool is_repeated = false; /* the first try may have created it */
  while ((result = mkdir(path, 0777)) != 0 && errno == EINTR) is_repeated = true;
  if (result == 0) return folder_sync_parent(path, error);
  int errnum = errno;
  bool is_folder;
  Status status = path_is_folder(path, &is_folder, error);
  if (status != OK) return error_context(error, "%s: cannot create the folder", path);
  if (is_folder) /* EEXIST; or EROFS or EACCES, for parents that exist */
    return is_repeated ? folder_sync_parent(path, error) : OK;
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
