#include "tests/unit/comm/support_folder.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "tests/unit/comm/support_group.h"

char folder[256] = "/tmp/celforge-heartbeat-XXXXXX";

int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : 1;
}

int remove_folder(void **state) {
  (void)state;
  Error error = {0};
  return folder_remove(folder, &error) == OK ? 0 : 1;
}

void write_text(const char *name, const char *text) {
  Error error = {0};
  char *path = path_join(folder, name);
  must(atomic_file_replace(path, text, strlen(text), &error), &error);
  free(path);
}

bool file_exists(const char *name) {
  char *path = path_join(folder, name);
  bool there = access(path, F_OK) == 0;
  free(path);
  return there;
}
