/* Paths: joining them, and what they lead to. Declared in base/files.h. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/memory.h"

char *path_join(const char *folder, const char *name) {
  size_t length = strlen(folder);
  bool bare = length == 0 || folder[length - 1] == '/';
  return mem_format("%s%s%s", folder, bare ? "" : "/", name);
}

/* Sets *there to false if `path` leads to nothing. */
static Status look_up(const char *path, struct stat *info, bool *there, Error *error) {
  int result;
  do result = stat(path, info);
  while (result != 0 && errno == EINTR);
  *there = result == 0;
  if (result == 0 || errno == ENOENT || errno == ENOTDIR) return OK;
  return error_errno(error, errno, "%s: cannot be looked up", path);
}

Status path_exists(const char *path, bool *out, Error *error) {
  struct stat info;
  return look_up(path, &info, out, error);
}

Status path_is_folder(const char *path, bool *out, Error *error) {
  struct stat info;
  Status status = look_up(path, &info, out, error);
  *out = *out && S_ISDIR(info.st_mode);
  return status;
}

Status path_is_same(const char *a, const char *b, bool *out, Error *error) {
  Status status = OK;
  struct stat first, second;
  bool has_first, has_second;
  *out = false;
  TRY(look_up(a, &first, &has_first, error));
  TRY(look_up(b, &second, &has_second, error));
  *out = has_first && has_second && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
done:
  return status;
}

Status path_refuse_link(const char *path, Error *error) {
  struct stat info;
  int result;
  do result = lstat(path, &info);
  while (result != 0 && errno == EINTR);
  if (result != 0 && errno != ENOENT && errno != ENOTDIR)
    return error_errno(error, errno, "%s: cannot be looked up", path);
  if (result != 0 || !S_ISLNK(info.st_mode)) return OK;
  return error_set(error, ERROR_USAGE,
                   "%s: is a symbolic link, which is not followed here, so that nothing outside of "
                   "the folder is written; remove it (the folder itself may be a link)",
                   path);
}
