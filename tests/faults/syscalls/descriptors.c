/* Calls on files: opening, reading, writing, closing. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shim.h"

/* --- Opening and closing ---------------------------------------------------------------------- */

static int open_file(int folder, const char *path, int flags, mode_t mode) {
  bool writes = (flags & O_CREAT) || (flags & O_ACCMODE) != O_RDONLY;
  FAIL_IF(fault_below(writes ? "create" : "open", folder, path));
  return (int)syscall(SYS_openat, folder, path, flags, mode);
}

static mode_t mode_of(int flags, va_list arguments) {
  return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

int open(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_file(AT_FDCWD, path, flags, mode);
}
ALSO(open64, open);

int openat(int folder, const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_file(folder, path, flags, mode);
}
ALSO(openat64, openat);

int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags) {
  return open_file(AT_FDCWD, path, flags, 0);
}
ALSO(__open64_2, __open_2);

int __openat_2(int folder, const char *path, int flags);
int __openat_2(int folder, const char *path, int flags) {
  return open_file(folder, path, flags, 0);
}
ALSO(__openat64_2, __openat_2);

int creat(const char *path, mode_t mode) {
  return open_file(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
ALSO(creat64, creat);

/* A close that fails has closed the file, as in Linux. */
int close(int descriptor) {
  int fault = 0;
  if (shim_is_active()) {
    int before = errno;
    long flags = syscall(SYS_fcntl, descriptor, F_GETFL);
    errno = before;
    if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY) fault = fault_of("close", descriptor);
  }
  int result = (int)syscall(SYS_close, descriptor);
  return fault > 0 ? fail(fault) : result;
}

/* --- Reading and writing ---------------------------------------------------------------------- */

/* Reduces *size if the call must come short; returns an errno otherwise, or 0. */
static int transfer(const char *call, int descriptor, size_t *size) {
  int fault = fault_of(call, descriptor);
  if (fault == SHORT && *size > 1) *size /= 2;
  return fault == SHORT ? 0 : fault;
}

ssize_t read(int descriptor, void *data, size_t size) {
  FAIL_IF(transfer("read", descriptor, &size));
  return syscall(SYS_read, descriptor, data, size);
}

ssize_t pread(int descriptor, void *data, size_t size, off_t offset) {
  FAIL_IF(transfer("read", descriptor, &size));
  return syscall(SYS_pread64, descriptor, data, size, offset);
}
ALSO(pread64, pread);

ssize_t __read_chk(int descriptor, void *data, size_t size, size_t room);
ssize_t __read_chk(int descriptor, void *data, size_t size, size_t room) {
  if (size > room) abort();
  return read(descriptor, data, size);
}

ssize_t __pread_chk(int descriptor, void *data, size_t size, off_t offset, size_t room);
ssize_t __pread_chk(int descriptor, void *data, size_t size, off_t offset, size_t room) {
  if (size > room) abort();
  return pread(descriptor, data, size, offset);
}
ALSO(__pread64_chk, __pread_chk);

ssize_t write(int descriptor, const void *data, size_t size) {
  FAIL_IF(transfer("write", descriptor, &size));
  return syscall(SYS_write, descriptor, data, size);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
  FAIL_IF(transfer("write", descriptor, &size));
  return syscall(SYS_pwrite64, descriptor, data, size, offset);
}
ALSO(pwrite64, pwrite);

/* A short one transfers only the first buffer. */
ssize_t readv(int descriptor, const struct iovec *buffers, int count) {
  int fault = fault_of("read", descriptor);
  if (fault > 0) return fail(fault);
  return syscall(SYS_readv, descriptor, buffers, fault == SHORT && count > 1 ? 1 : count);
}

ssize_t writev(int descriptor, const struct iovec *buffers, int count) {
  int fault = fault_of("write", descriptor);
  if (fault > 0) return fail(fault);
  return syscall(SYS_writev, descriptor, buffers, fault == SHORT && count > 1 ? 1 : count);
}

int fsync(int descriptor) {
  FAIL_IF(fault_of("fsync", descriptor));
  return (int)syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor) {
  FAIL_IF(fault_of("fsync", descriptor));
  return (int)syscall(SYS_fdatasync, descriptor);
}

int ftruncate(int descriptor, off_t size) {
  FAIL_IF(fault_of("truncate", descriptor));
  return (int)syscall(SYS_ftruncate, descriptor, size);
}
ALSO(ftruncate64, ftruncate);

int fallocate(int descriptor, int mode, off_t offset, off_t size) {
  FAIL_IF(fault_of("truncate", descriptor));
  return (int)syscall(SYS_fallocate, descriptor, mode, offset, size);
}
ALSO(fallocate64, fallocate);

void *mmap(void *start, size_t size, int protection, int flags, int descriptor, off_t at) {
  int fault = descriptor >= 0 && !(flags & MAP_ANONYMOUS) ? fault_of("mmap", descriptor) : 0;
  if (fault > 0) {
    errno = fault;
    return MAP_FAILED;
  }
  return (void *)syscall(SYS_mmap, start, size, protection, flags, descriptor, at);
}
ALSO(mmap64, mmap);

int flock(int descriptor, int operation) {
  FAIL_IF(fault_of("lock", descriptor));
  return (int)syscall(SYS_flock, descriptor, operation);
}

int fcntl(int descriptor, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  bool locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK ||
               command == F_OFD_SETLKW;
  if (locks) FAIL_IF(fault_of("lock", descriptor));
  return (int)syscall(SYS_fcntl, descriptor, command, argument);
}
ALSO(fcntl64, fcntl);
