/* Calls on paths and folders, and streams. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

/* Returns the function that this library replaces. */
static void *next_of(const char *name) {
  void *function = dlsym(RTLD_NEXT, name);
  if (!function) abort();
  return function;
}

/* --- stat ------------------------------------------------------------------------------------- */

static int stat_path(int folder, const char *path, struct stat *info, int flags) {
  bool descriptor_only = path[0] == '\0' && (flags & AT_EMPTY_PATH);
  FAIL_IF(descriptor_only ? fault_of("stat", folder) : fault_below("stat", folder, path));
  return (int)syscall(SYS_newfstatat, folder, path, info, flags);
}

int stat(const char *path, struct stat *info) {
  return stat_path(AT_FDCWD, path, info, 0);
}
ALSO(stat64, stat);

int lstat(const char *path, struct stat *info) {
  return stat_path(AT_FDCWD, path, info, AT_SYMLINK_NOFOLLOW);
}
ALSO(lstat64, lstat);

int fstat(int descriptor, struct stat *info) {
  FAIL_IF(fault_of("stat", descriptor));
  return (int)syscall(SYS_fstat, descriptor, info);
}
ALSO(fstat64, fstat);

int fstatat(int folder, const char *path, struct stat *info, int flags) {
  return stat_path(folder, path, info, flags);
}
ALSO(fstatat64, fstatat);

/* The names that programs linked with a C library before 2.33 use; the version is always 1. */
#define OLD_STAT(name, function, place)                                                            \
  int name(int version, place, struct stat *info);                                                 \
  int name(int version, place, struct stat *info) {                                                \
    (void)version;                                                                                 \
    return function(at, info);                                                                     \
  }
OLD_STAT(__xstat, stat, const char *at)
OLD_STAT(__lxstat, lstat, const char *at)
OLD_STAT(__fxstat, fstat, int at)
ALSO(__xstat64, __xstat);
ALSO(__lxstat64, __lxstat);
ALSO(__fxstat64, __fxstat);

int statx(int folder, const char *restrict path, int flags, unsigned mask,
          struct statx *restrict info) {
  bool descriptor_only = path[0] == '\0' && (flags & AT_EMPTY_PATH);
  FAIL_IF(descriptor_only ? fault_of("stat", folder) : fault_below("stat", folder, path));
  return (int)syscall(SYS_statx, folder, path, flags, mask, info);
}

char *realpath(const char *restrict path, char *restrict resolved) {
  static char *(*next)(const char *, char *);
  if (!next) *(void **)&next = next_of("realpath");
  int fault = fault_below("stat", AT_FDCWD, path);
  if (fault <= 0) return next(path, resolved);
  errno = fault;
  return NULL;
}

int access(const char *path, int mode) {
  FAIL_IF(fault_below("stat", AT_FDCWD, path));
  return (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
}

/* --- Names ------------------------------------------------------------------------------------ */

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
  FAIL_IF(fault_below("rename", from_folder, from));
  return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  return renameat2(from_folder, from, to_folder, to, 0);
}

int rename(const char *from, const char *to) {
  return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
  FAIL_IF(fault_below("link", to_folder, to));
  return (int)syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}

int link(const char *from, const char *to) {
  return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int folder, const char *path, int flags) {
  FAIL_IF(fault_below(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path));
  return (int)syscall(SYS_unlinkat, folder, path, flags);
}

int unlink(const char *path) {
  return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path) {
  return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int folder, const char *path, mode_t mode) {
  FAIL_IF(fault_below("mkdir", folder, path));
  return (int)syscall(SYS_mkdirat, folder, path, mode);
}

int mkdir(const char *path, mode_t mode) {
  return mkdirat(AT_FDCWD, path, mode);
}

/* --- Folders ---------------------------------------------------------------------------------- */

DIR *opendir(const char *path) {
  static DIR *(*next)(const char *);
  if (!next) *(void **)&next = next_of("opendir");
  int fault = fault_below("opendir", AT_FDCWD, path);
  if (fault <= 0) return next(path);
  errno = fault;
  return NULL;
}

DIR *fdopendir(int descriptor) {
  static DIR *(*next)(int);
  if (!next) *(void **)&next = next_of("fdopendir");
  int fault = fault_of("opendir", descriptor);
  if (fault <= 0) return next(descriptor);
  errno = fault;
  return NULL;
}

struct dirent *readdir(DIR *folder) {
  static struct dirent *(*next)(DIR *);
  if (!next) *(void **)&next = next_of("readdir");
  int fault = fault_of("readdir", dirfd(folder));
  if (fault <= 0) return next(folder);
  errno = fault;
  return NULL;
}
ALSO(readdir64, readdir);

/* --- Streams ---------------------------------------------------------------------------------- */

static ssize_t stream_read(void *cookie, char *data, size_t size) {
  return read((int)(intptr_t)cookie, data, size);
}

static ssize_t stream_write(void *cookie, const char *data, size_t size) {
  ssize_t count = write((int)(intptr_t)cookie, data, size);
  return count < 0 ? 0 : count; /* the error of a cookie's write function */
}

static int stream_seek(void *cookie, off_t *offset, int whence) {
  off_t place = lseek((int)(intptr_t)cookie, *offset, whence);
  if (place >= 0) *offset = place;
  return place < 0 ? -1 : 0;
}

static int stream_close(void *cookie) {
  return close((int)(intptr_t)cookie);
}

/* Inside of the folder a stream has no descriptor: fileno of it fails. */
FILE *fopen(const char *restrict path, const char *restrict mode) {
  static FILE *(*next)(const char *, const char *);
  static const cookie_io_functions_t FUNCTIONS = {stream_read, stream_write, stream_seek,
                                                  stream_close};
  if (!next) *(void **)&next = next_of("fopen");
  if (!shim_is_active() || !path_is_below(path)) return next(path, mode);
  int access_mode = strchr(mode, '+') ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY;
  int creation = mode[0] == 'r' ? 0 : O_CREAT | (mode[0] == 'a' ? O_APPEND : O_TRUNC);
  int descriptor = open(path, access_mode | creation | (strchr(mode, 'e') ? O_CLOEXEC : 0), 0666);
  return descriptor < 0 ? NULL : fopencookie((void *)(intptr_t)descriptor, mode, FUNCTIONS);
}
ALSO(fopen64, fopen);
