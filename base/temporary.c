#include "base/temporary.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/host.h"
#include "base/log.h"
#include "base/memory.h"

enum { MAX_NAMES = 100 }; /* of one process, for one file */

/* --- Names ------------------------------------------------------------------------------------ */

static uint32_t host_number(void) {
  char name[HOST_NAME_SIZE];
  host_name(name);
  return crc32c(0, name, strlen(name));
}

char *temporary_name(const char *path, int pid) {
  return mem_format("%s.%u-%d.tmp", path, host_number(), pid);
}

static char *numbered_name(const char *path, int number) {
  if (number == 0) return temporary_name(path, (int)getpid());
  return mem_format("%s.%u-%d.%d.tmp", path, host_number(), (int)getpid(), number);
}

/* Skips `before` and digits; returns NULL if `text` starts otherwise. */
static const char *skip_number(const char *text, char before) {
  size_t digits = text[0] == before ? strspn(text + 1, "0123456789") : 0;
  return digits > 0 ? text + 1 + digits : NULL;
}

/* Whether `entry` is a temporary name of this host, for the file `name` (NULL: any). */
static bool is_temporary(const char *entry, const char *name) {
  char *host = mem_format(".%u", host_number());
  const char *found = NULL; /* the last one */
  for (const char *next = strstr(entry, host); next; next = strstr(next + 1, host)) found = next;
  const char *rest = found ? skip_number(found + strlen(host), '-') : NULL;
  free(host);
  if (!rest) return false;
  if (skip_number(rest, '.')) rest = skip_number(rest, '.');
  size_t length = (size_t)(found - entry);
  return strcmp(rest, ".tmp") == 0 && length > 0 &&
         (!name || (strlen(name) == length && strncmp(entry, name, length) == 0));
}

/* --- Locks ------------------------------------------------------------------------------------ */

/* Returns 0, or an errno value: EWOULDBLOCK if another descriptor holds the lock. */
static int lock(int descriptor) {
  int result;
  do result = flock(descriptor, LOCK_EX | LOCK_NB);
  while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

typedef enum Place { AT_PATH, ELSEWHERE, UNKNOWN } Place;

/* Whether `path` leads to the open file: another process may have removed it. */
static Place place_of(const char *path, int descriptor) {
  struct stat at_path, open_file;
  int result;
  do result = lstat(path, &at_path);
  while (result != 0 && errno == EINTR);
  if (result != 0) return errno == ENOENT ? ELSEWHERE : UNKNOWN;
  if (fstat(descriptor, &open_file) != 0) return UNKNOWN;
  bool same = at_path.st_dev == open_file.st_dev && at_path.st_ino == open_file.st_ino;
  return same ? AT_PATH : ELSEWHERE;
}

bool temporary_is_held(const char *path, int descriptor) {
  return place_of(path, descriptor) != ELSEWHERE;
}

/* Removes the file unless a living process has it locked; returns whether it is gone. Where there
 * are no locks it is removed only if it is `own`, with this process's PID. Its lock is held until
 * the end, so that two processes do not both find it without one. */
static bool remove_unlocked(const char *path, bool own) {
  struct stat info;
  if (lstat(path, &info) != 0) return errno == ENOENT;
  if (S_ISLNK(info.st_mode)) return own && file_unlink(path) == 0; /* planted */
  if (!S_ISREG(info.st_mode)) return false;
  int descriptor = file_open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) return errno == ENOENT;
  int errnum = lock(descriptor);
  bool removable =
      errnum == 0 ? place_of(path, descriptor) == AT_PATH : own && errnum != EWOULDBLOCK;
  bool removed = removable && file_unlink(path) == 0;
  file_close(&descriptor);
  return removed;
}

/* --- Creating --------------------------------------------------------------------------------- */

/* Creates and locks one name. Returns 0 or an errno value; EEXIST: take the next name. */
static int create(const char *path, int *descriptor) {
  *descriptor = file_open(path, O_RDWR | O_CREAT | O_EXCL);
  if (*descriptor < 0 && errno == EEXIST) {
    if (!remove_unlocked(path, true)) return EEXIST;
    *descriptor = file_open(path, O_RDWR | O_CREAT | O_EXCL);
  }
  if (*descriptor < 0) return errno;
  if (lock(*descriptor) != EWOULDBLOCK && temporary_is_held(path, *descriptor)) return 0;
  file_close(descriptor);
  return EEXIST;
}

Status temporary_create(const char *path, int *descriptor, char **temporary, Error *error) {
  int errnum = EEXIST;
  *temporary = NULL;
  for (int number = 0; number < MAX_NAMES && errnum == EEXIST; number++) {
    char *name = numbered_name(path, number);
    errnum = create(name, descriptor);
    if (errnum == 0)
      *temporary = name;
    else
      free(name);
  }
  return errnum == 0 ? OK : error_errno(error, errnum, "%s: cannot create", path);
}

/* --- Leftovers -------------------------------------------------------------------------------- */

void temporary_remove_leftovers(const char *folder, const char *name) {
  char **names = NULL;
  size_t count = 0;
  Error ignored;
  if (folder_list(folder, &names, &count, &ignored) != OK) return;
  for (size_t i = 0; i < count; i++) {
    if (!is_temporary(names[i], name)) continue;
    char *path = path_join(folder, names[i]);
    if (remove_unlocked(path, false)) log_info("%s: removed, left by a killed process", path);
    free(path);
  }
  folder_list_free(names, count);
}

void temporary_remove_leftovers_of(const char *path) {
  const char *slash = strrchr(path, '/');
  char *folder = !slash          ? mem_string(".")
                 : slash == path ? mem_string("/")
                                 : mem_format("%.*s", (int)(slash - path), path);
  temporary_remove_leftovers(folder, slash ? slash + 1 : path);
  free(folder);
}
