/* A library to preload (LD_PRELOAD) between celforge with its libraries and the kernel. It makes
 * one call on the files below a folder fail, or transfer less than was asked for.
 *
 *   SHIM_FOLDER  the folder: absolute, without symbolic links
 *   SHIM_TRACE   a file that receives a line "CALL KIND" for each call; nothing fails
 *   SHIM_CALL    the call that fails: open, create, read, write, ... (CALLS in choose.c)
 *   SHIM_KIND    the kind of path that it fails on: the path below SHIM_FOLDER with "#" for each
 *                run of digits, such as run/checkpoints/step-#.tmp/state.json
 *   SHIM_AT      N: the N-th such call fails, counted from 1 in a process and its children
 *   SHIM_ERRNO   the number of the error; 0: the call transfers half of the bytes
 *   SHIM_SCOPE   once: the N-th call alone; kind: all later such calls as well; all: from then on
 *                all calls below the folder; with ENOSPC and EDQUOT, all that need space
 *   SHIM_RANK    fails in this rank of an MPI job only; default: 0
 *   SHIM_LOG     a file that receives a line "CALL KIND" for each call that failed
 *
 * Call, kind of path and number select the same call in every run: threads of celforge use
 * different kinds of path. Calls are intercepted where celforge or a library calls the C library.
 * Calls inside of the C library are not, so readdir stands for getdents, and fopen is replaced to
 * return a stream that calls the functions of this library. */
#ifndef CELFORGE_TESTS_FAULTS_SYSCALLS_SHIM_H
#define CELFORGE_TESTS_FAULTS_SYSCALLS_SHIM_H

#include <errno.h>
#include <stdbool.h>

enum { SHORT = -1 }; /* instead of an errno value */

/* Returns whether calls are counted in this process. */
bool shim_is_active(void);
/* Returns whether an absolute path lies below the folder. */
bool path_is_below(const char *path);

/* Count a call; return the errno value that it must fail with, SHORT, or 0. `folder` is the
 * descriptor that a relative path refers to, or AT_FDCWD. Keep errno. */
int fault_of(const char *call, int descriptor);
int fault_below(const char *call, int folder, const char *path);

static inline int fail(int fault) {
  errno = fault;
  return -1;
}

/* Returns -1 from the calling function if its call must fail. Ignores SHORT. */
#define FAIL_IF(fault_call)                                                                        \
  do {                                                                                             \
    int fault_found = (fault_call);                                                                \
    if (fault_found > 0) return fail(fault_found);                                                 \
  } while (0)

/* Gives a function a second name. The types of the 64-bit variants are the same. */
#define ALSO(name, function) __asm__(".globl " #name "\n.set " #name ", " #function)

#endif
