/* Temporary folders for tests, in TMPDIR or /tmp. */
#ifndef CELFORGE_TESTS_UNIT_BASE_TEMPORARY_H
#define CELFORGE_TESTS_UNIT_BASE_TEMPORARY_H

#include <stdio.h>
#include <stdlib.h>

#include "base/files.h"
#include "base/memory.h"

/* Creates one. End it with temporary_folder_end. */
static inline char *temporary_folder(void) {
  const char *root = getenv("TMPDIR");
  char *path = mem_format("%s/celforge-test-XXXXXX", root && *root ? root : "/tmp");
  if (!mkdtemp(path)) {
    perror(path);
    abort();
  }
  return path;
}

/* Removes the folder with its content and frees its path. */
static inline void temporary_folder_end(char *path) {
  Error error;
  if (folder_remove(path, &error) != OK) fprintf(stderr, "%s\n", error.message);
  free(path);
}

#endif
