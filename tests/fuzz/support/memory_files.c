/* The input as a file: in memory, or on a memory file system. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/fuzz/support/fuzz.h"

Status __real_file_read(const char *path, size_t max_bytes, char **data, size_t *size,
                        Error *error);
Status __wrap_file_read(const char *path, size_t max_bytes, char **data, size_t *size,
                        Error *error);
Status __real_path_exists(const char *path, bool *out, Error *error);
Status __wrap_path_exists(const char *path, bool *out, Error *error);

static const uint8_t *input;
static size_t input_size;

void memory_files_set(const uint8_t *data, size_t size) {
  input = data;
  input_size = size;
}

static bool is_in_memory(const char *path) {
  return strncmp(path, MEMORY_FILES, strlen(MEMORY_FILES)) == 0;
}

Status __wrap_file_read(const char *path, size_t max_bytes, char **data, size_t *size,
                        Error *error) {
  if (!is_in_memory(path)) return __real_file_read(path, max_bytes, data, size, error);
  if (input_size > max_bytes)
    return error_set(error, ERROR_DATA, "%s: has more than %zu bytes", path, max_bytes);
  *data = mem_new(input_size + 1, 1);
  *size = input_size;
  if (input_size > 0) memcpy(*data, input, input_size);
  return OK;
}

Status __wrap_path_exists(const char *path, bool *out, Error *error) {
  if (!is_in_memory(path)) return __real_path_exists(path, out, error);
  *out = true;
  return OK;
}

/* --- On a memory file system ------------------------------------------------------------------ */

static char file_name[64], folder_name[64];
static int file_descriptor = -1;

static void remove_file(void) {
  unlink(file_name);
}

const char *scratch_file(const char *ending, const uint8_t *data, size_t size, int *descriptor) {
  if (file_descriptor < 0) {
    snprintf(file_name, sizeof file_name, "/dev/shm/celforge-fuzz-XXXXXX%s", ending);
    file_descriptor = mkstemps(file_name, (int)strlen(ending));
    require(file_descriptor >= 0 && atexit(remove_file) == 0);
  }
  require(ftruncate(file_descriptor, 0) == 0);
  require(pwrite(file_descriptor, data, size, 0) == (ssize_t)size);
  *descriptor = file_descriptor;
  return file_name;
}

static void remove_folder(void) {
  Error ignored;
  folder_remove(folder_name, &ignored);
}

const char *scratch_folder(void) {
  if (!folder_name[0]) {
    snprintf(folder_name, sizeof folder_name, "/dev/shm/celforge-fuzz-XXXXXX");
    require(mkdtemp(folder_name) && atexit(remove_folder) == 0);
  }
  return folder_name;
}
