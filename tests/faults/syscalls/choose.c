/* Counts calls and chooses the one that fails. */
#define _GNU_SOURCE
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim.h"

/* The calls, and whether they need space on the file system. "create" is an open that creates or
 * may write, "close" the close of a file that was open for writing, "lock" flock or fcntl. */
static const struct {
  const char *name;
  bool needs_space;
} CALLS[] = {
    {"open", false},   {"create", true},   {"read", false},  {"write", true},    {"fsync", true},
    {"close", true},   {"truncate", true}, {"stat", false},  {"rename", true},   {"link", true},
    {"unlink", false}, {"mkdir", true},    {"rmdir", false}, {"opendir", false}, {"readdir", false},
    {"mmap", false},   {"lock", false},
};

static struct {
  const char *folder, *trace, *call, *kind, *log;
  enum { ONCE, KIND, ALL } scope;
  int fault; /* errno value, or SHORT */
  long at;
  atomic_long *count; /* of matching calls; children share it */
} shim;

static const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value ? value : otherwise;
}

__attribute__((constructor)) static void begin(void) {
  if (strcmp(program_invocation_short_name, "celforge") != 0) return; /* mpirun, or a shell */
  if (strcmp(setting("OMPI_COMM_WORLD_RANK", "0"), setting("SHIM_RANK", "0")) != 0) return;
  shim.count =
      mmap(NULL, sizeof *shim.count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shim.count == MAP_FAILED) abort();
  const char *scope = setting("SHIM_SCOPE", "once");
  shim.scope = strcmp(scope, "all") == 0 ? ALL : strcmp(scope, "kind") == 0 ? KIND : ONCE;
  shim.fault = atoi(setting("SHIM_ERRNO", "0"));
  if (shim.fault == 0) shim.fault = SHORT;
  shim.at = atol(setting("SHIM_AT", "1"));
  shim.trace = getenv("SHIM_TRACE");
  shim.call = getenv("SHIM_CALL");
  shim.kind = getenv("SHIM_KIND");
  shim.log = getenv("SHIM_LOG");
  if (shim.trace || (shim.call && shim.kind && shim.log)) shim.folder = getenv("SHIM_FOLDER");
}

bool shim_is_active(void) {
  return shim.folder != NULL;
}

/* Appends a line to a file, without the functions that this library replaces. */
static void append_line(const char *path, const char *call, const char *kind) {
  char line[PATH_MAX + 32];
  int length = snprintf(line, sizeof line, "%s %s\n", call, kind);
  long file = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0 || syscall(SYS_write, file, line, length) != length) abort();
  syscall(SYS_close, file);
}

bool path_is_below(const char *path) {
  size_t length = strlen(shim.folder);
  return strncmp(path, shim.folder, length) == 0 && path[length] == '/';
}

/* Writes the kind of a path below the folder. */
static void write_kind(const char *path, char kind[PATH_MAX]) {
  size_t end = 0;
  for (const char *c = path + strlen(shim.folder) + 1; *c && end + 1 < PATH_MAX; c++) {
    bool digit = isdigit((unsigned char)*c);
    if (c[0] == '/' && (c[1] == '/' || c[1] == '\0')) continue;
    if (digit && end > 0 && kind[end - 1] == '#') continue;
    kind[end++] = digit ? '#' : *c;
  }
  kind[end] = '\0';
}

static bool needs_space(const char *call) {
  for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
    if (strcmp(CALLS[i].name, call) == 0) return CALLS[i].needs_space;
  abort();
}

/* Counts a call; returns whether it must fail. */
static bool is_chosen(const char *call, const char *kind) {
  bool matches = strcmp(call, shim.call) == 0 && strcmp(kind, shim.kind) == 0;
  long number = matches ? atomic_fetch_add(shim.count, 1) + 1 : atomic_load(shim.count);
  if (shim.scope == ONCE) return matches && number == shim.at;
  if (shim.scope == KIND || matches) return matches && number >= shim.at;
  bool full = shim.fault == ENOSPC || shim.fault == EDQUOT;
  return number >= shim.at && (!full || needs_space(call));
}

static int fault_at(const char *call, const char *path) {
  char kind[PATH_MAX];
  if (!path_is_below(path)) return 0;
  write_kind(path, kind);
  if (shim.trace) append_line(shim.trace, call, kind);
  if (shim.trace || !is_chosen(call, kind)) return 0;
  append_line(shim.log, call, kind);
  return shim.fault;
}

/* Writes the absolute path of an open file; returns false for a pipe or socket. */
static bool path_of(int descriptor, char path[PATH_MAX]) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  if (length <= 0 || path[0] != '/') return false;
  path[length] = '\0';
  char *suffix = strstr(path, " (deleted)");
  if (suffix) *suffix = '\0';
  return true;
}

int fault_of(const char *call, int descriptor) {
  char path[PATH_MAX];
  int before = errno;
  int fault = shim.folder && path_of(descriptor, path) ? fault_at(call, path) : 0;
  errno = before;
  return fault;
}

/* Writes "FOLDER/PATH"; returns false if it is too long or the folder is unknown. */
static bool join(int folder, const char *path, char whole[PATH_MAX]) {
  bool known =
      folder == AT_FDCWD ? syscall(SYS_getcwd, whole, PATH_MAX) > 0 : path_of(folder, whole);
  size_t length = known ? strlen(whole) : 0;
  while (path[0] == '.' && path[1] == '/') path += 2;
  if (strcmp(path, ".") == 0) path = "";
  int added = snprintf(whole + length, PATH_MAX - length, "/%s", path);
  return known && length + (size_t)added < PATH_MAX;
}

int fault_below(const char *call, int folder, const char *path) {
  char whole[PATH_MAX];
  int before = errno, fault = 0;
  if (!shim.folder || !path) return 0;
  if (path[0] == '/')
    fault = fault_at(call, path);
  else if (join(folder, path, whole))
    fault = fault_at(call, whole);
  errno = before;
  return fault;
}
